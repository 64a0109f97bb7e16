"""Comparisons: the difference of two predicted losses, its parts and its error."""

import json
import math

import pytest

from depthwidth.architecture import Transformer
from depthwidth.coefficients import coefficient
from depthwidth.errors import InputError
from depthwidth.formulas.shape_penalty import loss_exponent
from depthwidth.planning.compare import compare
from depthwidth.planning.template import Template


def test_a_model_beside_itself_differs_in_nothing():
    first, again = compare(["24x1024", "24x1024"]).models
    assert (again.loss_change, again.loss_change_stderr, again.change_by_shape, again.change_by_size) == (0, 0, 0, 0)
    assert first.loss_penalty == again.loss_penalty > 0


def test_the_change_is_that_of_shape_and_size_together_and_turns_around():
    there, back = (compare(names).models[1] for names in (["24x1024", "12x1408"], ["12x1408", "24x1024"]))
    assert (1 + there.loss_change) * (1 + back.loss_change) == pytest.approx(1, rel=1e-12)
    assert 1 + there.loss_change == pytest.approx((1 + there.change_by_shape) * (1 + there.change_by_size), rel=1e-12)
    shapes = ((24, 1024), (12, 1408))
    sizes = (Transformer(*shape, head_dim=64, vocab=50257, context=2048).trained_size for shape in shapes)
    small, large = sorted(sizes)
    by_size = (small / large) ** float(loss_exponent(math.sqrt(small * large))) - 1
    assert there.change_by_size == pytest.approx(by_size, rel=1e-9)


def test_the_error_of_equal_sizes_is_that_of_the_curvature_far_from_the_optimum():
    """Both penalties share it, so it is far less than that of the larger penalty for shapes that are nearly alike."""
    near, far = (compare(names).models[1] for names in (["12x1408", "11x1472"], ["31x896", "4x2368"]))
    assert near.loss_change_stderr < near.loss_penalty_stderr / 3
    k = coefficient("shape_penalty", "k")
    assert far.loss_change_stderr > 0.8 * far.change_by_shape * k.stderr / k.value


def test_configurations_folders_trees_and_shapes_stand_side_by_side(tmp_path):
    config = {"model_type": "gpt2", "n_positions": 2048}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = compare([str(tmp_path), config, Transformer.from_config(config), "12x768"])
    assert {one.parameters for one in found.models} == {Transformer.from_config(config).parameters}
    assert [one.loss_change for one in found.models] == [0, 0, 0, 0]
    assert found.models[0].name == str(tmp_path)
    assert len(found.rows()) == len(found.costs) == 4
    assert found.costs[0].training_memory_per_device == Transformer.from_config(config).training_memory().total
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_shape_has_the_architecture_of_the_template():
    found = compare(["32x4096", "40x5120"], template=Template.of("llama3"))
    assert found.models[0].parameters == 8_030_261_248
    assert found.models[0].kv_heads == 8


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        (["24x1024"], "two models or more"),
        ([], "two models or more"),
        (["24x1024", "nowhere.json"], "nowhere.json"),
        (["24x1024", "0x1024"], "needs 1 layer or more and a width"),
        (["24x1024", "24x1001"], "width=1001 holds no whole number of heads"),
        (["24x1024", {"model_type": "vit"}], "no common rule"),
        (["24x1024", 5], "neither a mapping nor the path"),
    ],
)
def test_what_cannot_be_compared_gets_one_sentence(models, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        compare(models)
    assert "\n" not in str(error.value)
