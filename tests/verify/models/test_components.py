"""Checks that the module of every component passes: its parameters, its operations, its state saved and loaded."""

import dataclasses
import io

import pytest
from helpers import one_quick_in

from depthwidth import layers
from depthwidth.layers.base import Run

torch = pytest.importorskip("torch")

from small_models import counted_flops  # noqa: E402

from verify.models import base, model  # noqa: E402, F401, the second registers all modules
from verify.models.base import Pass, module  # noqa: E402
from verify.models.tree_attention import take_census  # noqa: E402

BATCH, LENGTH, SOURCE, WIDTH = 2, 6, 5, 12
ATTENTION = layers.Attention(width=WIDTH, heads=4, kv_heads=2, head_dim=4, value_dim=3)
FEED_FORWARD = layers.FeedForward(WIDTH, 20)
BLOCK = layers.Block(
    layers.Residual(ATTENTION, norm_in=layers.LayerNorm(WIDTH)), layers.Residual(FEED_FORWARD, norm_in=layers.LayerNorm(WIDTH))
)
LAUREL = layers.LaurelBlock(BLOCK.attention, layers.Laurel(WIDTH, 3), BLOCK.feed_forward)
GATE = layers.LayerGate(WIDTH, 5, "gelu", layers.RMSNorm(WIDTH))
EXAMPLES = {
    "linear": layers.Linear(WIDTH, 7),
    "layer norm": layers.LayerNorm(WIDTH),
    "layer norm without bias": layers.LayerNorm(WIDTH, bias=False),
    "rms norm": layers.RMSNorm(WIDTH),
    "norm without weights": layers.RMSNorm(WIDTH, affine=False),
    "embedding": layers.Embedding(11, WIDTH),
    "learned positions": layers.LearnedPositions(9, WIDTH, offset=2),
    "sinusoidal positions": layers.SinusoidalPositions(),
    "sines before cosines": layers.SinusoidalPositions(halves=True, to_end=True, offset=2),
    "stored sines and cosines": layers.SinusoidalTable(halves=True, rows=9, width=WIDTH),
    "rotary": layers.Rotary(),
    "alibi": layers.ALiBi(),
    "relative bias": layers.RelativeBias(heads=4),
    "image bias": layers.ImageBias(rows=2, columns=3, heads=4),
    "relative bias of a block": layers.BlockRelativeBias(heads=4),
    "biases of segments": layers.SegmentBias(heads=4, segments=3),
    "biases of differences": layers.DietRel(heads=4, context=9, segments=2),
    "biases by two tables": layers.DietAbs(heads=4, context=9, rank=5, shared_heads=True),
    "untied positions": layers.UntiedPositions(heads=4, context=9, width=WIDTH, head_dim=3),
    "vectors of differences": layers.ShawVectors(head_dim=3, reach=2, heads=4),
    "attention": ATTENTION,
    "attention with everything": ATTENTION.replace(
        position=layers.Rotary(fraction=0.5), window=3, softcap=2.0, out_bias=False,
        query_norm=layers.RMSNorm(4, groups=4), key_norm=layers.RMSNorm(4, groups=2),
    ),
    "latent attention": layers.LatentAttention(
        width=WIDTH, heads=4, kv_heads=4, head_dim=5, value_dim=3, position=layers.Rotary(), window=3,
        latent=layers.Latent(rank=7, rotary=2, query_rank=6),
    ),
    "latent attention without positions": layers.LatentAttention(
        width=WIDTH, heads=4, kv_heads=4, head_dim=5, value_dim=3, bias=False, latent=layers.Latent(rank=7, rotary=2)
    ),
    "mixture by sigmoids": layers.MixtureOfExperts(
        FEED_FORWARD, experts=6, top_k=2, choice_bias=True, rule=layers.RouterRule("sigmoid", 3, 2, 2, 1.5, untrained_bias=True)
    ),
    "attention within chunks": layers.ChunkedAttention(width=WIDTH, heads=4, kv_heads=2, head_dim=4, value_dim=3, chunk=3),
    "tree attention": layers.TreeAttention(
        width=WIDTH, heads=2, kv_heads=2, head_dim=4, value_dim=3, causal=False, tree=layers.Tree(1, own_key=False)
    ),
    "tree attention over means": layers.TreeAttention(
        width=WIDTH, heads=2, kv_heads=2, head_dim=4, value_dim=3, causal=False, tree=layers.Tree(2, "path")
    ),
    "attention by ReLU scores": layers.ReluAttention(
        width=WIDTH, heads=4, kv_heads=2, head_dim=4, value_dim=3, causal=False, position=layers.Rotary()
    ),
    "attention with a gate": layers.GatedAttention(width=WIDTH, heads=4, kv_heads=2, head_dim=4, value_dim=3),
    "attention with penalties": ATTENTION.replace(position=layers.ALiBi(), bias=False),
    "cross-attention": ATTENTION.replace(causal=False, memory_width=WIDTH),
    "attention with biases of its own": ATTENTION.replace(position=layers.BlockRelativeBias(heads=4), key_bias=False),
    "attention with vectors of differences": ATTENTION.replace(
        value_dim=4, position=layers.ShawVectors(head_dim=4, reach=2, heads=4)
    ),
    "stack with two tables of positions": layers.Stack.of([BLOCK, BLOCK], position=layers.DietAbs(4, context=9, rank=5)),
    "feed-forward": FEED_FORWARD,
    "gated feed-forward": FEED_FORWARD.replace(gated=True, bias=False),
    "mixture": layers.MixtureOfExperts(FEED_FORWARD, experts=3, top_k=2),
    "mixture with a shared part": layers.MixtureOfExperts(
        FEED_FORWARD.replace(gated=True), experts=3, top_k=1, shared=FEED_FORWARD, shared_gate=True
    ),
    "sparse mixer": layers.SparseMixer(FEED_FORWARD, experts=4, top_k=2),
    "trained activation": layers.TrainedActivation("xielu"),
    "convolution": layers.Convolution(WIDTH, 3, bias=True),
    "short convolution": layers.ShortConvolution(WIDTH),
    "state space": layers.Mamba(WIDTH, inner=8, state=4, rank=3),
    "state space with heads": layers.Mamba2(WIDTH, heads=4, head_dim=6, state=5, groups=2),
    "delta net": layers.GatedDeltaNet(WIDTH, key_heads=2, value_heads=4, key_dim=3, value_dim=5),
    "time mix": layers.TimeMix(WIDTH, inner=10),
    "channel mix": layers.ChannelMix(WIDTH, 20),
    "mixer beside attention": layers.ParallelMixer(layers.Mamba2(WIDTH, heads=4, head_dim=6, state=5), ATTENTION),
    "attention with normalised values": layers.ValueNormAttention(
        width=WIDTH, heads=4, kv_heads=2, head_dim=4, value_dim=3, value_norm=layers.RMSNorm(3, groups=2, affine=False)
    ),
    "attention with borrowed keys": layers.BorrowedAttention(
        width=WIDTH, heads=4, kv_heads=2, head_dim=4, value_dim=3, position=layers.Rotary(), window=3
    ),
    "sparse feed-forward": layers.SparseFeedForward(WIDTH, 20, sparsity=0.6),
    "gated sparse feed-forward": layers.SparseFeedForward(WIDTH, 20, gated=True, sparsity=0.9),
    "residual of low rank": layers.Laurel(WIDTH, 3, layers.RMSNorm(WIDTH)),
    "block with a residual of low rank": LAUREL,
    "gate of a layer": GATE,
    "stem with vectors for blocks": layers.LayeredStem(
        layers.Embedding(11, WIDTH), scale=2.0, inputs=layers.LayerInputs(9, 4), depth=3
    ),
    "block that reads images": layers.MemoryBlock(
        layers.Residual(ATTENTION.replace(causal=False, memory_width=WIDTH), norm_in=layers.RMSNorm(WIDTH)), BLOCK.feed_forward
    ),
    "block of a decoder alone": layers.LoneDecoderBlock(
        BLOCK.attention, BLOCK.feed_forward, layers.Residual(ATTENTION.replace(causal=False, memory_width=WIDTH))
    ),
    "output matrix with a second bias": layers.Unembedding(WIDTH, 11, tied=False, bias=True, spare_bias=True),
    "equal copies of the stream": layers.Streams(3),
    "copies by matrices": layers.ProjectedStreams(3, WIDTH),
    "routed AltUp": layers.RoutedAltUp(LAUREL, layers.RMSNorm(WIDTH), layers.AltUpRouting(3, 1), GATE),
    "routed AltUp without vectors": layers.RoutedAltUp(BLOCK, layers.RMSNorm(WIDTH), layers.AltUpRouting(2)),
    "residual": layers.Residual(FEED_FORWARD, norm_in=layers.RMSNorm(WIDTH), norm_out=layers.RMSNorm(WIDTH)),
    "residual with a layer scale": layers.Residual(FEED_FORWARD, norm_in=layers.LayerNorm(WIDTH), layer_scale=0.1),
    "block": BLOCK,
    "parallel block": BLOCK.replace(parallel=True, norm=layers.LayerNorm(WIDTH)),
    "block with cross-attention": BLOCK.replace(
        cross_attention=layers.Residual(ATTENTION.replace(causal=False, memory_width=WIDTH))
    ),
    "stack": layers.Stack.of([BLOCK, BLOCK], norm=layers.LayerNorm(WIDTH)),
    "stack with shared positions": layers.Stack.of([BLOCK], position=layers.RelativeBias(heads=4)),
    "streams": layers.Streams(3),
    "streams as parts": layers.PartStreams(3),
    "streams that are summed": layers.SummedStreams(3),
    "alternating updates": layers.AltUp(BLOCK, 3),
    "updates along the sequence": layers.SequenceAltUp(BLOCK, 4),
    "stack of alternating updates": layers.Stack.of([layers.AltUp(BLOCK.replace(parallel=True), 2)] * 2),
    "token stem": layers.TokenStem(
        layers.Embedding(11, 5), layers.LearnedPositions(9, 5), layers.Embedding(2, 5), layers.LayerNorm(5),
        layers.Linear(5, WIDTH),
    ),
    "shared embedding": layers.SharedEmbedding(11, WIDTH),
    "stem that shares tokens": layers.TokenStem(layers.SharedEmbedding(11, WIDTH), layers.LearnedPositions(9, WIDTH)),
    "convolution over time": layers.TimeConvolution(5, WIDTH),
    "convolution that drops steps": layers.TimeConvolution(WIDTH, WIDTH, stride=2),
    "audio stem": layers.AudioStem(mel_bins=5, context=LENGTH, width=WIDTH),
    "patch stem": layers.PatchStem(height=8, width_pixels=12, patch=4, channels=3, width=WIDTH),
    "patch stem with everything": layers.PatchStem(
        height=8, width_pixels=12, patch=4, channels=3, width=WIDTH, distillation_token=True, mask_token=True,
        norm=layers.LayerNorm(WIDTH),
    ),
    "patch stem with hidden patches": layers.PatchStem(
        height=8, width_pixels=12, patch=4, channels=3, width=WIDTH, positions="fixed", kept=2
    ),
    "patches alone": layers.PatchStem(
        height=8, width_pixels=12, patch=4, channels=3, width=WIDTH, class_token=False, bias=False, positions="none"
    ),
    "attention with image biases": ATTENTION.replace(
        position=layers.ImageBias(rows=1, columns=LENGTH - 1, heads=4), causal=False
    ),
    "stack with shared image biases": layers.Stack.of(
        [BLOCK], position=layers.ImageBias(rows=1, columns=LENGTH - 1, heads=4, shared=True)
    ),
    "unembedding": layers.Unembedding(WIDTH, 11, tied=False),
    "tied unembedding": layers.Unembedding(WIDTH, 11, tied=True, bias=True),
    "language head": layers.LanguageHead(layers.Unembedding(WIDTH, 11, tied=False)),
    "masked head": layers.LanguageHead(
        layers.Unembedding(WIDTH, 11, tied=True), layers.Linear(WIDTH, WIDTH), layers.LayerNorm(WIDTH)
    ),
    "disentangled attention": layers.DisentangledAttention(
        WIDTH, 4, 4, 3, 3, causal=False, relative=layers.Disentangled(span=4, longest=9)
    ),
    "disentangled attention with shared maps": layers.DisentangledAttention(
        WIDTH, 4, 4, 3, 3, causal=False, relative=layers.Disentangled(span=4, to_content=False, shared=True)
    ),
    "disentangled attention, sliced": layers.DisentangledAttention(
        WIDTH, 4, 4, 3, 3, causal=False, relative=layers.Disentangled(span=4, key_bias=False, sliced=True)
    ),
    "relative vectors": layers.RelativeVectors(4, WIDTH, layers.LayerNorm(WIDTH)),
    "heads of a pre-training": layers.PretrainingHead(
        layers.Unembedding(WIDTH, 11, tied=True), layers.Linear(WIDTH, WIDTH), layers.LayerNorm(WIDTH),
        classifier=layers.ClassifierHead(WIDTH, 2, layers.Pooler(WIDTH, WIDTH)),
    ),
    "classifier of the end": layers.ClassifierHead(WIDTH, 3, pooler=layers.Pooler(WIDTH, WIDTH), reads="end"),
    "pooler": layers.Pooler(WIDTH, 5),
    "classifier": layers.ClassifierHead(WIDTH, 3),
    "classifier with a pooler": layers.ClassifierHead(WIDTH, 3, pooler=layers.Pooler(WIDTH, WIDTH)),
    "pooler of the mean": layers.ClassifierHead(
        WIDTH, 3, layers.Pooler(WIDTH, WIDTH, "gelu", layers.LayerNorm(WIDTH), bias=False), reads="mean"
    ),
    "mean of logits": layers.ClassifierHead(WIDTH, 3, layers.Pooler(WIDTH, WIDTH, every=True), reads="late"),
    "classifier of patches": layers.ClassifierHead(WIDTH, 3, pooler=layers.PatchMean(WIDTH, layers.LayerNorm(WIDTH))),
    "classifier of a token and the mean": layers.ClassifierHead(WIDTH, 3, reads="first and mean"),
    "two classifiers": layers.ClassifierHead(WIDTH, 3, reads="first two"),
    "logits of patches": layers.PatchLogits(WIDTH, 5, layers.LayerNorm(WIDTH)),
    "patch mean": layers.PatchMean(WIDTH, layers.LayerNorm(WIDTH)),
    "one token": layers.Projection(WIDTH, reads="last"),
    "projection": layers.Projection(WIDTH, 7, bias=True),
    "attention pooling": layers.AttentionPooling(
        layers.Attention(WIDTH, 3, 3, 4, 4, causal=False, memory_width=WIDTH), layers.LayerNorm(WIDTH), FEED_FORWARD
    ),
}  # fmt: skip
EMBEDDING = torch.randn(11, WIDTH)
IMAGES = torch.randn(BATCH, 3, 8, 12)
STREAM = torch.randn(BATCH, LENGTH, WIDTH)
SOUND = torch.randn(BATCH, WIDTH, 2 * LENGTH)
VECTORS = torch.randn(8, WIDTH)
SEGMENTS = torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % 2
TOKENS = torch.zeros(BATCH, LENGTH, dtype=torch.long)


