"""Scores of arrays against trees counted one by one, and the front against a plain double loop."""

import numpy as np
import pytest

from depthwidth.errors import InputError
from depthwidth.hardware.accelerators import accelerator
from depthwidth.hardware.latency import decode_time, decode_work
from depthwidth.hardware.parallelism import Parallelism, TrainingSetup, cache_bytes, training_memory
from depthwidth.planning.candidates import Scorer, thin_evenly, unbeaten
from depthwidth.planning.compute import LAWS, LawInput
from depthwidth.planning.template import Template

DEVICE = accelerator("H100")
TEMPLATES = {
    "gpt3": (Template.of(head_dim=64, context=256, vocab=1000), Parallelism()),
    "divided": (Template.of("llama3", head_dim=64, context=256, vocab=1024, ffn_ratio=4), Parallelism(tensor=8, sequence=True)),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_score_is_that_of_the_tree(name):
    template, parallelism = TEMPLATES[name]
    scorer = Scorer(template, DEVICE, 1e10, "gemstones2025", parallelism, batch=3)
    for depth, width in ((2, 1024), (7, 2048), (33, 4096)):
        tree = scorer.template._tree(depth, width, 64, 4 * width)
        (row,) = scorer.score([depth], [width]).rows()
        assert row["parameters"] == tree.parameters
        expected = decode_time(decode_work(tree, parallelism, batch=3), DEVICE).total
        assert row["decode_seconds"] == pytest.approx(expected, rel=1e-9)
        assert row["training_memory"] == pytest.approx(training_memory(tree, parallelism).total, rel=1e-9)
        weights = training_memory(tree, parallelism).fullest.weights
        assert row["serving_memory"] == pytest.approx(weights + cache_bytes(tree, parallelism, batch=3), rel=1e-9)
        assert scorer.score([depth + 1], [width]).rows()[0]["parameters"] != tree.parameters


def test_candidates_are_all_allowed_shapes_of_the_sizes_asked_for():
    template, _ = TEMPLATES["gpt3"]
    scorer = Scorer(template, DEVICE, 1e10)
    found = scorer.candidates(3e8, smallest=0.5)
    assert (found.parameters <= 3e8).all()
    assert (found.parameters >= 1.5e8).all()
    assert all(template.fits(int(width)) for width in set(found.width))
    places = {(int(d), int(w)) for d, w in zip(found.depth, found.width, strict=True)}
    assert (12, 1024) in places
    assert (12, 1000) not in places


def test_the_front_is_what_a_double_loop_finds():
    rng = np.random.default_rng(0)
    for points in (rng.random((60, 3)), rng.integers(0, 4, (60, 3)).astype(float)):
        plain = [not any((other <= one).all() and (other < one).any() for other in points) for one in points]
        assert unbeaten(*points.T).tolist() == plain
    assert 0 < sum(plain) < 60


def test_a_front_is_sorted_out_of_candidates():
    scorer = Scorer(TEMPLATES["gpt3"][0], DEVICE, 1e10)
    every = scorer.candidates(3e8)
    front = every.at(unbeaten(every.loss, every.decode_seconds, every.serving_memory))
    assert every.loss.min() in front.loss
    assert every.decode_seconds.min() in front.decode_seconds
    shown = thin_evenly(front, 7)
    assert 2 <= len(shown.depth) <= 7
    assert (np.diff(shown.decode_seconds) > 0).all()


@pytest.mark.slow
def test_ten_thousand_shapes_are_scored_in_a_second():
    """Of processor time, in the best of five; tests/benchmarks/candidates.py measures it against trees one by one."""
    import time

    def seconds():
        start = time.process_time()
        scorer = Scorer(Template.of("llama3"), DEVICE, 1e12, setup=TrainingSetup(recompute="full"))
        depth, width = np.meshgrid(np.arange(1, 101), 128 * np.arange(1, 101))
        scores = scorer.score(depth.ravel(), width.ravel())
        unbeaten(scores.loss, scores.decode_seconds, scores.serving_memory)
        assert len(scores.loss) == 10_000
        return time.process_time() - start

    assert any(seconds() < 1.0 for _ in range(5))  # a busy machine slows a process down even by its own clock


REFUSED = [
    (lambda: Scorer(Template.of("vit"), DEVICE, 1e9), "dense language models"),
    (lambda: Scorer(Template.of("mixtral"), DEVICE, 1e9), "dense language models"),
    (lambda: Scorer(Template.of(), DEVICE, 0.0), "tokens=0.0"),
    (lambda: Scorer(Template.of(), DEVICE, 1e9, parallelism=Parallelism(pipeline=2)), "give pipeline=1"),
    (lambda: Scorer(Template.of(), DEVICE, 1e9, "none"), "law='none'"),
    (lambda: Scorer(Template.of(), DEVICE, 1e9).candidates(10.0), "too few"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_is_one_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_a_loss_above_the_least_has_an_error():
    """The scatter over refits by a second route, one shape at a time; 0 for the best shape, and none for a law without any."""
    shapes = ((12.0, 768.0), (24.0, 1024.0), (6.0, 512.0))
    template = TEMPLATES["gpt3"][0]
    by_law = {law: Scorer(template, DEVICE, 2e10, law) for law in LAWS}
    scores = {law: scorer.score(*zip(*shapes, strict=True)) for law, scorer in by_law.items()}
    scorer, law = by_law["gemstones2025"], LAWS["gemstones2025"]
    change, error = scorer.loss_changes(scores["gemstones2025"])
    assert (change[1], error[1]) == (0, 0)

    def loss(depth, width, moved):
        counts = LawInput(width, depth, scorer.parameters(depth, width), scorer.size(depth, width), 2e10)
        return float(law.loss(counts, moved))

    ratios = [loss(*shapes[2], moved) / loss(*shapes[1], moved) for moved in law.refits.fits]
    assert len(ratios) == 22
    assert error[2] == pytest.approx(21**0.5 * np.std(ratios), rel=1e-9)
    own = scorer.loss_errors(scores["gemstones2025"])
    assert own[2] == pytest.approx(21**0.5 * np.std([loss(*shapes[2], moved) for moved in law.refits.fits]), rel=1e-9)
    assert 0 < error[0] < error[2] < change[2]
    change, error = by_law["hoffmann2022"].loss_changes(scores["hoffmann2022"])
    assert error[1] == 0 < error[0] < error[2]
    assert np.isnan(by_law["liu2026"].loss_changes(scores["liu2026"])[1]).all()
    assert np.isnan(by_law["liu2026"].loss_errors(scores["liu2026"])).all()
