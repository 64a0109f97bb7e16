"""Numbers of heads that a task needs: worked values and published tables."""

from helpers import check, table

from depthwidth.coefficients import reference
from depthwidth.formulas import heads as h


def test_memorisation():
    for heads, n, d, count in ((8, 32, 64, 249), (8, 128, 64, 505), (16, 32, 16, 241)):
        assert h.memorised_examples(heads, n, d) == count
    assert h.memorised_examples(8, 32, 64) == h.memorised_examples(8, 32, 32)  # no gain beyond n


def test_relations():
    check(h.relation_key_dim(1e5, 1024), "1.1e3")


def test_too_few_heads():
    for where, value in table("1024, 2, 1, 2 | 62.5\n1024, 8, 3, 4 | 7.93\n4096, 8, 3, 4 | 35.36\n128, 2, 1, 2 | 6.5"):
        check(h.too_few_heads_exponent(*map(int, where.split(","))), value)


def test_the_published_tables_fall_off_at_the_intrinsic_dimension():
    """The synthetic target of dimension 4: from three heads to four the error falls 5 times or more, at long T 100 times."""
    rows = {
        (int(r["n_heads"]), int(r["sequence_length"])): float(r["mean"])
        for r in reference("yu2026_head_count")
        if r["table"] == "T2_synthetic_D4_headdim8"
    }
    for length in (8, 16, 32, 64, 128):
        assert rows[3, length] / rows[4, length] > 5
    assert rows[3, 128] / rows[4, 128] > 100
    assert len(reference("model_head_counts")) == 25
    best = min(reference("head_split_qknorm"), key=lambda r: float(r["val_bpc_qknorm"]))
    assert best["head_dim"] == "32"
