"""Tree attention: worked values, two forms that agree, gradients through decisions, and operations that torch counts."""

import itertools
import math

import pytest

from depthwidth import Transformer, layers
from depthwidth.errors import InputError
from depthwidth.formulas import treeformer
from depthwidth.layers import Tree
from depthwidth.layers.base import Run

torch = pytest.importorskip("torch")

from small_models import counted_flops  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from verify import build  # noqa: E402
from verify.models import tree_attention as trees  # noqa: E402
from verify.models.base import Pass, module  # noqa: E402

Q = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])[None, None]
K = torch.tensor([[2.0, 1], [2, -1], [-2, 1], [3, 2]])[None, None]
V = torch.tensor([[1.0], [2], [3], [5]])[None, None]
PLANES = torch.tensor([[[1.0, 0], [0, 1], [0, 1]]])
Q, K, V, PLANES = (x.double() for x in (Q, K, V, PLANES))
THRESHOLDS = torch.zeros(1, 3, dtype=torch.double)


def test_the_worked_example():
    places = [trees.leaves(x, PLANES, THRESHOLDS) for x in (Q, K)]
    assert [place.flatten().tolist() for place in places] == [[3, 2, 1, 0], [3, 2, 1, 3]]
    scale = 1 / math.sqrt(2)
    given = {"scale": scale, "own_key": False}
    two = trees.leaf_attention(Q, K, V, PLANES, THRESHOLDS, **given)
    assert two.flatten().tolist() == pytest.approx([4.217719, 2, 3, 0], abs=5e-7)
    one = trees.leaf_attention(Q, K, V, PLANES[:, :1], THRESHOLDS[:, :1], **given)
    assert one.flatten().tolist() == pytest.approx([4.117060, 2.327158, 3, 3], abs=5e-7)
    weights = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.double)
    path = trees.path_attention(Q, K, V, PLANES, THRESHOLDS, weights)
    assert path.flatten().tolist() == pytest.approx([2.85, 2.35, 2.95, 1.45], abs=1e-6)
    assert trees.summed_path_attention(V, *places, weights).flatten().tolist() == pytest.approx(
        [2.85, 2.35, 2.95, 1.45], abs=1e-6
    )
    assert path.flatten().tolist() != pytest.approx([2.85, 2.35, 2.95, 1.95], abs=1e-3)
    own = trees.leaf_attention(Q, K, V, PLANES, THRESHOLDS, scale=scale)
    assert own.flatten()[3].item() == 5  # the fourth query sees its own key alone


