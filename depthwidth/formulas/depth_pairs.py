"""A shallow and a deep network of equally many parameters: the size at which they cross, and the advantage on either side."""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, fitted, formula
from ..mathematics import log, sqrt
from .rules._domains import BlockCoefficient, Parameters
from .rules.levine import LEVINE, Intercept, Slope, levine_optimal_depth, levine_transition_parameters
from .shape_penalty import Curvature

ShallowDepth = Annotated[Any, Domain(0, symbol="L_1", unit="layers", typical=(6, 12)), "depth of the shallow network"]
DeepDepth = Annotated[Any, Domain(0, symbol="L_2", unit="layers", typical=(18, 48)), "depth of the deep network"]
_CROSSING = "a prediction: equal penalties on both sides of the best shape; depths 6 to 48"


@formula(kind="fitted", source=f"{LEVINE}; symmetric shape penalty", status="derived", symbol="N_cross", domain=_CROSSING)
def depth_pair_crossing(
    shallow: ShallowDepth,
    deep: DeepDepth,
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
) -> Any:
    r"""Size at which a shallow and a deep network with equally many parameters reach the same loss.

    .. math:: N = c\, \bar L\, e^{2a + 2b\bar L}, \qquad \bar L = \sqrt{L_1 L_2}

    Returns
    -------
    Parameters without embeddings. Below it the shallow network has the lower loss, above it the deep one.

    Notes
    -----
    Follows from a penalty symmetric in ln w. The original paper's own criterion may differ.

    Examples
    --------
    >>> round(depth_pair_crossing(6, 12))
    6218915
    """
    return levine_transition_parameters(sqrt(shallow * deep), a, b, c)


@formula(kind="fitted", source=f"{LEVINE}; symmetric shape penalty", status="derived", symbol="Delta", domain=_CROSSING)
def depth_pair_advantage(
    parameters: Parameters,
    shallow: ShallowDepth,
    deep: DeepDepth,
    k: Curvature = fitted("shape_penalty", "k"),
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
) -> Any:
    r"""Relative loss advantage of the deep network over the shallow one at this many parameters each.

    .. math:: \Delta = \frac{k}{2} \ln\frac{L_2}{L_1}\, \ln\frac{L^*(N)}{\sqrt{L_1 L_2}}

    Returns
    -------
    Fraction of the loss; negative if the shallow network wins.

    Examples
    --------
    >>> round(100 * depth_pair_advantage(4 * depth_pair_crossing(12, 24), 12, 24), 2)
    0.48
    """
    best = levine_optimal_depth(parameters, a, b, c)
    return k / 2 * log(deep / shallow) * log(best / sqrt(shallow * deep))
