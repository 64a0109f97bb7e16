"""The tree read from a configuration equals the model that transformers builds, weight by weight."""

import contextlib
import copy
import dataclasses
import functools
import warnings
from unittest import mock

import pytest
from helpers import quiet_transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import PUBLISHED, SMALL, SMALL_FIELDS, configs
from two_stacks import gemma_stacks

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES, read_config, read_design, write_config
from depthwidth.errors import InputError
from depthwidth.layers import Convolution, GatedDeltaNet, Mamba, Mamba2, Rotary, Run

pytestmark = [pytest.mark.hf, pytest.mark.slow]
torch = pytest.importorskip("torch")
transformers = quiet_transformers()

FEW = settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def parse(config):
    """The configuration object; transformers writes into the tables it is given, so it gets its own."""
    return transformers.AutoConfig.for_model(**copy.deepcopy(config))


@contextlib.contextmanager
def undrawn():
    """Modules of torch draw no weights: on the meta device nothing is drawn anyway, at half the cost of a model."""
    with contextlib.ExitStack() as stack:
        for name in ("kaiming_uniform_", "normal_", "ones_", "uniform_", "xavier_uniform_", "zeros_"):
            stack.enter_context(mock.patch.object(torch.nn.init, name, lambda tensor, *arguments, **more: tensor))
        yield


def built(config, device="meta", **more):
    """The model that transformers builds, without memory for its weights."""
    kind = getattr(transformers, config["architectures"][0])  # loads its code, which keeps references to torch's functions
    with warnings.catch_warnings(), torch.device(device), undrawn() if device == "meta" else contextlib.nullcontext():
        warnings.simplefilter("ignore")
        parsed = parse(config)
        for name, value in more.items():
            setattr(parsed, name, value)
        return kind(parsed)


def count(config):
    """Its weights; tied ones are one tensor and counted once."""
    return sum(p.numel() for p in built(config).parameters())


MULTILINGUAL = ("MT5ForConditionalGeneration", "UMT5ForConditionalGeneration")


def known_difference(config):
    """Weights of transformers 5 that the configuration's model lacks, with the reason."""
    untied = config.get("tie_word_embeddings") is False
    if untied and config["architectures"][0] in ("T5ForConditionalGeneration", *MULTILINGUAL):
        # The class ties the head whatever the file says, and unties it when it meets the published weights of T5 1.1.
        default = 250112 if config["architectures"][0] in MULTILINGUAL else 32128
        return -config.get("vocab_size", default) * config["d_model"]
    return 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_weights_transformers_gives_them(name):
    config, _ = PUBLISHED[name]
    assert read_config(config).parameters + known_difference(config) == count(config)


@pytest.mark.parametrize(
    "name", ["gpt2", "Qwen2-0.5B", "gemma-2b", "Mixtral-8x7B-v0.1", "bert-base-uncased", "t5-small", "falcon-7b"]
)
def test_every_model_class_of_a_family(name):
    """Heads, poolers and none."""
    config, _ = PUBLISHED[name]
    for model in FAMILIES[config["model_type"]].models:
        one = {**config, "architectures": [model], "num_labels": 3}
        assert read_config(one).parameters == count(one), model


MASKED = [
    (family, model)
    for family, entry in FAMILIES.items()
    for model in entry.models
    if model.endswith("ForMaskedLM") or entry.models[model].get("head") == "pretraining"
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("family", "model"), MASKED)
def test_masked_language_heads_tied_and_not(family, model, tied):
    """Untied, BERT's kind of head has a second bias, which the count has and its operations do not."""
    config = {**small(family, model), "tie_word_embeddings": tied}
    tree, theirs = read_config(config), built(config)
    names = [name for name, _ in theirs.named_parameters() if name.endswith("bias")]
    twice = any(name.removesuffix("decoder.bias") + "bias" in names for name in names if name.endswith("decoder.bias"))
    assert tree.parameters == count(config)
    assert tree.head.unembedding.spare_bias == (twice and not tied)
    assert read_config(write_config(tree, family)) == tree


