"""Is this the gradient? `check_direction` is cheap, `check_elements` names the worst, `audit` takes a whole
net."""

from minidnn.gradcheck.audit import Audit, audit
from minidnn.gradcheck.checks import Check, check_direction, check_elements

__all__ = ["Audit", "Check", "audit", "check_direction", "check_elements"]
