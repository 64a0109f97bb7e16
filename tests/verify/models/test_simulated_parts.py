"""Parts of a network as they are run, beside what is predicted of them: routers, the head of a masked language model."""

import math
import warnings

import numpy as np
import pytest

from depthwidth.analysis.propagation import moments_of
from depthwidth.architecture import Transformer
from depthwidth.initialization import recipe, shipped_options
from depthwidth.layers import RMSNorm

torch = pytest.importorskip("torch")

from drawn_models import drawn_models  # noqa: E402

from verify.jobs.moments import NOISE, TOLERANCE  # noqa: E402

pytestmark = pytest.mark.slow


def of_tokens(x):
    """Second moment of a feature, and mean product of two tokens, of (length, width)."""
    x = x.detach().double()
    count, width = x.shape
    own, every = x.square().sum(), x.sum(0).square().sum()
    return (own / (count * width)).item(), ((every - own) / (count * (count - 1) * width)).item()


def misses(predicted, drawn):
    """By how much a predicted second moment, correlation and gradient miss the criterion of the job `moments`; 0 is a hit.

    `drawn` has a row for each draw: second moment, covariance and second moment of a gradient.
    """
    (q, c, gamma), mean = predicted, drawn.mean(0)
    error = drawn.std(0, ddof=1) / math.sqrt(len(drawn))
    off = (abs(q / mean[0] - 1), abs(c / q - mean[1] / mean[0]), abs(gamma / mean[2] - 1))
    noise = (error[0] / mean[0], error[1] / mean[0], error[2] / mean[2])
    return [max(0.0, o - t - NOISE * n) for o, t, n in zip(off, TOLERANCE.values(), noise, strict=True)]


def by_site(rows):
    return {(row["site"], row["direction"]): row for row in rows}


def three(rows, top_site, bottom_site):
    """Second moment and uncentred covariance at one site, and second moment of the gradient at another."""
    top = rows[top_site, "forward"]
    return top["second_moment"], top["covariance"] + top["mean"] ** 2, rows[bottom_site, "gradient"]["second_moment"]


# Routers.

PART = "encoder.block.0.feed_forward"


def mixture(renormalized):
    tree = Transformer(
        1, 64, 1, kind="encoder", vocab=50, context=32, positions="none", head="none", norm_affine=False, bias=False,
        experts=8, top_k=2, ffn=128, activation="relu", renormalized=renormalized,
    )  # fmt: skip
    made = recipe(tree, "normal", std=0.15)  # scores of variance 1.4
    return tree, made, by_site(moments_of(tree, made, variance=1.0, correlation=0.3))


def routed(renormalized, draws=48):
    tree, made, rows = mixture(renormalized)
    correlation = rows[f"{PART}.norm_in", "forward"]["correlation"]
    gamma = rows[f"{PART}.mix", "gradient"]["second_moment"]
    found = []
    for seed, model in drawn_models(tree, made, draws):
        part = model.encoder.block[0].feed_forward
        generator = torch.Generator().manual_seed(seed)
        shared, own = (torch.randn(1, count, 64, generator=generator) for count in (1, 32))
        x = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        x = torch.nn.functional.layer_norm(x, (64,)).requires_grad_()
        y = part.branch(x)
        (back,) = torch.autograd.grad(y, x, math.sqrt(gamma) * torch.randn(y.shape, generator=generator))
        found.append((*of_tokens(y[0]), of_tokens(back[0])[0]))
    return np.array(found)


@pytest.mark.parametrize("renormalized", [True, False])
def test_a_router_whose_weights_sum_to_one_and_one_whose_do_not(renormalized):
    drawn = routed(renormalized)
    right, wrong = (three(mixture(kind)[2], f"{PART}.mix", f"{PART}.norm_in") for kind in (renormalized, not renormalized))
    assert misses(right, drawn) == [0, 0, 0]
    forward, _, backward = misses(wrong, drawn)
    assert min(forward, backward) > 0.2  # the second moment of one is 0.41 of the other, and the criterion takes its share


