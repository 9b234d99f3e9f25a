"""Every error that is the user's to mend: what was asked, what was found, what to do.

They form one family, so that `except MinidnnError` catches them all; the numbers are the exit codes of the
command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MinidnnError(Exception):
    """The root of the family."""

    exit_code = 3


class ShapeError(MinidnnError, ValueError):
    """Sizes that do not fit each other."""


class UnknownLayerError(MinidnnError, KeyError):
    """A name or number that the net does not have."""

    def __str__(self) -> str:  # a KeyError would print the repr of its message
        return str(self.args[0])


class StaleResError(MinidnnError):
    """Something asked of a run that this run has not computed, or has dropped."""


class DeviceError(MinidnnError):
    """Host memory meets device memory, or a device that is not there."""

    exit_code = 5


class FileError(MinidnnError):
    """A file, of weights or of pixels, that cannot be taken as it is."""


class FileFormatError(FileError):
    """Not a file of the kind that was asked for."""


class DamagedFileError(FileError):
    """The right kind of file, but broken or cut short."""


class UnsafeFileError(FileError):
    """A file that tries to do more than hold data."""

    exit_code = 4


class TooLargeError(FileError):
    """A file that claims more than the limit allows."""


class UnsupportedError(FileError):
    """A file that is fine, but asks for something we do not have."""


class WeightsError(FileError):
    """Weights that are not those the net wants."""


class MismatchError(WeightsError):
    """A tensor with another shape or name than the net wants."""


class ConverterCrashed(WeightsError):
    """The process that read a foreign file died."""


class DivergedError(MinidnnError):
    """Numbers that are no longer numbers."""

    exit_code = 7


class OutputError(MinidnnError):
    """A result that could not be written."""

    exit_code = 6


class UsageError(MinidnnError, ValueError):
    """A call that contradicts itself."""

    exit_code = 2


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'conv1_1'?`, or nothing when nothing comes near."""
    near = get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
