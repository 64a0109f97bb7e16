"""The comparison of two checkouts' outputs sees the last digit, and tells numbers from words."""

import json

import pytest
from compare_outputs import FAMILIES, SCHEMES, SMALL, cases, compare, differences

from depthwidth import schemes


def paths(old, new, *, words_only=None):
    return [one.path for one in differences(old, new) if words_only is None or one.words_only == words_only]


def test_the_cases_cover_the_families_and_the_schemes():
    """Those that there were when the comparison was written; a later one takes part once it is added here."""
    assert len(FAMILIES) == 29
    assert all(config["model_type"] == name for name, config in FAMILIES.items())
    assert len(SMALL) == 45
    assert set(SCHEMES) <= set(schemes())
    assert len(SCHEMES) == 17
    assert len(set(cases())) == len(cases())


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": [1.0, {"b": 0.1}]}, {"a": [1.0, {"b": 0.1}]}, []),
        ({"a": [1.0, {"b": 0.1}]}, {"a": [1.0, {"b": 0.1 + 2**-56}]}, [".a[1].b"]),
        ({"a": 1}, {"a": 1.0}, [".a"]),
        ({"a": True}, {"a": 1}, [".a"]),
        ({"a": None}, {}, [".a"]),
        ({}, {"a": None}, [".a"]),
        ([1, 2], [1, 2, 3], [" (length)"]),
        ({"a": "grows by 1.25, to 3"}, {"a": "grows by 1.26, to 3"}, [".a"]),
        ({"a": "grows by 1.25"}, {"a": "1.25 is its growth"}, []),
    ],
)
def test_numbers_and_structure(old, new, found):
    assert paths(old, new, words_only=False) == found


def test_words_are_told_apart_from_numbers():
    assert paths({"a": "12 heads, 3 wide"}, {"a": "3 wide, 12 heads"}, words_only=True) == [".a"]
    assert paths({"a": "12 heads"}, {"a": "-12 heads"}, words_only=True) == []
    assert paths({"a": "12 heads"}, {"a": "12 12 heads"}, words_only=True) == []


def test_a_comparison_fails_on_any_difference(tmp_path, capsys):
    def recording(name, output, status=0):
        folder = tmp_path / name
        folder.mkdir()
        data = {"arguments": ["plan", "1T"], "status": status, "output": output, "error": ""}
        (folder / "plan.json").write_text(json.dumps(data))
        return folder

    one, same = recording("one", '{"width": 8, "why": "a"}'), recording("same", '{"width": 8, "why": "a"}')
    words, number = recording("words", '{"width": 8, "why": "b"}'), recording("number", '{"width": 9, "why": "a"}')
    failed, empty = recording("failed", '{"width": 8, "why": "a"}', status=2), tmp_path / "empty"
    empty.mkdir()
    assert compare(one, same, numbers=False) == 0
    assert compare(one, words, numbers=False) == 1
    assert compare(one, words, numbers=True) == 0
    assert compare(one, number, numbers=True) == 1
    assert "plan 1T: .output.width\n    8\n    9\n" in capsys.readouterr().out
    assert compare(one, failed, numbers=True) == 1
    with pytest.raises(SystemExit, match="holds no recording"):
        compare(one, empty, numbers=False)
    (same / "plan.json").rename(same / "describe.json")
    assert compare(one, same, numbers=True) == 1
