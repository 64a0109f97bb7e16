"""The theories, a file or a folder per topic: pure functions that read like the papers.

:func:`depthwidth.formula.formulas` finds them all. A folder exports the names of its files, so that
``from depthwidth.formulas.rules import levine_width`` needs no file name; ``_domains.py`` in it holds the arguments that its
files share. ``depthwidth formulas list --used`` lists the formulas that the calculator itself computes with.
"""
