"""A model whose heads have fewer dimensions, with the loss before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth.errors import InputError
from depthwidth.planning.head_allocation import Allocation

from ..models.locate import tree_of
from .head_cuts import ValueCut, left_out, query_key_cuts, query_key_loss, value_cuts, value_loss
from .head_forms import ValueForms
from .heads import HeadsReport, OutputMap, Places, recorded_outputs, run_passes


@dataclass(frozen=True)
class ShrinkReport:
    """What shrinking did, all layers together."""

    layers: tuple[dict[str, Any], ...]
    """layer, head_dim and value_dim before and after; predicted: the shares of the logits' variance and of the layer's output
    that are lost; measured: the relative squared change of what the layer's
    attention adds, without the first token of a decoder"""
    zeroed: int
    """weights that are zero now, which a smaller model would not have"""
    output_change: float
    """relative squared change of the model's logits (of its last hidden states, where it has none)"""
    loss_before: float | None
    """nats per token on the calibration text, or on `held_out`; None for models that predict no next token"""
    loss_after: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "layers": [dict(row) for row in self.layers]}


def shrink_heads(
    model: nn.Module, allocation: Allocation, report: HeadsReport | None = None, held_out: Tensor | None = None
) -> ShrinkReport:
    """Cut queries, keys and values of every layer to the allocated dimensions, in place, and measure before and after.

    Where positions are not rotated into queries and keys, each head's query-key form is replaced by the truncated singular
    value decomposition of its whitened form, the best of that rank on the calibration text; heads that share a key are cut
    together. With rotary positions whole pairs of dimensions are dropped, those that add least to the logits' variance first,
    so that the rotation stays what it was. Values and the output map are cut by the truncated singular value decomposition of
    W_o W_v C_m^(1/2), see above; heads that share a value are whitened by the mean of their covariances and then each given
    its own best output map. What a cut value loses on average goes into the output map's bias, where there is one. The modules
    keep their shapes, with zeros in the dimensions that are gone, and the scale 1/sqrt(d_h) of the full head: the function is
    exactly that of the smaller model.

    Parameters
    ----------
    model : a transformers model, changed in place.
    allocation : from :meth:`HeadsReport.allocate`; layers that ask for as many dimensions as there are, or more, stay.
    report : the measurement to cut by; the allocation's own by default.
    held_out : tokens to measure on before and after, (sequences, context); those that were calibrated on by default, which
        flatters the cut.

    Raises
    ------
    InputError
        where heads were added or taken away, queries or keys that norms stand behind are to be cut, or the model or its values
        were not measured.
    """
    report = allocation.measured if report is None else report
    if not isinstance(report, HeadsReport):
        raise InputError("shrink_heads needs the measurement: an allocation made by HeadsReport.allocate, or report=")
    tree = tree_of(model)
    layer = tree.attention
    if len(allocation.layers) != len(report.forms) or any(got.heads != layer.heads for got in allocation.layers):
        raise InputError("shrink_heads changes head dimensions only: the allocation has other layers or other heads")
    queries_cut = any(got.head_dim < layer.head_dim for got in allocation.layers)
    if queries_cut and (layer.query_norm is not None or layer.key_norm is not None):
        raise InputError("shrink_heads cannot cut heads whose queries and keys are normed behind their projection")
    if not report.values and any(got.value_dim < layer.value_dim for got in allocation.layers):
        raise InputError("shrink_heads cannot cut values that were not measured")
    causal, batches = layer.causal, report.batches if held_out is None else held_out
    if batches.dim() != 2 or batches.shape[1] < 2 or not len(batches):
        raise InputError("shrink_heads: held_out has the shape (sequences, context), with a context from 2")
    places = Places(model, tree)
    outs = [places.out(block) for block in range(len(report.forms))]
    watched = [out.module for out in outs]
    with recorded_outputs(watched) as before:
        _, ends_before = run_passes(model, batches, causal)
    zeroed, rows = 0, []
    with torch.no_grad():
        for block, (got, form, out) in enumerate(zip(allocation.layers, report.forms, outs, strict=True)):
            rank, size = min(got.head_dim, layer.head_dim), min(got.value_dim, layer.value_dim)
            lost = value_lost = 0.0
            if rank < layer.head_dim:
                pairs = query_key_cuts(layer.position, form, rank)
                lost = query_key_loss(form, pairs)
                group = layer.heads // layer.kv_heads
                zeroed += _send(places, block, "query", [to for to, _ in pairs for _ in range(group)])
                zeroed += _send(places, block, "key", [to for _, to in pairs])
            if size < layer.value_dim:
                cuts = value_cuts(report.values[block], layer.kv_heads, size)
                value_lost = value_loss(report.values[block], cuts)
                zeroed += _send(places, block, "value", [cut.to for cut in cuts])
                zeroed += _cut_out(out, report.values[block], cuts)
            rows.append({
                "layer": block, "head_dim_before": layer.head_dim, "head_dim_after": rank,
                "value_dim_before": layer.value_dim, "value_dim_after": size,
                "logit_variance_lost": lost, "value_error": value_lost,
            })  # fmt: skip
    with recorded_outputs(watched) as after:
        _, ends_after = run_passes(model, batches, causal)
    for row, one, other in zip(rows, before, after, strict=True):
        row["output_change"] = _change(*(torch.cat(rows)[:, 1 if causal else 0 :] for rows in (one, other)))
    lm = causal and tree.head is not None and ends_before.shape[-1] == tree.vocab
    losses = [float(next_token_loss(ends, batches)) if lm else None for ends in (ends_before, ends_after)]
    return ShrinkReport(tuple(rows), zeroed, _change(ends_before, ends_after), *losses)


def _change(before: Tensor, after: Tensor) -> float:
    scale = float((before.double() ** 2).sum())
    return float(((before.double() - after.double()) ** 2).sum()) / scale if scale else 0.0


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean nats per token, of logits (B, L, V) about the tokens (B, L) that come next."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _send(places: Places, block: int, role: str, maps: Sequence[Tensor]) -> int:
    """Send weight and bias of a projection through its heads' maps; how many zeros that a smaller one would not have."""
    found = (places.find(role, leaf, block) for leaf in ("weight", "bias"))
    return sum(_apply(place[0], maps) for place in found if place is not None)


def _cut_out(out: OutputMap, form: ValueForms, cuts: Sequence[ValueCut]) -> int:
    """Let the output map read the cut values; its bias takes what they lose on average."""
    if out.bias is not None:
        missing = torch.einsum("hij,hj->hi", left_out(cuts), form.means).flatten()
        out.bias.add_((out.weight.double().cpu() @ missing).to(out.bias))
    return _apply(out.weight.T, [back for cut in cuts for back in cut.back])


def _apply(view: Tensor, maps: Sequence[Tensor]) -> int:
    """Send a weight (heads d, others) or bias through one map a head; how many of its numbers are zero now by that."""
    flat = view.reshape(len(maps), len(maps[0]), -1).double().cpu()
    zeroed = 0
    for head, to in enumerate(maps):
        flat[head] = to.T @ flat[head]
        zeroed += int((to.abs().sum(0) == 0).sum()) * flat.shape[-1]
    view.copy_(flat.reshape(view.shape).to(view.dtype))
    return zeroed
