"""Bytes kept for the backward pass, counted by the tree against the tensors that autograd saves in the tree's own model."""

import pytest

from depthwidth import Transformer, layers

torch = pytest.importorskip("torch")

from small_models import some_inputs  # noqa: E402

from verify import build  # noqa: E402

pytestmark = pytest.mark.slow

BATCH, LENGTH = 2, 48
SIZE = {"depth": 2, "width": 48, "heads": 4, "vocab": 67, "context": LENGTH}
LLAMA = {
    "positions": "rotary",
    "norm": "rmsnorm",
    "bias": False,
    "gated": True,
    "activation": "silu",
    "tied": False,
    "ffn": 128,
}
# With values as wide as queries, without which torch has no fused kernel on a processor.
LATENT = {**LLAMA, "head_dim": 16, "value_dim": 16, "latent": layers.Latent(20, 4, 28)}
MIXTURE = {**LLAMA, "ffn": 40, "experts": 6, "top_k": 3}
STREAMS = {
    **LLAMA,
    "placement": "sandwich",
    "routed_altup": layers.AltUpRouting(3),
    "layer_inputs": layers.LayerInputs(67, 8),
    "laurel": 4,
}
TREES = {
    "GPT-2": {},
    "dropout": {"dropout": 0.1, "ffn_dropout": 0.1},
    "encoder, post-norm": {"kind": "encoder", "placement": "post", "embedding_norm": True, "head": "masked-lm"},
    "encoder-decoder": {"kind": "encoder-decoder", "depth": 1, "positions": "sinusoidal"},
    "layer scale": {"layer_scale": 0.1, "dropout": 0.1},
    "parallel, one norm": {"parallel": True, "shared_norm": True},
    "parallel": {"parallel": True},
    "Llama": LLAMA,
    "grouped queries": {**LLAMA, "kv_heads": 2},
    "query and key norms": {**LLAMA, "qk_norm": "head"},
    "alternating updates": {**LLAMA, "altup": 3},
    "recycled updates": {"altup": 2, "altup_form": "recycled"},
    "updates along the sequence": {"kind": "encoder", "depth": 3, "sequence_stride": 4},
    "sandwich": {**LLAMA, "placement": "sandwich"},
    "gated, ReLU": {**LLAMA, "activation": "relu"},
    "norms inside branches": {**LLAMA, "inner_norm": True, "activation": "relu2"},
    "activated factor": {**LLAMA, "up_activation": "gelu"},
    "latent attention": LATENT,
    "latent attention, queries of the stream": {**LATENT, "latent": layers.Latent(20, 4)},
    "short convolutions": {**LLAMA, "mixer": layers.ShortConvolution(48, 3)},
    "one branch a block": {**LLAMA, "depth": 3, "blocks": ({"ffn": 0}, {"mixer": "none"}, {"ffn": 0})},
    "copies of the stream": STREAMS,
    "normalised values": {**LLAMA, "value_norm": True},
    "borrowed keys": {**LLAMA, "blocks": ({}, {"borrowed_keys": True})},
    "cut features": {**LLAMA, "sparsity": 0.8},
    "mixture": MIXTURE,
    "mixture by sigmoids": {**MIXTURE, "router": layers.RouterRule("sigmoid", 3, 2, 2, 2.5)},
    "mixture, one expert": {**MIXTURE, "top_k": 1, "norm": "layernorm"},
    "mixture, not gated": {**MIXTURE, "gated": False, "activation": "gelu"},
    "mixture with a shared part": {**MIXTURE, "shared_ffn": 56},
    "mixture with a gated shared part": {**MIXTURE, "shared_ffn": 56, "shared_gate": True},
}  # fmt: skip


def saved_bytes(tree):
    """Bytes of all storages that autograd saves in a training pass to the loss, weights and inputs excepted."""
    model = build(tree, seed=0).train()
    given = {name: value[:, :LENGTH] for name, value in some_inputs(tree, batch=BATCH, length=LENGTH).items()}
    owned = {part.untyped_storage().data_ptr() for part in (*model.parameters(), *model.buffers(), *given.values())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned and tensor.is_floating_point() | (tensor.dtype == torch.bool):
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(**given)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), given["tokens"].flatten())
    del loss
    return sum(size for size, _ in kept.values())