LONE = [(name, one) for name, family in FAMILIES.items() for one in family.models if family.models[one].get("lone_decoder")]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("family", "model"), LONE)
def test_decoders_without_their_encoders(family, model, tied):
    """At the size of the library's defaults, with the weights of a cross-attention that nothing reads."""
    config = {"model_type": family, "architectures": [model], "tie_word_embeddings": tied, "encoder_layers": 1}
    tree, block = read_config(config), read_config(config).decoder.repeats[0].block
    assert tree.parameters == count(config)
    assert tree.parameters - tree.active_parameters == tree.depth * block.cross_attention.parameters > 0
    assert read_config(write_config(tree, family)) == tree


def test_every_decoder_without_its_encoder_is_read():
    """No class of a family of two stacks is left out."""
    both = {name for name, family in FAMILIES.items() if any("lone_decoder" in one for one in family.models.values())}
    for name, family in FAMILIES.items():
        if any(choices.get("kind") == "encoder-decoder" for choices in family.models.values()):
            prefix = next(iter(family.models)).partition("For")[0].removesuffix("MTModel")
            assert hasattr(transformers, f"{prefix}ForCausalLM") == (name in both), name


MARIAN = {"model_type": "marian", "architectures": ["MarianForCausalLM"], "vocab_size": 37, "decoder_vocab_size": 29}


@pytest.mark.parametrize("share", [True, False])
def test_a_decoder_alone_has_the_vocabulary_of_its_own(share):
    config = {**small("marian", "MarianForCausalLM"), **MARIAN, "share_encoder_decoder_embeddings": share}
    assert read_config(config).parameters == count(config) != count({**config, "decoder_vocab_size": 37})
    with pytest.raises(InputError, match="decoder_vocab_size=29 differs from vocab_size=37, the size of an untied output"):
        read_config({**config, "tie_word_embeddings": False})
    with pytest.raises(InputError, match="tie_word_embeddings=False is not supported, only True"):
        read_config({**config, "tie_word_embeddings": False, "architectures": ["MarianMTModel"]})


def test_a_second_bias_is_counted_once_for_each_token():
    config = {**small("bert", "BertForMaskedLM"), "tie_word_embeddings": False}
    tree = read_config(config)
    plain = tree.replace(head=tree.head.replace(unembedding=tree.head.unembedding.replace(spare_bias=False)))
    assert count(config) == tree.parameters == plain.parameters + SMALL["vocab"]
    assert tree.forward_flops(TOKENS) == plain.forward_flops(TOKENS)
    with pytest.raises(InputError, match=r"bert cannot express head\.unembedding\.spare_bias=False"):
        write_config(plain, "bert")
    with pytest.raises(InputError, match="spare_bias is a second bias"):
        Transformer(2, 12, 3, head_bias=False, spare_bias=True)


def test_the_encoder_of_t5_alone():
    config = {**PUBLISHED["t5-small"][0], "architectures": ["T5EncoderModel"]}
    assert read_config(config).parameters == count(config) == 35330816


@pytest.mark.parametrize("family", FAMILIES)
@FEW
@given(data=st.data())
def test_random_configurations(family, data):
    """A configuration, its tree, the configuration written from it, the tree again; transformers builds as many weights."""
    config = data.draw(configs(FAMILIES[family]))
    tree = read_config(config)
    assert tree.parameters + known_difference(config) == count(config)
    written = write_config(tree, family)
    assert read_config(written) == tree
    padded = {**written, "pad_token_id": written.get("pad_token_id", 0)}
    assert tree.parameters + known_difference(written) == count(padded)


