"""Each operator has one spec, and no other code refers to operators by name."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import entry_points

import pytest

from bettersynth_assets.config.model import PACKAGE_ROOT
from bettersynth_assets.operators import catalog
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.spec import OperatorSpec
from bettersynth_assets.operators.trust import code_reason

OURS = "bettersynth_assets.operators.ours"
MAY_NAME = {
    "operators/stock.py",  # Data-Juicer's operators, which are data here
    "operators/thresholds.py",  # the spec of clip_score_filter, next to its limits
    "miniature/quality.py",  # which planted faults of the miniature world an operator should find
}


def test_no_operator_name_appears_outside_its_spec():
    package, names = PACKAGE_ROOT / "bettersynth_assets", {*registry().modules}
    found, quoted = [], re.compile(rf"""["'](?:{"|".join(map(re.escape, names))})["']""")
    for path in sorted(package.rglob("*.py")):
        place, text = path.relative_to(package).as_posix(), path.read_text("utf-8")
        if not quoted.search(text):
            continue  # parsing is slow
        literals = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        found += [(place, name) for name in literals if isinstance(name, str) and name in names]
    own = {(f"operators/ours/{name}.py", name) for name in names}
    outside = {place for place, name in {*found} - own}
    assert outside == MAY_NAME


def test_each_of_our_modules_registers_one_class_and_one_spec_under_its_name():
    operators = {name: kind for name, kind in registry().modules.items() if kind.__module__.startswith(OURS)}
    ours = sys.modules[OURS]
    modules = {name: kind for name, kind in vars(ours).items() if getattr(kind, "NAME", None) == name}
    assert len(operators) >= 5
    assert operators.keys() == modules.keys()
    for name, kind in operators.items():
        assert kind.__module__ == f"{OURS}.{name}"
        assert catalog.all_specs()[name].name == name


def test_the_package_is_an_entry_point_of_data_juicers_group():
    (point,) = [found for found in entry_points(group="data_juicer.ops") if found.value == OURS]
    registry()
    assert point.load() is sys.modules[OURS]


def test_a_plugin_may_provide_its_spec_but_cannot_mark_itself_as_reviewed(monkeypatch):
    from data_juicer.ops.base_op import Filter

    spec = OperatorSpec(name="quiet_filter", stats=("quiet",), pure=True)
    kind = type("Quiet", (Filter,), {"__module__": "plugin.of_mine", "bettersynth_spec": spec})
    monkeypatch.setitem(registry().modules, "quiet_filter", kind)
    assert catalog.spec_of("quiet_filter") is spec
    asks = type("Asks", (kind,), {"__init__": lambda self, api_endpoint="": None})
    assert "sends rows to an address" in code_reason("quiet_filter", asks)
    with pytest.raises(ValueError, match="'words_num_filter' already has a spec: choose another name"):
        catalog.register_spec(OperatorSpec(name="words_num_filter"))


def test_an_operator_without_a_spec_gets_the_defaults():
    assert catalog.spec_of("no_such_filter") == OperatorSpec(name="no_such_filter")
