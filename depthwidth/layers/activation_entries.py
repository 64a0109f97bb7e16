"""The activations by name, one entry each: the function, its torch form and its names elsewhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ..checks import check_choice
from ..errors import InputError, shown
from ..plugins import plugins
from ..values import frozen


@frozen
class ActivationEntry:
    """One activation.

    Parameters
    ----------
    name : an identifier, as in ``FeedForward(activation="silu")``.
    expression : the function of x, in the grammar of :func:`depthwidth.numerics.expressions.parse`; its derivative, kinks and
        Gaussian moments follow from it. Moments with formulas of this name in :mod:`depthwidth.formulas.gaussian` are closed
        forms.
    torch : a dotted name (``torch.nn.functional.silu``), or a function of the module torch that returns the torch function; by
        default the torch function is made from the expression.
    spellings : names in Hugging Face configurations; the first is written. Without a spelling, no configuration can express the
        activation.
    aliases : further names that :func:`~depthwidth.layers.activations.activation` accepts.
    keeps_input : the backward pass needs the activation's input. False if the derivative follows from the output, as for ReLU
        and tanh, which torch keeps for the next layer anyway.
    trained : names and starting values of numbers that are trained like weights. The expression has their starting values, and
        the torch function takes them after x.
    """

    name: str
    expression: str
    torch: str | Callable[[Any], Any] | None = None
    spellings: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    keeps_input: bool = True
    trained: tuple[tuple[str, float], ...] = ()


ACTIVATIONS: dict[str, ActivationEntry] = {}
"""Every activation by name. Phi is the standard normal distribution function."""


def register_activation(entry: ActivationEntry) -> ActivationEntry:
    """Register an activation by name for every part of the library.

    Raises
    ------
    InputError
        if the name is not an identifier or belongs to another function, or the expression cannot be read.

    Examples
    --------
    >>> star = register_activation(ActivationEntry("starlike", "0.8*relu(x)^2 - 0.4"))
    >>> from depthwidth.layers import FeedForward
    >>> FeedForward(64, 256, "starlike").activation
    'starlike'
    >>> del ACTIVATIONS["starlike"]
    """
    from ..numerics.expressions import parse

    if not isinstance(entry, ActivationEntry):
        raise InputError(f"register_activation: {shown(entry)} is not an ActivationEntry")
    if not entry.name.isidentifier() or entry.name == "x":
        raise InputError(f"register_activation: {shown(entry.name)} is not a name")
    parse(entry.expression)
    existing = ACTIVATIONS.get(entry.name)
    if existing is not None and existing.expression != entry.expression:  # tables of its moments are kept by name
        raise InputError(f"register_activation: the name {entry.name} already belongs to {existing.expression}")
    ACTIVATIONS[entry.name] = entry
    return entry


def _xielu(torch: Any) -> Callable[..., Any]:
    """XIELU of its two stored numbers, to which softplus is applied first."""
    softplus, half = torch.nn.functional.softplus, 0.5

    def xielu(x: Any, alpha_p: Any, alpha_n: Any) -> Any:
        below = (torch.expm1(x.clamp(max=-1e-6)) - x) * (half + softplus(alpha_n))
        return half * x + torch.where(x > 0, softplus(alpha_p) * x * x, below)

    return xielu


for _entry in (
    ActivationEntry("relu", "relu(x)", "torch.nn.functional.relu", ("relu",), keeps_input=False),
    ActivationEntry("gelu", "x*Phi(x)", "torch.nn.functional.gelu", ("gelu", "gelu_python"), ("gelu_erf",)),
    ActivationEntry(
        "gelu_tanh",
        "x*(1 + tanh(sqrt(2/pi)*(x + 0.044715*x^3)))/2",
        lambda torch: functools.partial(torch.nn.functional.gelu, approximate="tanh"),
        ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_python_tanh", "gelu_accurate"),
    ),
    ActivationEntry(  # Hendrycks & Gimpel 2016, arXiv 1606.08415
        "quick_gelu", "x*sigmoid(1.702*x)", lambda torch: lambda x: x * torch.sigmoid(1.702 * x), ("quick_gelu",)
    ),
    ActivationEntry("silu", "x*sigmoid(x)", "torch.nn.functional.silu", ("silu", "swish")),
    ActivationEntry(
        "relu2",
        "relu(x)^2",
        lambda torch: lambda x: torch.nn.functional.relu(x).square(),
        ("relu2",),
        ("squared_relu", "relu_squared"),
    ),
    ActivationEntry("tanh", "tanh(x)", "torch.tanh", ("tanh",), keeps_input=False),
    ActivationEntry("sigmoid", "sigmoid(x)", "torch.sigmoid", ("sigmoid",), ("logistic",), keeps_input=False),
    ActivationEntry("identity", "x", lambda torch: lambda x: x, ("linear",), keeps_input=False),
    ActivationEntry("leaky_relu", "relu(x) - 0.01*relu(-x)", "torch.nn.functional.leaky_relu"),
    ActivationEntry("erf", "erf(x)", "torch.erf"),
    ActivationEntry(  # Huang & Schlag 2024, arXiv 2411.13010; both factors start at 0.8 and are stored before softplus
        "xielu",
        "x/2 + 0.8*relu(x)^2 + 0.8*(exp(min(x, 0)) - 1 - min(x, 0))",
        _xielu,
        trained=(("alpha_p", math.log(math.expm1(0.8))), ("alpha_n", math.log(math.expm1(0.3)))),
    ),
):
    ACTIVATIONS[_entry.name] = _entry


def activation_entry(name: str) -> ActivationEntry | None:
    """The entry with this name, spelling or alias, of the library or of an installed plug-in; None if there is none."""
    entry = _find(name)
    if entry is None:
        for _, new in plugins("depthwidth.activations"):
            if new.name not in ACTIVATIONS:
                register_activation(new)
        entry = _find(name)
    return entry


def keeps_input(activation: str) -> bool:
    """True if the backward pass through an activation, given by name or as an expression, needs its input."""
    entry = activation_entry(activation) if activation.isidentifier() else None
    return entry is None or entry.keeps_input


def _find(name: str) -> ActivationEntry | None:
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    return next((entry for entry in ACTIVATIONS.values() if name in (*entry.aliases, *entry.spellings)), None)


def trained_numbers(activation: str) -> tuple[tuple[str, float], ...]:
    """Names and starting values of the trained numbers of an activation, given by name or as an expression."""
    entry = activation_entry(activation) if activation.isidentifier() else None
    return () if entry is None else entry.trained


def check_activation(owner: str, activation: str, *, trained: bool = False) -> None:
    """Refuse a text that is neither the name of an activation nor an expression in x.

    Without `trained` an activation with trained numbers is refused, for which `owner` has no place.

    Raises
    ------
    InputError
        naming the nearest activation, or the reason why the expression cannot be read.
    """
    if activation in ACTIVATIONS:
        if not trained and ACTIVATIONS[activation].trained:
            raise InputError(
                f"{owner}: activation={shown(activation)} has trained numbers, which only a dense FeedForward holds"
            )
        return
    if isinstance(activation, str) and activation and not activation.isidentifier():
        from ..numerics.expressions import parse

        parse(activation)
        return
    entry = activation_entry(activation) if isinstance(activation, str) else None
    if entry is None or entry.name != activation:
        check_choice(owner, tuple(ACTIVATIONS), activation=activation)


def spellings() -> dict[str, str]:
    """The activation that each name in Hugging Face configurations means."""
    return {spelling: name for name, entry in ACTIVATIONS.items() for spelling in entry.spellings}


def spelling_of(activation: str) -> str:
    """The name of an activation in Hugging Face configurations.

    Raises
    ------
    InputError
        if it has none.
    """
    entry = ACTIVATIONS.get(activation)
    if entry is None or not entry.spellings:
        raise InputError(f"no configuration can express activation={shown(activation)}")
    return entry.spellings[0]
