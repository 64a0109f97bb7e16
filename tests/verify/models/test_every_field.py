"""Every field that the library's code of a family reads, changed alone: count and logits follow, or a refusal names it.

The fields are those of the configuration class and those that the code of the model asks for (``config.NAME`` and
``getattr(config, "NAME", ...)``), which are more: ``head_dim`` is read in many families whose class does not declare it.
"""

import ast
import copy
import dataclasses
import inspect
from dataclasses import replace

import pytest
from helpers import quiet_transformers

from depthwidth.architecture.hf import FAMILIES, read_config
from depthwidth.errors import InputError

torch = pytest.importorskip("torch")
transformers = quiet_transformers()

from test_convert import CLOSE, built, difference, small  # noqa: E402

from verify import from_hf  # noqa: E402

pytestmark = [pytest.mark.hf, pytest.mark.slow]

ELSEWHERE = {
    "architectures", "id2label", "num_labels",  # of heads, which have tests of their own
    "text_config",  # of files of several parts
    "tie_word_embeddings",  # of T5 it is not what the class builds, which test_hf_transformers.py states
    "scale_decoder_outputs",  # the same
    "initializer_factor", "initializer_range", "init_std",  # of starting values
    "expert_capacity",  # a limit on the tokens of an expert, which a note leaves out
}  # fmt: skip
ENDS = ("_token_id", "dropout", "_pdrop", "output_attentions")
"""Ends of the names of fields that choose rows of a table, act in training only, or ask for further outputs."""


def fields_read(family):
    """The names of the fields that a family's configuration class declares or its model's code reads, with their types."""
    entry = FAMILIES[family]
    kind = type(transformers.AutoConfig.for_model(family))
    declared = {one.name: str(one.type) for one in dataclasses.fields(kind)}
    common = {one.name for one in dataclasses.fields(transformers.PreTrainedConfig)}
    names = set(declared) - common
    for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(getattr(transformers, next(iter(entry.models))))))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config"):
            names.add(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) == 3:
            owner, name = node.args[:2]
            if ast.unparse(owner).endswith("config") and isinstance(name, ast.Constant):
                names.add(name.value)
    kept = {name for name in names - ELSEWHERE if not name.endswith(ENDS) and not name.startswith("_")}
    return {name: declared.get(name, "int") for name in sorted(kept)}


def others(name, value, kind):
    """Other values of a field that may be legal."""
    if isinstance(value, bool):
        return [not value]
    if name.endswith(("_act", "act_fn", "activation", "activation_function")) and isinstance(value, str):
        return ["relu" if value != "relu" else "gelu_new"]
    if isinstance(value, (int, float)):
        return [2 * value, value - 1 if isinstance(value, int) else value / 2]
    if value is None:
        return [one for word, one in (("bool", True), ("int", 2), ("float", 0.5)) if word in kind]
    return []


def fault(config, name):
    """A sentence on a field that is neither followed nor refused by its name; empty if there is none."""
    try:
        theirs = built(config)
    except Exception:
        return ""  # no model of the library: nothing to compare
    count = sum(parameter.numel() for parameter in theirs.parameters())
    try:
        tree = read_config(config)
    except InputError as error:
        words = [name, *(other for other, own in FAMILIES[config["model_type"]].aliases.items() if own == name)]
        return "" if any(word in str(error) for word in words) else f"refused without its name: {error}"
    if tree.parameters != count:
        return f"{tree.parameters} parameters instead of {count}"
    try:
        ours = from_hf(theirs)
    except InputError:
        return ""
    try:
        found = difference(theirs, ours, config)
    except (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError, AttributeError):
        return ""  # the library's code does not run
    return "" if found < CLOSE else f"logits differ by {found}"


def faults(family):
    config, found = small(family), []
    parsed = transformers.AutoConfig.for_model(**copy.deepcopy(config))
    for name, kind in fields_read(family).items():
        value = config.get(name, getattr(parsed, name, None))
        for other in others(name, value, kind):
            sentence = fault({**config, name: other}, name)
            if sentence:
                found.append(f"{name}={other!r}: {sentence}")
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_is_followed_or_refused(family):
    assert not faults(family)


def test_a_field_that_is_not_read_is_seen(monkeypatch):
    """Granite without its heads' own size, and with scores that its field does not scale."""
    plain = FAMILIES["granite"]
    cases = (("head_dim", "head_dim", "parameters instead of"), ("logit_scale", "attention_multiplier", "differ"))
    for choice, name, words in cases:
        names = {key: value for key, value in plain.names.items() if key != choice}
        monkeypatch.setitem(FAMILIES, "granite", replace(plain, names=names))
        found = [one for one in faults("granite") if one.startswith(name)]
        assert found
        assert all(words in one for one in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_spellings_are_those_of_the_class(family):
    """``attribute_map`` of a configuration class: the library sets the second field by the first."""
    entry = FAMILIES[family]
    spellings = getattr(type(transformers.AutoConfig.for_model(family)), "attribute_map", None) or {}
    read = {*entry.defaults, *entry.only, *entry.names.values()}
    asked = {name: own for name, own in spellings.items() if own in read and name not in read}
    assert {name: entry.aliases.get(name) for name in asked} == asked
