"""Norms, ranks and capacity of a checkpoint: against numpy, in pieces as at once, and one sentence for what is no weight."""

import json
import tracemalloc

import numpy as np
import pytest
from analysis.checkpoints import CONFIG, llama_tensors, saved

from depthwidth import InputError
from depthwidth.analysis import capacity
from depthwidth.analysis.head_ranks import head_ranks
from depthwidth.analysis.trained_description import describe_trained
from depthwidth.analysis.trained_weights import open_trained


@pytest.fixture
def tensors():
    return llama_tensors() | {"lm_head.weight": llama_tensors(5)["model.embed_tokens.weight"]}


UNTIED = {**CONFIG, "tie_word_embeddings": False}


def test_norms_are_those_of_the_matrices(tensors, tmp_path):
    weights = open_trained(saved(tmp_path, tensors, UNTIED))
    found = describe_trained(weights)
    assert found.ranks == head_ranks(weights)
    by_name = {one.name: one for one in found.matrices}
    assert len(by_name) == 2 * 7 + 2
    for name, site in (("model.layers.1.mlp.up_proj", "decoder.block.1.feed_forward.up"), ("lm_head", "head.unembedding")):
        sizes = np.linalg.svd(tensors[f"{name}.weight"].astype(float), compute_uv=False)
        assert by_name[site].spectral == pytest.approx(sizes[0], rel=1e-3)
        assert by_name[site].frobenius == pytest.approx(np.sqrt((sizes**2).sum()), rel=1e-6)
        assert by_name[site].stable_rank == pytest.approx((sizes**2).sum() / sizes[0] ** 2, rel=2e-3)
    table = by_name["model.embed_tokens.weight"]
    assert table.spectral is None
    assert table.frobenius == pytest.approx(np.linalg.norm(tensors["model.embed_tokens.weight"]), rel=1e-6)
    rows = {row["site"]: row for row in found.norms()}
    assert rows["decoder.block.attention.query"]["copies"] == 2
    assert rows["stem.tokens"]["spectral_norm"] is None
    measures = {one.name: one for one in found.capacity}
    logs = [
        np.log(np.linalg.norm(one.astype(float), 2)) for name, one in tensors.items() if one.ndim > 1 and "embed" not in name
    ]
    assert measures["log-prod-of-spec"].value == pytest.approx(sum(logs), abs=len(logs) * 1e-3)
    assert {one.nature for one in found.capacity} == {"measure"}


def test_large_matrices_are_read_in_pieces(tensors, tmp_path, monkeypatch):
    """A head of 40 rows in pieces of 7 has the same norms; memory for pieces is that of a piece."""
    weights = open_trained(saved(tmp_path, tensors, UNTIED))
    whole = {one.name: one for one in describe_trained(weights).matrices}
    monkeypatch.setattr(capacity, "LARGEST_WHOLE", 100)
    kept = weights.stored.pieces.__func__
    monkeypatch.setattr(type(weights.stored), "pieces", lambda self, name, most=7 * 4 * 24: kept(self, name, most))
    pieces = {one.name: one for one in describe_trained(weights).matrices}
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        one, other = pieces[name], whole.get(name) or whole["head.unembedding"]
        assert one.frobenius == pytest.approx(other.frobenius, rel=1e-6)
        assert one.largest_row == pytest.approx(other.largest_row, rel=1e-6)
        if other.spectral is not None:
            assert one.spectral == pytest.approx(other.spectral, rel=1e-3)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_layers(tmp_path):
    peaks = {}
    for layers in (1, 8):
        config = {**CONFIG, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": layers, "vocab_size": 512}
        draw = np.random.default_rng(0).standard_normal
        shapes = {"self_attn.q_proj": (32, 128), "self_attn.k_proj": (16, 128), "self_attn.v_proj": (16, 128),
                  "self_attn.o_proj": (128, 32), "mlp.gate_proj": (512, 128), "mlp.up_proj": (512, 128),
                  "mlp.down_proj": (128, 512)}  # fmt: skip
        tensors = {"model.embed_tokens.weight": draw((512, 128)).astype(np.float32)}
        for i in range(layers):
            tensors |= {f"model.layers.{i}.{name}.weight": draw(one).astype(np.float32) for name, one in shapes.items()}
        weights = open_trained(saved(tmp_path / str(layers), tensors, config))
        del tensors
        describe_trained(weights)
        tracemalloc.start()
        describe_trained(weights)
        peaks[layers] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[8] < 1.2 * peaks[1]


def test_the_command_adds_them_to_the_description(tensors, tmp_path, invoke):
    folder = saved(tmp_path, tensors, UNTIED)
    plain = json.loads(invoke("describe", folder, "--no-diagnosis", "--json").output)
    found = json.loads(invoke("describe", folder, "--no-diagnosis", "--trained", folder, "--json").output)
    added = found.pop("trained")
    assert found == plain
    assert set(added) == {"effective_ranks", "norms", "matrices", "spectral_tolerance", "capacity", "notes"}
    page = invoke("describe", folder / "config.json", "--no-diagnosis", "--trained", folder / "model.safetensors").output
    assert page.startswith(invoke("describe", folder, "--no-diagnosis").output)
    for title in ("Ranks of the products of a head's maps", "Norms of the matrices", "Capacity, from the weights alone"):
        assert title in page
    assert (
        invoke("describe", folder, "--no-diagnosis", "--trained", folder, "--csv").output
        == invoke("describe", folder, "--no-diagnosis", "--csv").output
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("model.layers.1.mlp.up_proj.weight", np.full((32, 24), np.inf, np.float32), "numbers that are not finite"),
        ("model.layers.0.mlp.up_proj.weight", np.zeros((24, 32), np.float32), r"of shape \[24, 32\] does not fit"),
        ("model.norm.weight", np.zeros(7, np.float32), "does not fit decoder.norm.weight"),
    ],
)
def test_weights_that_do_not_fit_get_one_sentence(name, value, sentence, tensors, tmp_path, invoke):
    folder = saved(tmp_path, tensors | {name: value}, UNTIED)
    with pytest.raises(InputError, match=sentence):
        describe_trained(open_trained(folder))
    result = invoke("describe", folder, "--no-diagnosis", "--trained", folder)
    assert (result.status, result.output, result.error.count("\n")) == (2, "", 1)


def test_what_has_no_measures_is_noted(tensors, tmp_path, invoke):
    tensors["model.layers.0.mlp.up_proj.weight"] *= 0
    found = describe_trained(open_trained(saved(tmp_path, tensors, UNTIED)))
    assert found.capacity == ()
    assert any("no measures of capacity: decoder.block.0.feed_forward.up is zero" in note for note in found.notes)
    tensors = {name: one for name, one in tensors.items() if "self_attn" not in name and "layers.0" not in name}
    found = describe_trained(open_trained(saved(tmp_path, tensors | {"extra.3.scales": np.ones((2, 2), np.int8)}, UNTIED)))
    assert found.ranks is None
    assert any("no head was measured" in note for note in found.notes)
    assert any("1 tensors stored as I8 are left out" in note for note in found.notes)
    towers = tmp_path / "clip.json"
    towers.write_text('{"model_type": "clip"}')
    result = invoke("describe", towers, "--trained", tmp_path)
    assert result.status == 2
    assert "--trained reads the weights of one tree, and this configuration has two towers" in result.error
