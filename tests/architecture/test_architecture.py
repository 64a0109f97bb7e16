"""The whole tree: counts add up, agree along two routes, and grow when the model does."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import sympy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import designs

from depthwidth.architecture import Transformer
from depthwidth.architecture.design import Design
from depthwidth.errors import InputError
from depthwidth.layers import POSITION_ENTRIES, Attention, Child, LayerNorm, Linear, Position, Rotary, Stack

SOME = settings(max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def counts(tree, context=None):
    """Every count, by name."""
    return {
        "parameters": tree.parameters,
        "active_parameters": tree.active_parameters,
        "embedding_parameters": tree.embedding_parameters,
        "non_embedding_parameters": tree.non_embedding_parameters,
        "forward_flops": tree.forward_flops(context),
        "masked_flops": tree.forward_flops(context, masked=True),
        "training_flops": tree.training_flops(context),
        "weight_bytes": tree.weight_bytes(),
        "kv_cache_bytes": tree.kv_cache_bytes(context),
        "activation_bytes": tree.activation_bytes(context),
        "kept_scores": tree.activation_bytes(context, fused=False),
        "recomputed": tree.activation_bytes(context, recompute="full"),
        "training_memory": tree.training_memory(context).total,
    }


@pytest.mark.slow
@SOME
@given(designs())
def test_counts_are_whole_and_ordered(choices):
    tree = Transformer(**choices)
    found = counts(tree)
    for name, value in found.items():
        assert type(value) is int, name
        assert value >= 0, name
    assert found["active_parameters"] <= found["parameters"]
    assert found["masked_flops"] <= found["forward_flops"]
    assert found["embedding_parameters"] + found["non_embedding_parameters"] == found["parameters"]
    assert tree.kv_cache_bytes() == 0 or tree.decoder is not None


@pytest.mark.slow
@SOME
@given(designs())
def test_the_rows_of_a_breakdown_add_up(choices):
    tree = Transformer(**choices)
    for masked in (False, True):
        rows = tree.breakdown(masked=masked)
        assert sum(row["parameters"] for row in rows) == tree.parameters
        assert sum(row["active_parameters"] for row in rows) == tree.active_parameters
        assert sum(row["forward_flops"] for row in rows) == tree.forward_flops(masked=masked)
    assert len({(row["site"], row["component"]) for row in rows}) == len(rows)


@pytest.mark.slow
@SOME
@given(designs())
def test_weights_are_the_sum_over_every_tensor(choices):
    """One route sums nested totals, the other multiplies out each tensor's shape at each place it stands."""
    tree = Transformer(**choices)
    nodes = list(tree.walk())
    assert tree.parameters == sum(n.copies * math.prod(tensor.shape) for n in nodes for tensor in n.layer.tensors().values())
    assert tree.active_parameters == sum(
        n.active * math.prod(tensor.shape) for n in nodes for tensor in n.layer.tensors().values()
    )
    assert tree.parameters == sum(part.layer.parameters for part in tree.children())


def test_a_total_that_does_not_add_up_is_seen():
    class Padded(Linear):
        @property
        def parameters(self):
            return super().own_parameters + 1

    part = Padded(3, 4)
    assert part.parameters != sum(math.prod(tensor.shape) for n in part.walk() for tensor in n.layer.tensors().values())


def by_hand(L, d, a, f, V, S):
    """Weights of a GPT: token and position tables, and in each block attention, two maps and two norms; a final norm."""
    return V * d + S * d + L * (4 * d * d + 4 * d + 2 * d * f + d + f + 4 * d) + 2 * d


def operations(L, d, a, f, V, S):
    """Its operations on S tokens: the maps, all scores and sums of values, the logits."""
    return L * (2 * S * (4 * d * d + 2 * d * f) + 4 * S * S * d) + 2 * S * d * V


GPT = st.tuples(*[st.integers(1, 40)] * 2, st.integers(1, 8), *[st.integers(1, 60)] * 3)


@pytest.mark.slow
@SOME
@given(GPT)
def test_symbols_and_numbers_agree(sizes):
    """A tree of symbols has polynomials for counts; their values are the counts of a tree of numbers."""
    depth, head_dim, heads, ffn, vocab, context = sizes
    width = heads * head_dim
    values = dict(zip(SYMBOLS, (depth, heads, head_dim, ffn, vocab, context), strict=True))
    number = Transformer(depth=depth, width=width, heads=heads, ffn=ffn, vocab=vocab, context=context)
    assert number.parameters == SYMBOLIC["parameters"].subs(values) == by_hand(depth, width, heads, ffn, vocab, context)
    assert number.forward_flops() == SYMBOLIC["flops"].subs(values) == operations(depth, width, heads, ffn, vocab, context)