SHAPES = st.fixed_dictionaries({
    "depth": st.integers(1, 5), "width": st.sampled_from([12, 24, 48]), "heads": st.sampled_from([1, 2, 3, 6]),
    "ffn": st.none() | st.integers(1, 50), "vocab": st.integers(4, 60), "context": st.integers(2, 60),
    "tied": st.booleans(), "activation": st.sampled_from(["relu", "gelu", "gelu_tanh", "silu"]),
})  # fmt: skip
LLAMAS = {"norm": "rmsnorm", "gated": True, "bias": False, "positions": "rotary"}
EXPRESSED = {
    "gpt2": {},
    "llama": LLAMAS,
    "mistral": {**LLAMAS, "kv_heads": 1, "window": 7},
    "mixtral": {**LLAMAS, "kv_heads": 1, "experts": 4, "top_k": 3},
    "qwen2": {**LLAMAS, "attention_bias": True},
    "qwen3": {**LLAMAS, "qk_norm": "head", "head_dim": 10},
    "qwen2_moe": {**LLAMAS, "experts": 3, "shared_ffn": 5, "shared_gate": True, "attention_bias": True},
    "olmo2": {**LLAMAS, "qk_norm": "full", "placement": "output"},
    "gpt_neox": {"positions": "rotary", "parallel": True},
    "gptj": {"positions": Rotary(interleaved=True), "parallel": True, "shared_norm": True, "attention_bias": False,
             "attention_out_bias": False, "head_bias": True},
    "opt": {"position_offset": 2, "embedding_width": 5},
    "bert": {"kind": "encoder", "placement": "post", "embedding_norm": True, "segments": 2, "head": "masked-lm",
             "head_bias": True},
    "vit": {"kind": "encoder", "positions": "none", "patch": 4, "image": 12, "head": "classifier", "classes": 7},
    "t5": {"kind": "encoder-decoder", "norm": "rmsnorm", "bias": False, "positions": "relative", "logit_scale": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("family", EXPRESSED)
@FEW
@given(shape=SHAPES)
def test_trees_of_our_own_are_built_by_transformers(family, shape):
    more = {"head_scale": shape["width"] ** -0.5} if family == "t5" and shape["tied"] else {}
    more |= {"spare_bias": not shape["tied"]} if family == "bert" else {}
    tree = Transformer(**shape, **EXPRESSED[family], **more)
    config = write_config(tree, family)
    assert read_config(config) == tree
    assert tree.parameters + known_difference(config) == count({**config, "pad_token_id": 0})


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_defaults_are_those_of_transformers(family):
    """A field that a file leaves out means the same here and there."""
    kind = type(transformers.AutoConfig.for_model(family.model_type))
    theirs = {field.name: field.default for field in dataclasses.fields(kind)}
    # Spellings of older files that the class converts; the values are compared through the models above.
    ours = {name: value for name, value in family.defaults.items() if name not in LEGACY.get(family.model_type, ())}
    legacy = LEGACY.get(family.model_type, ())
    only = {name: values[0] for name, values in family.only.items() if name not in legacy}
    for name, value in {**ours, **only}.items():
        expected = theirs.get(name)
        assert (family.model_type, name, value) == (family.model_type, name, DERIVED.get((family.model_type, name), expected))
        assert name in theirs or name in ("head_dim", "tie_word_embeddings"), name


LEGACY = {
    "modernbert": ("global_attn_every_n_layers",),
    "nomic_bert": ("tie_word_embeddings",),  # no field of its class
    # Not among the fields of its class, which reads them all the same.
    "deberta-v2": ("position_buckets", "share_att_key", "norm_rel_ebd", "conv_kernel_size"),
    "deberta": ("talking_head",),
    "bloom": ("seq_length",),
    "bart": ("num_labels",),  # no field of its own, but three by default
    **dict.fromkeys(("t5", "mt5", "umt5"), ("n_positions", "tie_word_embeddings")),
    "switch_transformers": ("n_positions",),
    "gemma3_text": ("sliding_window_pattern",),
    "cohere2": ("sliding_window_pattern",),
}
# Fields whose default the class computes when it is made.
DERIVED = {("gpt_neo", "attention_types"): [[["global", "local"], 12]], ("esm", "vocab_size"): 33, ("esm", "pad_token_id"): 1}


# GPT-J and CodeGen have one base, whatever their file says, and Ministral 3 has none but that of its table.
# Of T5Gemma each stack has its own table.
FIXED = ("gptj", "codegen", "modernbert", "ministral3", "t5gemma")
ROTATED = [name for name in FAMILIES if name not in FIXED and hasattr(read_design({"model_type": name}).positions, "base")]


@pytest.mark.parametrize("family", ROTATED)
@pytest.mark.parametrize(
    "old", [{}, {"rope_theta": 77.0}, {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 55.0}]
)
def test_rotary_bases_are_those_of_transformers(family, old):
    config = {"model_type": family, **old}
    if family == "gpt_neox":
        config = {name.replace("rope_theta", "rotary_emb_base"): value for name, value in config.items()}
    if family in ("phi3", "phimoe"):
        config.pop("rope_scaling", None)  # takes one kind of scaling only
    parsed = parse(config)
    design = read_design(config)
    table = parsed.rope_parameters
    whole = table.get("full_attention", table)
    assert whole["rope_theta"] == design.positions.base
    assert whole.get("partial_rotary_factor", 1.0) == design.positions.fraction
    if "sliding_attention" in table:
        assert table["sliding_attention"]["rope_theta"] == design.window_positions.base


WRONG = {
    "key heads ignored": ("Llama-2-70b", {"num_key_value_heads": None}),
    "a bias where there is none": ("Meta-Llama-3-8B", {"attention_bias": True}),
    "one expert fewer": ("Mixtral-8x7B-v0.1", {"num_local_experts": 7}),
    "tied": ("Llama-2-7b", {"tie_word_embeddings": True}),
    "no segments": ("bert-base-uncased", {"type_vocab_size": 0}),
    "positions": ("gpt2", {"n_positions": 1023}),
    "two norms for one": ("falcon-40b", {"num_ln_in_parallel_attn": 1}),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_comparison_can_fail(name):
    """A field read a little wrong changes the count."""
    model, change = WRONG[name]
    config, _ = PUBLISHED[model]
    assert read_config({**config, **change}).parameters != count(config)


# Operations: what torch counts while a small model of each family runs.

SMALL_ONLY = SMALL_FIELDS | {
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    # Hidden scores are counted, but those beyond a window are not, and eager attention computes them all.
    "mistral": {"sliding_window": None},
    "gemma2": {"sliding_window": 16},
    "t5gemma": gemma_stacks(),
    "olmo3": {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]},
    "exaone4": {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]},
    "cohere2": {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]},
    "gemma3_text": {"sliding_window": 16},
    "gemma3n_text": {**SMALL_FIELDS["gemma3n_text"], "sliding_window": 16},
    "llama4_text": {**SMALL_FIELDS["llama4_text"], "num_experts_per_tok": 3},  # the library runs all experts for every token
}
BATCH, TOKENS, SOURCE = 2, 11, 7


