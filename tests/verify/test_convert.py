"""Models of the transformers library as our modules: the same logits, for every family and class that is read."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may ask a server

import copy
import warnings

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import configs

from depthwidth.errors import InputError
from depthwidth.hf import FAMILIES, read_config

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

from verify import from_hf  # noqa: E402
from verify.model import Model  # noqa: E402

pytestmark = pytest.mark.hf
FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
CLOSE = 1e-4  # absolute, in float32; logits here are of order 1, so that it is some hundred roundings

SMALL = {
    "vocab": 37, "context": 16, "width": 24, "depth": 2, "heads": 6, "kv_heads": 3, "head_dim": 4, "ffn": 10, "experts": 3,
    "top_k": 2, "shared_ffn": 7,
}  # fmt: skip
SMALL_ONLY = {
    "gptj": {"rotary_dim": 2},
    "codegen": {"rotary_dim": 2, "n_head": 4},  # its query map is cut in four
    "opt": {"word_embed_proj_dim": 5},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 5},
    "falcon": {"multi_query": False},
    "stablelm": {"partial_rotary_factor": 0.5},
    "vit": {"image_size": [9, 13], "patch_size": 4, "pooler_output_size": 9},
    "t5": {"num_layers": 3, "num_decoder_layers": 2, "d_kv": 5},
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5},
    "gemma3_text": {"sliding_window": 5, "sliding_window_pattern": 2},
}
CLASSES = [(name, model) for name, family in FAMILIES.items() for model in family.models if model != "OPTModel"]


def small(family, model=None, **more):
    sizes = {name: SMALL[choice] for choice, name in FAMILIES[family].names.items() if choice in SMALL}
    model = model or next(iter(FAMILIES[family].models))
    return {"model_type": family, "pad_token_id": 0, **sizes, **SMALL_ONLY.get(family, {}), "architectures": [model], **more}


def built(config, seed=0):
    """A model of the library in which no two weights are equal, norms and biases included."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = transformers.AutoConfig.for_model(**copy.deepcopy(config))
        parsed._experts_implementation = "eager"  # the grouped kernel wants widths of multiples of four
        model = getattr(transformers, config["architectures"][0])(parsed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def inputs(config, tree, length=11, source=7):
    """For theirs and for ours: tokens that are not padding, images, or two sequences."""
    batch = 2
    generator = torch.Generator().manual_seed(5)

    def tokens(count):
        first = min(2, tree.vocab - 1)
        return torch.randint(first, tree.vocab, (batch, min(count, tree.context)), generator=generator)

    if config["model_type"] == "vit":
        images = torch.randn(batch, tree.stem.channels, tree.stem.height, tree.stem.width_pixels, generator=generator)
        return {"pixel_values": images}, {"tokens": images}
    if tree.kind == "encoder-decoder":
        text, read = tokens(length), tokens(source)
        return {"input_ids": read, "decoder_input_ids": text}, {"tokens": text, "source": read}
    text = tokens(length)
    if config["model_type"] == "bert" and tree.stem.segments is not None:
        kinds = torch.randint(0, tree.stem.segments.rows, text.shape, generator=generator)
        return {"input_ids": text, "token_type_ids": kinds}, {"tokens": text, "segments": kinds}
    return {"input_ids": text}, {"tokens": text}


def answer(model, tree, given):
    """Logits; the pooler's output or the last hidden state of a model without a head."""
    out = model(**given, use_cache=False) if tree.kind != "encoder" else model(**given)
    if tree.head is None:
        return out.last_hidden_state
    return out.pooler_output if "pooler_output" in out else out.logits


def difference(model, other, config):
    """Largest absolute difference of what two models say, the second ours or theirs."""
    tree = read_config(config)
    theirs, mine = inputs(config, tree)
    double = next(other.parameters()).dtype == torch.float64
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(other, Model):
            said = other(**mine)
        else:
            said = answer(other, tree, {k: v.double() if double and v.is_floating_point() else v for k, v in theirs.items()})
        return (answer(model, tree, theirs) - said).abs().max().item()


@pytest.mark.parametrize(("family", "model"), CLASSES)
def test_every_class_of_every_family_says_the_same(family, model):
    config = small(family, model)
    theirs = built(config)
    ours = from_hf(theirs)
    assert sum(p.numel() for p in ours.parameters()) == ours.tree.parameters == read_config(config).parameters
    assert difference(theirs, ours, config) < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
@FEW
@given(data=st.data())
def test_random_configurations_say_the_same(family, data):
    config = {"pad_token_id": 0, **data.draw(configs(FAMILIES[family]))}
    if config.get("use_sliding_window") is False:
        config.pop("layer_types", None)  # transformers looks for the window that the switch took away
    theirs = built(config)
    ours = from_hf(theirs)
    # A norm over two or three features makes much of a rounding; where theirs in two precisions differs, none is right.
    assume(difference(theirs, copy.deepcopy(theirs).double(), config) < CLOSE / 3)
    assert difference(theirs, ours, config) < CLOSE