def drawn(length=48, heads=3, batch=2, dim=8, value=5, height=3, mean=0.5, seed=0):
    """Queries and keys with a mean, which makes leaves uneven, and a tree with thresholds."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(batch, heads, length, dim, generator=generator) + mean for _ in range(2))
    v = torch.randn(batch, heads, length, value, generator=generator)
    planes = torch.randn(heads, 2**height - 1, dim, generator=generator)
    thresholds = torch.randn(heads, 2**height - 1, generator=generator)
    return q, k, v, planes, thresholds


@pytest.mark.parametrize("all_nodes", [False, True])
@pytest.mark.parametrize(("height", "own"), list(itertools.product((0, 1, 4, 6), (True, False))))
def test_both_forms_of_leaf_attention_agree(height, own, all_nodes):
    """With empty leaves, leaves of one token, and more leaves than tokens."""
    q, k, v, planes, thresholds = drawn(height=height)
    places = [trees.leaves(x, planes, thresholds, all_nodes=all_nodes) for x in (q, k)]
    dense = trees.leaf_attention(q, k, v, planes, thresholds, scale=0.7, own_key=own)
    quick = trees.sorted_leaf_attention(q, k, v, *places, height, scale=0.7, own_key=own)
    assert torch.allclose(dense, quick, atol=2e-6)
    if height:
        assert not torch.allclose(
            dense, trees.leaf_attention(q, k, v, planes, thresholds, scale=0.7, own_key=not own), atol=1e-3
        )
    else:
        assert torch.allclose(dense, torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.7), atol=2e-6)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("sequences", [1, 2])
def test_both_forms_agree_with_a_bias(sequences, own):
    """Of each head, and of each head of each sequence, as biases of segments are."""
    q, k, v, planes, thresholds = drawn(height=3)
    bias = 2 * torch.randn(sequences, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    given = {"scale": 0.7, "own_key": own, "bias": bias if sequences == 2 else bias[0]}
    places = [trees.leaves(x, planes, thresholds) for x in (q, k)]
    dense = trees.leaf_attention(q, k, v, planes, thresholds, **given)
    assert torch.allclose(dense, trees.sorted_leaf_attention(q, k, v, *places, 3, **given), atol=3e-6)
    assert not torch.allclose(dense, trees.leaf_attention(q, k, v, planes, thresholds, **given | {"bias": None}), atol=0.1)


@pytest.mark.parametrize("height", [0, 1, 4, 6])
def test_both_forms_of_path_attention_agree(height):
    q, k, v, planes, thresholds = drawn(height=height)
    weights = torch.rand(3, height + 1)
    places = [trees.leaves(x, planes, thresholds) for x in (q, k)]
    dense = trees.path_attention(q, k, v, planes, thresholds, weights)
    assert torch.allclose(dense, trees.summed_path_attention(v, *places, weights), atol=2e-6)
    assert not torch.allclose(dense, trees.summed_path_attention(v, *places, 1.01 * weights), atol=1e-4)
    if not height:
        mean = weights[None, :, :, None] * v.mean(-2, keepdim=True)
        assert torch.allclose(dense, mean.expand_as(dense), atol=2e-6)


def test_every_vector_passes_one_node_a_level():
    q, _, _, planes, thresholds = drawn()
    levels = trees.memberships(q, planes, thresholds)
    assert [level.shape[-1] for level in levels] == [1, 2, 4, 8]
    assert all((level.sum(-1) == 1).all() and ((level == 0) | (level == 1)).all() for level in levels)
    assert torch.equal(levels[-1].argmax(-1), trees.leaves(q, planes, thresholds))
    assert trees.leaves(0 * Q[:, :, :1], PLANES, THRESHOLDS).item() == 0  # ties go to the child 0


def test_the_rank_of_path_attention():
    """Its weights have at most as many different rows as leaves; those of full attention have more."""
    n, height = 64, 3
    q, k, _, planes, thresholds = drawn(length=n, heads=1, batch=1)
    weights = trees.path_attention(q, k, torch.eye(n)[None, None], planes, thresholds, torch.rand(1, height + 1))[0, 0]
    occupied = trees.leaves(q, planes, thresholds).unique().numel()
    rank = torch.linalg.matrix_rank(weights.double()).item()
    assert rank <= occupied <= treeformer.rank_ceiling(n, height)
    assert rank > occupied / 2
    assert torch.linalg.matrix_rank((q @ k.mT).softmax(-1)[0, 0].double()).item() > treeformer.rank_ceiling(n, height)


def test_rows_of_path_attention_add_up_to_one_where_no_node_is_empty():
    q, k, _, planes, thresholds = drawn(length=200, heads=1, batch=1, height=2, mean=0.0)
    weights = trees.path_attention(q, k, torch.eye(200)[None, None], planes, 0 * thresholds, torch.full((1, 3), 1 / 3))
    assert torch.allclose(weights.sum(-1), torch.ones(1, 1, 200), atol=1e-5)


@pytest.mark.parametrize("reads", ["leaf", "path"])
def test_gradients_reach_the_tree_and_the_values(reads):
    """Through decisions by the sigmoid's derivative: a finite difference of the soft form, and none of the hard form."""
    q, k, v, planes, thresholds = (x.double().requires_grad_() for x in drawn(length=12, heads=1, batch=1, height=2))
    weights = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.double)
    if reads == "leaf":
        y = trees.leaf_attention(q, k, v, planes, thresholds, scale=0.5)
    else:
        y = trees.path_attention(q, k, v, planes, thresholds, weights)
    gradients = torch.autograd.grad(y[..., 0, :].square().sum(), [v, planes, thresholds, q, k])
    assert all(g.isfinite().all() and g.any() for g in gradients)
    reached = gradients[0].abs().sum(-1).count_nonzero().item()
    assert (reached == 12) == (reads == "path")  # the root's mean holds every token


@pytest.mark.parametrize("own", [True, False])
def test_gradients_are_numbers_where_leaves_are_empty(own):
    given = [x.requires_grad_() for x in drawn(length=6, height=4)]
    y = trees.leaf_attention(*given, scale=0.5, own_key=own)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), given))


