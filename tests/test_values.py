"""Frozen classes behave as frozen dataclasses do."""

import copy
import dataclasses
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
