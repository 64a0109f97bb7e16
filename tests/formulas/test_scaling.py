"""Loss laws and counts against their worked values, and the Gemstones counts against a plain sum over the layers."""

import math

import pytest
from helpers import agrees, check
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.coefficients import coefficient, editions, reference
from depthwidth.formulas.scaling import (
    gemstones_flops_per_token,
    gemstones_loss,
    gemstones_parameters,
    kaplan_nonembedding_parameters,
    liu_loss,
)

GEMSTONES = [
    ((1024, 28, 543482880, 1e11), "2.76881"),
    ((256, 71, 95588096, 1e11), "3.19828"),
    ((3072, 12, 2007837696, 3e11), "2.54617"),
    ((2048, 27, 1904850944, 3e11), "2.51797"),
]


@pytest.mark.parametrize(("point", "printed"), GEMSTONES)
def test_gemstones_loss(point, printed):
    check(gemstones_loss(*point), printed)
    for name in ("A", "alpha", "B", "beta", "C", "gamma", "D", "zeta", "epsilon"):
        wrong = coefficient("gemstones2025", name).value * 1.001
        assert not agrees(gemstones_loss(*point, **{name: wrong}), printed)


@pytest.mark.parametrize(("point", "printed"), [((1024, 24, 2e10), "2.68286"), ((4096, 32, 1e12), "2.06415")])
def test_liu_loss(point, printed):
    check(liu_loss(*point), printed)
    for name in ("c_m", "alpha_m", "c_l", "alpha_l", "c_D", "alpha_D", "L_0"):
        assert not agrees(liu_loss(*point, **{name: coefficient("liu2026", name).value * 1.001}), printed)


def test_liu_coefficients_as_printed():
    law = {
        row: coefficient("liu2026", row).value
        for row in ("c_m", "alpha_m", "c_l_hundredths", "alpha_l", "c_D", "alpha_D", "L_0")
    }
    printed = ("333.3808501910344", "0.9769136", "1284.3676595", "1.2013903", "8.4867428", "0.2990961", "1.7503270")
    for value, text in zip(law.values(), printed, strict=True):
        check(value, text, slack=1.001)
    scaled = law["c_l_hundredths"] / (100 * 24) ** law["alpha_l"]
    assert scaled == pytest.approx(coefficient("liu2026", "c_l").value / 24 ** law["alpha_l"], rel=1e-14)


# Printed as 1.32383e9 and 1.46514e9 for the first and the last: 12 x 6 x 4288^2 is 1 323 859 968 and 12 x 207 x 768^2 is
# 1 465 122 816.
KAPLAN = [((6, 4288), "1.32386e9"), ((48, 1600), "1.47456e9"), ((207, 768), "1.46512e9")]


@pytest.mark.parametrize(("network", "printed"), KAPLAN)
def test_kaplan_sizes(network, printed):
    count = kaplan_nonembedding_parameters(*network)
    assert count == 12 * network[0] * network[1] ** 2
    check(count, printed)


@pytest.mark.parametrize("row", reference("gemstones_models_loss"), ids=lambda row: f"{row['width']}x{row['depth']}")
def test_gemstones_parameters(row):
    width, depth = int(row["width"]), int(row["depth"])
    # By its parts: query, key, value, output, three gated matrices and two norms a block; one norm and two embeddings.
    heads = width // 128
    attention = width * width + 2 * width * 128 * (heads // 2) + width * width
    feed_forward = 3 * width * 4 * width
    by_parts = depth * (attention + feed_forward + 2 * width) + width + 2 * 50304 * width
    assert by_parts == int(row["total_params"])
    assert by_parts - 2 * 50304 * width == int(row["nonembedding_params"])
    spare = depth * 128 * width if heads % 2 else 0
    assert gemstones_parameters(width, depth) == by_parts + spare
    assert spare < 0.016 * by_parts
    assert gemstones_parameters(width, depth, vocab=50305) != by_parts + spare


@given(st.integers(1, 16).map(lambda groups: 256 * groups), st.integers(1, 100), st.integers(1, 8192), st.integers(0, 200000))
def test_gemstones_flops_are_the_sum_over_their_parts(width, depth, context, vocab):
    """Forward once, backward twice for matrices and 2.5 times for recomputed attention scores, per token."""
    heads, ffn = width // 128, 4 * width
    projections = 2 * width * (width + 2 * (width // 2)) + 3.5 * 1.5 * width
    scores = context * width + 3 * context * heads + 2 * context * width
    output = 2 * width * width
    rest = 2 * 3 * width * ffn + 10 * ffn + 2 * width + 14 * width
    block = 3 * (projections + output + rest) + 3.5 * scores
    total = depth * block + 3 * (7 * width + 2 * width * vocab)
    assert gemstones_flops_per_token(width, depth, context, vocab) == pytest.approx(total, rel=1e-13)


def test_flops_are_near_six_a_parameter():
    """The usual estimate, 6 per parameter of the blocks and the output matrix, is below the full count and within a third."""
    width, depth = 2048, 27
    counted = gemstones_parameters(width, depth) - 50304 * width
    assert 1 < gemstones_flops_per_token(width, depth) / (6 * counted) < 4 / 3


def test_every_edition_predicts_the_models_it_was_fitted_on():
    rows = reference("gemstones_models_loss")
    names = ("A", "alpha", "B", "beta", "C", "gamma", "D", "zeta", "epsilon")
    for edition in editions("gemstones2025")[:2]:
        law = {name: coefficient("gemstones2025", name, edition).value for name in names}
        errors = [
            gemstones_loss(float(row["width"]), float(row["depth"]), float(row["total_params"]), 1e11, **law)
            / float(row["loss_nats_100B_tokens"])
            - 1
            for row in rows
        ]
        assert math.sqrt(sum(e * e for e in errors) / len(errors)) < 0.01