def unfused_bytes(tree, source):
    """Bytes that torch's operators on a processor keep and fused kernels do not."""
    position, total = BATCH * LENGTH * 4, 0.0
    for node in tree.walk():
        layer, extra = node.layer, 0.0
        if isinstance(layer, layers.RMSNorm) and layer.affine:  # spelt out: the normalised features beside its input
            extra += layer.width * layer.groups
        if isinstance(layer, layers.Attention):
            if isinstance(layer.position, layers.Rotary):  # rotated queries have another layout, and so has the output
                extra += layer.heads * layer.value_dim
            groups = layer.heads // layer.kv_heads  # keys and values are repeated for the queries of a group
            extra += (groups - 1) * layer.kv_heads * (layer.head_dim + layer.value_dim)
        elif getattr(layer, "dropout", 0.0):  # a mask in the format of the features instead of one byte an entry
            features = layer.hidden if isinstance(layer, layers.FeedForward) else tree.width
            extra += features * 3 / 4
        if isinstance(layer, layers.MixtureOfExperts):  # index_add keeps the summand, of which it needs the shape
            extra += layer.top_k * layer.width
        tokens = source / LENGTH if source and node.site.startswith("encoder.") else 1.0
        total += node.active * tokens * extra * position
    return total


def statistics_per_token(tree):
    """Numbers a token that the count leaves out.

    They are two a norm, the weights of experts, the sizes of copies, the rotation's angles, and one of the loss.
    """
    numbers = 4.0
    for node in tree.walk():
        if isinstance(node.layer, layers.Norm):
            numbers += 2 * node.active * node.layer.groups
        if isinstance(node.layer, layers.MixtureOfExperts):  # probabilities, weights before and after their sum, a gate
            numbers += node.active * (2 * node.layer.top_k + 3)
        if isinstance(node.layer, layers.ProjectedStreams):  # mean squares of each copy and of the first, at both ends
            numbers += 8 * (node.layer.count - 1)
        if isinstance(node.layer, layers.Rotary):
            numbers += tree.attention.head_dim / BATCH
    return numbers


def uncounted_per_token(tree):
    """Values a token that autograd saves beyond the count and the unfused operators."""
    source = LENGTH - 2 if tree.kind == "encoder-decoder" else None
    counted = tree.activation_bytes(LENGTH, source=source, batch=BATCH, dtype="fp32")
    return (saved_bytes(tree) - counted - unfused_bytes(tree, source)) / (BATCH * LENGTH * 4)


@pytest.mark.parametrize("name", TREES)
def test_the_count_is_what_autograd_saves(name):
    tree = Transformer(**{**SIZE, **TREES[name]})
    a_tensor_per_block = tree.width * sum(stack.depth for stack in tree.stacks.values())
    assert 0 <= uncounted_per_token(tree) <= statistics_per_token(tree) < a_tensor_per_block


# A single key head would be expanded without a copy, unlike the grouped queries that the operators here repeat.
@pytest.mark.parametrize(
    "choices", [TREES["dropout"], {**LLAMA, "heads": 8, "kv_heads": 4}, TREES["mixture with a shared part"], LATENT]
)
def test_the_count_of_one_device_of_two_is_what_its_model_saves(choices):
    """The part of a tree on a tensor-parallel device is a tree, whose own module saves what the device would."""
    tree = Transformer(**{**SIZE, **choices})
    shard = tree.sharded(2)
    assert 0 <= uncounted_per_token(shard) <= statistics_per_token(shard) < shard.width * shard.depth
    assert saved_bytes(shard) < saved_bytes(tree)


def test_a_count_that_leaves_out_the_outputs_of_experts_is_caught(monkeypatch):
    """Negative control: the features of one tensor a block are more than all statistics."""
    own_saved = layers.MixtureOfExperts.own_saved
    monkeypatch.setattr(
        layers.MixtureOfExperts,
        "own_saved",
        lambda self, run: own_saved(self, run) - run.positions * self.top_k * self.width * run.value_bytes,
    )
    tree = Transformer(**{**SIZE, **MIXTURE, "depth": 1})
    assert uncounted_per_token(tree) > statistics_per_token(tree)