SYMBOLS = sympy.symbols("L a e f V S", positive=True, integer=True)


def symbolic(**choices):
    depth, heads, head_dim, ffn, vocab, context = SYMBOLS
    tree = Transformer(
        depth=depth, width=heads * head_dim, heads=heads, head_dim=head_dim, ffn=ffn, vocab=vocab, context=context, **choices
    )
    return {"parameters": sympy.expand(tree.parameters), "flops": sympy.expand(tree.forward_flops())}


SYMBOLIC = symbolic()


def test_a_polynomial_with_a_wrong_term_is_seen():
    values = dict(zip(SYMBOLS, (3, 2, 4, 5, 6, 7), strict=True))
    wrong = symbolic(bias=False)["parameters"].subs(values)
    assert wrong != by_hand(3, 8, 2, 5, 6, 7)


class Forgetful(Attention):
    """Attention whose output map was forgotten."""

    def children(self):
        return tuple(child for child in super().children() if child.name != "out")


def test_a_forgotten_map_is_seen():
    tree = Transformer(depth=3, width=8, heads=2, ffn=5, vocab=6, context=7)
    block = tree.stack.repeats[0].block
    whole = block.attention.branch
    forgetful = Forgetful(**{name: getattr(whole, name) for name in ("width", "heads", "kv_heads", "head_dim", "value_dim")})
    changed = block.replace(attention=block.attention.replace(branch=forgetful))
    wrong = tree.replace(decoder=Stack.of([changed] * 3, LayerNorm(8)))
    assert tree.parameters == by_hand(3, 8, 2, 5, 6, 7) != wrong.parameters
    assert tree.forward_flops() == operations(3, 8, 2, 5, 6, 7) != wrong.forward_flops()


# Growth.


