"""Reduction of the head dimensions of a model, with its loss before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth.errors import InputError
from depthwidth.planning.head_allocation import Allocation

from ..models.locate import tree_of
from .head_cuts import ValueCut, query_key_cuts, query_key_loss, residual_maps, value_cuts, value_loss
from .head_forms import ValueForms
from .heads import HeadsReport, OutputMap, Places, record_outputs, run_passes


@dataclass(frozen=True)
class ShrinkReport:
    """The effect of reducing head dimensions, for each layer and for the model."""

    layers: tuple[dict[str, Any], ...]
    """For each layer: head_dim and value_dim before and after; the predicted losses, as fractions of the logits' variance and
    of the squared layer output; and the measured relative squared change of the output of the layer's attention, without the
    first token of a decoder."""
    zeroed: int
    """Number of weights set to zero, which a smaller model would not have."""
    output_change: float
    """Relative squared change of the model's logits, or of its last hidden states if it has no logits."""
    loss_before: float | None
    """Nats per token on the calibration text, or on `held_out`; None for models that do not predict the next token."""
    loss_after: float | None
    """The same after the reduction."""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {**vars(self), "layers": [dict(row) for row in self.layers]}


def shrink_heads(
    model: nn.Module, allocation: Allocation, report: HeadsReport | None = None, held_out: Tensor | None = None
) -> ShrinkReport:
    """Truncate queries, keys and values of every layer to the allocated dimensions, in place, and measure before and after.

    Without rotary positions, each head's query-key form is replaced by the truncated singular value decomposition of its
    whitened form, which is the best form of that rank on the calibration text; heads that share a key are truncated together.
    With rotary positions, whole pairs of dimensions are dropped, so the rotation is unchanged; pairs that contribute least to
    the logits' variance are dropped first. Values and the output map are truncated by the singular value decomposition of
    W_o W_v C_m^(1/2) (:mod:`verify.measure.heads`). Heads that share a value are whitened by the mean of their covariances, and
    each then gets its own best output map. The mean of the lost output is added to the output map's bias, if there is one. The
    modules keep their shapes, with zeros in the removed dimensions, and the scale 1/sqrt(d_h) of the full head: the model
    computes exactly the function of the smaller model.

    Parameters
    ----------
    model : a model of the transformers library, changed in place.
    allocation : from :meth:`HeadsReport.allocate`. A layer is unchanged if at least its present dimensions are allocated.
    report : the measurement to truncate by; by default that of the allocation.
    held_out : tokens for the measurements before and after, (sequences, context). By default they are the calibration tokens,
        on which the loss is underestimated.

    Returns
    -------
    :class:`ShrinkReport`.

    Raises
    ------
    InputError
        if the allocation has other layers or numbers of heads, blocks share weights, queries or keys to be truncated have
        norms, the model or its values were not measured, or `held_out` has the wrong shape.
    """
    report = allocation.measured if report is None else report
    if not isinstance(report, HeadsReport):
        raise InputError("shrink_heads needs the measurement: pass an allocation from HeadsReport.allocate, or report=")
    tree = tree_of(model)
    layer = tree.attention
    if len(allocation.layers) != len(report.forms) or any(got.heads != layer.heads for got in allocation.layers):
        raise InputError("shrink_heads changes head dimensions only, but the allocation has other layers or numbers of heads")
    if len(tree.stack.weight_sets) < tree.depth:
        raise InputError("shrink_heads cannot truncate heads of blocks that share their weights")
    queries_cut = any(got.head_dim < layer.head_dim for got in allocation.layers)
    if queries_cut and (layer.query_norm is not None or layer.key_norm is not None):
        raise InputError("shrink_heads cannot truncate queries and keys that are normed after their projection")
    if not report.values and any(got.value_dim < layer.value_dim for got in allocation.layers):
        raise InputError("shrink_heads cannot truncate values that were not measured")
    causal, batches = layer.causal, report.batches if held_out is None else held_out
    if batches.dim() != 2 or batches.shape[1] < 2 or not len(batches):
        raise InputError("shrink_heads: held_out needs the shape (sequences, context), with a context of at least 2")
    places = Places(model, tree)
    outs = [places.out(block) for block in range(len(report.forms))]
    modules = [out.module for out in outs]
    with record_outputs(modules) as before:
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
                zeroed += _project(places, block, "query", [to for to, _ in pairs for _ in range(group)])
                zeroed += _project(places, block, "key", [to for _, to in pairs])
            if size < layer.value_dim:
                cuts = value_cuts(report.values[block], layer.kv_heads, size)
                value_lost = value_loss(report.values[block], cuts)
                zeroed += _project(places, block, "value", [cut.to for cut in cuts])
                zeroed += _cut_out(out, report.values[block], cuts)
            rows.append(
                {
                    "layer": block,
                    "head_dim_before": layer.head_dim,
                    "head_dim_after": rank,
                    "value_dim_before": layer.value_dim,
                    "value_dim_after": size,
                    "logit_variance_lost": lost,
                    "value_error": value_lost,
                }
            )
    with record_outputs(modules) as after:
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
    """Mean cross-entropy (nats per token) of logits (batch, length, vocab) for the next tokens; `tokens`: (batch, length)."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _project(places: Places, block: int, role: str, maps: Sequence[Tensor]) -> int:
    """Multiply weight and bias of a projection by one map per head; returns the number of weights set to zero."""
    found = (places.find(role, leaf, block) for leaf in ("weight", "bias"))
    return sum(_apply(place[0], maps) for place in found if place is not None)


def _cut_out(out: OutputMap, form: ValueForms, cuts: Sequence[ValueCut]) -> int:
    """Adapt the output map to truncated values, and add the mean of the lost output to its bias."""
    if out.bias is not None:
        missing = torch.einsum("hij,hj->hi", residual_maps(cuts), form.means).flatten()
        out.bias.add_((out.weight.double().cpu() @ missing).to(out.bias))
    return _apply(out.weight.T, [back for cut in cuts for back in cut.back])


def _apply(view: Tensor, maps: Sequence[Tensor]) -> int:
    """Multiply a weight (heads * d, others) or bias by one map per head; returns the number of its values set to zero."""
    flat = view.reshape(len(maps), len(maps[0]), -1).double().cpu()
    zeroed = 0
    for head, to in enumerate(maps):
        flat[head] = to.T @ flat[head]
        zeroed += int((to.abs().sum(0) == 0).sum()) * flat.shape[-1]
    view.copy_(flat.reshape(view.shape).to(view.dtype))
    return zeroed
