"""Degrees along graphs of modules: Table 2 of the paper, the encoder that is scale invariant, and the one that is not."""

import itertools
import math

import numpy as np
import pytest

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.numerics.homogeneity import degrees, relu_weights


def of_degree(degree):
    """Nodes up to one, ``x``, of this degree."""
    names = ["z", *(f"l{i}" for i in range(degree))]
    made = [("z", "input", [])] + [(name, "linear", [before]) for before, name in itertools.pairwise(names)]
    return [*made, ("x", "relu", [names[-1]])]


def attention(given, weights, end):
    """Nodes of attention from the node `given`, with ``row_norm`` or ``softmax`` over the scores, and their sum with it."""
    positive = [("p", "relu", ["s"])] if weights == "row_norm" else []
    return [
        ("q", "linear", [given]), ("k", "linear", [given]), ("v", "linear", [given]), ("s", "product", ["q", "k"]), *positive,
        ("w", weights, ["p" if positive else "s"]), ("c", "product", ["w", "v"]), (end, "linear", ["c"]),
    ]  # fmt: skip


def feed_forward(activation, *, first=True, second=False):
    ends = [("f1", "linear", ["n2"]), *([("b1", "bias", ["f1"])] if first else [])]
    ends += [("f2", activation, [ends[-1][0]]), ("f3", "linear", ["f2"])]
    return [*ends, ("f4", "bias", ["f3"])] if second else ends


def encoder(weights="row_norm", activation="relu", *, norm="norm", second=False):
    """One pre-norm layer after an embedding and a linear map."""
    ends = feed_forward(activation, second=second)
    return [
        ("z", "input", []), ("e", "embedding", ["z"]), ("x", "linear", ["e"]), ("n1", norm, ["x"]),
        *attention("n1", weights, "a"), ("h", "sum", ["x", "a"]), ("n2", norm, ["h"]), *ends,
        ("y", "sum", ["h", ends[-1][0]]), ("out", "norm", ["y"]),
    ]  # fmt: skip


def test_the_paper_s_table():
    """Every module, of all degrees that it takes."""
    made = {
        "B": [("y", "bias", ["x"])],
        "N": [("y", "norm", ["x"])],
        "L": [("y", "linear", ["x"])],
        "Embed": [("y", "embedding", ["x"])],
        "NA": [("y", "affine_norm", ["x"])],
        "FF": [("n2", "norm", ["x"]), *feed_forward("relu"), ("y", "relu", ["f3"])],
        "ATTN": [*attention("x", "row_norm", "y")],
    }
    checked = set()
    for row in reference("sibert2022_homogeneity"):
        for degree in range(4):
            needed = row["input_degree"].partition(",")[0]
            if row["symbol"] not in made or needed not in ("x", str(degree)):
                continue
            checked.add(row["symbol"])
            base, _, added = row["output_degree"].partition("+")
            expected = degree + int(added) if base == "x" else int(base)
            found, breaks = degrees(of_degree(degree) + made[row["symbol"]])
            assert (found["y"], breaks) == (expected, [])
    assert checked == set(made)
    assert degrees([*of_degree(2), ("y", "bias", ["x"])])[1] == ["y"]


def test_the_scale_invariant_encoder():
    found, breaks = degrees(encoder())
    assert breaks == []
    assert (found["x"], found["a"], found["f3"], found["y"], found["out"]) == (2, 2, 2, 2, 0)


@pytest.mark.parametrize(
    ("changed", "places"),
    [
        ({"weights": "softmax"}, ["w"]),
        ({"activation": "gelu"}, ["f2"]),
        ({"second": True}, ["f4"]),
        ({"norm": "affine_norm"}, ["h"]),
        ({"weights": "softmax", "activation": "gelu", "second": True}, ["w"]),
    ],
)
def test_each_part_of_bert_that_breaks_it(changed, places):
    """The first on each path: what comes after has no degree to judge it by."""
    found, breaks = degrees(encoder(**changed))
    assert set(breaks) == set(places)
    assert found["y"] is None


def computed(factor, rng, activation):
    """The output of a layer whose weights are all multiplied by `factor`, before and after the last norm."""

    def matrix():
        return factor * rng.standard_normal((12, 12))

    def norm(x):
        x = x - x.mean(1, keepdims=True)
        return x / np.sqrt((x * x).mean(1, keepdims=True))

    x = rng.standard_normal((7, 12)) @ matrix() @ matrix()
    n = norm(x)
    scores = (n @ matrix()) @ (n @ matrix()).T
    h = x + np.array(relu_weights(scores.tolist())) @ (n @ matrix()) @ matrix()
    y = h + activation(norm(h) @ matrix() + factor * rng.standard_normal(12)) @ matrix()
    return y, norm(y)


def test_the_encoder_by_its_numbers():
    """Degree 2 of the stream and 0 of the output to rounding; with tanh in place of ReLU neither."""
    for activation, holds in ((lambda x: np.maximum(x, 0), True), (np.tanh, False)):
        (small, of_small), (large, of_large) = (computed(c, np.random.default_rng(3), activation) for c in (0.01, 10.0))
        assert np.allclose(of_small, of_large, rtol=0, atol=1e-11) == holds
        assert np.allclose(large / small, 1e6, rtol=1e-9, atol=0) == holds


def test_the_worked_weights():
    query, key = np.array([[1, 2], [0, 1]]), np.array([[1, -1], [2, 1]])
    scores = query @ key.T
    assert scores.tolist() == [[-1, 4], [-1, 1]]
    assert relu_weights(scores.tolist()) == [[0, 1], [0, 1]]
    assert relu_weights([[1.0, 3.0, -2.0]]) == relu_weights([[1e-9, 3e-9, -1.0]]) == [[0.25, 0.75, 0.0]]
    assert math.fsum(relu_weights([[-1.0, -2.0]])[0]) == 0


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        ([("z", "input", []), ("y", "conv", ["z"])], "conv"),
        ([("y", "linear", ["z"])], "'z' of 'y' is not a node before"),
        ([("z", "input", []), ("z", "norm", ["z"])], "twice"),
        ([("z", "input", []), ("y", "norm", [])], "one input"),
        ([("z", "input", []), ("y", "norm", ["z", "z"])], "one input"),
        ([("z", "input", []), ("y", "sum", ["z"])], "two inputs or more"),
        ([("z", "input", []), ("y", "input", ["z"])], "'input' has"),
    ],
)
def test_a_wrong_graph_is_refused(graph, sentence):
    with pytest.raises(InputError, match=sentence):
        degrees(graph)
