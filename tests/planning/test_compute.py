"""Optima at fixed FLOPs: least among neighbours, exact counts, closed form, the cost of serving, errors."""

import math
from fractions import Fraction

import numpy as np
import pytest

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formulas.scaling import gemstones_flops_per_token, gemstones_parameters
from depthwidth.planning import compute
from depthwidth.planning.compute import LAWS, Architecture, LawInput, compute_optimum, parameter_optimum
from depthwidth.planning.optima import gemstones_flop_optimum
from depthwidth.planning.template import Template


def loss_at(made, law, flops, served, depth, width):
    tokens = (flops - served * made.serving(depth, width)) / made.training(depth, width)
    return LAWS[law].loss(made.counts(depth, width, tokens), {})


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("served", [0.0, 3e9])
def test_no_neighbour_has_less_loss(law, served):
    flops = 1e20
    best = compute_optimum(flops, law, served=served, errors=False)
    made = Architecture(Template.of())
    here = loss_at(made, law, flops, served, best.depth, best.width)
    assert best.loss == pytest.approx(here)
    for factor in (0.97, 1.03, 0.8, 1.25):
        assert loss_at(made, law, flops, served, best.depth * factor, best.width) > here
        assert loss_at(made, law, flops, served, best.depth, best.width * factor) > here
    assert not best.at_edge


@pytest.mark.parametrize("preset", ["gpt3", "llama3"])
def test_the_operations_are_those_of_the_tree(preset):
    """At whole numbers near the optimum the tree itself uses the budget."""
    template = Template.of(preset, head_dim=128, ffn_ratio=Fraction(4))
    best = compute_optimum(1e22, "hoffmann2022", template, served=1e11, errors=False)
    tree = template.at(round(best.depth), 1024 * round(best.width / 1024))
    scale = best.depth * best.width**2 / (tree.depth * tree.width**2)
    used = tree.flops_per_token(training=True) * best.tokens + tree.flops_per_token() * 1e11
    assert float(used) * scale == pytest.approx(1e22, rel=0.03)
    assert best.training_flops + best.serving_flops == pytest.approx(1e22)
    assert float(used) * scale != pytest.approx(2e22, rel=0.03)


class GemstonesBlock(Architecture):
    """The counts that the authors define for their own block."""

    def __init__(self):
        self.parameters = self.size = lambda depth, width: gemstones_parameters.body(width, depth, 50304)
        self.training = lambda depth, width: gemstones_flops_per_token.body(width, depth, 2048, 50304)
        self.serving = lambda depth, width: 0 * depth * width


def test_the_grid_finds_the_optimum_that_bisection_of_the_slopes_finds(monkeypatch):
    monkeypatch.setattr(compute, "Architecture", lambda *_, **__: GemstonesBlock())
    for flops in (1e19, 1e21):
        own, found = gemstones_flop_optimum(flops), compute_optimum(flops, "gemstones2025", errors=False)
        assert found.loss == pytest.approx(own.loss, rel=1e-6)
        for name in ("depth", "width", "parameters", "tokens"):
            assert getattr(found, name) == pytest.approx(getattr(own, name), rel=0.01)
        assert found.bands is None


