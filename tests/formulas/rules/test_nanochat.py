"""nanochat's rule."""

from depthwidth.formulas import rules


def test_nanochat():
    assert (rules.nanochat_width(12), rules.nanochat_width(24)) == (768, 1536)
    assert rules.nanochat_depth(768) == 12
