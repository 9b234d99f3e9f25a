"""How much memory a step takes, told before it is made; and the quickest way that fits into what there is.

A plan is chosen by arithmetic on shapes alone, never by what else the machine does: so the same dream with
the same `max_memory` makes the same bits again.
"""

from minidnn.plan.choice import Plan, bytes_of, choose, whole
from minidnn.plan.forecast import Forecast, forecast

__all__ = ["Forecast", "Plan", "bytes_of", "choose", "forecast", "whole"]