def test_the_derivative_of_a_querys_decision_is_the_difference_of_two_leaves():
    """Of a tree of one node and TF-attention, with as many keys on a side as there are."""
    q, k, v, planes, thresholds = (x.double() for x in drawn(length=10, heads=1, batch=1, height=1))
    q.requires_grad_()
    y = trees.leaf_attention(q, k, v, planes, thresholds, scale=0.0, own_key=False)  # uniform within a leaf
    found = torch.autograd.grad(y[0, 0, 3, 2], q)[0][0, 0, 3]
    right = trees.leaves(k, planes, thresholds)[0, 0] == 1
    apart = v[0, 0, right, 2].mean() - v[0, 0, ~right, 2].mean()
    soft = torch.sigmoid((q[0, 0, 3] * planes[0, 0]).sum() + thresholds[0, 0])
    assert torch.allclose(found, soft * (1 - soft) * apart * planes[0, 0])
    assert 0 < right.sum() < 10


def test_the_derivative_of_a_decision_is_the_sigmoids():
    """Of a tree of one node and TC-attention: moving a query from one mean to the other."""
    q, k, v, planes, thresholds = (x.double() for x in drawn(length=10, heads=1, batch=1, height=1))
    q.requires_grad_()
    weights = torch.tensor([[0.0, 1.0]], dtype=torch.double)
    y = trees.path_attention(q, k, v, planes, thresholds, weights, sharpness=1.7)
    found = torch.autograd.grad(y[0, 0, 3, 2], q)[0][0, 0, 3]
    right = trees.leaves(k, planes, thresholds)[0, 0] == 1
    apart = v[0, 0, right, 2].mean() - v[0, 0, ~right, 2].mean()
    soft = torch.sigmoid(1.7 * ((q[0, 0, 3] * planes[0, 0]).sum() + thresholds[0, 0]))
    assert torch.allclose(found, 1.7 * soft * (1 - soft) * apart * planes[0, 0])


def layer(reads="leaf", heads=2, head_dim=6, **tree):
    sizes = {"width": 12, "heads": heads, "kv_heads": heads, "head_dim": head_dim, "value_dim": head_dim, "causal": False}
    return layers.TreeAttention(**sizes, tree=Tree(**{"height": 2, "reads": reads} | tree))


