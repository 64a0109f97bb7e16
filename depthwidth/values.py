"""Frozen dataclasses that are quick to define, and properties that are quick to compute once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

T = TypeVar("T")


class cached_property(functools.cached_property[T]):  # noqa: N801, it replaces the library's
    """``functools.cached_property`` without the lock that Python 3.11 takes; two threads may compute the same value twice.

    A tree is counted by some fifty of them, and the lock is a tenth of the time.
    """

    if not TYPE_CHECKING:

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            found = instance.__dict__[self.attrname] = self.func(instance)
            return found


def once(make: Callable[[], T]) -> Callable[[], T]:
    """``functools.cache`` for a function without arguments, of which a recursion makes several a layer: a tenth of its cost.

    Examples
    --------
    >>> value = once(lambda: [])
    >>> value() is value()
    True
    """
    found: list[T] = []

    def value() -> T:
        if not found:
            found.append(make())
        return found[0]

    return value


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """``dataclass(frozen=True)``, whose comparison, hash and repr are closures instead of generated source.

    The compilation of that source is a third of the cost of a dataclass (1.1 of 3.4 million instructions, measured), and every
    command would pay it some fifteen times at start-up.

    Examples
    --------
    >>> @frozen
    ... class Shape:
    ...     depth: int
    ...     width: int = 64
    >>> Shape(2), Shape(2) == Shape(2, 64), len({Shape(2), Shape(2, 64), Shape(3)})
    (Shape(depth=2, width=64), True, 2)
    """
    made = dataclass(frozen=True, eq=False, repr=False)(cls)
    names = [field.name for field in fields(made)]  # type: ignore[arg-type]

    def values(instance: object) -> tuple[Any, ...]:
        return tuple([getattr(instance, name) for name in names])

    def __eq__(self: object, other: object) -> bool:  # noqa: N807
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self: object) -> int:  # noqa: N807
        return hash(values(self))

    def __repr__(self: object) -> str:  # noqa: N807
        shown = ", ".join(f"{name}={one!r}" for name, one in zip(names, values(self), strict=True))
        return f"{type(self).__qualname__}({shown})"

    own = dict(vars(made))
    for name, method in (("__eq__", __eq__), ("__hash__", __hash__), ("__repr__", __repr__)):
        if own.get(name) is None:  # Python sets __hash__ to None in a class that defines __eq__ alone
            setattr(made, name, method)
    return made