GIFTS = torch.randn(BATCH, LENGTH, 1, 5)
COPIES = torch.randn(BATCH, 3, LENGTH, WIDTH)
KEPT = torch.randn(BATCH, 2, LENGTH, 4), torch.randn(BATCH, 2, LENGTH, 3)


def of_shared_tokens(part, tokens=None):
    """The output for TOKENS, after another stem's table was lent to `tokens` if it has none."""
    tokens = part.tokens if tokens is None else tokens
    if hasattr(tokens, "owner"):
        tokens.owner = (torch.nn.Embedding.from_pretrained(EMBEDDING),)
    return part(TOKENS)


INPUTS = {
    layers.Embedding: lambda part: part(TOKENS),
    layers.LearnedPositions: lambda part: part.at(LENGTH, WIDTH, STREAM.device),
    layers.SinusoidalPositions: lambda part: part.at(LENGTH, WIDTH, STREAM.device),
    layers.SinusoidalTable: lambda part: part.at(LENGTH, WIDTH, STREAM.device),
    layers.SharedEmbedding: lambda part: of_shared_tokens(part, part),
    layers.BlockRelativeBias: lambda part: part.bias(4, LENGTH, 1.0, STREAM.device),
    layers.TimeConvolution: lambda part: part(SOUND[:, : part.in_channels, : LENGTH * part.stride[0]]),
    layers.AudioStem: lambda part: part(SOUND[:, :5]),
    layers.Rotary: lambda part: torch.stack(part.encode(STREAM[:, None], STREAM[:, None], Pass())),
    layers.ALiBi: lambda part: part.bias(4, LENGTH, 1.0, STREAM.device),
    layers.RelativeBias: lambda part: part(LENGTH),
    layers.ImageBias: lambda part: part(7),
    layers.SegmentBias: lambda part: part(LENGTH) + (0.0 if part.between(None) is None else part.between(SEGMENTS)),
    layers.ShawVectors: lambda part: torch.cat([part.vectors(name, LENGTH) for name in ("key", "value")]),
    layers.Attention: lambda part: part(STREAM, Pass(STREAM[:, :SOURCE])),
    layers.DisentangledAttention: lambda part: part(STREAM, Pass(bias=VECTORS)),
    layers.RelativeVectors: lambda part: part(LENGTH),
    layers.LatentAttention: lambda part: part(STREAM, Pass()),
    layers.TreeAttention: lambda part: part(STREAM, Pass()),
    layers.BorrowedAttention: lambda part: part(STREAM, Pass(kept={("keys and values", 3): KEPT})),
    layers.MemoryBlock: lambda part: part(STREAM, Pass(STREAM[:, :SOURCE])),
    layers.LaurelBlock: lambda part: part(STREAM, Pass()),
    layers.LayerGate: lambda part: part(STREAM, GIFTS[:, :, 0]),
    layers.LayeredStem: lambda part: part.block_inputs(TOKENS, part(TOKENS)),
    layers.Streams: lambda part: part.close(part.open(STREAM)),
    layers.RoutedAltUp: lambda part: part(COPIES[:, : part.count], Pass(inputs=GIFTS)),
    layers.FeedForward: lambda part: part(STREAM, Pass()),
    layers.Mixer: lambda part: part(STREAM, Pass()),
    layers.MixtureOfExperts: lambda part: part(STREAM, Pass()),
    layers.Residual: lambda part: part(STREAM, Pass()),
    layers.Block: lambda part: part(STREAM, Pass(STREAM[:, :SOURCE])),
    layers.Streams: lambda part: part.close(part.open(STREAM)),
    layers.AltUp: lambda part: part(torch.stack((STREAM, -STREAM, STREAM / 2), 1), Pass(block=4)),
    layers.SequenceAltUp: lambda part: part(STREAM, Pass()),
    layers.Stack: lambda part: part(torch.cat([STREAM] * (getattr(part.copies, "count", 1)), -1)),
    layers.TokenStem: of_shared_tokens,
    layers.PatchStem: lambda part: torch.manual_seed(0) and part(IMAGES),
    layers.Unembedding: lambda part: part(STREAM, EMBEDDING),
    layers.LanguageHead: lambda part: part(STREAM, EMBEDDING),
    layers.PretrainingHead: lambda part: torch.cat((part(STREAM, EMBEDDING).flatten(1), part.classifier(STREAM)), dim=1),
}
RUN = Run(LENGTH, memory=SOURCE, batch=BATCH)


