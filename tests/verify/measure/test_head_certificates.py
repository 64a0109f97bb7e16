"""Certificates of ranks: the gradient by each product against those of its factors, at a minimum and away from one."""

import json

import pytest

torch = pytest.importorskip("torch")

from depthwidth import InputError, Transformer  # noqa: E402
from depthwidth.layers import Rotary  # noqa: E402
from depthwidth.numerics.factorisation import certificate  # noqa: E402
from verify import build  # noqa: E402
from verify.measure.head_certificates import certify  # noqa: E402

SIZES = {"depth": 2, "width": 12, "heads": 4, "head_dim": 3, "vocab": 17, "context": 6, "positions": "learned"}


def some(seed=0, **choices):
    model = build(Transformer(**SIZES | choices), "xavier", seed=seed, dtype=torch.float64)
    tokens = torch.randint(17, (3, 7), generator=torch.Generator().manual_seed(1))
    return model, [(tokens[:, :-1], tokens[:, 1:])]


def factors(model, layer, group, product, size):
    stack = "decoder" if hasattr(model, "decoder") and model.decoder is not None else "encoder"
    attention = model.get_submodule(f"{stack}.block.{layer}.attention")
    q, k, v, o = (getattr(attention, name).weight for name in ("query", "key", "value", "out"))
    own = slice(3 * group, 3 * group + 3)
    heads = [slice(3 * h, 3 * h + 3) for h in range(group * size, (group + 1) * size)]
    return ([q[h].T for h in heads], k[own]) if product == "query-key" else ([o[:, h] for h in heads], v[own])


