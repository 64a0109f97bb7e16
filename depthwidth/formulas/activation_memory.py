"""Bytes of activations of a transformer in training, by Korthikanti et al. 2022: tensor, sequence and pipeline parallelism.

Their block is that of GPT: attention and a feed-forward part of four times the width, 16-bit activations, dropout masks of one
byte, scores kept. :mod:`depthwidth.hardware.parallelism` counts any tree; these are the letters of the paper, against which it
is checked.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula

KORTHIKANTI = "Korthikanti et al. 2022, arXiv 2205.05198"
_BLOCK = "GPT's block, 16-bit activations, dropout; small terms such as the norms' statistics left out, as in the paper"
Tokens = Annotated[Any, Domain(0, symbol="s", unit="tokens", typical=(512, 8192)), "tokens of a sequence"]
Batch = Annotated[Any, Domain(0, symbol="b", unit="sequences", typical=(1, 16)), "sequences of a micro-batch"]
Width = Annotated[Any, Domain(0, symbol="h", unit="dimensions", typical=(1024, 25600)), "dimension of the residual stream"]
Heads = Annotated[Any, Domain(0, symbol="a", unit="heads", typical=(16, 160)), "attention heads"]
Devices = Annotated[Any, Domain(0, symbol="t", unit="devices", typical=(1, 8)), "devices that divide heads and hidden features"]
Kept = Annotated[
    Any,
    Domain(0, 1, closed_low=True, closed_high=True, symbol="k", typical=(0.0, 1.0)),
    "1 if the scores are kept, 0 with selective recomputation",
]


@formula(kind="exact", source=f"{KORTHIKANTI}, Eq. 2", status="primary", symbol="A", domain=_BLOCK)
def tensor_parallel_activation_bytes(
    tokens: Tokens, batch: Batch, width: Width, heads: Heads, devices: Devices = 1, kept: Kept = 1
) -> Any:
    r"""Bytes of one block's activations on each device under tensor parallelism.

    .. math:: A = s b h \left(10 + \frac{24}{t} + 5 k \frac{a s}{h t}\right)

    Returns
    -------
    Bytes; with one device Eq. 1 of the paper, s b h (34 + 5 a s / h).

    Examples
    --------
    >>> tensor_parallel_activation_bytes(2048, 1, 12288, 96) / (2048 * 12288)
    114.0
    """
    stream = tokens * batch * width
    return 10 * stream + 24 * stream / devices + 5 * kept * heads * batch * tokens**2 / devices


@formula(kind="exact", source=f"{KORTHIKANTI}, Eq. 4", status="primary", symbol="A", domain=_BLOCK)
def sequence_parallel_activation_bytes(
    tokens: Tokens, batch: Batch, width: Width, heads: Heads, devices: Devices = 1, kept: Kept = 1
) -> Any:
    r"""Bytes of one block's activations on each device under tensor and sequence parallelism.

    .. math:: A = \frac{s b h}{t} \left(34 + 5 k \frac{a s}{h}\right)

    Returns
    -------
    Bytes.

    Examples
    --------
    >>> sequence_parallel_activation_bytes(2048, 1, 12288, 96, 8, 0) == 34 * 2048 * 12288 / 8
    True
    """
    return (34 * tokens * batch * width + 5 * kept * heads * batch * tokens**2) / devices


@formula(
    kind="exact",
    source=f"{KORTHIKANTI}, Eqs. 5 and section 4.2.3",
    status="primary",
    symbol="A",
    domain=f"{_BLOCK}; the 1F1B schedule with at least as many micro-batches as stages, depth a multiple of the stages",
)
def first_stage_activation_bytes(
    tokens: Tokens,
    batch: Batch,
    width: Width,
    heads: Heads,
    depth: Annotated[Any, Domain(0, symbol="L", unit="layers", typical=(24, 128)), "blocks of the whole model"],
    devices: Devices = 1,
    kept: Kept = 1,
    stages: Annotated[
        Any, Domain(1, closed_low=True, symbol="p", unit="stages", typical=(1, 64)), "pipeline stages, of depth / stages blocks"
    ] = 1,
) -> Any:
    r"""Bytes of activations on each device of the first pipeline stage, with tensor and sequence parallelism.

    .. math:: A = \frac{s b h}{t} \left(L \left(34 + 5 k \frac{a s}{h}\right) + p\right)

    Returns
    -------
    Bytes; the stage holds p micro-batches of L/p blocks, and a dropout mask of the embedding for each. Without stages the head
    adds 4 (s b h / t)(1 + V/h).

    Examples
    --------
    >>> first_stage_activation_bytes(2048, 1, 12288, 96, 96, 8, 0, 8) / 2**30
    9.58...
    """
    block = (34 * tokens * batch * width + 5 * kept * heads * batch * tokens**2) / devices
    return depth * block + stages * tokens * batch * width / devices
