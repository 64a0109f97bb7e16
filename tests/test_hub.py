"""Configurations from the hub: a server on this machine speaks its protocol, and a folder has the form of its cache."""

import json
import os
import subprocess
import sys

import hub_server
import pytest
from helpers import PATIENCE
from hub_server import COMMIT, GPT, OLDER, TOKEN

from depthwidth.hub import Repository, repository_of

pytest.importorskip("huggingface_hub")

READ = """
import json, sys
from depthwidth import InputError, hub
from depthwidth.architecture.hf import read_source
found, patience = {}, hub.LONGEST
for name in json.loads(sys.argv[1]):
    hub.LONGEST = 2.0 if name == "owner/slow" else patience  # the others may take a while on a busy machine
    try:
        fields = read_source(name)
        found[name] = [fields["n_layer"], fields.read_from, list(fields.notes)]
    except InputError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def run(*words, folder, **environment):
    """A fresh process, as the library reads its environment when it is imported; standard error stays empty."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    plain |= {"HF_HOME": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run([sys.executable, *words], env=plain, capture_output=True, text=True, check=False, timeout=PATIENCE)  # noqa: S603


def read(names, folder, **environment):
    """The answers to names, of one process."""
    done = run("-c", READ, json.dumps(names), folder=folder, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hub():
    with hub_server.hub() as server:
        yield server


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/model", ("owner/model", None)),
        ("gpt2", ("gpt2", None)),
        ("owner/model@v1.0", ("owner/model", "v1.0")),
        ("owner/model@refs/pr/1", ("owner/model", "refs/pr/1")),
        ("a/b/c", None),
        ("./model", None),
        ("/owner/model", None),
        ("owner/model/", None),
        ("owner/config.json", None),
        ("owner/weights.gguf", None),
        ("../model", None),
        ("owner/..", None),
        ("owner\\model", None),
        ("owner/model@", None),
        ("", None),
        ("o\nwner/model", None),
        ("é/model", None),
    ],
)
def test_names_of_repositories(name, expected):
    assert repository_of(name) == (None if expected is None else Repository(*expected))


ANSWERS = {
    "owner/model": [2, COMMIT],
    "gpt": [2, COMMIT],
    "owner/model@old": [3, OLDER],
    f"owner/model@{OLDER}": [3, OLDER],
    "owner/renamed": [2, COMMIT],
    "owner/elsewhere": [2, COMMIT],
    "owner/nowhere": "has no repository 'owner/nowhere' that can be read; a private one needs HF_TOKEN",
    "owner/private": "has no repository 'owner/private' that can be read; a private one needs HF_TOKEN",
    "owner/model@none": "the repository 'owner/model' has no revision 'none'",
    "owner/no-config": "the repository 'owner/no-config' has no config.json",
    "owner/gated": "the repository 'owner/gated' is gated: ask for access at {hub}/owner/gated, and set HF_TOKEN",
    "owner/gated-unknown": "the repository 'owner/gated-unknown' is gated",
    "owner/forbidden": "does not let you read 'owner/forbidden' (status 403)",
    "owner/unavailable": "{hub} answers with status 503",
    "owner/no-hub": "{hub} does not answer as the hub does",
    "owner/hanging": "{hub} does not answer in time",
    "owner/slow": "{hub} did not send the file within 2 s",
    "owner/damaged": "config file config.json of 'owner/damaged' is not JSON",
    "owner/list": "config file config.json of 'owner/list' holds a JSON list, not an object",
    "owner/large": "config.json of the repository 'owner/large' has 6,000,000 bytes; at most 5,000,000 are read",
    "owner..model": "there is no config file 'owner..model'",
}