def small(family, model):
    sizes = {name: SMALL[choice] for choice, name in FAMILIES[family].names.items() if choice in SMALL}
    return {
        "model_type": family,
        "pad_token_id": 0,
        "eos_token_id": 3,
        **sizes,
        **SMALL_ONLY.get(family, {}),
        "architectures": [model],
    }


def measured(config):
    """Operations of matrix products that torch counts, with attention spelled out."""
    from torch.utils.flop_counter import FlopCounterMode

    model = built(config, "cpu", _attn_implementation="eager", _experts_implementation="eager").eval()
    model.requires_grad_(False)  # some code of the library changes tensors in place
    tokens = torch.zeros(BATCH, TOKENS, dtype=torch.long) + 3
    inputs = {"input_ids": tokens}
    stem = read_config(config).stem
    if stem.images:
        inputs = {"pixel_values": torch.zeros(BATCH, stem.channels, stem.height, stem.width_pixels)}
    elif read_config(config).kind == "encoder-decoder":
        inputs = {"input_ids": tokens[:, : source_of(config)], "decoder_input_ids": tokens}
        reader = read_config(config).reader
        if reader.vocab == 0:
            inputs = {"input_features": torch.zeros(BATCH, reader.mel_bins, 2 * reader.context), "decoder_input_ids": tokens}
    elif config["architectures"][0].endswith("MultipleChoice"):
        inputs = {"input_ids": tokens[None]}  # choices of one question
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(**inputs)
    return counter.get_total_flops()


