"""Cost of a shape away from the best one: in loss, in parameters and in compute."""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, fitted, formula
from ..mathematics import Constant, exp, log, sqrt
from ._interpolation import broken_line
from .rules._domains import BlockCoefficient, Parameters
from .rules.levine import Intercept, Slope, levine_optimal_width


@formula(
    kind="fitted",
    source="Kaplan et al. 2020, arXiv 2001.08361, Fig. 5",
    status="derived",
    symbol="Delta_C",
    domain="loss increases of a few per cent; one published pair, carried on by a power law, whose residual is not reported",
)
def kaplan_compute_overhead(
    loss_increase: Annotated[
        Any, Domain(0, closed_low=True, symbol="delta", unit="relative", typical=(0.001, 0.05)), "relative increase of the loss"
    ],
    reference_overhead: Annotated[
        Any,
        Domain(0, symbol="u", unit="relative", typical=(0.1, 0.3)),
        "published compute overhead: 22 % more compute for 1 % of loss",
    ] = fitted("kaplan2020", "compute_overhead"),
    reference_increase: Annotated[
        Any, Domain(0, symbol="delta_0", unit="relative", typical=(0.005, 0.02)), "published loss increase that goes with it"
    ] = fitted("kaplan2020", "loss_increase"),
) -> Any:
    r"""Fraction of extra compute that makes up for a relative loss increase.

    .. math:: \Delta_C = (1 + \delta)^{\ln(1 + u) / \ln(1 + \delta_0)} - 1

    Returns
    -------
    Extra compute as a fraction of the compute spent.

    Notes
    -----
    The pair is published; carrying it to other increases by a power law is ours. The implied exponent of the loss in compute,
    ln 1.01 / ln 1.22 = 0.050, is the one the same paper fits.

    Examples
    --------
    >>> round(kaplan_compute_overhead(0.01), 6)
    0.22
    """
    return (1 + loss_increase) ** (log(1 + reference_overhead) / log(1 + reference_increase)) - 1


PENALTY = "our analysis of the 22 Gemstones models (arXiv 2502.06857)"
_PENALTY_RANGE = "2.3e7 to 1.8e9 parameters, widths 0.4 to 2 times the best, 50B to 300B tokens, one learning-rate rule"
Curvature = Annotated[Any, Domain(0, symbol="k", typical=(0.02, 0.05)), "curvature of the penalty in ln width, 0.033 +- 0.005"]


@formula(kind="fitted", source=PENALTY, status="measured", symbol="p", domain=_PENALTY_RANGE)
def shape_penalty(
    width: Annotated[Any, Domain(0, symbol="w", unit="dimensions", typical=(700, 1500)), "width"],
    best_width: Annotated[
        Any,
        Domain(0, symbol="w^*", unit="dimensions", typical=(700, 1500)),
        "best width at the same number of parameters, from :func:`penalised_best_width`",
    ],
    k: Curvature = fitted("shape_penalty", "k"),
) -> Any:
    r"""Relative loss increase of a width away from the best one, at equal parameters and tokens.

    .. math:: p = k \left(\ln\frac{w}{w^*}\right)^2

    Returns
    -------
    Loss over the best loss, minus 1.

    Notes
    -----
    Residual of the fit 0.15 to 0.21 % of loss. Factors outside 0.4 to 2 extrapolate the parabola. About five models of extreme
    shape carry the curvature; other data sets have 0.02 to 0.08.

    Examples
    --------
    >>> round(100 * shape_penalty(2048, 1024), 2)
    1.59
    """
    return k * log(width / best_width) ** 2


@formula(kind="fitted", source=f"propagation of errors; {PENALTY}", status="derived", symbol="sigma_p", domain=_PENALTY_RANGE)
def shape_penalty_error(
    width: Annotated[Any, Domain(0, symbol="w", unit="dimensions", typical=(700, 1500)), "width"],
    best_width: Annotated[
        Any, Domain(0, symbol="w^*", unit="dimensions", typical=(700, 1500)), "best width at the same number of parameters"
    ],
    k_error: Annotated[Any, Domain(0, closed_low=True, symbol="sigma_k", typical=(0.001, 0.01)), "standard error of k"],
    place_error: Annotated[
        Any, Domain(0, closed_low=True, symbol="sigma_x", typical=(0.01, 0.05)), "standard error of ln of the best width"
    ],
    k: Curvature = fitted("shape_penalty", "k"),
) -> Any:
    r"""Standard error of a shape penalty, from that of the curvature and that of the place of the optimum.

    .. math:: \sigma_p = \sqrt{\sigma_k^2 x^4 + 4 k^2 \sigma_x^2 x^2 + 2 k^2 \sigma_x^4}, \qquad x = \ln\frac{w}{w^*}

    Returns
    -------
    Relative loss, as the penalty; it includes the second order in sigma_x, so that it is not 0 at the optimum itself.

    Examples
    --------
    >>> round(100 * shape_penalty_error(2048, 1024, 0.005, 0.02), 2)
    0.26
    """
    x = log(width / best_width)
    return sqrt(k_error**2 * x**4 + 4 * (k * place_error * x) ** 2 + 2 * k**2 * place_error**4)


