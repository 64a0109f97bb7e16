"""Frozen dataclasses that are quick to define, and properties that are quick to compute once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
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
    """``functools.cache`` for functions without arguments, created several times per layer, at a tenth of its cost.

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


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """``dataclass(frozen=True)``, whose methods but ``__init__`` are closures instead of generated source.

    The compilation of that source is most of the cost of a dataclass, and every command would pay it some seventy times at
    start-up.

    Examples
    --------
    >>> @frozen
    ... class Shape:
    ...     depth: int
    ...     width: int = 64
    >>> Shape(2), Shape(2) == Shape(2, 64), len({Shape(2), Shape(2, 64), Shape(3)})
    (Shape(depth=2, width=64), True, 2)
    """
    made = frozen_fields(cls)
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


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen_fields(cls: type[T]) -> type[T]:
    """``dataclass(frozen=True, eq=False, repr=False)`` in half the time; an instance is made in a third of it."""
    frozen_bases: list[Any] = [found for base in cls.__mro__[1:] if getattr(found := vars(base).get(_PARAMS), "frozen", False)]
    for params in frozen_bases:  # a dataclass that is not frozen may not have them as bases; this one becomes frozen below
        params.frozen = False
    try:
        made = dataclass(init=False, eq=False, repr=False)(cls)
    finally:
        for params in frozen_bases:
            params.frozen = True
    getattr(made, _PARAMS).frozen = True
    every = fields(made)  # type: ignore[arg-type]
    names = frozenset(field.name for field in every)

    def __setattr__(self: Any, name: str, value: object) -> None:  # noqa: N807
        if type(self) is made or name in names:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(made, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807
        if type(self) is made or name in names:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(made, self).__delattr__(name)

    for method in (__setattr__, __delattr__, _initialiser(made, every)):
        method.__qualname__ = f"{made.__qualname__}.{method.__name__}"
        setattr(made, method.__name__, method)
    return made


_PARAMS = "__dataclass_params__"


class _Factory:
    """The default of an argument whose value is created for each instance."""

    def __repr__(self) -> str:
        return "<factory>"


def _initialiser(cls: type, every: tuple[Field[Any], ...]) -> Callable[..., None]:
    """The ``__init__`` of a dataclass with these fields, which writes into the instance's dictionary."""
    factory = _Factory()
    given: dict[str, Any] = {"_factory_": factory}
    arguments, keywords, lines = list[str](), list[str](), list[str]()
    for one in every:
        name, value = one.name, one.name
        if one.default_factory is not MISSING:
            given[f"make_{name}"] = one.default_factory
            value = f"make_{name}() if {name} is _factory_ else {name}" if one.init else f"make_{name}()"
        if one.init:
            given[f"default_{name}"] = factory if one.default_factory is not MISSING else one.default
            optional = one.default is not MISSING or one.default_factory is not MISSING
            if not optional and not one.kw_only and arguments and "=" in arguments[-1]:
                raise TypeError(f"{name!r} has no default, and follows an argument with one")
            (keywords if one.kw_only else arguments).append(f"{name}=default_{name}" if optional else name)
        elif one.default_factory is MISSING:
            continue  # the class has its default
        lines.append(f" _own_[{name!r}] = {value}")
    after = [" self.__post_init__()"] if hasattr(cls, "__post_init__") else []
    signature = ", ".join(["self", *arguments, *(["*", *keywords] if keywords else [])])
    source = "\n".join([f"def __init__({signature}):", " _own_ = self.__dict__", *lines, *after])
    exec(source, given)  # noqa: S102, of the names of a class's own fields, as the library's dataclass does
    made: Callable[..., None] = given["__init__"]
    made.__annotations__ = {one.name: one.type for one in every if one.init} | {"return": None}
    made.__module__ = cls.__module__
    return made
