"""Models in GGUF on the hub: a header is read in parts, from a server on this machine that speaks the hub's protocol."""

import json

import hub_server
import pytest
from gguf_files import KEYS, SHAPES, write_file
from hub_server import COMMIT, MODELS, PLAIN
from test_hub import run

pytest.importorskip("huggingface_hub")
pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

READ = """
import json, sys
from depthwidth import InputError, Transformer, hub
from depthwidth.architecture.hf import read_source
hub.BLOCK, hub.LONGEST = 2048, 8.0
found = {}
for name in json.loads(sys.argv[1]):
    try:
        fields = read_source(name)
        found[name] = [Transformer.from_config(fields).depth, fields.read_from, list(fields.notes)]
    except InputError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def read(names, folder, **environment):
    """The answers to names, of one process; standard error stays empty."""
    done = run("-c", READ, json.dumps(names), folder=folder, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of one, two and three blocks, the first long, and one model in two parts."""
    folder = tmp_path_factory.mktemp("models")

    def written(name, blocks, keys=KEYS, shapes=SHAPES, **options):
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("blk.") or int(key.split(".")[1]) < blocks}
        shapes |= {key.replace("blk.0", "blk.2"): shape for key, shape in SHAPES.items() if blocks == 3 and "blk.0" in key}
        return write_file(
            folder / name, "llama", keys | {"block_count": blocks} if keys else keys, shapes, **options
        ).read_bytes()

    half = dict(list(SHAPES.items())[:10])
    parts = [half, {name: shape for name, shape in SHAPES.items() if name not in half}]
    split = [{"split.count": 2, "split.no": i, "split.tensors.count": len(SHAPES)} for i in range(2)]
    return {
        "one": written("one.gguf", 1),
        "two": written("two.gguf", 2),
        "three": written("three.gguf", 3, tokens=2000),
        "first": write_file(folder / "first.gguf", "llama", KEYS | split[0], parts[0]).read_bytes(),
        "second": write_file(folder / "second.gguf", "llama", split[1], parts[1]).read_bytes(),
    }


@pytest.fixture(scope="module")
def hub(files):
    MODELS.update({
        "owner/only-GGUF": {"README.md": b"", "only-f16.gguf": files["two"], "mmproj-only-f16.gguf": b"GGUF"},
        "owner/several-GGUF": {"m-IQ2_XS.gguf": files["one"], "m-Q4_K_M.gguf": files["three"], "m-Q8_0.gguf": files["two"]},
        "owner/parts-GGUF": {f"Q8_0/m-Q8_0-0000{i}-of-00002.gguf": files[part] for i, part in ((1, "first"), (2, "second"))},
        "owner/part-missing": {"m-00001-of-00002.gguf": files["first"]},
        "owner/damaged-GGUF": {"m.gguf": files["two"][:700]},
        "owner/nothing": {"README.md": b""},
        PLAIN: {"m.gguf": files["two"]},
    })  # fmt: skip
    with hub_server.hub() as server:
        yield server
    MODELS.clear()


def source(file, repository, hub):
    return f"{file} of {repository} at commit {COMMIT[:12]}, from {hub.address}"


ANSWERS = {
    "owner/only-GGUF": (2, "only-f16.gguf"),
    "owner/several-GGUF": (3, "m-Q4_K_M.gguf"),
    "owner/several-GGUF:Q8_0": (2, "m-Q8_0.gguf"),
    "owner/several-GGUF:iq2_xs@main": (1, "m-IQ2_XS.gguf"),
    "owner/parts-GGUF": (2, "m-Q8_0-00001-of-00002.gguf"),
    "owner/parts-GGUF:Q8_0": (2, "m-Q8_0-00001-of-00002.gguf"),
    "owner/several-GGUF:Q8": "no model in GGUF of 'owner/several-GGUF' ends in 'Q8'; it has m-IQ2_XS, m-Q4_K_M, m-Q8_0",
    "owner/model:Q8_0": "no model in GGUF of 'owner/model' ends in 'Q8_0'; it has none",
    "owner/part-missing": "the repository 'owner/part-missing' has no m-00002-of-00002.gguf",
    "owner/damaged-GGUF": "is truncated in its header: it has 700 bytes",
    "owner/nothing": "there is no config file 'owner/nothing', and the repository 'owner/nothing' has no config.json",
    PLAIN: "{hub} does not send parts of files as the hub does",
}


def test_each_answer(hub, tmp_path):
    """A model that is named, the usual one, one in parts; what fails is one sentence, and nothing is left in the cache."""
    found = read(list(ANSWERS), tmp_path, HF_ENDPOINT=hub.address)
    for name, expected in ANSWERS.items():
        if isinstance(expected, str):
            assert expected.format(hub=hub.address) in found[name]
            assert "\n" not in found[name]
        else:
            blocks, file = expected
            assert found[name][:2] == [blocks, source(file, name.partition(":")[0], hub)]
            assert found[name][2][0].startswith(f"the configuration is the header of {found[name][1]}, whose tensors take ")
    notes = found["owner/several-GGUF"][2]
    assert "the repository has 3 models in GGUF; owner/several-GGUF:m-Q8_0 reads another" in notes
    assert not list(tmp_path.rglob("*.gguf"))


def test_only_the_parts_that_are_read_are_sent(hub, files, tmp_path):
    """Weights and the long list of tokens are passed over; the negative control is a block as long as the file."""
    hub.sent.clear()
    read(["owner/several-GGUF:Q4_K_M"], tmp_path, HF_ENDPOINT=hub.address)
    assert max(hub.sent) == 2048
    assert sum(hub.sent) < 0.8 * len(files["three"])
    hub.sent.clear()
    whole = READ.replace("2048", "10**6")
    assert run("-c", whole, '["owner/several-GGUF:Q4_K_M"]', folder=tmp_path, HF_ENDPOINT=hub.address).returncode == 0
    assert hub.sent == [len(files["three"])]


def test_a_model_in_the_cache_is_read_without_the_hub(hub, files, tmp_path):
    folder = tmp_path / "hub" / "models--owner--only-GGUF"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "m.gguf").write_bytes(files["three"])
    hub.seen.clear()
    names = ["owner/only-GGUF", "owner/only-GGUF:m", "owner/several-GGUF"]
    found = read(names, tmp_path, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    place = f"m.gguf of owner/only-GGUF at commit {COMMIT[:12]}, from the local cache of the hub"
    assert [found[name][:2] for name in names[:2]] == [[3, place]] * 2
    assert "is not in the cache of the hub; HF_HUB_OFFLINE is set" in found["owner/several-GGUF"]
    assert hub.seen == []


def test_commands_take_the_name(hub, tmp_path):
    done = run("-m", "depthwidth", "describe", "owner/several-GGUF:Q8_0", "--no-diagnosis", "--json", folder=tmp_path,
               HF_ENDPOINT=hub.address)  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["depth"], found["read_from"]) == (2, source("m-Q8_0.gguf", "owner/several-GGUF", hub))
