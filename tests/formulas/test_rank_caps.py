"""The rank of the embedding caps the useful width."""

from helpers import agrees, check

from depthwidth.formulas import rank_caps, rules


def test_rank_cap():
    n = 1e8
    best = rules.levine_optimal_width(n)
    check(best, "588")
    check(rules.levine_optimal_depth(n), "24.1")
    check(rank_caps.rank_capped_depth(n, 256), "127.157")
    check(rank_caps.rank_capped_depth(n, 384), "56.5140")
    assert rank_caps.rank_capped_width(best, 256) == 256
    assert rank_caps.rank_capped_width(best, 600) == best
    assert not agrees(rank_caps.rank_capped_depth(n, 256, 12.01), "127.157")
