"""Untrusted files: what is not a regular file, too large, too deep or no JSON is refused in one sentence, and nothing hangs."""

import os

import pytest

from depthwidth import InputError
from depthwidth.files import DEEPEST, MOST_VALUES, parse_json, read_regular


def test_a_regular_file_is_read(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    assert read_regular(tmp_path / "f", "file", 5) == b"12345"
    with pytest.raises(InputError, match="has 5 bytes; at most 4 are read"):
        read_regular(tmp_path / "f", "file", 4)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "nothing", "null byte"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "f"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "null byte":
        path = tmp_path / "f\0"
    sentence = {"nothing": "there is no record", "null byte": "cannot be read"}.get(kind, "is not a regular file")
    with pytest.raises(InputError, match=sentence):
        read_regular(path, "record", 10)


REFUSED = {
    "nested too deeply": "[" * 100_000,
    "nested too deeply ": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "nested too deeply  ": "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2),
    "is empty": " \n",
    "is not JSON: Expecting value at line 1, column 1": "hello",
    "has the key 'a' twice": '{"a": 1, "a": 2}',
    "too many digits": "1" * 10_000,
    "not a finite number": "[1e999]",
    "not a finite number ": '{"a": NaN}',
    "more than 64 bits": "[1" + "0" * 30 + "]",
    "half a character": r'["\ud800"]',
    "half a character ": r'{"\udfff": 1}',
    "more than 3,000,000 values": "[" + "1," * MOST_VALUES + "1]",
}


@pytest.mark.parametrize("sentence", REFUSED, ids=str.strip)
def test_json_that_is_refused(sentence):
    with pytest.raises(InputError, match=sentence.strip()):
        parse_json(REFUSED[sentence], "it")


def test_what_is_not_text_is_refused():
    with pytest.raises(InputError, match="it is not UTF-8 text"):
        parse_json(b'{"a": "\xff"}', "it")


def test_json_that_is_read():
    inside = "[" * DEEPEST + "1.5" + "]" * DEEPEST
    assert parse_json(b"\xef\xbb\xbf" + inside.encode(), "it")
    text = '{"a": [1, 2.5, null, true, "\\u00e9\\ud83d\\ude00"]}'
    assert parse_json(text, "it") == {"a": [1, 2.5, None, True, "é😀"]}
    assert parse_json("[Infinity]", "it", finite=False) == [float("inf")]