@pytest.mark.slow
def test_each_answer_of_the_hub(hub, tmp_path):
    """Existing files are read, missing ones give one sentence; no request to another host carries a token."""
    hub.seen.clear()
    found = read(list(ANSWERS), tmp_path, HF_ENDPOINT=hub.address, HF_HUB_ETAG_TIMEOUT="3", HF_HUB_DOWNLOAD_TIMEOUT="5")
    for name, expected in ANSWERS.items():
        if isinstance(expected, list):
            layers, commit = expected
            place = "the local cache of the hub" if name.endswith(OLDER) else hub.address  # "old" has brought it there
            source = f"config.json of {name.partition('@')[0]} at commit {commit[:12]}, from {place}"
            assert found[name] == [layers, source, [f"the configuration is {source}"]]
        else:
            assert expected.format(hub=hub.address) in found[name]
            assert "\n" not in found[name]
    assert {path.rpartition("/")[2] for verb, path, _ in hub.seen if verb == "GET" and "/resolve/" in path} == {"config.json"}


@pytest.mark.slow
def test_a_repository_of_weights_alone_is_counted_by_their_headers(hub, tmp_path):
    words = ("-m", "depthwidth", "describe", "owner/weights", "--json")
    found = json.loads(run(*words, folder=tmp_path, HF_ENDPOINT=hub.address).stdout)
    assert (found["parameters"], found["weight_bytes"], found["theory"]) == (12, 32, False)
    assert found["read_from"] == "the headers of the tensors of owner/weights on the hub"
    assert not list(tmp_path.rglob("*.safetensors"))  # no weights were downloaded
    damaged = run("-m", "depthwidth", "describe", "owner/damaged-weights", folder=tmp_path, HF_ENDPOINT=hub.address)
    assert (damaged.returncode, damaged.stderr.count("\n")) == (2, 1)
    assert "the header of a safetensors file of 'owner/damaged-weights' is damaged" in damaged.stderr