@formula(kind="fitted", source=PENALTY, status="measured", symbol="w^*", domain=_PENALTY_RANGE)
def penalised_best_width(
    parameters: Annotated[Parameters, "actual number of parameters without embeddings"],
    x0: Annotated[Any, Domain(symbol="x_0", typical=(0.05, 0.15)), "ln of the factor at N_0, 0.10 +- 0.02"] = fitted(
        "shape_penalty", "x0"
    ),
    s: Annotated[Any, Domain(symbol="s", typical=(-0.1, -0.05)), "drift of the factor per ln N, -0.08 +- 0.02"] = fitted(
        "shape_penalty", "s"
    ),
    N_0: Annotated[
        Any, Domain(0, symbol="N_0", unit="parameters", typical=(1e8, 3e8)), "size at which the factor is exp(x_0)"
    ] = fitted("shape_penalty", "N_0"),
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: Annotated[BlockCoefficient, "as of the 2020 curve: 12 also for blocks of another kind"] = 12,
) -> Any:
    r"""Best width measured on the Gemstones models: the 2020 curve times a slowly drifting factor.

    .. math:: w^*(N) = d_x^*(N)\, e^{x_0} \left(\frac{N}{N_0}\right)^{s}

    Returns
    -------
    Width in dimensions.

    Examples
    --------
    >>> round(penalised_best_width(2e8) / levine_optimal_width(2e8), 4)
    1.1052
    """
    return levine_optimal_width(parameters, a, b, c) * exp(x0 + s * log(parameters / N_0))


@formula(kind="fitted", source=PENALTY, status="measured", symbol="g", domain="1e8 to 1e10 parameters; held constant outside")
def loss_exponent(
    parameters: Parameters,
    exponent_1e8: Annotated[Any, Domain(symbol="g_8", typical=(-0.07, -0.06)), "exponent at 1e8 parameters"] = fitted(
        "shape_penalty", "exponent_1e8"
    ),
    exponent_1e9: Annotated[Any, Domain(symbol="g_9", typical=(-0.06, -0.05)), "exponent at 1e9 parameters"] = fitted(
        "shape_penalty", "exponent_1e9"
    ),
    exponent_1e10: Annotated[Any, Domain(symbol="g_10", typical=(-0.04, -0.03)), "exponent at 1e10 parameters"] = fitted(
        "shape_penalty", "exponent_1e10"
    ),
) -> Any:
    r"""Local exponent of the loss in the number of parameters, linear in ln N between three measured points.

    .. math:: g(N) = \frac{d\ln \mathrm{loss}}{d\ln N} = g_i + (g_{i+1} - g_i)\, \frac{\ln N - \ln N_i}{\ln N_{i+1} - \ln N_i}

    Returns
    -------
    A negative number. An interpolation of three points, not a law; outside them the nearest one is kept.

    Examples
    --------
    >>> round(loss_exponent(1e9), 6)
    -0.052
    """
    exponents = {10**8: exponent_1e8, 10**9: exponent_1e9, 10**10: exponent_1e10}
    return broken_line(log(parameters), [(log(Constant.of(size)), value) for size, value in exponents.items()])


@formula(
    kind="approximation",
    source=PENALTY,
    status="derived",
    symbol="q",
    domain="penalties of a few per cent",
    accuracy=0.045,
    within={"penalty": (0, 0.05), "exponent": (-0.066, -0.039)},
    given="exponents that loss_exponent gives at a size",
)
def parameter_equivalent(
    penalty: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="p", unit="relative loss", typical=(1e-3, 5e-2)),
        "relative loss increase of the shape",
    ],
    exponent: Annotated[Any, Domain(high=0, symbol="g", typical=(-0.07, -0.03)), "d ln(loss)/d ln(N) at this size"],
) -> Any:
    r"""Fraction of the parameters wasted by a shape penalty: a network smaller by it, of the best shape, does as well.

    .. math:: q = 1 - (1 + p)^{1/g}

    Returns
    -------
    A fraction between 0 and 1.

    Notes
    -----
    Takes the exponent as constant over the gap. To first order it is -p/g.

    Examples
    --------
    >>> round(parameter_equivalent(0.0159, -0.052), 3)
    0.262
    """
    return 1 - (1 + penalty) ** (1 / exponent)