@pytest.mark.slow
@SOME
@given(
    designs(deepest=8, window=None, embedding_width=None, patch=None),
    st.sampled_from(["depth", "width", "ffn", "vocab", "context"]),
)
def test_counts_grow_with_every_size(choices, name):
    """A narrower embedding is left out: a width that reaches it needs no projection any more."""
    width = choices["width"]
    heads = choices["heads"]
    choices = {**choices, "head_dim": choices["head_dim"] or width // heads, "ffn": choices["ffn"] or 4 * width}
    small = Transformer(**choices)
    large = Transformer(**{**choices, name: choices[name] + 1})
    less, more = counts(small), counts(large)
    for count in less:
        assert less[count] <= more[count], count
    if name in ("depth", "width", "ffn"):
        assert less["parameters"] < more["parameters"]


@pytest.mark.slow
@SOME
@given(designs(deepest=6), st.integers(1, 30))
def test_operations_grow_with_the_length(choices, context):
    tree = Transformer(**choices | {"context": 64})  # room for every length, also in a table of learned positions
    assume(choices.get("patch") is None)
    assert tree.forward_flops(context) < tree.forward_flops(context + 1)
    assert tree.forward_flops(context, masked=True) < tree.forward_flops(context + 1, masked=True)
    assert tree.kv_cache_bytes(context) <= tree.kv_cache_bytes(context + 1)
    one, two, three = (tree.forward_flops(context, batch=batch) for batch in (1, 2, 3))
    assert three - two == two - one
    shared = 2 * one - two  # the same for any batch: score biases by products of tables
    assert (shared > 0) == (choices["positions"] in ("diet-abs", "tupe"))
    assert tree.flops_per_token(context) * context * (2 if tree.encoder and tree.decoder else 1) == tree.forward_flops(context)
    assert isinstance(tree.flops_per_token(context), (int, Fraction))


def pairs(tokens, window, causal):
    reach = tokens if window is None else window
    return sum(1 for q in range(tokens) for k in range(tokens) if not causal or 0 <= q - k < reach)


@pytest.mark.slow
@SOME
@given(designs(deepest=12, kind="decoder", head="none", patch=None, experts=None, top_k=2, shared_ffn=None, shared_gate=False))
def test_masked_operations_count_every_allowed_pair(choices):
    """The difference to no attention scores at all is two products for each pair that the masks leave."""
    tree = Transformer(**choices)
    attention = tree.attention
    each = choices["window"] if isinstance(choices["window"], list) else [choices["window"]] * tree.depth
    allowed = sum(pairs(tree.context, window, causal=True) for window in each)
    maps = sum(node.active * node.layer.own_flops(tree.run()) for node in tree.walk() if isinstance(node.layer, Linear))
    if choices["pooler"]:
        maps -= 2 * (tree.context - 1) * tree.width * tree.head.outputs  # it reads the first token alone
    biases = sum(node.active * node.layer.own_flops(tree.run()) for node in tree.walk() if isinstance(node.layer, Position))
    scores = 2 * allowed * attention.heads * (attention.head_dim + attention.value_dim)
    assert tree.forward_flops(masked=True) == maps + biases + scores


@pytest.mark.slow
@SOME
@given(designs(deepest=12, patch=None), st.integers(1, 30), st.integers(1, 3))
def test_the_cache_is_what_the_next_tokens_read(choices, tokens, batch):
    tree = Transformer(**choices | {"context": 64})
    attention = tree.attention
    values = attention.kv_heads * (attention.head_dim + attention.value_dim)
    each = choices["window"] if isinstance(choices["window"], list) else [choices["window"]] * tree.depth
    seen = sum(sum(1 for key in range(tokens) if window is None or key >= tokens - window) for window in each)
    if tree.kind == "encoder":
        seen = 0
    if tree.kind == "encoder-decoder":
        seen += 17 * tree.depth  # the keys and values of the source, once for each block
    source = 17 if tree.kind == "encoder-decoder" else None
    assert tree.kv_cache_bytes(tokens, source=source, batch=batch) == 2 * batch * seen * values


# Training.


@pytest.mark.slow
@SOME
@given(designs(deepest=12))
def test_training_is_three_passes_and_recomputation_one_more_of_the_blocks(choices):
    tree = Transformer(**choices)
    forward = tree.forward_flops()
    assert tree.training_flops() == 3 * forward
    around = sum(
        part.layer.flops(tree.run_of(part.name, tree.run())) for part in tree.children() if not isinstance(part.layer, Stack)
    )
    assert tree.training_flops(recompute="full") == 3 * around + 4 * (forward - around)


@pytest.mark.slow
@SOME
@given(designs(), st.booleans())
def test_recomputation_saves_memory(choices, fused):
    assume(choices["depth"] > 1 and (choices["kind"] != "encoder-decoder" or choices["encoder_depth"] != 1))
    tree = Transformer(**choices)
    assert tree.activation_bytes(fused=fused, recompute="full") < tree.activation_bytes(fused=fused)


@pytest.mark.slow
@SOME
@given(designs())
def test_mixed_precision_adam_takes_16_bytes_a_weight(choices):
    """Rajbhandari et al. 2019, arXiv 1910.02054, section 3.1."""
    tree = Transformer(**choices)
    memory = tree.training_memory()
    assert memory.weights + memory.gradients + memory.optimizer == 16 * tree.parameters
    assert memory.total == 16 * tree.parameters + tree.activation_bytes()
    plain = tree.training_memory(dtype="fp32", optimizer="sgd")
    assert plain.weights + plain.gradients + plain.optimizer == 8 * tree.parameters
    assert tree.training_memory(optimizer="momentum").optimizer == 8 * tree.parameters


@SOME
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 8), st.integers(1, 40), st.integers(1, 3))
def test_activations_of_a_gpt_are_those_of_korthikanti(depth, heads, head_dim, tokens, batch):
    """L s b h (34 + 5 a s / h), equation 2 of arXiv 2205.05198, and what stands around the blocks, which it leaves out."""
    width = heads * head_dim
    tree = Transformer(depth, width, heads, vocab=50, context=40, dropout=0.1, attention_dropout=0.1)
    blocks = depth * (34 * tokens * batch * width + 5 * heads * tokens**2 * batch)
    # the embedding's mask, the final norm's input, the output matrix's input and float32 logits: its section 4.3
    around = tokens * batch * (width + 2 * width + 2 * width + 4 * 50)
    assert tree.activation_bytes(tokens, batch=batch, fused=False) == blocks + around


# The words people use, and what is refused.


