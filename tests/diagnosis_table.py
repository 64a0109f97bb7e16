"""The tables of docs/diagnosis.md: ``python tests/diagnosis_table.py`` prints them, ``--write`` puts them into the page.

Every network of ``data/reference/trainability.csv`` is diagnosed, those that trained and those that did not; a finding of a
network that trained is a false alarm, and a network that did not train without a problem is a miss.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from depthwidth.analysis.diagnosis import diagnose
from depthwidth.analysis.diagnosis.base import SEVERITIES
from depthwidth.architecture import Transformer
from depthwidth.coefficients import reference

PAGE = Path(__file__).parents[1] / "docs" / "diagnosis.md"
START, END = "<!-- rates: python tests/diagnosis_table.py --write -->\n", "<!-- end of rates -->\n"


def network_of(row):
    """The tree of a row."""
    tree = Transformer.from_config(json.loads(row["config"])) if row["config"] else Transformer(**json.loads(row["design"]))
    return tree if row["norms"] == "1" else tree.without_norms()


def findings_of(row):
    """The findings by name."""
    tree = network_of(row)
    context = min(tree.context, int(row["context"]))
    return {found.name: found for found in diagnose(tree, row["scheme"], "bf16", remedies=(), context=context)}


def diagnosed():
    """Each row of the record with its findings."""
    return [(row, findings_of(row)) for row in reference("trainability")]


def reaches(finding, severity):
    return SEVERITIES.index(finding.severity) >= SEVERITIES.index(severity)


def tables(record):
    """Markdown: the rates of each check, and the networks that the diagnosis judges wrongly."""
    trained = [found for row, found in record if row["trained"] == "1"]
    untrained = [found for row, found in record if row["trained"] == "0"]
    names = list(dict.fromkeys(name for _, found in record for name in found))

    def share(networks, name, severity):
        having = [found[name] for found in networks if name in found]
        return f"{sum(reaches(one, severity) for one in having)} of {len(having)}" if having else ""

    lines = ["| finding | trained, but watched | trained, but a problem | untrained, a problem |", "|---|--:|--:|--:|"]
    shown = [name for name in names if not name.startswith(("overflow", "underflow")) and name != "depth_to_width"]
    for name in shown:
        cells = share(trained, name, "watch"), share(trained, name, "problem"), share(untrained, name, "problem")
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")

    def any_problem(found):
        return [name for name in shown if name in found and reaches(found[name], "problem")]

    total = [f"{sum(bool(any_problem(found)) for found in networks)} of {len(networks)}" for networks in (trained, untrained)]
    watched = sum(any(name in found and reaches(found[name], "watch") for name in shown) for found in trained)
    lines += [f"| any of these | {watched} of {len(trained)} | {total[0]} | {total[1]} |", ""]
    lines += ["| judged wrongly | trained | problems found |", "|---|---|---|"]
    for row, found in record:
        problems = any_problem(found)
        if bool(problems) == (row["trained"] == "1"):
            words = ", ".join(f"{name.replace('_', ' ')} {found[name].value:.3g}" for name in problems) or "none"
            lines.append(f"| {row['network']} | {'yes' if row['trained'] == '1' else 'no'} | {words} |")
    return "\n".join(lines) + "\n"


def edges(record, name, size):
    """The most extreme value of a finding among networks that trained, and the least extreme of those that did not.

    Of the untrained, those count that the check can tell: whose value is beyond every one that trained.
    """
    found = defaultdict(list)
    for row, findings in record:
        if name in findings:
            found[row["trained"]].append(size(findings[name].value))
    most = max(found["1"])
    return sorted(found["1"]), most, min((value for value in found["0"] if value > most), default=None)


def printed(page):
    return page.partition(START)[2].partition(END)[0]


if __name__ == "__main__":
    made = tables(diagnosed())
    if "--write" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page.replace(printed(page), made), encoding="utf-8")
    else:
        print(made)  # noqa: T201
