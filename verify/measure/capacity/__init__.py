"""Capacity of trained networks: bounds, measures and proxies from weights, margins and noise.

:func:`capacity` is the public name, also as ``verify.capacity``.
"""

from .report import CapacityReport as CapacityReport
from .report import capacity as capacity
