"""Alternating updates: the paper's steps and sizes, the linear form, and counts of operations and traffic."""

import numpy as np
import pytest

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formulas import altup
from depthwidth.numerics.altup import active_stream, altup_step, mixing, predict_streams, sequence_step, spectral_radius

P, G = [[0.9, 0.1], [0.2, 0.8]], [1.0, 0.5]
IDENTITY, ONES = [[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0]


def layer(z):
    return 3 * z + 1


@pytest.mark.parametrize(
    ("x", "blocks", "matrix", "correction", "select", "expected"),
    [
        ([2, 5], 1, P, G, "alternating", [7.0, 6.75]),
        ([2, 5], 1, IDENTITY, ONES, "alternating", [7, 10]),
        ([2, 5], 2, P, G, "alternating", [21.425, 14.025]),
        ([2, 5], 2, P, G, "same", [22.0, 14.3125]),
    ],
)
def test_the_worked_steps(x, blocks, matrix, correction, select, expected):
    for block in range(blocks):
        x = altup_step(x, layer, matrix, correction, active_stream(block, 2, select))
    assert x == pytest.approx(expected, rel=1e-14)


def test_the_second_stream_may_be_active():
    assert altup_step([2, 5], layer, P, G, 1) == pytest.approx([13.9, 10.2], rel=1e-14)
    assert predict_streams(P, [2, 5]) == pytest.approx([2.3, 4.4])


@pytest.mark.parametrize(
    ("stride", "of", "own", "base", "correction", "expected"),
    [
        (4, lambda z: 2 * z + 1, 0.5, 0.5, 1.0, [3, 3.5, 4, 4.5, 11, 11.5]),
        (2, lambda z: z**2, 1.0, 0.0, 0.25, [1, 2, 4.5, 5.5, 10, 11]),
    ],
)
def test_the_worked_sequences(stride, of, own, base, correction, expected):
    found = sequence_step([1, 2, 3, 4, 5, 6], lambda some: [of(z) for z in some], stride, own, base, correction)
    assert found == pytest.approx(expected, rel=1e-14)


def test_the_linear_form_is_the_step(rng):
    """x' = R x + g f(x_j) to rounding, for a layer with a skip path of its own; without the layer's skip it is not."""
    for streams in (2, 3, 4):
        matrix, g, x = rng.standard_normal((streams, streams)), rng.standard_normal(streams), rng.standard_normal((streams, 7))
        for active in range(streams):
            for skip in (1.0, 0.6):
                stepped = np.array(altup_step(list(x), lambda z, s=skip: s * z + np.tanh(z), matrix, g, active))
                linear = np.array(mixing(matrix, g, active, skip)) @ x + np.outer(g, np.tanh(x[active]))
                assert np.abs(stepped - linear).max() < 1e-12
                wrong = np.array(mixing(matrix, g, active, skip + 0.1)) @ x + np.outer(g, np.tanh(x[active]))
                assert np.abs(stepped - wrong).max() > 1e-3


def test_the_identity_start_does_not_grow_and_others_do():
    assert spectral_radius([mixing(IDENTITY, ONES, block % 2) for block in range(48)]) == 1
    assert spectral_radius([mixing([[1.0, 0.3], [0.3, 1.0]], [0.5, 0.5], block % 2) for block in range(48)]) > 10
    assert spectral_radius([]) == 1


def test_every_stream_is_active_in_turn():
    assert {active_stream(block, 4) for block in range(4)} == {0, 1, 2, 3}
    assert {active_stream(block, 4, "same") for block in range(9)} == {0}
    with pytest.raises(InputError, match="select"):
        active_stream(0, 2, "random")
    with pytest.raises(InputError, match="streams"):
        active_stream(0, 0)


def test_every_cell_of_the_papers_table_of_sizes():
    """All 16 figures to their printed digits; one stream more reproduces none."""
    rows = reference("altup2023_params_speed")
    assert len(rows) == 8
    for row in rows:
        size = [int(row[name]) for name in ("width", "ffn", "heads", "head_dim", "encoder_depth", "depth")]
        streams, layers = int(row["streams"]), size[4] + size[5]
        updates = altup.update_parameters(layers, streams) if streams > 1 else 0
        inside = altup.t5_parameters(*size, streams) + updates
        tables = altup.table_parameters(32128, size[0], streams, 2)
        assert f"{tables:.2E}" == row["embedding_params"]
        assert f"{inside:.2E}" == row["nonembedding_params"]
        assert f"{altup.t5_parameters(*size, streams + 1):.2E}" != row["nonembedding_params"]


def test_operations():
    assert [16 * altup.predict_flops(64, k) for k in (2, 4)] == [8192, 32768]
    for streams in (1, 2, 4):
        by_hand = streams * streams + streams * (streams - 1)  # products and sums of P x
        assert altup.predict_flops(1, streams) - by_hand == streams  # an addition to zero for each, as counters have it
        assert altup.update_operations(1, streams) == altup.predict_flops(1, streams) + 1 + 2 * streams


def test_the_speed_up_at_equal_accuracy():
    assert altup.equal_accuracy_speedup(92.36, 1 / 42.3, 91.19, 1 / 52.4, 93.56, 1 / 17.1) == pytest.approx(0.63, abs=0.005)
    at_the_small_model = altup.equal_accuracy_speedup(91.19, 1 / 42.3, 91.19, 1 / 52.4, 93.56, 1 / 17.1)
    assert at_the_small_model == pytest.approx(42.3 / 52.4 - 1)


def test_measured_times_of_the_paper_exceed_the_ratio_of_operations():
    """The recalled speeds: time grows by more than the operations alone, at every size."""
    added = {"T5-Small": 0.196, "T5-Base": 0.142, "T5-Large": 0.121, "T5-XL": 0.124}
    speeds = {row["model"]: float(row["examples_per_second_per_core"]) for row in reference("altup2023_params_speed")}
    for model, share in added.items():
        assert (
            speeds[model] / speeds[f"{model}+AltUp"] > altup.time_ratio(1.0, share, 0.0, 1.0, 1.0) == pytest.approx(1 + share)
        )


def test_the_variance_of_joined_streams_by_simulation(rng):
    streams, width, draws, rho = 3, 40, 20_000, 0.6
    shared = rng.standard_normal((draws, 1, width))
    x = np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.standard_normal((draws, streams, width))
    ratio = (x**2).mean((1, 2)).var() / (x[:, 0] ** 2).mean(1).var()
    assert ratio == pytest.approx(altup.joined_spread(streams, rho), rel=0.05)
    assert abs(ratio / altup.joined_spread(streams, 0.0) - 1) > 0.3
