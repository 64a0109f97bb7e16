"""The library's starting values of state-space mixers, gated delta nets and RWKV, against closed forms.

tests/verify/models/test_initialize.py compares them with the library's own models.
"""

import json
import math

import numpy as np
import pytest

from depthwidth.architecture.hf import FAMILIES, read_config
from depthwidth.errors import InputError
from depthwidth.initialization import NoRecipeError, at_block, recipe, shipped_options
from depthwidth.initialization.shipped import _OF_MIXERS
from depthwidth.initialization.starting_laws import StartingLaw

MAMBA = {"model_type": "mamba", "hidden_size": 48, "num_hidden_layers": 3, "vocab_size": 50, "state_size": 16}
MIXERS = [name for name, family in FAMILIES.items() if family.initial_rule in (*_OF_MIXERS, "rwkv")]


def shipped(config, **options):
    return recipe(read_config(config), "shipped", **(shipped_options(config) | options))


def test_means_and_deviations_of_laws():
    """Of the logarithm of a uniform number from a to b, and of steps far below one, whose softplus is their exponential."""
    a, b = 0.5, 16.0
    mean = (b * math.log(b) - a * math.log(a)) / (b - a) - 1
    square = (b * math.log(b) ** 2 - a * math.log(a) ** 2) / (b - a) - 2 * mean
    found = StartingLaw("log-uniform", (a, b)).mean_and_std(7, 0, 3)
    assert found == pytest.approx((mean, math.sqrt(square - mean**2)), rel=1e-7)
    width = math.log(1000)
    found = StartingLaw("steps", (1e-9, 1e-6, 1e-12)).mean_and_std(7, 0, 3)
    assert found == pytest.approx((math.log(1e-9) + width / 2, width / math.sqrt(12)), rel=1e-6)
    logs = np.log(np.arange(1, 6))
    assert StartingLaw("log-integers").mean_and_std(5, 2, 3) == pytest.approx((logs.mean(), logs.std()))


def test_softplus_makes_steps_of_their_biases():
    bias = StartingLaw("steps", (0.001, 0.1, 0.01)).values(np.linspace(0, 1, 9), 0, 1)
    steps = np.log1p(np.exp(bias))
    assert steps[-1] == pytest.approx(0.1)
    assert steps.min() == pytest.approx(0.01)  # the floor
    assert steps[6] == pytest.approx(0.001 * 100**0.75)


def test_values_of_rwkv_differ_by_block():
    found = shipped({"model_type": "rwkv", "hidden_size": 8, "num_hidden_layers": 4, "vocab_size": 30})
    share = found.tensor("decoder.block.mixer.value_share")
    expected = [np.mean((np.arange(8) / 8) ** (1 - block / 4) + 0.3 * block / 3) for block in range(4)]
    assert share.mean == pytest.approx(expected)
    decay = found.tensor("decoder.block.mixer.decay").law.values(np.zeros(8), 3, 4)
    assert decay[[0, -1]].tolist() == [-5, 3]
    assert decay[3] == pytest.approx(-5 + 8 * (3 / 7) ** 2)


@pytest.mark.parametrize("family", MIXERS)
def test_every_number_is_finite_and_printed(family):
    config = {"model_type": family}
    found, tree = shipped(config), read_config(config)
    for row in found.rows(tree):
        assert math.isfinite(row["std"])
        assert math.isfinite(row["mean"])
        assert row["reason"]
    json.dumps(found.to_dict(tree), allow_nan=False)
    assert found == shipped(config)


def test_fields_of_a_configuration_are_followed():
    plain, role = shipped(MAMBA), "decoder.block.mixer.{}".format
    assert plain.tensor(role("step.weight")).std == pytest.approx(3**-0.5 / math.sqrt(3))
    assert plain.tensor(role("write.weight")).std == pytest.approx(1 / math.sqrt(3 * 96))
    changed = shipped({**MAMBA, "rescale_prenorm_residual": True, "time_step_init_scheme": "constant", "time_step_scale": 2.0})
    assert changed.tensor(role("write.weight")).std == pytest.approx(1 / math.sqrt(3 * 96 * 3))
    constant = changed.tensor(role("step.weight"))
    assert (constant.std, constant.mean) == (0, pytest.approx(2 / math.sqrt(3)))
    slower = shipped({**MAMBA, "time_step_max": 0.01}).tensor(role("step_bias"))
    assert at_block(slower.mean, 0) < at_block(plain.tensor(role("step_bias")).mean, 0)


def test_own_values_replace_a_law():
    role = "decoder.block.mixer.step_bias"
    own = recipe(read_config(MAMBA), "shipped", tensors={role: {"std": 0.5, "mean": -3.0}}, **shipped_options(MAMBA)).tensor(
        role
    )
    assert (own.std, own.mean, own.law) == (0.5, -3.0, None)
    slow = shipped(MAMBA, tensors={role: {"learning_rate": 0.5}}).tensor(role)
    assert slow.law is not None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"time_step_min": -1}, "mamba: time_step_min=-1 is not a number in"),
        ({"time_step_init_scheme": "even"}, "time_step_init_scheme='even' is neither random nor constant"),
        ({"rescale_prenorm_residual": 1}, "rescale_prenorm_residual is neither true nor false"),
        ({"colour": 1}, "the rule of mamba reads no field 'colour'; it reads time_step_min, "),
        (7, "fields=7 is not a mapping"),
    ],
)
def test_wrong_fields_get_one_sentence(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        recipe(read_config(MAMBA), "shipped", family="mamba", fields=fields)


def test_other_rules_do_not_state_them():
    with pytest.raises(NoRecipeError, match="shipped: no rule of this scheme states the initialisation of Mamba"):
        recipe(read_config(MAMBA), "shipped", family="llama")
    with pytest.raises(InputError, match="there is no kind 'even'"):
        StartingLaw("even")
