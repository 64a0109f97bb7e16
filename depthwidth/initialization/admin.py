"""Admin: a skip path weighted by the variance of all earlier branches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..architecture import Transformer
from ..errors import InputError
from .draft import Draft, Values, finite_number, scheme
from .tensor_rules import XAVIER, fan_rule, remark_placement, xavier_std
from .tensors import branch_counts, sums_before


@scheme(
    "admin",
    "Liu et al. 2020, arXiv 2004.08249, and the authors' code (adaptive-profiling)",
    "primary; branch variances are measured in the paper and 1 here unless given",
)
def admin(tree: Transformer, branch_variance: float | Sequence[float] = 1.0, embedding_std: float | None = None) -> Draft:
    """Xavier, with skip paths scaled by `branch_variance`: one measured number, or one for each residual branch in order."""
    base = fan_rule(tree, embedding_std, lambda weight: (xavier_std(weight), XAVIER))
    longest = max(branch_counts(tree).values())
    if isinstance(branch_variance, (list, tuple)):
        if len(branch_variance) < longest:
            raise InputError(f"admin: branch_variance has {len(branch_variance)} entries for {longest} branches")
        each = [finite_number("admin", "branch_variance", value, closed=True) for value in branch_variance]
    else:
        each = [finite_number("admin", "branch_variance", branch_variance, closed=True)] * longest
    # The first skip has weight one; each later one has the variance of all branches before it.
    omega = [1.0]
    for variance in each[:-1]:
        omega.append(math.sqrt(omega[-1] ** 2 + variance))
    earlier = {name: sums_before(tree, name, lambda _: 1) for name in tree.stacks}

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        reason = "Admin: omega_i^2 = 1 + the variances of the branches before it"
        return (lambda block: omega[min(int(earlier[stack][branch][block]), longest - 1)]), 1.0, reason

    return remark_placement(Draft(tree, base, scales), "admin")
