"""The table of families in the documentation is what the command prints."""

import pytest
from family_table import PAGE, printed, row_of, table

from depthwidth.architecture.hf import FAMILIES, families


@pytest.mark.slow
def test_the_table_of_families_is_current():
    page = PAGE.read_text(encoding="utf-8")
    assert printed(page) == table()
    assert f"{len(families())} families" in page


def test_a_row_follows_its_family(monkeypatch):
    """A class or a field more is seen."""
    from dataclasses import replace

    plain = row_of(FAMILIES["gpt2"])
    changed = replace(FAMILIES["gpt2"], only={**FAMILIES["gpt2"].only, "colour": (1,)}, models={"GPT2Model": {"head": "none"}})
    assert plain != row_of(changed)
    assert "`colour` other than `1`" in row_of(changed)[-1]
