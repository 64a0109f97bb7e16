"""``depthwidth compute``: its JSON is the library's, its page says what is not known."""

import json
import re

from depthwidth.planning.compute import LAWS, compute_optimum


def test_the_json_is_the_library_s(invoke):
    rows = json.loads(invoke("compute", "1e20", "--law", "hoffmann2022", "--served", "1B", "--json").output)
    (row,) = rows
    found = compute_optimum(1e20, "hoffmann2022", served=1e9).to_dict()
    assert {name: row[name] for name in found} == json.loads(json.dumps(found))
    assert row["equal_parameters"]["depth"] > row["depth"]
    for one in (row, row["equal_parameters"]):
        assert 0 < one["loss_stderr"] < 0.01
    (unknown,) = json.loads(invoke("compute", "1e20", "--law", "liu2026", "--json").output)
    assert unknown["loss_stderr"] is unknown["equal_parameters"]["loss_stderr"] is None


def test_the_page(invoke):
    page = invoke("compute", "1e21").output
    for words in (*LAWS, "not known", "if operations were free"):
        assert words in page
    losses = re.findall(r" \d\.\d{4}( \+- (?:\d\.\d{4}|not known))?", page)
    assert len(losses) == 2 * len(LAWS)
    assert all(losses)  # every loss of the page has an error, or the words that none is known
    assert "liu2026: width, depth and tokens; its error is not known: the source gives" in page


def test_what_is_wrong_is_one_sentence(invoke):
    for arguments, words in (
        (("-5",), "flops"), (("1e21", "--law", "none"), "law='none'"), (("1e21", "--served", "1e30"), "takes more than"),
        (("1e21", "--preset", "mixtral"), "laws of its own"),
    ):  # fmt: skip
        result = invoke("compute", *arguments)
        assert result.status == 2
        assert words in result.error
