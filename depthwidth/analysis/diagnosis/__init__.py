"""Judge a network at initialisation: signals that vanish or explode, rank collapse, saturation, overflow; and remedies.

>>> from depthwidth import Transformer
>>> deep = Transformer(depth=96, width=256, heads=4, vocab=1000, context=64, kind="encoder", placement="post")
>>> worst = [finding for finding in diagnose(deep, "xavier") if finding.severity == "problem"]
>>> [(finding.name, finding.remedy, finding.severity_after) for finding in worst]
[('correlation_at_top', 'scheme deepscale', 'fine')]

Each check is a file of :mod:`depthwidth.analysis.diagnosis.checks`. Its finding compares one number of
:func:`~depthwidth.analysis.propagation.propagate` with thresholds that name their source. If the number is beyond them, the
finding names a remedy and the number that the remedied network has.
"""

from .base import SEVERITIES, Check, Finding, Remedy, Thresholds
from .checks import add_check, all_checks, remove_check
from .checks.gradient_spread import gradient_log_normal
from .judge import diagnose
from .network import BranchStrength, Network, Setting, Size
from .precision import headroom, share_lost

__all__ = [
    "SEVERITIES",
    "BranchStrength",
    "Check",
    "Finding",
    "Network",
    "Remedy",
    "Setting",
    "Size",
    "Thresholds",
    "add_check",
    "all_checks",
    "diagnose",
    "gradient_log_normal",
    "headroom",
    "remove_check",
    "share_lost",
]