def test_serving_makes_models_smaller_and_training_longer():
    """As Sardana et al. 2024 find: the more tokens are served, the fewer parameters and the more tokens per parameter."""
    found = [compute_optimum(1e21, "hoffmann2022", served=served, errors=False) for served in (0.0, 1e10, 1e11, 1e12)]
    sizes = [one.parameters for one in found]
    ratios = [one.tokens / one.parameters for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert ratios == sorted(ratios)
    assert found[0].serving_flops == 0
    assert found[3].serving_flops > found[3].training_flops


def test_no_model_of_equal_loss_costs_less_over_its_life():
    """The optimum at fixed operations is the cheapest at its loss, as the paper states the problem."""
    served, flops = 1e11, 1e21
    best = compute_optimum(flops, "hoffmann2022", served=served, errors=False)
    for factor in (0.7, 0.9, 1.1, 1.4):
        other = compute_optimum(flops * factor, "hoffmann2022", served=served, errors=False)
        assert (other.loss < best.loss) == (factor > 1)


@pytest.mark.parametrize("law", LAWS)
def test_the_optimum_at_equal_parameters_is_deeper(law):
    """Attention makes narrow models dear in operations, not in parameters."""
    best = compute_optimum(1e20, law, errors=False)
    depth, width, loss = parameter_optimum(best.parameters, best.tokens, law)
    assert depth > best.depth
    assert width < best.width
    assert loss <= best.loss
    made = Architecture(Template.of())
    assert made.parameters(depth, width) == pytest.approx(best.parameters, rel=1e-9)
    assert loss_at(made, law, 1e20, 0.0, depth, width) > best.loss  # at equal operations it is not better


@pytest.mark.slow
def test_bands_hold_the_optimum_and_say_what_is_not_known():
    for law in ("gemstones2025", "hoffmann2022"):
        found = compute_optimum(1e21, law)
        for name, (low, high) in found.bands.items():
            assert low < getattr(found, name) < high
    assert compute_optimum(1e21, "liu2026").bands is None
    assert compute_optimum(1e21, errors=False).bands is None
    wide, narrow = (compute_optimum(1e23, law).bands["parameters"] for law in ("gemstones2025", "hoffmann2022"))
    assert wide[1] / wide[0] > narrow[1] / narrow[0]
    assert compute_optimum(1e26, "gemstones2025").extrapolated == ("depth", "width", "parameters", "tokens")


def test_the_error_of_a_loss_by_plain_loops():
    """Each row of the table in the published sum of powers, and the closed jackknife formula."""
    rows = reference("gemstones_left_out")
    made = Architecture(Template.of())
    for flops in (1e20, 1e22):
        best = compute_optimum(flops)
        losses = []
        for row in rows:
            one = {name: float(row[name]) for name in row if name not in ("left_out_width", "left_out_depth", "status")}
            powers = zip("ABCD", ("alpha", "beta", "gamma", "zeta"), strict=True)
            places = (best.width, best.depth, best.parameters, best.tokens)
            terms = (
                math.exp(one[f"ln_{factor}"]) * place ** -one[power]
                for (factor, power), place in zip(powers, places, strict=True)
            )
            losses.append(sum(terms) + math.exp(one["ln_epsilon"]))
        middle = sum(losses) / len(losses)
        spread = sum((loss - middle) ** 2 for loss in losses)
        assert best.loss_stderr == pytest.approx(math.sqrt(21 / 22 * spread), rel=1e-6)
    counts = made.counts(1024, 28, 1e11)
    assert compute_optimum(1e21, "liu2026").loss_stderr is None
    assert LAWS["liu2026"].loss_error(counts) is None
    assert compute_optimum(1e20, errors=False).loss_stderr is None


def test_errors_of_a_loss_are_small_amid_the_data_and_grow_beyond_it():
    law, one_of_them = LAWS["gemstones2025"], LawInput(1024, 28, 543482880, 440457216, 1e11)
    inside = law.loss_error(one_of_them)
    assert inside < 0.005
    assert law.loss_error(Architecture(Template.of()).counts(68, 5323, 6.7e10)) > 5 * inside
    # The control: the same coefficients without what they say together, each from another fit, say nothing.
    fits = law.refits.fits
    apart = [{name: fits[(i + 5 * j) % 22][name] for j, name in enumerate(fits[0])} for i in range(22)]
    losses = [law.loss(one_of_them, one) for one in apart]
    assert law.refits.scale * np.std(losses) > 20 * inside


def test_the_error_of_a_penalised_loss_holds_that_of_the_penalty():
    law, made = LAWS["hoffmann2022"], Architecture(Template.of())
    at_best, far = (law.loss_error(made.counts(depth, width, 1e11)) for depth, width in ((36, 2048), (9, 4096)))
    drawn = [np.std([law.loss(made.counts(9, 4096, 1e11), one) for one in law.refits.fits])]
    assert far > 1.5 * drawn[0] > 0
    assert at_best < far


REFUSED = [
    (lambda: compute_optimum(1e21, "kaplan"), "law='kaplan'"),
    (lambda: compute_optimum(-1.0), "flops=-1.0 is not a positive number"),
    (lambda: compute_optimum(1e21, served=1e30), "takes more than"),
    (lambda: compute_optimum(1e-308), "1e-308 operations are fewer than one token takes"),
    (lambda: compute_optimum(1e21, template=Template.of("mixtral")), "laws of its own"),
    (lambda: compute_optimum(1e21, template=Template.of("vit")), "reads images"),
    (lambda: parameter_optimum(10.0, 1e9), "too few for one block"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_is_one_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make()
