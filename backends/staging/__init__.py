"""Files on their way between sandboxes: what is planned, and two ways to do it, in Python and in POSIX sh."""

from .linked import StagesFiles
from .plan import Delivery, Dependency, Plan, Transfer

__all__ = ["Delivery", "Dependency", "Plan", "StagesFiles", "Transfer"]
