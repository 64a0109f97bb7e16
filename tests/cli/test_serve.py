"""``depthwidth serve``: its page and its JSON."""

import json

import pytest

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "intermediate_size": 128, "vocab_size": 256, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


def test_the_parts_of_a_time_sum_to_it(invoke, config):
    found = json.loads(invoke("serve", config, "--tp", 2, "--batch", 4, "--json").output)
    assert [row["accelerator"] for row in found["accelerators"]] == ["A100", "H100", "H200", "B200", "MI300X", "L4"]
    for row in found["accelerators"]:
        assert row["seconds"] == pytest.approx(row["roofline"] + row["branches"] + row["calls"])
        assert row["tokens_per_second"] == pytest.approx(4 / row["seconds"])
    assert found["work"]["branches"] == 8


def test_guesses_are_marked_for_programs_too(invoke, config):
    def found(*options):
        return json.loads(invoke("serve", config, "--tp", 2, "--json", *options).output)

    plain = found()
    assert plain["guesses"] == {"branch_seconds": 5e-6, "call_seconds": 1e-5}
    for row in plain["accelerators"]:
        assert row["guessed_seconds"] == pytest.approx(8 * 5e-6 + 10 * 1e-5)
        assert row["guessed_seconds"] <= row["branches"] + row["calls"]
    own = found("--branch-time", 5e-6)
    assert own["guesses"] == {"call_seconds": 1e-5}
    assert own["accelerators"][0]["guessed_seconds"] == pytest.approx(10 * 1e-5)
    assert found("--branch-time", 0, "--call-time", 0)["guesses"] == {}
    header = invoke("serve", config, "--csv").output.splitlines()[0]
    assert header.endswith(",guessed_seconds")
    for options, words in (
        ((), "(--branch-time) and calls (--call-time) are guesses"),
        (("--call-time", "0"), "(--branch-time) are"),
    ):
        assert words in invoke("serve", config, *options).output
    measured = invoke("serve", config, "--call-time", "0", "--branch-time", "0").output
    assert "lower bound." in measured
    assert "guess" not in measured


def test_an_accelerator_of_ones_own(invoke, config):
    def seconds(*options):
        rows = json.loads(invoke("serve", config, "--json", "--branch-time", 0, *options).output)["accelerators"]
        return [row["seconds"] for row in rows]

    (plain,) = seconds("--accelerator", "h100")
    (slow,) = seconds("--accelerator", "h100", "--bandwidth", "335GB")
    assert slow == pytest.approx(10 * plain)
    assert seconds("--bandwidth", "335GB", "--memory", "1MB", "--peak", "1e15") == [slow]


def test_the_page(invoke, config):
    page = invoke("serve", config).output
    assert "weights read" in page
    assert "lower bound" in page
    result = invoke("serve", config, "--accelerator", "H1000")
    assert result.status == 2
    assert "there is no accelerator 'H1000'" in result.error
