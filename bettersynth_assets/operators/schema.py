"""Adds operator names to the JSON Schemas. In: Data-Juicer's registry. Out: the schema files.

    python -m bettersynth_assets.operators.schema    # what `make schema` runs

Editors suggest these names; any other name is valid too, because a recipe's files and installed packages add more.
"""

from __future__ import annotations

from bettersynth_assets.config.model import PACKAGE_ROOT
from bettersynth_assets.config.schema import OperatorNames, texts
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.recipe_lists import check_kind, is_mapper
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.trust import is_reviewed, unusable


def operator_names() -> OperatorNames:
    """Return Data-Juicer's operators and ours that a recipe's list can hold, including those that need trust."""
    reviewed = [name for name, operator in sorted(registry().modules.items()) if is_reviewed(operator)]
    usable = [name for name in reviewed if _is_usable(name)]
    return OperatorNames(process=usable, select=[name for name in usable if not is_mapper(name)])


def _is_usable(name: str) -> bool:
    try:
        check_kind(name)
    except ConfigError:
        return False
    return unusable(name) is None


if __name__ == "__main__":
    for file, text in texts(operator_names()).items():
        (PACKAGE_ROOT / file).write_text(text, encoding="utf-8")
