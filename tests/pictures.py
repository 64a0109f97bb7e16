"""The pictures of the documentation: ``python tests/pictures.py [FOLDER]`` draws them again, by default into docs/pictures/.

Each is one SVG file in the colours of light pages, with those of dark pages for readers whose system asks for them.
"""

import sys
from pathlib import Path

from depthwidth import Transformer, plan
from depthwidth.analysis.propagation import moments_of
from depthwidth.fitting.tournament import published_scores
from depthwidth.planning.head_allocation import allocate_heads, design_needs
from depthwidth.plots import collapse_figure, evidence_figure, heads_figure, moments_figure, plan_figure, rules_figure
from depthwidth.plots.saving import for_both_pages, svg_of

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
MOST_BYTES = 100_000


def moments():
    tree = Transformer(48, 1024, 16, vocab=50257, context=1024)
    return moments_figure({name: moments_of(tree, name) for name in ("gpt2", "xavier", "deepscale", "completep", "rezero")})


def heads():
    needs = design_needs(32, 8192, kinds=dict.fromkeys(range(20, 32), "diffuse"))
    return heads_figure(allocate_heads(4096, 8192, needs, kv_heads=8))


PICTURES = {
    "plan": lambda: plan_figure(plan("7B", preset="llama3")),
    "moments": moments,
    "heads": heads,
    "collapse": lambda: collapse_figure(1024, 24),
    "evidence": lambda: evidence_figure(published_scores()),
    "rules": rules_figure,
}


def drawn(name):
    """The text of one file."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + for_both_pages(svg_of(PICTURES[name]())) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(exist_ok=True)
    for picture in PICTURES:
        (folder / f"{picture}.svg").write_text(drawn(picture), encoding="utf-8")
