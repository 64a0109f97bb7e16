"""Frozen classes behave as frozen dataclasses do."""

import copy
import dataclasses
import inspect
import pickle

import pytest

from depthwidth.values import cached_property, frozen


def shapes(decorator):
    @decorator
    class Shape:
        depth: int
        width: float = 64.0
        names: tuple[str, ...] = dataclasses.field(default=())

        @property
        def aspect(self):
            return self.width / self.depth

    return Shape


OURS, PLAIN = shapes(frozen), shapes(dataclasses.dataclass(frozen=True))


@frozen
class Named:
    name: str


@frozen
class Longer(Named):
    length: int = 1


@frozen
class Odd:
    name: str

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __repr__(self):
        return "odd"


def test_it_compares_hashes_and_prints_as_a_frozen_dataclass():
    values = [(2,), (2, 64), (2, 64.0, ("a",)), (3,), (float("nan"),)]
    for one in values:
        assert repr(OURS(*one)) == repr(PLAIN(*one))
        assert hash(OURS(*one)) == hash(PLAIN(*one))
        for other in values:
            assert (OURS(*one) == OURS(*other)) == (PLAIN(*one) == PLAIN(*other))
    assert OURS(2) != PLAIN(2)
    assert OURS(2) != (2, 64.0, ())
    assert OURS(4).aspect == 16
    with pytest.raises(dataclasses.FrozenInstanceError):
        OURS(2).depth = 3
    with pytest.raises(TypeError):
        OURS()


def test_a_subclass_adds_its_fields_and_is_no_other_class():
    assert repr(Longer("a", 2)) == "Longer(name='a', length=2)"
    assert Longer("a", 2) == Longer("a", 2) != Longer("a", 3)
    assert Longer("a") != Named("a")


def test_its_own_methods_stay():
    assert Odd("a") == Odd("b")
    assert hash(Odd("a")) == 1
    assert repr(Odd("a")) == "odd"


def test_it_is_replaced_copied_and_pickled():
    one = Longer("a", 2)
    assert dataclasses.replace(one, length=3) == Longer("a", 3)
    assert dataclasses.asdict(one) == {"name": "a", "length": 2}
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one  # noqa: S301


def test_a_cached_property_is_computed_once_for_each_instance():
    asked = []

    class Square:
        def __init__(self, side):
            self.side = side

        @cached_property
        def area(self):
            """Side squared."""
            asked.append(self.side)
            return self.side**2

    one, other = Square(2), Square(3)
    assert (one.area, one.area, other.area) == (4, 4, 9)
    assert asked == [2, 3]
    assert Square.area.__doc__ == "Side squared."
    del one.area
    assert one.area == 4
    assert asked == [2, 3, 2]


def families(decorator):
    @decorator
    class Base:
        first: int
        many: list[int] = dataclasses.field(default_factory=list)

    @decorator
    class Part(Base):
        values: str = "a"
        """A name that the initialiser could use itself"""
        told: int = dataclasses.field(default=3, kw_only=True)
        counted: int = dataclasses.field(default=0, init=False)
        made: dict[str, int] = dataclasses.field(default_factory=dict, init=False)

        def __post_init__(self):
            if self.first < 0:
                raise ValueError("negative")

    return Part


PART, PLAIN_PART = families(frozen), families(dataclasses.dataclass(frozen=True))


def test_it_takes_arguments_as_a_dataclass_does():
    calls = [((1,), {}), ((1, [2]), {"told": 4}), ((1, [2], "b"), {}), ((), {"first": 2, "values": "c"})]
    for positional, named in calls:
        one, other = PART(*positional, **named), PLAIN_PART(*positional, **named)
        assert dataclasses.asdict(one) == dataclasses.asdict(other)
    assert PART(1).many is not PART(1).many
    assert PART(1).made is not PART(1).made
    assert str(inspect.signature(PART)).replace("<factory>", "") == str(inspect.signature(PLAIN_PART)).replace("<factory>", "")
    for refused in ((1, [], "a", 4), ()):
        with pytest.raises(TypeError):
            PART(*refused)
    with pytest.raises(TypeError):
        PART(1, counted=2)
    with pytest.raises(ValueError, match="negative"):
        PART(-1)


def test_fields_are_neither_set_nor_deleted():
    one = PART(1)
    for change in (
        lambda: setattr(one, "first", 2),
        lambda: setattr(one, "new", 2),
        lambda: delattr(one, "first"),
        lambda: delattr(one, "new"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert one == PART(1)


def test_a_plain_frozen_dataclass_extends_it():
    @dataclasses.dataclass(frozen=True)
    class More(PART):
        own: int = 5

    assert More(1, own=6).own == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        More(1).own = 7
    with pytest.raises(TypeError, match="non-frozen"):
        dataclasses.dataclass(type("Loose", (PART,), {}))


def test_an_argument_with_a_default_comes_last():
    for decorator in (frozen, dataclasses.dataclass(frozen=True)):
        with pytest.raises(TypeError):
            decorator(type("Odd", (), {"__annotations__": {"first": "int", "second": "int"}, "first": 1}))
    assert frozen(type("Even", (), {"__annotations__": {"first": "int", "second": "int"}, "second": 1}))(2).second == 1
