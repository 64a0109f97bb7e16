"""Tables and splines: the same numbers as SciPy's, and as the functions they stand for."""

import math

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from depthwidth.numerics.interpolation import PlaneTable, Table, TableFamily, _weights, lagrange_weights, spline, spline_values


@pytest.mark.parametrize("nodes", [3, 4, 5, 20])
def test_the_spline_is_scipys(rng, nodes):
    x, values = np.sort(rng.uniform(0, 5, nodes)), rng.standard_normal((nodes, 3))
    theirs = CubicSpline(x, values)
    assert spline(x, values) == pytest.approx(theirs.c, rel=1e-9, abs=1e-9 * np.abs(theirs.c).max())  # two ways to one system
    at = np.concatenate([x, rng.uniform(-1, 6, 50)])
    assert spline_values(x, values, at) == pytest.approx(theirs(at), rel=1e-9, abs=1e-9 * np.abs(theirs(at)).max())


def curves(x):
    return np.stack([np.sin(x), np.exp(-x)], axis=-1)


def test_a_table_reads_as_its_functions_in_floats_and_arrays():
    table = Table(curves, 0.0, 3.0)
    x = np.linspace(0, 3, 301)
    assert table.of_array(x.reshape(7, 43)).shape == (2, 7, 43)
    # A cubic through nodes h apart is right to about h^4 / 100.
    assert np.abs(table.of_array(x).T - curves(x)).max() < (3 / 128) ** 4 / 10
    assert table(1.234) == pytest.approx(curves(1.234).tolist(), abs=1e-8)
    assert table(1.234) == pytest.approx(table.of_array(np.array([1.234]))[:, 0].tolist(), rel=1e-13)


def test_a_table_over_a_plane_reads_as_its_functions(rng):
    """Splines over one variable, polynomials over the other; a few nodes are not enough."""

    def surface(x, y):
        return np.stack([np.sin(x) * np.exp(y), x**2 + y**3], axis=-1)

    points = rng.uniform((0.0, 0.0), (1.5, 1.0), (20, 2)).tolist()
    table, coarse = PlaneTable(surface, 0.0, 1.5), PlaneTable(surface, 0.0, 1.5, nodes=5, orders=3)
    exact = [surface(x, y).tolist() for x, y in points]
    assert [table(x, y) for x, y in points] == [pytest.approx(values, abs=1e-8) for values in exact]
    assert max(abs(coarse(x, y)[0] - values[0]) for (x, y), values in zip(points, exact, strict=True)) > 1e-4


def family():
    made = []

    def make(parameter):
        made.append(parameter)
        return Table(lambda x: np.stack([np.exp(-parameter * x), parameter**2 * x], axis=-1), 0.0, 1.0)

    return TableFamily(make, 0.1), made


def test_a_family_makes_a_table_for_each_of_the_first_few_parameters_only():
    tables, made = family()
    for parameter in (1.0, 2.0, 1.0, 1.0 + 1e-8, 2.0):
        tables(parameter, 0.5)
    assert made == [1.0, 2.0]
    assert tables(2.0, 0.5) == pytest.approx([math.exp(-1.0), 2.0], rel=1e-9)


def test_a_family_interpolates_between_parameters_and_agrees_in_floats_and_arrays():
    tables, made = family()
    parameters, x = np.geomspace(0.5, 3, 40), np.linspace(0.1, 0.9, 40)
    found = tables(parameters, x)
    assert len(made) < 30
    # Three neighbours a tenth of an e-fold apart: 0.1^3 / 16 of the third derivative, at most 8 e^0.15 of the square.
    assert found[0] == pytest.approx(np.exp(-parameters * x), rel=3e-4)
    assert found[1] == pytest.approx(parameters**2 * x, rel=8 * math.exp(0.15) * 0.1**3 / 16)
    single = np.array([tables(float(p), float(v)) for p, v in zip(parameters, x, strict=True)]).T
    assert single[:, 5:] == pytest.approx(found[:, 5:], rel=1e-3)  # the first few have tables of their own


def test_arrays_of_a_few_parameters_use_their_own_tables():
    tables, made = family()
    parameters = np.array([1.0, 2.0, 1.0, 2.0])
    found = tables(parameters, np.full(4, 0.5))
    assert made == [1.0, 2.0]
    assert found[1] == pytest.approx(parameters**2 / 2, rel=1e-12)


@pytest.mark.parametrize("count", [2, 5])
def test_a_familys_parameters_and_points_broadcast(count):
    """By tables of their own if the parameters are few, and between those of the grid if there are more."""
    tables, _ = family()
    parameters, x = np.linspace(1.0, 1.3, count), np.linspace(0.2, 0.8, 3)[:, None]
    both = tables(parameters, x)
    assert both.shape == (2, 3, count)
    assert both == pytest.approx(tables(*np.broadcast_arrays(parameters, x)), rel=1e-15)
    assert tables(parameters, 0.5) == pytest.approx(tables(parameters, np.full(count, 0.5)), rel=1e-15)
    assert tables(1.0, x)[:, :, 0].T.tolist() == [pytest.approx(tables(1.0, float(one)), rel=1e-15) for one in x[:, 0]]


def test_lagrange_weights_reproduce_polynomials_and_nothing_more(rng):
    nodes = [-2.0, -1.0, 0.5, 1.0, 3.0]
    for at in (-1.7, 0.5, 2.2):
        weights = lagrange_weights(nodes, at)
        for power in range(5):
            assert sum(w * x**power for w, x in zip(weights, nodes, strict=True)) == pytest.approx(at**power, rel=1e-12)
    assert sum(w * x**5 for w, x in zip(weights, nodes, strict=True)) != pytest.approx(2.2**5, rel=1e-3)
    columns = lagrange_weights([np.full(3, node) for node in nodes], np.array([-1.7, 0.5, 2.2]))
    assert [column[2] for column in columns] == weights


@pytest.mark.parametrize("t", [-0.5, -0.2, 0.0, 0.3, 0.5])
def test_the_closed_weights_of_three_neighbors_are_lagranges(t):
    assert _weights(t) == pytest.approx(lagrange_weights([-1.0, 0.0, 1.0], t), rel=4e-16, abs=1e-16)