def drawn(layer, seed=0):
    part = module(layer).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_(generator=generator)
    return part


def output(layer, part):
    given = (INPUTS[kind] for kind in type(layer).__mro__ if kind in INPUTS)
    return next(given, lambda part: part(STREAM))(part)


def test_every_component_has_an_example():
    ours = {kind for kind in base._MAKERS if kind.__module__.startswith("depthwidth.")}
    assert {type(layer) for layer in EXAMPLES.values()} == ours


@one_quick_in(4, "name", EXAMPLES, first=0)
def test_parameters_are_the_components(name):
    layer = EXAMPLES[name]
    part = module(layer)
    assert sum(p.numel() for p in part.parameters()) == layer.parameters


def uncounted(layer):
    """Operations of a recurrence, for each position, that are products of elements in its module: torch counts matrices."""
    if isinstance(layer, layers.Mamba):
        return 4 * layer.inner * layer.state
    if isinstance(layer, layers.Mamba2):
        return 4 * layer.heads * layer.head_dim * layer.state
    if isinstance(layer, layers.TreeAttention) and not layer.tree.softmax:  # sums and weighted means of the nodes' values
        return 3 * (layer.tree.height + 1) * layer.heads * layer.value_dim
    if isinstance(layer, layers.GatedDeltaNet):  # the update alone
        return 2 * layer.value_heads * layer.key_dim * layer.value_dim
    return sum(uncounted(child.layer) for child in layer.children())


