"""Alabdulmohsin et al. 2023 (SoViT): how the dimensions of a vision transformer grow with compute."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula

SOVIT = "Alabdulmohsin et al. 2023, arXiv 2305.13035"
_SOVIT_RANGE = "vision transformers up to 400M parameters"
ComputeExponent = Annotated[Any, Domain(0, symbol="s_k", typical=(0.2, 0.6)), "exponent of compute"]
StartWidth = Annotated[
    Any, Domain(0, symbol="x_w0", unit="dimensions", typical=(500, 700)), "width of the small model that is scaled up"
]
StartDepth = Annotated[
    Any, Domain(0, symbol="x_d0", unit="layers", typical=(8, 12)), "depth of the small model that is scaled up"
]
WidthGrowth = Annotated[Any, Domain(0, symbol="s_w", typical=(0.2, 0.25)), "exponent of compute for the width"]
DepthGrowth = Annotated[Any, Domain(0, symbol="s_d", typical=(0.4, 0.5)), "exponent of compute for the depth"]


@formula(kind="exact", source=f"{SOVIT}, Eqs. 2-5", status="primary", symbol="s_k", domain=_SOVIT_RANGE)
def sovit_shape_exponent(
    c: Annotated[
        Any, Domain(0, symbol="c", typical=(0.5, 0.8)), "exponent of compute in the shape law, 0.65 +- 0.06 for images"
    ],
    a: Annotated[Any, Domain(0, symbol="a_k", typical=(0.3, 1.5)), "exponent with which a larger x_k lowers the loss"],
    b: Annotated[Any, Domain(0, symbol="b_k", typical=(0.3, 1.5)), "exponent with which a larger x_k costs compute"],
) -> Any:
    r"""Exponent of compute with which one dimension of the best shape grows.

    .. math:: x_k^* = \left(\frac{\alpha_k a_k t^c}{\beta_k b_k}\right)^{1/(a_k + b_k)} \sim t^{s_k},
        \qquad s_k = \frac{c}{a_k + b_k}

    Returns
    -------
    s_k, dimensionless. Exact for the shape law as it is written; the law itself is fitted.

    Examples
    --------
    >>> sovit_shape_exponent(0.65, 0.5, 0.8)
    0.5
    """
    return c / (a + b)


@formula(kind="fitted", source=f"{SOVIT}, section 4", status="primary", symbol="x_k", domain=_SOVIT_RANGE)
def sovit_scaled(
    size: Annotated[
        Any,
        Domain(0, symbol="x_k0", typical=(10, 1000)),
        "dimension at the start: width 608, depth 10, feed-forward width 928 in the paper",
    ],
    exponent: Annotated[
        ComputeExponent,
        "exponent of compute: 0.22 for width, 0.45 for depth, 0.60 for the feed-forward width in image classification",
    ],
    compute_factor: Annotated[Any, Domain(0, symbol="tau", typical=(1, 1000)), "compute divided by the compute of the start"],
) -> Any:
    r"""One dimension of a vision transformer after all dimensions are scaled together to a larger compute.

    .. math:: x_k(\tau) = x_k\, \tau^{s_k / 3}

    Returns
    -------
    The dimension in the unit of `size`.

    Notes
    -----
    The compute at which the start is best is not restated in the paper's text, so that only ratios can be used.

    Examples
    --------
    >>> round(sovit_scaled(608, 0.22, 1000), 2)
    1009.03
    """
    return size * compute_factor ** (exponent / 3)


@formula(kind="fitted", source=f"{SOVIT}, section 4; compute eliminated", status="derived", symbol="x_w", domain=_SOVIT_RANGE)
def sovit_width(
    depth: Annotated[Any, Domain(0, symbol="x_d", unit="layers", typical=(10, 40)), "number of blocks"],
    width0: StartWidth = fitted("sovit2023", "width"),
    depth0: StartDepth = fitted("sovit2023", "depth"),
    s_width: WidthGrowth = fitted("sovit2023", "s_width"),
    s_depth: DepthGrowth = fitted("sovit2023", "s_depth"),
) -> Any:
    r"""Width of a vision transformer of this depth, scaled as in SoViT.

    .. math:: x_w(x_d) = x_{w0} \left(\frac{x_d}{x_{d0}}\right)^{s_w / s_d}

    Returns
    -------
    Width in dimensions.

    Notes
    -----
    Vision only: language models widen faster than they deepen. The released SoViT-400m/14 has 27 layers of 1152, where this
    curve gives 988.

    Examples
    --------
    >>> round(sovit_width(10))
    608
    """
    return width0 * (depth / depth0) ** (s_width / s_depth)


@formula(kind="fitted", source=f"{SOVIT}, section 4; compute eliminated", status="derived", symbol="x_d", domain=_SOVIT_RANGE)
def sovit_depth(
    width: Annotated[Any, Domain(0, symbol="x_w", unit="dimensions", typical=(600, 1200)), "width"],
    width0: StartWidth = fitted("sovit2023", "width"),
    depth0: StartDepth = fitted("sovit2023", "depth"),
    s_width: WidthGrowth = fitted("sovit2023", "s_width"),
    s_depth: DepthGrowth = fitted("sovit2023", "s_depth"),
) -> Any:
    r"""Depth of a vision transformer of this width, scaled as in SoViT.

    .. math:: x_d(x_w) = x_{d0} \left(\frac{x_w}{x_{w0}}\right)^{s_d / s_w}

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(sovit_depth(608), 6)
    10.0
    """
    return depth0 * (width / width0) ** (s_depth / s_width)