def test_gpt2_in_every_unit():
    gpt2 = Transformer(depth=12, width=768, heads=12, vocab=50257, context=1024)
    assert (gpt2.depth, gpt2.width, gpt2.heads, gpt2.kv_heads, gpt2.head_dim) == (12, 768, 12, 12, 64)
    assert (gpt2.ffn, gpt2.vocab, gpt2.context, gpt2.experts) == (3072, 50257, 1024, None)
    assert gpt2.parameters == 124439808
    assert gpt2.weight_bytes("fp32") == 4 * 124439808
    assert gpt2.weight_bytes("int4") == 124439808 // 2
    assert gpt2.kv_cache_bytes() == 2 * 2 * 12 * 1024 * 768
    assert gpt2.forward_flops() == operations(12, 768, 12, 3072, 50257, 1024)
    # The rule of thumb, two operations a weight and token, leaves out scores.
    assert gpt2.flops_per_token() == 2 * (85054464 - 12 * 13 * 768 + 768 * 50257) + 4 * 12 * 1024 * 768


def test_equal_choices_make_equal_trees():
    one = Transformer(4, 64, 4, window=None)
    assert one == Transformer.of_design(Design(4, 64, 4)) == Transformer(4, 64, [4, 4, 4, 4], window=[None] * 4)
    assert hash(one) == hash(Transformer(4, 64, 4))
    assert one != Transformer(4, 64, 2)
    assert one.replace(context=7).context == 7
    assert Transformer.of_parts(one.stem, None, one.decoder, one.head, one.context) == one


def test_choices_for_each_block():
    tree = Transformer(4, 24, [2, 2, 3, 4], window=[None, 5, 5, None])
    assert [block.attention.branch.heads for block in tree.stack.blocks()] == [2, 2, 3, 4]
    assert [block.attention.branch.window for block in tree.stack.blocks()] == [None, 5, 5, None]
    assert [repeat.times for repeat in tree.stack.repeats] == [1, 1, 1, 1]


def test_options_of_few_families():
    local = Transformer(2, 24, 3, positions=Rotary(7.0), window=[None, 5], window_positions=Rotary(8.0))
    assert [block.attention.branch.position.base for block in local.stack.blocks()] == [7.0, 8.0]
    assert Transformer(2, 24, 3, dropout=0.1).stem.dropout == 0.1
    assert Transformer(2, 24, 3, dropout=0.1, embedding_dropout=0.0).stem.dropout == 0.0
    gated = Transformer(2, 24, 3, experts=2, shared_ffn=5, shared_gate=True)
    assert gated.parameters - Transformer(2, 24, 3, experts=2, shared_ffn=5).parameters == 2 * 24


def test_any_part_takes_its_place_in_the_sum():
    class Doubled(LayerNorm):
        def children(self):
            return (Child("second", LayerNorm(self.width)),)

    tree = Transformer(2, 24, 3)
    changed = tree.replace(decoder=replace(tree.decoder, norm=Doubled(24)))
    assert changed.parameters - tree.parameters == 48


@pytest.mark.parametrize(("choices", "start"), [
    ({"depth": 0}, "Transformer: depth=0 is not a whole number from 1"),
    ({"depth": 2.5}, "Transformer: depth=2.5"),
    ({"depth": "2"}, "Transformer: depth='2'"),
    ({"width": -4}, "Transformer: width=-4"),
    ({"width": math.inf}, "Transformer: width=inf"),
    ({"heads": 5}, "Transformer: heads=5 does not divide width=24"),
    ({"heads": 0}, "Transformer: heads=0"),
    ({"heads": None, "head_dim": 7}, "Transformer: width=24 is not a multiple of head_dim=7"),
    ({"kv_heads": 2}, "Attention: kv_heads=2 does not divide heads=3"),
    ({"context": 0}, "Transformer: context=0"),
    ({"vocab": 0}, "Embedding: rows=0"),
    ({"kind": "both"}, "Transformer: kind='both' is not one of"),
    ({"norm": "batch"}, "Transformer: norm='batch'"),
    ({"placement": "middle"}, "Transformer: placement='middle'"),
    ({"positions": "roty"}, "Transformer: positions='roty'"),
    ({"head": "tail"}, "Transformer: head='tail'"),
    ({"qk_norm": "some"}, "Transformer: qk_norm='some'"),
    ({"activation": "gulu"}, "FeedForward: activation='gulu'"),
    ({"dropout": 1}, "TokenStem: dropout=1 is not in [0, 1)"),
    ({"shared_norm": True}, "Transformer: shared_norm needs parallel=True"),
    ({"experts": 2, "top_k": 3}, "MixtureOfExperts: top_k=3 is more than experts=2"),
    ({"window": [1]}, "Transformer: window has 1 entries for 2 blocks"),
    ({"heads": [3]}, "Transformer: heads has 1 entries for 2 blocks"),
    ({"depth": 10**6, "window": [1] * 3}, "Transformer: depth=1000000 is too deep for per-block choices"),
    ({"wdith": 3}, "Transformer: there is no option 'wdith' (did you mean 'width'?)"),
    ({"patch": 300}, "PatchStem: patch=300 is larger than the image"),
])  # fmt: skip
def test_choices_that_make_no_sense_get_one_sentence(choices, start):
    with pytest.raises(InputError) as caught:
        Transformer(**{"depth": 2, "width": 24, "heads": 3, **choices})
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("call", "start"), [
    (lambda tree: tree.forward_flops(0), "count: context=0"),
    (lambda tree: tree.forward_flops(5.5), "count: context=5.5"),
    (lambda tree: tree.forward_flops(batch=0), "count: batch=0"),
    (lambda tree: tree.training_flops(recompute="some"), "training_flops: recompute='some'"),
    (lambda tree: tree.activation_bytes(recompute="half"), "activation_bytes: recompute='half'"),
    (lambda tree: tree.training_memory(optimizer="lion"), "training_memory: optimizer='lion'"),
    (lambda tree: tree.weight_bytes("fp7"), "there is no number format 'fp7'"),
    (lambda tree: Transformer.of_parts(tree.stem, None, None, None, 5), "Transformer: it has neither an encoder nor a decoder"),
    (lambda tree: Transformer(2, 24, 3, kind="encoder-decoder").forward_flops(source=0), "count: source=0"),
    (lambda tree: Transformer(2, 24, 3, kind="encoder", patch=16).forward_flops(5), "an image of this model has 197 tokens"),
])  # fmt: skip
def test_questions_that_make_no_sense_get_one_sentence(call, start):
    with pytest.raises(InputError) as caught:
        call(Transformer(2, 24, 3))
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


