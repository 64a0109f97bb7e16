"""The table of letters in docs/glossary.md, from the domains that formulas declare.

    python tests/letters.py            # writes the table into docs/glossary.md
    python tests/letters.py --print    # prints it

One line per letter: the arguments it stands for with their meanings, their units, and the topics that use it.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

from depthwidth.formula import formulas

GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"
BEGIN, END = "<!-- letters: python tests/letters.py -->\n", "<!-- end of letters -->"


def letters() -> dict[str, set[str]]:
    """The arguments that each letter stands for, over all formulas."""
    found = defaultdict(set)
    for formula in formulas():
        for parameter in formula.parameters.values():
            found[parameter.letter].add(parameter.name)
    return dict(found)


def table() -> str:
    """The table in Markdown."""
    units, topics, meanings = defaultdict(set), defaultdict(set), defaultdict(set)
    for formula in formulas():
        for parameter in formula.parameters.values():
            topics[parameter.letter].add(formula.topic)
            meanings[parameter.letter, parameter.name].add(parameter.meaning)
            if parameter.domain.unit:
                units[parameter.letter].add(parameter.domain.unit)
    lines = ["| letter | arguments | units | topics |", "|---|---|---|---|"]
    for letter, names in sorted(letters().items(), key=lambda pair: (pair[0].lower(), pair[0])):
        cells = (_described(name, meanings[letter, name]) for name in sorted(names))
        lines.append(
            f"| `{letter}` | {'; '.join(cells)} | {'; '.join(sorted(units[letter]))} | {', '.join(sorted(topics[letter]))} |"
        )
    return "\n".join(lines) + "\n"


def _described(name: str, meanings: set[str]) -> str:
    """An argument with its shortest meaning, the most general one."""
    shortest = min(filter(None, meanings), key=lambda text: (len(text), text), default="")
    words = re.sub(r":\w+:`~?([^`]*)`|`", r"\1", shortest.partition(";")[0]).replace("|", "/")
    return f"`{name}`" + (f": {words}" if words else "")


def written(text: str) -> dict[str, set[str]]:
    """The same as :func:`letters`, read from the glossary's table."""
    block = text.partition(BEGIN)[2].partition(END)[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", block, re.MULTILINE)
    return {letter: set(re.findall(r"`(\w+)`", names)) for letter, names in rows}


def main() -> None:
    """Print the table, or write it into the glossary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--print", action="store_true", help="print the table instead")
    if parser.parse_args().print:
        print(table(), end="")  # noqa: T201
        return
    before, _, rest = GLOSSARY.read_text(encoding="utf-8").partition(BEGIN)
    GLOSSARY.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
