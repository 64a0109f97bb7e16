"""Ranks of heads: against the products spelled out, of checkpoints of many families, and one sentence for what is none."""

import json

import numpy as np
import pytest
from analysis.checkpoints import ATTENTION, CONFIG, llama_tensors, saved

from depthwidth import InputError, Transformer
from depthwidth.analysis.head_ranks import PRODUCTS, head_ranks
from depthwidth.analysis.trained_weights import open_trained, weights_of
from depthwidth.initialization.tensors import parameters
from depthwidth.stored_tensors import open_tensors

safetensors = pytest.importorskip("safetensors.numpy")


def sizes(matrix):
    return np.linalg.svd(np.asarray(matrix, float), compute_uv=False)


def erank(matrix):
    shares = sizes(matrix) / sizes(matrix).sum()
    shares = shares[shares > 1e-14]
    return np.exp(-(shares * np.log(shares)).sum())


def test_ranks_are_those_of_the_products_spelled_out(tmp_path):
    tensors = llama_tensors()
    # Head 1 of the first layer uses three dimensions; head 2 none; head 3's second half is below the tolerance.
    query = tensors["model.layers.0.self_attn.q_proj.weight"]
    query[8 + 3 : 16], query[16:24], query[28:32] = 0, 0, query[28:32] * 1e-6
    found = head_ranks(open_trained(saved(tmp_path, tensors)), 1e-3)
    assert len(found.heads) == 2 * 4 * 2
    for one in found.heads:
        q, k, v, o = (tensors[f"model.layers.{one.layer}.self_attn.{name}.weight"] for name in ATTENTION)
        key = slice(8 * (one.head // 2), 8 * (one.head // 2) + 8)
        own = slice(8 * one.head, 8 * one.head + 8)
        left, right = (q[own].T, k[key]) if one.product == "query-key" else (o[:, own], v[key])
        spectrum, ranks = sizes(left @ right), one.ranks
        assert (one.dim, one.kv_head) == (8, one.head // 2)
        if one.product == "query-key" and (one.layer, one.head) == (0, 2):
            assert (ranks.effective, ranks.stable, ranks.numerical, ranks.nuclear_norm, one.balance) == (0, 0, 0, 0, 0)
            continue
        assert ranks.effective == pytest.approx(erank(left @ right), rel=1e-5)
        assert ranks.spectral_norm == pytest.approx(spectrum[0], rel=1e-5)
        assert ranks.nuclear_norm == pytest.approx(spectrum.sum(), rel=1e-5)
        assert ranks.nuclear == pytest.approx(spectrum.sum() / spectrum[0], rel=1e-5)
        assert ranks.stable == pytest.approx((spectrum**2).sum() / spectrum[0] ** 2, rel=1e-5)
        assert one.balance == pytest.approx(((left**2).sum() + (right**2).sum()) / 2 / spectrum.sum(), rel=1e-5)
        assert one.balance >= 1  # the nuclear norm is the least of that sum
    by_place = {(one.layer, one.head, one.product): one.ranks.numerical for one in found.heads}
    assert [by_place[0, head, "query-key"] for head in range(4)] == [8, 3, 0, 4]
    assert found.summaries()["query-key"]["dim"] == 8
    assert [row["heads"] for row in found.layers()] == [4] * 4


def test_heads_that_share_a_key_have_one_rank_together(tmp_path):
    tensors = llama_tensors()
    found = head_ranks(open_trained(saved(tmp_path, tensors)))
    for one in found.heads[:4]:
        q, k = (tensors[f"model.layers.0.self_attn.{name}.weight"].astype(float) for name in ("q_proj", "k_proj"))
        group = [
            q[8 * head : 8 * head + 8].T @ k[8 * one.kv_head : 8 * one.kv_head + 8]
            for head in (2 * one.kv_head, 2 * one.kv_head + 1)
        ]
        assert one.group_rank == pytest.approx(erank(np.concatenate(group)), rel=1e-6)
    assert any("heads that share one are a stack" in sentence for sentence in found.sentences())


def test_balanced_factors_have_a_balance_of_one(tmp_path):
    from depthwidth.numerics.factorisation import balanced_factors

    config = {**CONFIG, "num_key_value_heads": 4}
    tensors = llama_tensors()
    draw = np.random.default_rng(1).standard_normal
    for name in ("q_proj", "k_proj"):
        parts = []
        for head in range(4):
            target = np.random.default_rng(head).standard_normal((24, 5)) @ np.random.default_rng(9).standard_normal((5, 24))
            first, last = balanced_factors(target)
            parts.append((last.T if name == "q_proj" else first)[:8])
        tensors[f"model.layers.0.self_attn.{name}.weight"] = np.concatenate(parts).astype(np.float32)
    tensors["model.layers.0.self_attn.v_proj.weight"] = draw((32, 24)).astype(np.float32)
    for name in ("k_proj", "v_proj"):
        tensors[f"model.layers.1.self_attn.{name}.weight"] = draw((32, 24)).astype(np.float32)
    rows = [one for one in head_ranks(open_trained(saved(tmp_path, tensors, config))).heads if one.product == "query-key"]
    for one in rows[:4]:
        assert one.balance == pytest.approx(1, abs=1e-5)
        assert one.ranks.numerical == 5
        assert one.group_rank is None
    assert all(one.balance > 1.05 for one in rows[4:])  # the negative control: drawn factors


def test_our_own_names_are_read_with_and_without_those_of_a_training(tmp_path):
    tree = Transformer(depth=2, width=16, heads=2, vocab=20, context=8)
    draw = np.random.default_rng(2).standard_normal
    tensors = {site: draw(shape).astype(np.float32) for site, _, _, shape in parameters(tree)}
    for prefix in ("", "model/"):
        extra = {"optimizer/exp_avg/x": draw(3)} if prefix else {}
        safetensors.save_file({prefix + name: one for name, one in tensors.items()} | extra, tmp_path / "m.safetensors")
        weights = weights_of(open_tensors(tmp_path), tree)
        assert weights.notes == ()
        for site, role, block, _ in parameters(tree):
            assert (weights.read(role, block) == tensors[site]).all()
    assert {one.product for one in head_ranks(weights).heads} == set(PRODUCTS)


REFUSED = {
    "does not fit decoder.block.0.attention.query.weight of the configuration": {"q_proj": np.zeros((16, 24), np.float32)},
    r"of shape \[24, 16\] does not fit decoder.block.1.attention.key.weight": {"k_proj": np.ones((24, 16), np.float32)},
    "holds numbers that are not finite": {"q_proj": np.full((32, 24), np.nan, np.float32)},
    "are stored as I32|stored as I32; quantised": {"q_proj": np.zeros((32, 24), np.int32)},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_weights_of_another_shape_or_kind_get_one_sentence(sentence, tmp_path, invoke):
    tensors = llama_tensors()
    for name, one in REFUSED[sentence].items():
        tensors[f"model.layers.{1 if name == 'k_proj' else 0}.self_attn.{name}.weight"] = one
    folder = saved(tmp_path, tensors)
    with pytest.raises(InputError, match=sentence):
        head_ranks(open_trained(folder))
    result = invoke("effective-rank", folder)
    assert (result.status, result.output, result.error.count("\n")) == (2, "", 1)


def test_what_is_missing_or_more_is_noted(tmp_path):
    tensors = llama_tensors()
    del tensors["model.layers.1.self_attn.o_proj.weight"]
    tensors |= {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
        "lm_head.weight": np.ones((40, 24), np.float32),
    }
    found = head_ranks(open_trained(saved(tmp_path, tensors)))
    assert len(found.heads) == 12
    assert "tensors are missing: 'decoder.block.1.attention.out.weight'" in found.notes
    assert any("inv_freq" in note and "left out" in note for note in found.notes)
    for name in list(tensors):
        if "self_attn" in name:
            del tensors[name]
    with pytest.raises(InputError, match="no head was measured: its maps are not there"):
        head_ranks(open_trained(saved(tmp_path, tensors)))
    with pytest.raises(InputError, match="no tensor of the configuration: it is another model's"):
        open_trained(saved(tmp_path, {"a": np.ones(3, np.float32)}))
    with pytest.raises(InputError, match=r"the share 1\.5 is not in"):
        head_ranks(open_trained(saved(tmp_path, llama_tensors())), 1.5)


def test_the_command_prints_what_the_library_returns(tmp_path, invoke):
    folder = saved(tmp_path, llama_tensors())
    found = head_ranks(open_trained(folder))
    assert json.loads(invoke("effective-rank", folder, "--json").output) == json.loads(json.dumps(found.to_dict()))
    page = invoke("effective-rank", folder / "model.safetensors", folder / "config.json").output
    assert page == invoke("effective-rank", folder).output
    assert page.count("\ndecoder ") == 4
    assert "a head has 8 dimensions and uses" in page
    assert invoke("effective-rank", folder, "--per-head").output.count("\ndecoder ") == 16
    assert invoke("effective-rank", folder, "--csv").output.count("\n") == 17
    result = invoke("effective-rank", tmp_path / "none")
    assert (result.status, result.error.count("\n")) == (2, 1)


def test_the_text_stack_inside_a_model_of_images_is_found(tmp_path):
    """Its vision part has the same names for other shapes, and more blocks."""
    tensors = {name.replace("model.", "model.language_model.", 1): one for name, one in llama_tensors().items()}
    parts = [f"model.vision_tower.encoder.layers.{i}.self_attn.{name}.weight" for i in range(9) for name in ATTENTION]
    tensors |= dict.fromkeys(parts, np.ones((4, 4), np.float32))
    config = {"model_type": "llava", "text_config": CONFIG, "vision_config": {"model_type": "clip_vision_model"}}
    found = head_ranks(open_trained(saved(tmp_path, tensors, config)))
    plain = head_ranks(open_trained(saved(tmp_path / "plain", llama_tensors())))
    assert found.heads == plain.heads
    assert any("vision_tower" in note and "left out" in note for note in found.notes)


USUAL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 30}
GPT = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 30, "n_positions": 8}
FAMILIES = {
    "gpt2": GPT,
    "bloom": {"n_layer": 2, "hidden_size": 16, "n_head": 2, "vocab_size": 30},
    "codegen": {**GPT, "rotary_dim": 4},
    "gpt_bigcode": GPT,
    "gpt_neox": USUAL,
    "bert": USUAL,
    "albert": {**USUAL, "embedding_size": 8},
    "t5": {"num_layers": 2, "d_model": 16, "num_heads": 2, "d_kv": 8, "d_ff": 24, "vocab_size": 30},
    "llama": {name: value for name, value in CONFIG.items() if name != "model_type"},
    "phi3": {**USUAL, "num_key_value_heads": 1, "pad_token_id": 0},
    "opt": {**USUAL, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 16},
}


@pytest.mark.slow
@pytest.mark.hf
@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_a_checkpoint_are_those_of_the_converted_model(family, tmp_path):
    """Every weight of the tree, read without torch, is the parameter of the torch model with equal logits."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from verify import from_hf

    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    torch.manual_seed(0)
    task = {"t5": "Seq2SeqLM", "bert": "MaskedLM", "albert": "MaskedLM"}.get(family, "CausalLM")
    model = getattr(transformers, f"AutoModelFor{task}").from_config(config)
    model.save_pretrained(tmp_path)
    ours, weights = from_hf(model), open_trained(tmp_path)
    named, compared = dict(ours.named_parameters()), 0
    for site, role, block, _ in parameters(weights.tree):
        found = weights.read(role, block)
        if found is not None:
            compared += 1
            assert (named[site].detach().numpy() == found).all(), site
    assert compared == len(named)
    assert len(head_ranks(weights).heads) > 0