@pytest.mark.slow
def test_tokens_and_the_cache(hub, tmp_path):
    """A token opens a private repository and is sent to no other host; what was read once is read again without the hub."""
    hub.seen.clear()
    names = ["owner/private", "owner/elsewhere"]
    online = read(names, tmp_path, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    assert [answer[0] for answer in online.values()] == [2, 2]
    assert {token for _, path, token in hub.seen if "owner/private" in path} == {f"Bearer {TOKEN}"}
    assert [token for _, path, token in hub.seen if path.startswith("/cdn/")] == [None]
    hub.seen.clear()
    again = read([*names, "owner/model"], tmp_path, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    assert again["owner/private"][1] == f"config.json of owner/private at commit {COMMIT[:12]}, from the local cache of the hub"
    assert "owner/model' is not in the cache of the hub; HF_HUB_OFFLINE is set" in again["owner/model"]
    assert hub.seen == []
    wrong = read(["owner/model"], tmp_path / "other", HF_ENDPOINT=hub.address, HF_TOKEN="hf_wrong")  # noqa: S106
    assert "(status 401): HF_TOKEN is wrong or lacks the permission" in wrong["owner/model"]


def made_cache(home, name="owner/model", fields=GPT):
    """A folder as the library leaves it: a reference, a blob and a link to it."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    for part in ("refs", "blobs", f"snapshots/{COMMIT}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs" / "abc").write_text(json.dumps(fields))
    (folder / "snapshots" / COMMIT / "config.json").symlink_to("../../blobs/abc")
    return folder


COMMANDS = (
    ("describe", "owner/model", "--no-diagnosis"), ("moments", "owner/model"), ("init", "owner/model"),
    ("heads", "owner/model"), ("serve", "owner/model"), ("check-invariance", "owner/model"), ("compare", "owner/model", "4x64"),
    ("plan", "1M", "--like", "owner/model"), ("compute", "1e18", "--like", "owner/model", "--law", "liu2026"),
    ("describe", "owner/model@main", "--no-diagnosis"),
)  # fmt: skip


@pytest.fixture
def cached(monkeypatch, tmp_path):
    made_cache(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_reads_the_cache_and_says_so(invoke, cached, words):
    result = invoke(*words)
    assert (result.status, result.error) == (0, "")
    source = f"config.json of owner/model at commit {COMMIT[:12]}, from the local cache of the hub"
    assert result.output.count(source) == 1


def test_a_path_comes_before_a_repository(invoke, cached):
    """A folder of that name is read, and its faults are told, even if the cache has a repository of the same name."""
    (cached / "owner" / "model").mkdir(parents=True)
    result = invoke("describe", "owner/model")
    assert (result.status, result.error) == (2, "Error: folder 'owner/model' has no config.json\n")
    (cached / "owner" / "model" / "config.json").write_text(json.dumps(GPT | {"n_layer": 5}))
    found = json.loads(invoke("describe", "owner/model", "--no-diagnosis", "--json").output)
    assert (found["depth"], found["read_from"]) == (5, "owner/model")


def test_json_says_what_was_read(invoke, cached):
    found = json.loads(invoke("describe", "owner/model", "--no-diagnosis", "--json").output)
    assert found["read_from"] == f"config.json of owner/model at commit {COMMIT[:12]}, from the local cache of the hub"
    assert found["depth"] == 2


def test_without_the_library_one_sentence_names_the_extra(invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = invoke("describe", "owner/model")
    assert result.status == 2
    assert result.error == (
        "Error: there is no config file 'owner/model', and pip install 'depthwidth[hub]' reads the repositories of the Hugging "
        "Face hub\n"
    )


@pytest.mark.slow
def test_a_cache_that_cannot_be_written(hub, tmp_path):
    """The negative control of the cache: without one the file is not read from anywhere else."""
    (tmp_path / "hub").write_text("a file in the place of the folder")
    found = read(["owner/model"], tmp_path, HF_ENDPOINT=hub.address)
    assert "the cache of the hub cannot be written" in found["owner/model"]


def test_a_user_without_a_home_folder_has_no_cache(monkeypatch):
    """As in a container of an unknown user: the library then asks for ``~`` in vain."""
    import huggingface_hub

    from depthwidth.hub import cached_models

    def ask(*_, **__):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    assert cached_models(Repository("owner/model", None)) == []


def test_weights_in_the_cache_are_read_by_name(invoke, cached):
    """`effective-rank` and `describe --trained` take the name of a repository whose weights the cache holds, and no other."""
    from analysis.checkpoints import CONFIG, llama_tensors, saved

    refused = invoke("effective-rank", "owner/model")
    assert (refused.status, refused.error.count("\n")) == (2, 1)
    assert "the cache of the hub holds no safetensors of that name; weights are not downloaded here" in refused.error
    snapshot = cached / "hub" / "models--owner--model" / "snapshots" / COMMIT
    (snapshot / "config.json").unlink()
    saved(snapshot, llama_tensors(), CONFIG)
    named = json.loads(invoke("effective-rank", "owner/model", "--json").output)
    assert named["heads"] == json.loads(invoke("effective-rank", snapshot, "--json").output)["heads"]
    found = json.loads(invoke("describe", "owner/model", "--trained", "owner/model@main", "--json").output)
    assert found["trained"]["norms"]


@pytest.mark.slow
@pytest.mark.hf
def test_heads_are_measured_by_name(invoke, cached):
    pytest.importorskip("transformers")
    from analysis.checkpoints import CONFIG, llama_tensors, saved

    config = CONFIG | {"vocab_size": 256, "max_position_embeddings": 64}
    tensors = llama_tensors()
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].repeat(7, axis=0)[:256]
    refused = invoke("heads", "owner/model", "--measure")
    assert "the cache of the hub holds no safetensors of that name" in refused.error
    snapshot = cached / "hub" / "models--owner--model" / "snapshots" / COMMIT
    (snapshot / "config.json").unlink()
    saved(snapshot, tensors, config)
    (cached / "text.txt").write_text("a text of a few words, " * 40)
    words = ("--measure", "--text", cached / "text.txt", "--context", "16", "--json")
    named, plain = (json.loads(invoke("heads", model, *words).output) for model in ("owner/model", snapshot))
    assert named == plain
    assert len(named["measured"]) == 8
