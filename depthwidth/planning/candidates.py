"""Many shapes of one architecture scored at once, and those that no other beats in loss, latency and memory together.

Every count is a polynomial of depth and width with exact coefficients (:meth:`.Template.polynomial`), so that thousands of
shapes are scored as arrays. Heads and feed-forward widths are not rounded; a shape to build is counted by its tree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..architecture import Transformer
from ..architecture.number_formats import judged_dtype
from ..checks import ceiling, check_choice, check_whole
from ..errors import InputError
from ..formulas.shape_penalty import penalised_best_width
from ..hardware.accelerators import Accelerator
from ..hardware.latency import DecodeWork, Overheads, decode_time, decode_work
from ..hardware.parallelism import ONE_DEVICE, DeviceMemory, Parallelism, TrainingSetup, cache_bytes, training_memory
from ..numerics.distinct import distinct
from .caveats import loss_change_error
from .compute import LAWS, LawInput
from .template import Template

if TYPE_CHECKING:
    import numpy as np

SMALLEST_SHARE = 0.25
"""Parameters of the smallest candidate over those of the largest, by default."""


class Scores(NamedTuple):
    """The scores of many shapes, each an array with one entry a shape."""

    depth: Any
    width: Any
    parameters: Any
    loss: Any
    """Nats per token, by the law of the loss."""
    decode_seconds: Any
    """Seconds of a step of generation, by :func:`~depthwidth.hardware.latency.decode_time`."""
    serving_memory: Any
    """Bytes of weights and cache on the fullest device."""
    training_memory: Any
    """Bytes of the fullest device in training."""

    def at(self, chosen: Any) -> Scores:
        """The scores of some shapes, chosen by an index or a mask."""
        return Scores(*(column[chosen] for column in self))

    def rows(self) -> list[dict[str, float]]:
        """One row a shape."""
        kinds = {name: int if name in ("depth", "width") else float for name in self._fields}
        columns = [[kind(value) for value in column] for kind, column in zip(kinds.values(), self, strict=True)]
        return [dict(zip(kinds, row, strict=True)) for row in zip(*columns, strict=True)]


class Scorer:
    """Scores of shapes of one template under fixed conventions.

    Parameters
    ----------
    template : the architecture.
    device : the accelerator of generation.
    tokens : training tokens, the same for each shape.
    law : the law of the loss, one of :data:`~depthwidth.planning.compute.LAWS`.
    parallelism : devices of training and of generation; the widths to be scored must be divisible among them.
    context, batch : tokens of each sequence in generation, and sequences; training has one sequence of the same length.
    setup : what training keeps.
    cache_dtype : number format of keys and values.
    overheads : times of branches and calls.

    Raises
    ------
    InputError
        if the architecture reads images or is not a decoder, the law is unknown, or a number is out of range.
    """

    def __init__(
        self,
        template: Template,
        device: Accelerator,
        tokens: float,
        law: str = "hoffmann2022",
        parallelism: Parallelism = ONE_DEVICE,
        *,
        context: int | None = None,
        batch: int = 1,
        setup: TrainingSetup | None = None,
        cache_dtype: str | None = None,
        overheads: Overheads | None = None,
    ) -> None:
        check_choice("candidates", tuple(LAWS), law=law)
        check_whole("candidates", batch=batch)
        if not 0 < tokens < math.inf:
            raise InputError(f"candidates: tokens={tokens} is not a positive number")
        if parallelism.pipeline > 1:
            raise InputError("candidates: which stage of a pipeline is the fullest depends on the shape; give pipeline=1")
        if template.design.patch is not None or template.design.experts is not None:
            raise InputError("candidates: the laws of the loss are those of dense language models")
        self.setup = TrainingSetup() if setup is None else setup
        self.device, self.tokens, self.law, self.overheads = device, float(tokens), LAWS[law], overheads
        self.template = replace(template, tensor_parallel=parallelism.tensor)
        self.devices = parallelism.tensor
        dtype = self.setup.dtype
        step: dict[str, Any] = {"context": context, "batch": batch, "dtype": dtype, "cache_dtype": cache_dtype}
        trees: dict[tuple[int, int], Transformer] = {}
        works: dict[int, DecodeWork] = {}

        def work(tree: Transformer) -> DecodeWork:
            if id(tree) not in works:
                works[id(tree)] = decode_work(tree, parallelism, **step)
            return works[id(tree)]

        def trained(tree: Transformer) -> DeviceMemory:
            return training_memory(tree, parallelism, self.setup, context=context).fullest

        def served(tree: Transformer) -> int:
            weights = training_memory(tree, replace(parallelism, zero=0), TrainingSetup(dtype=dtype), context=context).fullest
            cache = cache_bytes(tree, parallelism, context=context, batch=batch, dtype=cache_dtype or judged_dtype(dtype))
            return weights.weights + cache

        def polynomial(reading: Callable[[Transformer], Any]) -> Callable[[Any, Any], Any]:
            return self.template.polynomial(reading, trees).continuous()

        self.parameters = polynomial(lambda tree: tree.parameters)
        self.size = polynomial(lambda tree: tree.trained_size)
        names = ("weight_bytes", "cache_bytes", "flops", "branches", "calls", "call_bytes")
        self.work = {name: polynomial(functools.partial(lambda name, tree: getattr(work(tree), name), name)) for name in names}
        self.serving_memory = polynomial(served)
        self.training_memory = polynomial(lambda tree: trained(tree).total)

    def score(self, depth: Any, width: Any) -> Scores:
        """The scores of shapes.

        Parameters
        ----------
        depth, width : numbers or arrays of one shape.
        """
        import numpy as np

        depth, width = np.broadcast_arrays(np.asarray(depth, dtype=float), np.asarray(width, dtype=float))
        parameters = self.parameters(depth, width)
        counts = LawInput(width, depth, parameters, self.size(depth, width), self.tokens)
        work = DecodeWork(**{name: count(depth, width) for name, count in self.work.items()}, devices=self.devices)
        time = decode_time(work, self.device, self.setup.dtype, self.overheads).total
        return Scores(
            depth, width, parameters, self.law.loss(counts, {}), time, self.serving_memory(depth, width),
            self.training_memory(depth, width),
        )  # fmt: skip

    def loss_changes(self, scores: Scores) -> tuple[Any, Any]:
        """Relative loss of shapes above the least one of them, and its standard error, each an array with one entry a shape.

        The error is the scatter over the law's refits, which all shapes share, and that of the shape penalty if it is a factor
        of the loss; NaN if no error of the law is known.
        """
        import numpy as np

        least = int(np.argmin(scores.loss))
        counts = self._counts(scores)

        def change(moved: Mapping[str, float]) -> Any:
            loss = self.law.loss(counts, moved)
            return loss / loss[least] - 1

        error = self.law.spread(change)
        if error is None:
            error = np.full(len(scores.loss), np.nan)
        elif self.law.penalised:
            size = counts.size
            best = np.asarray(penalised_best_width.with_fixed()(size))
            error = np.hypot(error, [
                loss_change_error((scores.width[least], best[least], size[least]), (width, own, size[least]))
                for width, own in zip(scores.width, best, strict=True)
            ])  # fmt: skip
        return scores.loss / scores.loss[least] - 1, error

    def loss_errors(self, scores: Scores) -> Any:
        """Standard error of the loss of each shape, in nats, if the law is right; NaN if no error of the law is known."""
        import numpy as np

        error = self.law.loss_error(self._counts(scores))
        return np.full(len(scores.loss), np.nan) if error is None else error

    def _counts(self, scores: Scores) -> LawInput:
        size = self.size(scores.depth, scores.width)
        return LawInput(scores.width, scores.depth, scores.parameters, size, self.tokens)

    def candidates(self, parameters: float, smallest: float = SMALLEST_SHARE, deepest: int = 512) -> Scores:
        """The scores of every shape of allowed width with at most so many parameters, and at least a share of them.

        Raises
        ------
        InputError
            if there is none.
        """
        import numpy as np

        most = ceiling("budget")
        if parameters > most:
            raise InputError(f"candidates: {parameters:g} parameters are above {most:g}, the most that are accepted")
        widths = []
        width = float(self.template.nearest_widths(1.0)[-1])
        while self.parameters(float(self.template.least_depth), width) <= parameters:
            widths.append(int(width))
            width = float(self.template.nearest_widths(width + 0.5)[-1])
        if not widths:
            raise InputError(f"candidates: {parameters:g} parameters are too few for one block")
        depths = np.arange(self.template.least_depth, deepest + 1)
        grid_depth, grid_width = (axis.ravel() for axis in np.meshgrid(depths, np.array(widths), indexing="ij"))
        size = self.parameters(grid_depth.astype(float), grid_width.astype(float))
        kept = (size <= parameters) & (size >= smallest * parameters)
        if not kept.any():
            raise InputError(f"candidates: no allowed width has a shape of {smallest:g} to 1 times {parameters:g} parameters")
        return self.score(grid_depth[kept], grid_width[kept])


def unbeaten(*objectives: Any) -> np.ndarray:
    """A mask of the points that no other beats: none is as good in every objective and better in one. Smaller is better.

    Examples
    --------
    >>> unbeaten([1.0, 2.0, 3.0, 2.5], [3.0, 2.0, 1.0, 2.0]).tolist()
    [True, True, True, False]
    """
    import numpy as np

    points = np.column_stack([np.asarray(one, dtype=float) for one in objectives])
    order = np.lexsort(points.T[::-1])
    left = points[order]
    kept = np.arange(len(points))[order]
    place = 0
    while place < len(left):
        beaten = (left >= left[place]).all(axis=1) & (left > left[place]).any(axis=1)
        left, kept = left[~beaten], kept[~beaten]
        place += 1
    mask = np.zeros(len(points), dtype=bool)
    mask[kept] = True
    return mask


def thin_evenly(scores: Scores, rows: int) -> Scores:
    """So many of the shapes, evenly spread in ln(latency), the ends included."""
    import numpy as np

    order = np.argsort(scores.decode_seconds)
    if len(order) <= rows:
        return scores.at(order)
    logs = np.log(scores.decode_seconds[order])
    wanted = np.linspace(logs[0], logs[-1], rows)
    return scores.at(order[distinct([int(np.argmin(np.abs(logs - one))) for one in wanted])])