@pytest.mark.slow
@pytest.mark.parametrize("choices", [{}, {"kv_heads": 2}, {"kind": "encoder"}, {"positions": "alibi"}, {"window": 3}], ids=str)
def test_gradients_of_products_give_those_of_their_factors(choices, monkeypatch):
    """With G the gradient by A B', that by A is G B and that by B is G' A: chain rule, for every head and product."""
    model, batches = some(**choices)
    _, loss = model(*batches[0])
    loss.backward()
    slopes = []

    def kept(slope, matrix, decay, tolerance):
        slopes.append(slope)
        return certificate(slope, matrix, decay, tolerance)

    monkeypatch.setattr("verify.measure.head_certificates.certificate", kept)
    before = {name: one.grad.clone() for name, one in model.named_parameters()}
    rows = certify(model, batches, 0.1)
    assert all((one.grad == before[name]).all() for name, one in model.named_parameters())
    groups = choices.get("kv_heads", 4)
    assert len(rows) == 2 * 2 * groups
    for row, slope in zip(rows, slopes, strict=True):
        many, shared = factors(model, row.layer, row.kv_head, row.product, 4 // groups)
        gradient = torch.from_numpy(slope)
        attention = model.get_submodule(f"decoder.block.{row.layer}.attention" if "kind" not in choices else
                                        f"encoder.block.{row.layer}.attention")  # fmt: skip
        part = attention.key if row.product == "query-key" else attention.value
        ours = (gradient.T @ torch.cat(many)).T
        theirs = part.weight.grad[3 * row.kv_head : 3 * row.kv_head + 3]
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
        for number, one in enumerate(torch.split(gradient @ shared.T, 12)):
            head = row.kv_head * (4 // groups) + number
            own = slice(3 * head, 3 * head + 3)
            grad = attention.query.weight.grad[own].T if row.product == "query-key" else attention.out.weight.grad[:, own]
            assert torch.allclose(one, grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("choices", [{}, {"fraction": 0.5}, {"interleaved": True}], ids=str)
def test_gradients_of_rotating_pairs_give_those_of_their_vectors(choices, kv_heads, monkeypatch):
    """With G the gradient by C = u v*, that by the complex vector u is G v and that by v is G* u, for every pair."""
    position = Rotary(**choices)
    model, batches = some(depth=1, head_dim=4, kv_heads=kv_heads, positions=position)
    _, loss = model(*batches[0])
    loss.backward()
    slopes = []

    def kept(slope, matrix, decay, tolerance):
        slopes.append(torch.from_numpy(slope))
        return certificate(slope, matrix, decay, tolerance)

    monkeypatch.setattr("verify.measure.head_certificates.certificate", kept)
    certify(model, batches, 0.1)
    attention, size = model.decoder.block[0].attention, 4 // kv_heads
    q, k = attention.query.weight.detach(), attention.key.weight.detach()
    q_slope, k_slope = attention.query.weight.grad, attention.key.weight.grad
    pairs = {"{}": [(0, 2), (1, 3)], "{'fraction': 0.5}": [(0, 1)], "{'interleaved': True}": [(0, 1), (2, 3)]}[str(choices)]
    found = iter(slopes)
    for group in range(kv_heads):
        heads = range(group * size, (group + 1) * size)
        for one, two in pairs:
            slope = next(found)
            u, own = (torch.cat([torch.complex(w[4 * h + one], w[4 * h + two]) for h in heads]) for w in (q, q_slope))
            v, shared = (torch.complex(w[4 * group + one], w[4 * group + two]) for w in (k, k_slope))
            assert torch.allclose(slope @ v, own, rtol=1e-9, atol=1e-12)
            assert torch.allclose(slope.conj().T @ u, shared, rtol=1e-9, atol=1e-12)
        if "fraction" in choices:  # the two dimensions that stay are a real product
            slope, still = next(found), [4 * group + 2, 4 * group + 3]
            many = torch.cat([q[[4 * h + 2, 4 * h + 3]].T for h in heads])
            assert torch.allclose((slope.T @ many).T, k_slope[still], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_pairs_that_decay_removes_are_those_whose_gradient_stays_below_it():
    """Of sixteen rotating dimensions that find the token three before; the pairs in use have a gradient of the decay."""
    model, _ = some(depth=1, heads=1, head_dim=16, context=16, norm="rmsnorm", norm_affine=False, bias=False,
                    positions=Rotary(base=30.0))  # fmt: skip
    tokens = torch.randint(17, (4, 17), generator=torch.Generator().manual_seed(1))
    batches = [(tokens[:, :-1], torch.cat([tokens[:, :3], tokens[:, :-4]], dim=1))]
    decay = 0.06
    fresh = certify(model, batches, decay)[0]
    maps = [one for name, one in model.named_parameters() if ".attention." in name]
    optimizer = torch.optim.Adam(maps, lr=2e-2, weight_decay=decay, betas=(0.9, 0.99))
    for step in range(700):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / 700)
        _, loss = model(*batches[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = certify(model, batches, decay, tolerance=0.02, share=1e-2)[0]
    assert scores.found.misalignment < 0.02 < 0.5 < fresh.found.misalignment
    assert 0 < scores.ranks.numerical < 16  # of which each pair has two
    assert scores.ranks.numerical % 2 == 0
    assert scores.ranks.numerical <= scores.predicted


def test_the_mean_over_batches_is_that_of_the_whole():
    model, [(tokens, targets)] = some()
    whole = certify(model, [(tokens, targets)], 0.1)
    parts = certify(model, [(tokens[i : i + 1], targets[i : i + 1]) for i in range(3)], 0.1)
    for one, other in zip(whole, parts, strict=True):
        assert one.found.ratios == pytest.approx(
            other.found.ratios, rel=1e-5, abs=1e-5 * one.found.ratios[0]
        )  # the loss is in float32
        assert one.to_dict()["numerical_rank"] == 3


@pytest.mark.slow
def test_a_trained_model_meets_its_certificate_and_a_fresh_one_does_not():
    """Decay is part of Adam's gradient here: near a minimum the gradient is -decay in the directions that are used."""
    model, batches = some(depth=1, head_dim=12, heads=1, norm="rmsnorm", norm_affine=False, bias=False)
    decay = 0.02
    maps = [one for name, one in model.named_parameters() if ".attention." in name]
    fresh = certify(model, batches, decay)[0]
    optimizer = torch.optim.Adam(maps, lr=2e-2, weight_decay=decay, betas=(0.9, 0.99))
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / 600)
        _, loss = model(*batches[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores, outputs = certify(model, batches, decay, tolerance=0.1, share=1e-2)
    assert scores.found.misalignment < 0.1
    assert scores.found.optimal
    assert 0 < scores.ranks.numerical <= scores.predicted < 12
    assert outputs.found.misalignment < 0.3  # its loss is flatter
    assert fresh.found.misalignment > 0.5
    assert not fresh.found.optimal


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"positions": "shaw"}, "positions multiply its queries and keys otherwise than by a rotation"),
        ({"qk_norm": "head"}, "queries and keys are normalised"),
        ({"score_softcap": 5.0}, "capped"),
    ],
)
def test_scores_that_are_no_product_are_refused(choices, sentence):
    model, batches = some(**choices)
    with pytest.raises(InputError, match=sentence):
        certify(model, batches, 0.1)
    with pytest.raises(InputError, match="decay=0 is not above 0"):
        certify(model, batches, 0)


def test_the_model_is_left_as_it_was():
    model, batches = some()
    model.train()
    with pytest.raises(InputError, match="there are no batches"):
        certify(model, [], 0.1)
    certify(model, batches, 0.1)
    assert model.training
    assert "mixed" not in vars(model.get_submodule("decoder.block.0.attention"))
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.slow
@pytest.mark.hf
def test_the_command_certifies_a_folder(tmp_path, invoke):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    gpt2 = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=16, **sizes)
    transformers.GPT2LMHeadModel(gpt2).save_pretrained(tmp_path / "gpt2")
    llama = transformers.LlamaConfig(
        num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=16, max_position_embeddings=16, **sizes
    )
    transformers.LlamaForCausalLM(llama).save_pretrained(tmp_path / "llama")
    words = ("effective-rank", tmp_path / "gpt2", "--decay", "0.01", "--context", "8")
    found = json.loads(invoke(*words, "--json").output)
    assert len(found["certificates"]) == 4
    assert {row["dim"] for row in found["certificates"]} == {8}
    page = invoke(*words).output
    assert "Ranks that the gradient certifies at a decay of 0.01" in page
    assert "of 4 products are not at a minimum" in page
    rotary = json.loads(invoke("effective-rank", tmp_path / "llama", "--decay", "0.01", "--context", "8", "--json").output)
    assert {row["dim"] for row in rotary["certificates"]} == {8}
    for arguments, sentence in (
        (("effective-rank", tmp_path / "gpt2", "--decay", "-1"), "decay=-1.0 is not above 0"),
        (("effective-rank", tmp_path / "gpt2", "--text", "x"), "--text applies with --decay only"),
        (("effective-rank", tmp_path / "gpt2", tmp_path / "gpt2", "--decay", "1"), "give no CONFIG"),
        (
            ("effective-rank", tmp_path / "gpt2" / "model.safetensors", "--decay", "1"),
            "is not a folder with config.json and safetensors",
        ),
    ):
        result = invoke(*arguments)
        assert (result.status, result.output) == (2, "")
        assert sentence in result.error.splitlines()[-1]  # the library shows its progress before
