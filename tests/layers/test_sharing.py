"""Blocks that share weights: counted and drawn once, passed through every time."""

import pytest

from depthwidth import Transformer, propagate, recipe
from depthwidth.errors import InputError
from depthwidth.initialization import parameters
from depthwidth.layers import Run, Stack, shared_pattern

SIZES = {"width": 24, "heads": 3, "vocab": 11, "context": 8, "kind": "encoder", "placement": "post"}


def tree(depth=6, **choices):
    return Transformer(depth, **SIZES, **choices)


def test_patterns():
    assert shared_pattern(4, 1, 1) == (0, 0, 0, 0)
    assert shared_pattern(12, 3, 2) == (0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9)
    assert shared_pattern(5, 2, 1) == (0, 0, 0, 3, 3)
    for depth in range(1, 13):
        for inner in (n for n in range(1, depth + 1) if depth % n == 0):
            for groups in range(1, depth // inner + 1):
                sharing = shared_pattern(depth, groups, inner)
                choices = tree(depth, shared_groups=groups, group_blocks=inner).encoder.choices()
                assert shared_pattern(depth, choices["shared_groups"], choices["group_blocks"]) == sharing
                assert len(set(sharing)) == groups * inner


@pytest.mark.parametrize(("groups", "inner", "sets"), [(1, 1, 1), (2, 1, 2), (1, 2, 2), (3, 2, 6)])
def test_counts(groups, inner, sets):
    own, shared = tree(), tree(shared_groups=groups, group_blocks=inner)
    block = own.first_block.parameters
    assert own.parameters - shared.parameters == (6 - sets) * block
    assert own.active_parameters - shared.active_parameters == (6 - sets) * block
    for each in (lambda one: one.forward_flops(8), lambda one: one.activation_bytes(8), lambda one: one.cache_values(Run(8))):
        assert each(own) == each(shared)
    rows = shared.breakdown(8)
    assert sum(row["parameters"] for row in rows) == sum(row["active_parameters"] for row in rows) == shared.parameters
    assert sum(row["forward_flops"] for row in rows) == shared.forward_flops(8)
    assert len(list(parameters(own))) - len(list(parameters(shared))) == (6 - sets) * 16


def test_windows_may_differ_between_blocks_of_a_group():
    stack = tree(window=(3, None) * 3, shared_groups=1, group_blocks=2).encoder
    assert [child.copies for child in stack.children() if child.name.startswith("block")] == [1, 1]
    assert [child.active for child in stack.children() if child.name.startswith("block")] == [3, 3]


def test_moments_are_refused_only_if_weights_are_shared():
    with pytest.raises(InputError, match="encoder: the moments of blocks that share their weights are not known"):
        propagate(tree(shared_groups=1), "xavier")
    alone = tree(shared_groups=6)
    assert propagate(alone, "xavier").equals(propagate(tree(), "xavier"))


def test_the_rule_of_a_block_is_that_of_its_first_use():
    first = recipe(tree(shared_groups=2), "layernorm-scaling")
    assert {block for _, role, block, _ in parameters(tree(shared_groups=2)) if ".block." in role} == {0, 3}
    assert len(first.tensors) == len(recipe(tree(), "layernorm-scaling").tensors)


BAD = {
    "shared_groups=7 is more than the 6 rounds": {"shared_groups": 7},
    "depth=6 is not a multiple of group_blocks=4": {"shared_groups": 1, "group_blocks": 4},
    "shared_groups=0 is not": {"shared_groups": 0},
    "blocks 0 and 1 differ, so they cannot share": {"shared_groups": 1, "window": (3, None) * 3},
}


@pytest.mark.parametrize("sentence", BAD)
def test_patterns_that_do_not_fit(sentence):
    with pytest.raises(InputError, match=sentence):
        tree(**BAD[sentence])


@pytest.mark.parametrize("sharing", [(0,), (0, 0, 1, 0, 0, 0), (1, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 9)])
def test_a_sharing_names_the_first_block_of_each_set(sharing):
    with pytest.raises(InputError, match=r"Stack: (sharing has 1 entries|block . shares the weights of)"):
        Stack(tree().encoder.repeats, sharing=sharing)
