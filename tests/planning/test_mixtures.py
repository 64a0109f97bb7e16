"""Mixtures by four laws: sizes as the laws take them, domains, disagreement."""

import pytest

from depthwidth import Transformer
from depthwidth.errors import InputError
from depthwidth.formulas.mixtures import krajewski_dense_loss, krajewski_loss
from depthwidth.planning.mixtures import Mixture, mixture_verdicts, spread


def mixture(**choices):
    return Transformer(**{"depth": 12, "width": 768, "heads": 12, "vocab": 50257, "context": 1024, "experts": 64, "top_k": 1,
                          "ffn": 3072, **choices})  # fmt: skip


def test_sizes_are_those_of_the_tree():
    tree = mixture(experts=16, top_k=3, ffn=512, shared_ffn=1024)
    found = Mixture.of(tree)
    assert (found.experts, found.top_k, found.shared) == (16, 3, 2.0)
    assert found.active_share == 5 / 18
    assert (found.granularity, found.fineness, found.expansion) == (3.0, 6.0, 16 * 512 / 3072)
    assert found.total - found.active == 12 * 13 * (2 * 768 * 512 + 512 + 768)
    assert Mixture.of(mixture(gated=True, ffn=2048)).fineness == 1.0


def test_a_model_inside_of_the_data_is_said_to_be():
    verdicts = {found.law: found for found in mixture_verdicts(mixture(), 1.3e11)}
    assert verdicts["clark2022"].outside == ()
    assert verdicts["krajewski2024"].outside == ()
    assert verdicts["ling2025"].outside == ("granularity",)
    low, high = spread(tuple(verdicts.values()))
    assert 1 < low < high < 10
    worth = verdicts["krajewski2024"].worth
    found = Mixture.of(mixture())
    assert krajewski_dense_loss(worth * found.active, 1.3e11) == pytest.approx(krajewski_loss(found.total, 1.3e11, 1.0))


def test_a_model_outside_of_them_is_too():
    verdicts = {found.law: found for found in mixture_verdicts(mixture(experts=8, top_k=2), 1e13)}
    assert "training tokens" in verdicts["krajewski2024"].outside
    assert "expansion" in verdicts["krajewski2024"].outside
    assert "several experts a token" in verdicts["clark2022"].outside


def test_more_experts_are_worth_more():
    few, many = (mixture_verdicts(mixture(experts=count), 1.3e11) for count in (8, 64))
    for one, other in zip(few, many, strict=True):
        assert one.worth < other.worth, one.law


def test_a_dense_model_is_refused():
    with pytest.raises(InputError, match="this model has no experts"):
        mixture_verdicts(mixture(experts=None, top_k=None), 1e11)
    with pytest.raises(InputError, match="tokens=0 is not a positive number"):
        mixture_verdicts(mixture(), 0)
