"""Loss as a function of width, depth, parameters and tokens, and the counts those laws are written in."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..formula import Domain, fitted, formula
from ..mathematics import Constant

GEMSTONES = "McLeish et al. 2025, arXiv 2502.06857"
Width = Annotated[Any, Domain(0, symbol="w", unit="dimensions", typical=(256, 3072)), "dimension of the residual stream"]
Depth = Annotated[Any, Domain(0, symbol="d", unit="layers", typical=(3, 80)), "number of blocks"]
Vocabulary = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="V", unit="tokens", typical=(1e4, 1e5)),
    "vocabulary size, the rows of an embedding matrix",
]
Tokens = Annotated[Any, Domain(0, symbol="T", unit="tokens", typical=(1e10, 3.5e11)), "training tokens"]
_EXPONENT = (0.2, 0.5)


@formula(
    kind="approximation",
    source="Kaplan et al. 2020, arXiv 2001.08361, section 2.1",
    status="primary",
    symbol="N",
    accuracy=0.005,
    within={"width": (256, math.inf), "c": (12, 15)},
)
def kaplan_nonembedding_parameters(
    depth: Annotated[Any, Domain(0, symbol="n_layer", unit="layers", typical=(6, 96)), "number of blocks"],
    width: Annotated[
        Any, Domain(0, symbol="d_model", unit="dimensions", typical=(256, 12288)), "dimension of the residual stream"
    ],
    c: Annotated[
        Any,
        Domain(0, symbol="c", unit="parameters per layer and squared width", typical=(8, 16)),
        "12 for plain attention with a feed-forward layer four times the width; 15 for the Gemstones block",
    ] = 12,
) -> Any:
    r"""Parameters of a transformer without embeddings, biases and norms.

    .. math:: N = c\, n_{layer}\, d_{model}^2

    Returns
    -------
    A count; too low by the biases and norms, a relative 13/(12 d_model) for GPT-2's block.

    Examples
    --------
    >>> kaplan_nonembedding_parameters(48, 1600)
    1474560000
    """
    return c * depth * width**2


@formula(
    kind="exact",
    source=f"{GEMSTONES}, authors' code",
    status="primary",
    symbol="p",
    domain="widths that are multiples of 256: an even number of heads of 128",
)
def gemstones_parameters(width: Width, depth: Depth, vocab: Vocabulary = 50304) -> Any:
    r"""All parameters of a Gemstones model: gated feed-forward, two queries a key, untied embeddings.

    .. math:: p = d\,(15 w^2 + 2 w) + 2 V w + w

    Returns
    -------
    A count, embeddings included.

    Notes
    -----
    Per block, attention has 3 w^2 (queries and output w^2 each, keys and values w^2 together), the feed-forward layer 12 w^2
    and the two norms 2 w.
    With an odd number of heads one query goes without a key of its own, and a block has 128 w fewer: 1 to 1.5 % of the total
    for the two models of width 384. The law was fitted with the exact counts.

    Examples
    --------
    >>> gemstones_parameters(1024, 28)
    543482880
    """
    return depth * (15 * width**2 + 2 * width) + 2 * vocab * width + width


@formula(
    kind="exact",
    source=f"{GEMSTONES}, authors' code",
    status="primary",
    symbol="F",
    domain="the count that the authors define, for heads of 128; not every operation of a program is in it",
)
def gemstones_flops_per_token(
    width: Width,
    depth: Depth,
    context: Annotated[
        Any, Domain(0, closed_low=True, symbol="s", unit="tokens", typical=(512, 8192)), "tokens of a training sequence"
    ] = 2048,
    vocab: Annotated[
        Vocabulary, "vocabulary size, the rows of the output matrix; looking up the input embedding is not counted"
    ] = 50304,
) -> Any:
    r"""Training FLOPs per token as the Gemstones authors count them: forward and backward, causal attention.

    .. math:: F = d \left(90 w^2 + \frac{735}{4} w + \frac{21}{2} \cdot \frac{129}{128}\, s w\right) + w\,(6 V + 21)

    Returns
    -------
    Floating-point operations per token.

    Notes
    -----
    Their sum over projections, scores, softmax, feed-forward, rotation and norms, collected by powers of the width, for heads
    of 128 dimensions. Matrix products count 2 operations forward and 4 backward; the attention scores, recomputed in the
    backward pass, 3.5 times their forward cost. Left out: the steps that make softmax stable, and the embedding look-up.

    Examples
    --------
    >>> f"{gemstones_flops_per_token(1024, 28):.4g}"
    '3.578e+09'
    """
    # Scores and their use cost 3 s w, softmax 3 s w / 128, each times 3.5 for forward and backward.
    attention = Constant.of(21) / 2 * (1 + Constant.of(1) / 128) * context * width
    return depth * (90 * width**2 + Constant.of(735) / 4 * width + attention) + width * (6 * vocab + 21)


@formula(
    kind="fitted",
    source=f"{GEMSTONES}, Approach 3 with width, depth and parameters",
    status="primary",
    symbol="loss",
    domain="widths 256 to 3072, depths 3 to 80, 48M to 2B parameters, 1e10 to 3.5e11 tokens",
)
def gemstones_loss(
    width: Width,
    depth: Depth,
    parameters: Annotated[
        Any,
        Domain(0, symbol="p", unit="parameters with embeddings", typical=(5e7, 2e9)),
        "all parameters with both embeddings, from :func:`gemstones_parameters`",
    ],
    tokens: Tokens,
    A: Annotated[Any, Domain(0, symbol="A", unit="nats", typical=(2, 6)), "factor of the width term"] = fitted(
        "gemstones2025", "A"
    ),
    alpha: Annotated[Any, Domain(0, symbol="alpha", typical=_EXPONENT), "exponent of the width term"] = fitted(
        "gemstones2025", "alpha"
    ),
    B: Annotated[Any, Domain(0, symbol="B", unit="nats", typical=(0.5, 1.5)), "factor of the depth term"] = fitted(
        "gemstones2025", "B"
    ),
    beta: Annotated[Any, Domain(0, symbol="beta", typical=_EXPONENT), "exponent of the depth term"] = fitted(
        "gemstones2025", "beta"
    ),
    C: Annotated[Any, Domain(0, symbol="C", unit="nats", typical=(400, 3000)), "factor of the parameters' term"] = fitted(
        "gemstones2025", "C"
    ),
    gamma: Annotated[Any, Domain(0, symbol="gamma", typical=_EXPONENT), "exponent of the parameters' term"] = fitted(
        "gemstones2025", "gamma"
    ),
    D: Annotated[Any, Domain(0, symbol="D", unit="nats", typical=(2e4, 2e5)), "factor of the tokens' term"] = fitted(
        "gemstones2025", "D"
    ),
    zeta: Annotated[Any, Domain(0, symbol="zeta", typical=_EXPONENT), "exponent of the tokens' term"] = fitted(
        "gemstones2025", "zeta"
    ),
    epsilon: Annotated[
        Any, Domain(0, closed_low=True, symbol="epsilon", unit="nats", typical=(1.4, 2)), "loss left at infinite size"
    ] = fitted("gemstones2025", "epsilon"),
) -> Any:
    r"""Validation loss of a Gemstones model from its width, depth, size and training tokens.

    .. math:: \mathrm{loss} = A w^{-\alpha} + B d^{-\beta} + C p^{-\gamma} + D T^{-\zeta} + \epsilon

    Returns
    -------
    Nats per token.

    Notes
    -----
    On the 770 points of the fit the mean relative error is 0.39 % and the largest 5.7 %. Constant learning rate, context 2048,
    one data set and tokenizer: values for other set-ups shift, differences between shapes carry over better.

    Examples
    --------
    >>> round(gemstones_loss(1024, 28, 543482880, 1e11), 5)
    2.76881
    """
    return A * width**-alpha + B * depth**-beta + C * parameters**-gamma + D * tokens**-zeta + epsilon


@formula(
    kind="fitted",
    source="Liu, Kangaslahti, Liu, Gore 2026, arXiv 2602.05970, Eq. 3",
    status="primary",
    symbol="loss",
    domain="about 200 reconstructed Chinchilla runs",
)
def liu_loss(
    width: Annotated[Any, Domain(0, symbol="m", unit="dimensions", typical=(256, 8192)), "dimension of the residual stream"],
    depth: Annotated[Any, Domain(0, symbol="l", unit="layers", typical=(4, 64)), "number of blocks"],
    tokens: Annotated[Any, Domain(0, symbol="D", unit="tokens", typical=(1e9, 1e12)), "training tokens"],
    c_m: Annotated[Any, Domain(0, symbol="c_m", unit="nats", typical=(200, 500)), "factor of the width term"] = fitted(
        "liu2026", "c_m"
    ),
    alpha_m: Annotated[Any, Domain(0, symbol="alpha_m", typical=(0.9, 1.1)), "exponent of the width term"] = fitted(
        "liu2026", "alpha_m"
    ),
    c_l: Annotated[
        Any, Domain(0, symbol="c_l", unit="nats", typical=(3, 8)), "factor of the depth term, for depth in layers"
    ] = fitted("liu2026", "c_l"),
    alpha_l: Annotated[Any, Domain(0, symbol="alpha_l", typical=(0.9, 1.5)), "exponent of the depth term"] = fitted(
        "liu2026", "alpha_l"
    ),
    c_D: Annotated[
        Any, Domain(0, symbol="c_D", unit="nats", typical=(5, 15)), "factor of the tokens' term, for tokens in millions"
    ] = fitted("liu2026", "c_D"),
    alpha_D: Annotated[Any, Domain(0, symbol="alpha_D", typical=(0.25, 0.35)), "exponent of the tokens' term"] = fitted(
        "liu2026", "alpha_D"
    ),
    L_0: Annotated[
        Any, Domain(0, closed_low=True, symbol="L_0", unit="nats", typical=(1.5, 2)), "loss left at infinite size"
    ] = fitted("liu2026", "L_0"),
) -> Any:
    r"""Loss from width, depth and tokens under the additive inverse-depth law.

    .. math:: \mathrm{loss} = \frac{c_m}{m^{\alpha_m}} + \frac{c_l}{l^{\alpha_l}}
        + \frac{c_D}{(D / 10^6)^{\alpha_D}} + L_0

    Returns
    -------
    Nats per token.

    Notes
    -----
    Exponents 0.98 +- 0.08 in width, 1.2 +- 0.3 in depth, 0.30 +- 0.01 in tokens. Its theory has exponent 1 in depth:
    layers act mostly by averaging.

    Examples
    --------
    >>> round(liu_loss(1024, 24, 2e10), 5)
    2.68286
    """
    return c_m / width**alpha_m + c_l / depth**alpha_l + c_D / (tokens / 1_000_000) ** alpha_D + L_0