def source_of(config):
    """The length of the text that an encoder reads; classes for whole sequences take the ends of both texts at one place."""
    return TOKENS if config["architectures"][0].endswith("SequenceClassification") else SOURCE


def expected(config):
    tree = read_config(config)
    if tree.stem.images:
        return tree.forward_flops(batch=BATCH)
    source = source_of(config) if tree.kind == "encoder-decoder" and tree.reader.fixed_context is None else None
    ours = tree.forward_flops(TOKENS, source=source, batch=BATCH)
    return ours + beyond_the_end(tree) + sum(node.active * scanned(node.layer, config) for node in tree.walk())


def scanned(layer, config):
    """Operations that torch counts in the library's recurrence of a mixer, less ours: it is chunked, or hides some."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers.models.mamba import modeling_mamba as mamba
    from transformers.models.mamba2 import modeling_mamba2 as mamba2

    def zeros(*shape):
        return torch.zeros(BATCH, *shape)

    if isinstance(layer, Mamba):
        sizes = [(layer.inner, TOKENS)] * 2, [(layer.state, TOKENS)] * 2
        steps, vectors = ([zeros(*size) for size in part] for part in sizes)
        call = functools.partial(mamba.mamba_selective_scan, *steps, torch.zeros(layer.inner, layer.state), *vectors)
    elif isinstance(layer, Mamba2):
        heads, vector = (TOKENS, layer.heads), (TOKENS, layer.groups, layer.state)
        steps = zeros(*heads, layer.head_dim), zeros(*heads), torch.zeros(layer.heads)
        chunk = config.get("chunk_size", config.get("mamba_chunk_size"))
        call = functools.partial(mamba2.mamba2_chunk_scan, *steps, zeros(*vector), zeros(*vector), chunk)
    elif isinstance(layer, GatedDeltaNet):
        from transformers.models.qwen3_next import modeling_qwen3_next as next_

        keys, values = zeros(TOKENS, layer.key_heads, layer.key_dim), zeros(TOKENS, layer.value_heads, layer.value_dim)
        gates = zeros(TOKENS, layer.value_heads)
        call = functools.partial(next_.torch_chunk_gated_delta_rule, keys, keys, values, gates, gates)
    else:
        return 0
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        call()
    return counter.get_total_flops() - layer.own_flops(Run(TOKENS, batch=BATCH))


def beyond_the_end(tree):
    """Operations of the library's convolutions on positions that it cuts off: as many as a filter has taps, less one."""
    found = [(node.active, node.layer) for node in tree.walk() if isinstance(node.layer, Convolution)]
    return sum(2 * BATCH * (one.kernel - 1) * active * one.channels * one.kernel for active, one in found)


HEADLESS = ("OPTModel", "OPTForSequenceClassification", "OPTForQuestionAnswering")  # without a narrower embedding only
CLASSES = [(name, model) for name, family in FAMILIES.items() for model in family.models if model not in HEADLESS]


@pytest.mark.parametrize(("family", "model"), CLASSES)
def test_forward_operations_are_those_torch_counts(family, model):
    """Exactly, under the convention that hidden scores are counted; torch's table of rotary angles is no matrix product."""
    config = small(family, model)
    assert expected(config) == measured(config)


def test_operations_of_opt_without_a_head():
    for model in HEADLESS:
        config = {**small("opt", model), "word_embed_proj_dim": None}
        assert expected(config) == measured(config)


def test_the_comparison_of_operations_can_fail():
    """One key head fewer, or cross-attention over the wrong sequence, is seen."""
    llama = small("llama", "LlamaForCausalLM")
    assert expected({**llama, "num_key_value_heads": 2}) != measured(llama)
    t5 = small("t5", "T5ForConditionalGeneration")
    assert read_config(t5).forward_flops(TOKENS, source=TOKENS, batch=BATCH) != measured(t5)


def test_models_draw_weights_after_one_without_draws():
    """The library keeps torch's functions when it is loaded, so that it is loaded outside of :func:`undrawn`."""
    small_one = small("llama", "LlamaForCausalLM")
    built(small_one)
    first = next(built(small_one, "cpu").parameters())
    assert 0.01 < first.std() < 0.03
