"""An installed package's operator: found by its entry point, used with a warning, its version in keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bettersynth_assets.config.model import PROJECT_ROOT

MODULE = """
from data_juicer.ops.base_op import OPERATORS
from bettersynth_assets.operators.row_filter import RowFilter
from bettersynth_assets.operators.spec import OperatorSpec

@OPERATORS.register_module("NAME_filter")
class PluginFilter(RowFilter):
    bettersynth_spec = OperatorSpec(name="NAME_filter", pure=True, cost="caption", stats=("plugin",))

    def reject(self, sample):
        return None
"""
ASK = """
import json
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.operators.data_juicer import build_operators, operators_key
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.trust import warning
entries, profile = [{"plugin_filter": {}}, {"newer_filter": {}}], load_profile("miniature")
built, _ = build_operators(entries, OperatorModels(profile.models), profile.gpu, device="cpu")
print(json.dumps([
    built.is_filter, operators_key(entries, OperatorModels(profile.models), profile.gpu),
    spec_of("plugin_filter").stats,
    warning("plugin_filter", registry().modules["plugin_filter"]),
]))
"""


def install(folder: Path, name: str, version: str) -> None:
    """Write a distribution with the operator ``<name>_filter`` as an installer does."""
    info = folder / f"a_{name}-1.dist-info"
    info.mkdir(parents=True)
    (folder / f"a_{name}.py").write_text(MODULE.replace("NAME", name))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a-{name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[data_juicer.ops]\n{name} = a_{name}\n")
    (info / "top_level.txt").write_text(f"a_{name}\n")


def ask(folder: Path) -> tuple[bool, dict[str, str], list[str], str]:
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", ASK], cwd=PROJECT_ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    is_filter, key, stats, words = json.loads(done.stdout.splitlines()[-1])
    return is_filter, key, stats, words


@pytest.mark.slow
def test_a_plugins_operator_is_found_with_a_warning_and_its_package_version_is_in_keys(tmp_path: Path) -> None:
    install(tmp_path, "plugin", "1.0")
    install(tmp_path, "newer", "1.1")
    is_filter, key, stats, words = ask(tmp_path)
    assert is_filter and stats == ["plugin"]
    assert key == {"plugin_filter.code": "a-plugin 1.0", "newer_filter.code": "a-newer 1.1"}
    assert words.startswith(
        "operator 'plugin_filter' comes from a plugin (a_plugin) and has not been reviewed: it may run"
    )
