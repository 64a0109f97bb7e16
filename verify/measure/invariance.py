"""Measured degrees of homogeneity: which weights of a torch module are scale invariant, alone and together.

>>> first, last = nn.Linear(8, 8, bias=False), nn.Linear(8, 3, bias=False)
>>> model = nn.Sequential(first, nn.LayerNorm(8, eps=0.0), last)
>>> [(row.name, row.degree) for row in measure_invariance(model, torch.ones(2, 8), patterns=("2.*",))]
[('all weights', 2), ('2.*', 1), ('0.weight', 0), ('1.weight', None), ('1.bias', None), ('2.weight', 1)]
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth.analysis.invariance import Invariance
from depthwidth.architecture import Transformer
from depthwidth.errors import InputError, shown
from depthwidth.initialization import parameters
from depthwidth.values import frozen

from ..models.model import build

FACTORS = (0.5, 4.0)
"""Factors on the weights. They are near 1, so that epsilons and overflow matter little, and powers of two, so that a part that
computes in float32 whatever its input is (norms of the transformers library) rounds alike."""
TOLERANCE = 1e-9
"""Largest relative error of a homogeneous output, in float64; rounding is about 1e-13."""
LARGEST_EPSILON = 1e-2
"""Relative error up to which epsilons are set to zero to see if they are what breaks it."""
MOST_PARAMETERS = 200_000_000
"""Largest model that :func:`measure_tree` builds; it takes 8 bytes for each parameter, and as much once more."""
_DRAWN, _VECTOR = 0.02, 1.0
_TOKENS, _BLOCKS = 16, 3
_EPSILONS = ("eps", "epsilon", "variance_epsilon", "floor")


@frozen
class MeasuredScaling:
    """The output of a module under one factor on some weights, measured in float64.

    Parameters
    ----------
    name : name of a weight, or of a group.
    parameters : their number.
    degree : k, if a factor c multiplied the output by c^k at each factor; None otherwise.
    exact : False without a degree, and if the degree is that with all epsilons set to zero.
    error : largest relative error of the output against c^k times the output, for k nearest to the measured degree.
    used : False if the output does not change with the weights at all.
    """

    name: str
    parameters: int
    degree: float | None
    exact: bool
    error: float
    used: bool

    @property
    def invariant(self) -> bool:
        """True if the output stays as it is."""
        return self.degree == 0

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, ``invariant`` among them; an infinite error is None."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "degree": self.degree,
            "invariant": self.invariant,
            "exact": self.exact,
            "error": self.error if math.isfinite(self.error) else None,
            "used": self.used,
        }


def measure_invariance(
    model: nn.Module,
    *inputs: Any,
    groups: Mapping[str, Sequence[str]] | None = None,
    patterns: Sequence[str] = (),
    each: bool = True,
    run: Callable[[Any], Any] | None = None,
    copied: bool = True,
    **named: Any,
) -> list[MeasuredScaling]:
    """The degrees of a module's output in its weights: all together, given groups, those of each pattern, and each alone.

    It works on a copy in float64 and evaluation mode, whose weights that are all zero are drawn with standard deviation 0.02:
    a factor would not be seen on them. It needs the memory of the copy, and of the scaled weights once more.

    Parameters
    ----------
    model : any module, such as one of the transformers library.
    inputs, named : arguments of a forward pass; tensors of floating-point numbers become float64.
    groups : lists of weight names that are scaled together, by the name of the group.
    patterns : patterns of weight names, as of file names; several joined by commas are one group.
    each : measure each weight alone, too.
    run : a function of the module that returns the output to compare; by default ``model(*inputs, **named)``. Of an output
        that is no tensor, the logits are compared, the last hidden state, or the first tensor of floating-point numbers.
    copied : False to change the model itself, which saves memory.

    Raises
    ------
    InputError
        if there are no weights, a pattern or a group names none, or a weight or the output is not finite.
    """
    arguments, options = [_double(one) for one in inputs], {name: _double(one) for name, one in named.items()}
    probe = _Probe(model, run or (lambda one: one(*arguments, **options)), copied)
    names = list(probe.weights)
    together = {"all weights": names, **{name: list(some) for name, some in (groups or {}).items()}}
    for pattern in patterns:
        together[pattern] = [
            name for name in names if any(fnmatch.fnmatchcase(name, one.strip()) for one in pattern.split(","))
        ]
        if not together[pattern]:
            raise InputError(f"no weight matches {shown(pattern)}; one is {names[0]}")
    for name, some in together.items():
        if unknown := [one for one in some if one not in probe.weights]:
            raise InputError(f"the group {shown(name)} has {shown(unknown[0])}, which is no weight of the model")
    alone = {name: [name] for name in names} if each else {}
    return [probe.measure(name, some) for name, some in (*together.items(), *alone.items())]


def measure_tree(tree: Transformer, found: Invariance, seed: int = 0) -> list[MeasuredScaling]:
    """The same for a small model with a tree's parts, by the names of `found`: at most three blocks of each kind.

    Raises
    ------
    InputError
        if the tree reads images or sounds, or is too large with so few blocks.
    """
    small = _shortened(tree)
    if not (tree.stem.vocab and tree.reader.vocab):
        raise InputError("--measure is for models of tokens")
    if small.parameters > MOST_PARAMETERS:
        raise InputError(
            f"--measure builds the model with three blocks of each kind, and {small.parameters:,} parameters are above "
            f"{MOST_PARAMETERS:,}; give a smaller configuration"
        )
    model = _built(small, seed)
    sites: dict[str, list[str]] = {}
    for site, role, *_ in parameters(small):
        sites.setdefault(role, []).append(site)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(tree.vocab, (2, min(tree.context, _TOKENS)), generator=generator)
    named = {"source": tokens.flip(1)} if small.kind == "encoder-decoder" else {}
    rows = []
    for whole in (True, False):
        some = [one for one in (*found.groups, *found.each) if one.of_head is whole]
        groups = {one.name: [name for role in one.weights for name in sites[role]] for one in some}
        call = (lambda one: one(tokens, **named)) if whole else (lambda one: one.features(tokens, **named))
        rows += [
            row for row in measure_invariance(model, groups=groups, each=False, run=call, copied=False) if row.name in groups
        ]
    return rows


def _built(tree: Transformer, seed: int) -> nn.Module:
    """The model of a tree with weights drawn so large that variances are far above epsilons; degrees need no scheme's start."""
    model = build(tree, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.zero_()
        for weight in model.parameters():
            size = weight.shape[-1] ** -0.5 if weight.dim() > 1 else _VECTOR
            weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return model


def _shortened(tree: Transformer) -> Transformer:
    """The tree with three blocks of each run of equal ones; all if some share weights, or the stem makes a vector for each."""
    if tree.stem.block_inputs is not None:
        return tree
    stacks = {
        name: stack.replace(repeats=tuple(one.replace(times=min(one.times, _BLOCKS)) for one in stack.repeats))
        for name, stack in tree.stacks.items()
        if stack.sharing is None
    }
    return tree.replace(**stacks)


class _Probe:
    """A module whose weights can be multiplied, and its output."""

    def __init__(self, model: nn.Module, run: Callable[[Any], Any], copied: bool) -> None:
        self.model = (copy.deepcopy(model) if copied else model).double().eval()
        self.run = run
        self.weights = dict(self.model.named_parameters())
        if not self.weights:
            raise InputError("the model has no weights that could be scaled")
        generator = torch.Generator().manual_seed(0)
        for name, weight in self.weights.items():
            if not bool(weight.isfinite().all()):
                raise InputError(f"the weight {name} has values that are not finite")
            if not bool(weight.detach().any()):
                with torch.no_grad():
                    weight.copy_(_DRAWN * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
        self.start = self.output()
        if not bool(self.start.isfinite().all()):
            raise InputError("the output of the model is not finite")
        with self.no_epsilons():
            self.start_without = self.output()

    def output(self) -> Tensor:
        """The output, as one vector."""
        with torch.no_grad():
            return _tensor_of(self.run(self.model)).flatten()

    def measure(self, name: str, names: Sequence[str]) -> MeasuredScaling:
        """The scaling of these weights."""
        chosen = [self.weights[one] for one in names]
        degree, error = self._degree(chosen, self.start)
        exact = degree is not None
        if not exact and error < LARGEST_EPSILON and bool(self.start_without.isfinite().all()):
            with self.no_epsilons():
                degree, _ = self._degree(chosen, self.start_without)
        count = sum(weight.numel() for weight in chosen)
        return MeasuredScaling(name, count, degree, exact, error, self._used(chosen))

    def _degree(self, chosen: Sequence[Tensor], start: Tensor) -> tuple[float | None, float]:
        """The degree, if there is one, and the largest relative error."""
        powers, errors = [], []
        for factor in FACTORS:
            with self.changed(chosen, functools.partial(torch.mul, torch.tensor(factor, dtype=start.dtype))):
                found = self.output()
            size = float(found.norm() / start.norm())
            power = round(2 * math.log(size) / math.log(factor)) / 2 if 0 < size < math.inf else 0.0
            powers.append(power)
            errors.append(float((found - factor**power * start).norm() / (factor**power * start.norm())))
        error = max(one if math.isfinite(one) else math.inf for one in errors)
        if len(set(powers)) > 1 or error > TOLERANCE:
            return None, error if len(set(powers)) == 1 else max(error, 1.0)
        return int(powers[0]) if powers[0] == int(powers[0]) else powers[0], error

    def _used(self, chosen: Sequence[Tensor]) -> bool:
        """True if the output changes with the weights."""
        generator = torch.Generator().manual_seed(1)
        with self.changed(chosen, lambda w: w * (1 + torch.rand(w.shape, generator=generator, dtype=w.dtype))):
            found = self.output()
        return float((found - self.start).norm() / self.start.norm()) > TOLERANCE

    @contextlib.contextmanager
    def changed(self, chosen: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Context in which weights are changed; they are restored from copies, not by a second change."""
        kept = [weight.detach().clone() for weight in chosen]
        with torch.no_grad():
            for weight in chosen:
                weight.copy_(change(weight))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, before in zip(chosen, kept, strict=True):
                    weight.copy_(before)

    @contextlib.contextmanager
    def no_epsilons(self) -> Iterator[None]:
        """Context in which the epsilon of every norm is zero."""
        kept = [
            (part, name, getattr(part, name))
            for part in self.model.modules()
            for name in _EPSILONS
            if isinstance(getattr(part, name, None), float)
        ]
        for part, name, _ in kept:
            setattr(part, name, 0.0)
        try:
            yield
        finally:
            for part, name, value in kept:
                setattr(part, name, value)


def _double(value: Any) -> Any:
    """An argument as float64, if it is a tensor of floating-point numbers."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _tensor_of(output: Any) -> Tensor:
    """The tensor of an output that is compared."""
    for name in ("logits", "last_hidden_state"):
        if isinstance(getattr(output, name, None), Tensor):
            return getattr(output, name)
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else (output,)
    found = next((one for one in parts if isinstance(one, Tensor) and one.is_floating_point()), None)
    if found is None:
        raise InputError(f"the model returns a {type(output).__name__} without a tensor to compare; pass run=")
    return found