# The transform of a masked language model's head.


@pytest.fixture(scope="module")
def masked():
    """BERT as transformers initialises it, run on distinct tokens: draws by site, the tree, and a walk through it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    tokens, vocab, draws = 24, 120, 48
    config = {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 192, "vocab_size": vocab, "max_position_embeddings": tokens,
        "initializer_range": 0.06,
    }  # fmt: skip
    transform = "cls.predictions.transform"
    places = {
        f"{transform}.dense": "head.transform", f"{transform}.transform_act_fn": "head.activation",
        f"{transform}.LayerNorm": "head.norm", "cls.predictions.decoder": "head.unembedding", "bert.encoder": "encoder",
    }  # fmt: skip
    drawn = {site: [] for site in places.values()}
    for seed in range(draws):
        torch.manual_seed(seed)
        model = transformers.BertForMaskedLM(transformers.AutoConfig.for_model(**config)).eval()
        seen = {}

        def see(part, given, out, site, seen=seen):
            x = out.last_hidden_state if hasattr(out, "last_hidden_state") else out
            x.retain_grad()
            seen[site] = x

        for name, site in places.items():
            model.get_submodule(name).register_forward_hook(lambda p, a, out, site=site, see=see: see(p, a, out, site))
        text, targets = (torch.randperm(vocab)[:tokens] for _ in range(2))
        logits = model(input_ids=text[None]).logits
        torch.nn.functional.cross_entropy(logits[0], targets, reduction="sum").backward()
        for site, x in seen.items():
            drawn[site].append((*of_tokens(x[0]), of_tokens(x.grad[0])[0]))
    tree = Transformer.from_config(config)
    made = recipe(tree, "shipped", **shipped_options(config))
    given = {"gradient": "loss", "token_match": 0.0, "segment_match": 1.0, "dropout": False}
    return (
        {site: np.array(values) for site, values in drawn.items()},
        tree,
        lambda tree: by_site(moments_of(tree, made, **given)),
    )


HEAD = ("encoder", "head.transform", "head.activation", "head.norm")


def test_the_transform_of_a_masked_head_and_the_gradient_through_it(masked):
    drawn, tree, walked = masked
    rows = walked(tree)
    for site in HEAD:
        assert misses(three(rows, site, site), drawn[site]) == [0, 0, 0], site
    logits = rows["head.unembedding", "forward"]
    assert misses((logits["second_moment"], logits["covariance"], 1.0), drawn["head.unembedding"])[:2] == [0, 0]
    assert {site for site, direction in rows if direction == "gradient" and site.startswith("head")} == {*HEAD[1:]}


@pytest.mark.parametrize(
    ("change", "site", "column"),
    [
        ({"activation": "relu"}, "head.activation", 0),
        ({"norm": RMSNorm(96, eps=1e-12)}, "head.norm", 1),  # which leaves the mean over the features
        ({"activation": "tanh"}, "encoder", 2),
    ],
)
def test_another_transform_is_told_apart(masked, change, site, column):
    drawn, tree, walked = masked
    rows = walked(tree.replace(head=tree.head.replace(**change)))
    assert misses(three(rows, site, site), drawn[site])[column] > 0


def test_a_projection_before_the_output_matrix_is_part_of_the_walk():
    """OPT's: no activation. The logits' gradient comes through it, smaller by its weights."""
    tree = Transformer(1, 64, 2, vocab=100, context=16, embedding_width=32, tied=False)
    rows = by_site(moments_of(tree, "xavier", gradient="loss"))
    assert ("head.activation", "forward") not in rows
    outer, inner = rows["head.transform", "gradient"], rows["decoder", "gradient"]
    made = recipe(tree, "xavier")
    assert inner["second_moment"] == pytest.approx(outer["second_moment"] * 32 * made.tensor("head.transform.weight").std ** 2)
