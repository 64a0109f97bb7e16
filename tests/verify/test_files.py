"""Files appear whole, or stay as they were."""

import os
from pathlib import Path

import pytest

import depthwidth
import verify
from verify.files import open_whole, write_whole


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"one")
    with open_whole(path) as file:
        file.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_on_the_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"one")

    def interrupted():
        with open_whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


def test_nobody_else_makes_temporary_files():
    """The clock of a lease is a file without content; it is removed at once."""
    roots = (Path(verify.__file__).parent, Path(depthwidth.__file__).parent)
    files = [path for root in roots for path in root.rglob("*.py")]
    makers = {path.name for path in files if '}.part"' in path.read_text(encoding="utf-8")}
    assert makers == {"files.py", "leases.py"}
    assert not any("mkstemp" in path.read_text(encoding="utf-8") for path in files)