class Elementwise(TorchDispatchMode):
    """Counts what torch's counter of matrix products leaves out of the means: sums by node and weighted additions."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.__name__
        if name.startswith("index_add"):
            self.operations += arguments[3].numel()
        elif name.startswith("addcmul"):
            self.operations += 2 * arguments[0].numel()
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(
    "tree", [{"height": 3}, {"height": 0}, {"height": 3, "all_nodes": True}, {"height": 2, "own_key": False}]
)
def test_operations_of_leaf_attention_are_those_torch_counts(tree):
    made = layer(**tree)
    part = module(made).eval()
    torch.manual_seed(0)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 40, 12)
    found = counted_flops(lambda: part(x, Pass()))
    (census,) = trees.take_census(part, x, Pass())
    measured = made.replace(tree=Tree(**tree, imbalance=census.imbalance))
    assert found == measured.flops(Run(40, batch=2))
    if tree["height"]:
        assert found != made.flops(Run(40, batch=2))  # as if it were balanced


def test_operations_of_path_attention_are_those_counted():
    made = layer("path", height=3)
    part, x, other = module(made).eval(), torch.randn(2, 40, 12), Elementwise()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad(), other:
        found = counted_flops(lambda: part(x, Pass()))
    maps = sum(child.layer.flops(Run(40, batch=2)) for child in made.children())
    assert found + other.operations == made.flops(Run(40, batch=2))
    assert found + other.operations - maps == 2 * treeformer.path_attention_flops(40, 3, 12)


def test_a_census_of_leaves():
    q = torch.tensor([0, 0, 1, 3])
    assert trees.imbalance(q, q, 2) == 4 * (4 + 1 + 1) / 16
    part = module(layer(height=3)).eval()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    (census,) = trees.take_census(part, torch.randn(1, 6, 12), Pass())
    assert 0 <= census.imbalance <= 8
    assert census.empty_leaves >= 2 / 8  # six keys in eight leaves
    assert 0 <= census.lost_queries <= 1


def test_a_height_below_the_trees():
    """Height 0 of TF is full attention; each height is the tree of the first nodes, and lent weights keep rows at one."""
    torch.manual_seed(1)
    x = torch.randn(2, 20, 12)
    for reads in ("leaf", "path"):
        part = module(layer(reads, height=3)).eval()
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter)
        with torch.no_grad():
            if reads == "path":
                part.level_weights.fill_(1 / 4)
            at = {}
            for height in (None, 0, 1, 3):
                part.set_height(height)
                at[height] = part(x, Pass())
        shallow = module(layer(reads, height=1)).eval()
        state = dict(part.state_dict())
        state["planes"], state["thresholds"] = state["planes"][:, :1], state["thresholds"][:, :1]
        if reads == "path":
            state["level_weights"] = torch.tensor([[0.25, 0.75]] * 2)
        shallow.load_state_dict(state)
        with torch.no_grad():
            assert torch.allclose(at[1], shallow(x, Pass()), atol=1e-5)
        assert torch.allclose(at[None], at[0], atol=1e-4) == (reads == "leaf")
        assert not torch.allclose(at[0], at[3], atol=1e-3)
    with pytest.raises(InputError, match="height=4 is neither None nor a whole number from 0 to 3"):
        part.set_height(4)


TREE = {"depth": 2, "width": 24, "heads": 2, "vocab": 31, "context": 16, "kind": "encoder", "head": "masked-lm"}


def test_a_design_with_trees_in_some_blocks():
    whole = Transformer(**TREE, tree=Tree(2, "path"))
    assert whole.attention.choices()["tree"] == Tree(2, "path")
    full = Transformer(**TREE)
    heads, nodes = 2, 3
    assert whole.parameters - full.parameters == 2 * heads * (nodes * (12 + 1) + 3)
    assert nodes * 13 == treeformer.tree_parameters(2, 12)
    mixed = Transformer(**TREE, blocks=({}, {"tree": Tree(1)}))
    assert mixed.parameters - full.parameters == heads * 13
    model = build(mixed, seed=0)
    assert len(trees.tree_parts(model)) == 1
    trees.set_heights(model, [None])
    tokens = torch.randint(31, (2, 16))
    with torch.no_grad():
        first = model(tokens)
        trees.set_heights(model, [1])
        assert not torch.allclose(first, model(tokens), atol=1e-4)
    with pytest.raises(InputError, match="1 layers of tree attention, and 2 heights"):
        trees.set_heights(model, [1, 1])


REFUSED = {
    "no causal form": {"kind": "decoder", "head": "lm"},
    "makes 32 leaves for a context of 16 tokens": {"tree": Tree(5)},
    "neither a memory, a window": {"window": 4},
    "ALiBi adds to scores, and means of nodes have none": {"positions": "alibi", "tree": Tree(2, "path")},
    "score biases of a stack have no meaning with tree": {"positions": "relative", "tree": Tree(2, "path")},
    "ShawVectors has products with every query and key": {"positions": "shaw"},
    "kv_heads=1 is not heads=2": {"kv_heads": 1},
    "no attention weights to drop": {"tree": Tree(2, "path"), "attention_dropout": 0.1},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_settings_without_a_meaning_are_refused(problem):
    with pytest.raises(InputError, match=problem):
        Transformer(**{**TREE, "tree": Tree(2), **REFUSED[problem]})


@pytest.mark.parametrize(
    ("problem", "choices"),
    [("height=-1 is not a whole number", {"height": -1}),
     ("imbalance=9 is not between 0 and the 8", {"height": 3, "imbalance": 9}),
     ("reads='root' is not one of", {"height": 1, "reads": "root"}), ("sharpness=0 is not", {"height": 1, "sharpness": 0.0})],
)  # fmt: skip
def test_trees_without_a_meaning_are_refused(problem, choices):
    with pytest.raises(InputError, match=problem):
        Tree(**choices)


@pytest.mark.parametrize("positions", ["diet-rel", "diet-abs", "t5", "tupe", "alibi"])
def test_score_biases_reach_the_leaves(positions):
    """In the form with masks and in the sorted one; a bias changes both, and full attention at height None."""
    model = build(Transformer(**{**TREE, "positions": positions}, tree=Tree(2)), seed=0)
    tokens = torch.randint(31, (2, 16), generator=torch.Generator().manual_seed(0))
    if positions != "alibi":
        with torch.no_grad():
            before = model(tokens)
            for name, weight in model.named_parameters():
                if ".position." in name:
                    weight.normal_(std=2.0)
            assert not torch.allclose(model(tokens), before, atol=1e-3)
    dense = model(tokens)
    with torch.no_grad():
        assert torch.allclose(model(tokens), dense, atol=1e-4)
        trees.set_heights(model, [None, None])
        assert not torch.allclose(model(tokens), dense, atol=1e-3)
        full = Transformer(**{**TREE, "positions": positions})
        plain = build(full, seed=1)
        plain.load_state_dict({name: one for name, one in model.state_dict().items() if name in plain.state_dict()})
        assert torch.allclose(model(tokens), plain(tokens), atol=1e-4)