def test_a_deep_model_costs_no_time():
    """Equal blocks are one node: a million of them count as fast as one."""
    tree = Transformer(depth=10**6, width=512, heads=8)
    assert tree.parameters > 3 * 10**12
    assert tree.forward_flops() > 0
    assert len(list(tree.walk())) < 30


@pytest.mark.parametrize(("kind", "name"), [("decoder", "decoder"), ("encoder", "encoder"), ("encoder-decoder", "decoder")])
def test_the_head_reads_the_stack_that_is_named(kind, name):
    """The name is that of the field, and of the path under which the tree's tensors are listed."""
    tree = Transformer(2, 24, 3, kind=kind, vocab=100)
    assert tree.stack_name == name
    assert getattr(tree, tree.stack_name) is tree.stack
    assert any(row["site"].startswith(f"{name}.") for row in tree.breakdown())


def test_an_encoder_with_choices_and_a_stem_of_its_own():
    own = {"heads": 2, "ffn": 12, "width": 16, "vocab": 40}
    tree = Transformer(3, 24, 3, vocab=50, context=9, kind="encoder-decoder", encoder_depth=2, encoder=own, source="own")
    assert (tree.encoder.depth, tree.encoder.width, tree.source.vocab) == (2, 16, 40)
    cross = tree.decoder.repeats[0].block.cross_attention.branch
    assert (cross.memory_width, cross.key.inputs) == (16, 16)
    alone = Transformer(2, 16, 2, vocab=40, context=9, kind="encoder", ffn=12, head="none")
    assert tree.parameters == tree.stem.parameters + tree.decoder.parameters + alone.parameters
    one, other = (Transformer(3, 24, 3, vocab=50, context=9, kind="encoder-decoder", source=s) for s in ("shared", "positions"))
    assert other.parameters == one.parameters + 9 * 24
    with pytest.raises(InputError, match="an encoder cannot differ from its decoder in 'norms'"):
        Transformer(3, 24, 3, kind="encoder-decoder", encoder={"norms": 1})
    with pytest.raises(InputError, match="a source stem is that of the encoder"):
        alone.replace(source=alone.stem)
    with pytest.raises(InputError, match="AudioStem has no table of tokens"):
        Transformer(3, 24, 3, kind="encoder-decoder", source="positions", encoder={"mel_bins": 4, "context": 5})


def test_every_position_by_name_has_a_component():
    names = {"learned", "input", "rotary", "alibi", "relative", "t5", "diet-rel", "diet-abs", "shaw", "tupe"}
    assert names <= set(POSITION_ENTRIES)
    for name in (*POSITION_ENTRIES, "none"):
        found = Transformer(2, 64, 4, positions=name, vocab=50, context=16)
        parts = (found.stem.positions, found.attention.position, found.stack.position)
        assert len([part for part in parts if part is not None]) == (name != "none")
