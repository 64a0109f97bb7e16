"""Loss from parameters and tokens alone, and the FLOPs of a model over its life."""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, fitted, formula

HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556, approach 3, refitted by Besiroglu et al. 2024, arXiv 2404.10102"


@formula(
    kind="fitted",
    source=HOFFMANN,
    status="recalled",
    symbol="L",
    domain="dense models of 57M to 16B parameters, one curve of shapes",
)
def hoffmann_loss(
    parameters: Annotated[Any, Domain(0, symbol="N", unit="parameters", typical=(1e8, 1e10)), "all parameters"],
    tokens: Annotated[Any, Domain(0, symbol="D", unit="tokens", typical=(1e9, 1e12)), "training tokens"],
    E: Annotated[
        Any, Domain(0, closed_low=True, symbol="E", unit="nats", typical=(1.6, 1.9)), "loss left at infinite size"
    ] = fitted("hoffmann2022", "E"),
    A: Annotated[Any, Domain(0, symbol="A", unit="nats", typical=(300, 700)), "factor of the parameters' term"] = fitted(
        "hoffmann2022", "A"
    ),
    alpha: Annotated[Any, Domain(0, symbol="alpha", typical=(0.3, 0.4)), "exponent of the parameters"] = fitted(
        "hoffmann2022", "alpha"
    ),
    B: Annotated[Any, Domain(0, symbol="B", unit="nats", typical=(400, 3000)), "factor of the tokens' term"] = fitted(
        "hoffmann2022", "B"
    ),
    beta: Annotated[Any, Domain(0, symbol="beta", typical=(0.25, 0.4)), "exponent of the tokens"] = fitted(
        "hoffmann2022", "beta"
    ),
) -> Any:
    r"""Loss from parameters and tokens, for models of good shape.

    .. math:: L = E + \frac{A}{N^\alpha} + \frac{B}{D^\beta}

    Returns
    -------
    Nats per token.

    Examples
    --------
    >>> round(hoffmann_loss(7e10, 1.4e12), 4)
    1.9739
    """
    return E + A / parameters**alpha + B / tokens**beta


@formula(
    kind="exact",
    source="Sardana et al. 2024, arXiv 2401.00448, section 2",
    status="secondary",
    symbol="C",
    domain="training once and serving; equal use of the hardware for both",
)
def lifetime_flops(
    training_per_token: Annotated[
        Any, Domain(0, symbol="f_t", unit="operations per token", typical=(1e9, 1e12)), "forward and backward pass of a token"
    ],
    tokens: Annotated[Any, Domain(0, symbol="D", unit="tokens", typical=(1e9, 1e13)), "training tokens"],
    serving_per_token: Annotated[
        Any, Domain(0, symbol="f_s", unit="operations per token", typical=(1e8, 1e12)), "forward pass of a token"
    ],
    served: Annotated[
        Any, Domain(0, closed_low=True, symbol="S", unit="tokens", typical=(1e9, 1e14)), "tokens read and written"
    ],
) -> Any:
    r"""Operations to train a model and to serve it.

    .. math:: C = f_t D + f_s S

    Returns
    -------
    Operations. With 6 N and 2 N per token it is 6 N D + 2 N S, as in the paper.

    Examples
    --------
    >>> lifetime_flops(6e9, 20, 2e9, 30) == 6e9 * 30
    True
    """
    return training_per_token * tokens + serving_per_token * served