@one_quick_in(4, "name", EXAMPLES, first=1)
def test_operations_are_those_torch_counts(name):
    """Hidden scores are counted, those outside of a window or a chunk too."""
    layer = EXAMPLES[name]
    part = drawn(layer)
    counted = layer.replace(window=None) if hasattr(layer, "window") else layer
    counted = counted.replace(chunk=LENGTH) if hasattr(layer, "chunk") else counted
    for census in take_census(part, STREAM, Pass()) if isinstance(layer, layers.TreeAttention) else ():
        counted = counted.replace(tree=dataclasses.replace(layer.tree, imbalance=census.imbalance))
    found = counted_flops(lambda: output(layer, part)) + RUN.positions * uncounted(layer)
    assert found == counted.flops(RUN)


def test_a_count_that_is_off_is_seen():
    layer = EXAMPLES["feed-forward"]
    assert counted_flops(lambda: output(layer, drawn(layer))) != layer.replace(hidden=21).flops(RUN)


@one_quick_in(4, "name", EXAMPLES, first=2)
def test_a_saved_state_gives_the_same_output(name):
    layer = EXAMPLES[name]
    one, two = drawn(layer), drawn(layer, seed=1)
    before = output(layer, one)
    assert before.isfinite().all()
    if layer.parameters:
        assert not torch.equal(before, output(layer, two))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(before, output(layer, two))
