"""Transformers in torch that test the predictions of :mod:`depthwidth`: build, initialise, measure and train them.

The names below are the public interface. Importing this package is fast, because each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depthwidth.lazy import load_name

if TYPE_CHECKING:
    from .measure.capacity import capacity as capacity
    from .measure.invariance import measure_invariance as measure_invariance
    from .measure.probes import probe as probe
    from .models.convert import from_hf as from_hf
    from .models.initialize import apply_init as apply_init
    from .models.initialize import parameter_groups as parameter_groups
    from .models.model import build as build
    from .training.scale_invariant import RelativeClipSGD as RelativeClipSGD

# Public name -> the module that defines it. The imports above repeat this for type checkers. No public name may equal the name
# of a submodule, because importing the submodule would hide it.
_HOME = {
    "build": "models.model",
    "from_hf": "models.convert",
    "apply_init": "models.initialize",
    "parameter_groups": "models.initialize",
    "probe": "measure.probes",
    "capacity": "measure.capacity",
    "measure_invariance": "measure.invariance",
    "RelativeClipSGD": "training.scale_invariant",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    return load_name(__name__, name, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
