"""The state that a mixer keeps for generation, beside keys and values: counted by the tree, and held by the library's cache."""

import warnings

import pytest

from depthwidth.architecture.hf import FAMILIES, read_config
from depthwidth.layers import Mixer, Run

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_convert import built, small  # noqa: E402

pytestmark = [pytest.mark.hf, pytest.mark.slow]
BATCH, LENGTH = 2, 7


def tensors_of(part):
    """Every tensor in an object of the cache, in lists and tables as well."""
    if isinstance(part, torch.Tensor):
        return [part]
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ()
    return [tensor for one in inner for tensor in tensors_of(one)]


def held(config):
    """Values in the cache of the library's model after a prompt."""
    model = built(config)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model(input_ids=torch.full((BATCH, LENGTH), 3), use_cache=True)
    cache = next(out[name] for name in ("past_key_values", "cache_params", "state") if out.get(name) is not None)
    layers = [vars(layer) for layer in cache.layers] if hasattr(cache, "layers") else cache
    return sum(tensor.numel() for tensor in tensors_of(layers) if tensor.is_floating_point())


def mixers_of(family):
    tree = read_config(small(family))
    return [node.layer for node in tree.walk() if isinstance(node.layer, Mixer)]


MIXED = [family for family in FAMILIES if mixers_of(family)]


@pytest.mark.parametrize("family", MIXED)
def test_the_state_of_a_mixer_is_what_the_library_keeps(family):
    config = small(family)
    assert read_config(config).cache_values(Run(LENGTH, batch=BATCH)) == held(config)


def test_the_comparison_can_fail():
    config = small("mamba")
    assert read_config({**config, "conv_kernel": 3}).cache_values(Run(LENGTH, batch=BATCH)) != held(config)
