"""Races against peers on the same machine: checked first, then timed, side by side in one run."""
