"""Checks that the fields named by operators exist. In: a list of operators. Out: nothing, or an error.

Operators see the ``ROW_FIELDS`` of a row and the extra fields of its row in the seed file. A stat exists after an
earlier operator of the same list has written it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.catalog import all_specs, spec_of
from bettersynth_assets.operators.sample import META, SIMILARITY, STATS
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.records.seed_rows import DEEPEST_NAMES
from toolkit.suggest import nearest

ROW_FIELDS = ("id", "text", "images", STATS, META)
GIVEN_STATS = ("image_width", "image_height", SIMILARITY)
"""Stats of every row before the first operator runs."""
READ_KEYS = (
    "field_key", "text_key", "text_key_second", "query_key", "response_key", "history_key", "prompt_key", "system_key",
    "instruction_key", "upload_field", "download_field",
)  # fmt: skip
"""Arguments that name a field to read; other arguments ending in ``_key`` name fields to write."""


def fields_read(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return the fields that an operator's arguments name, as written: ``extra.score``, ``__dj__stats__.num_words``."""
    named = [value for key in READ_KEYS if isinstance(value := arguments.get(key), str) and value]
    additional_fields = spec_of(name).fields
    return [*named, *(additional_fields(arguments) if additional_fields else ())]


def top_fields(name: str, arguments: Mapping[str, Any]) -> set[str]:
    """Return the columns of these fields."""
    return {field.split(".")[0] for field in fields_read(name, arguments)}


def extra_fields_read(entries: Sequence[Operator]) -> set[str]:
    """Return the columns that a list reads and that only extra fields of the seed file can hold."""
    pairs = [next(iter(entry.items())) for entry in entries]
    return {field for name, arguments in pairs for field in top_fields(name, arguments or {})} - {*ROW_FIELDS}


def check_fields(entries: Sequence[Operator], extra: Collection[str] | None) -> None:
    """Check that each operator finds the fields that it names.

    Args:
        entries: one list of a recipe.
        extra: extra fields of the seed file's rows; None if unknown.

    Raises:
        ConfigError: a missing field; names the operator, the field and the nearest known one.
    """
    stats: set[str] | None = {*GIVEN_STATS}
    for entry in entries:
        ((name, values),) = entry.items()
        arguments = values or {}
        for field in fields_read(name, arguments):
            column, _, stat = field.partition(".")
            # The names of nested fields are known to a limited depth.
            is_extra = column in (extra or ()) and (field in (extra or ()) or field.count(".") >= DEEPEST_NAMES)
            if extra is not None and column not in ROW_FIELDS and not is_extra:
                raise ConfigError(
                    f"operator {name!r} reads the field {field!r}, which neither our rows nor the seed file's have: "
                    f"{nearest(field, [*ROW_FIELDS, *extra])}"
                )
            if column == STATS and stat and stats is not None and not {stat, stat.split(".")[0]} & stats:
                raise ConfigError(_absent_stat(name, field, stat, stats))
        _check_keys(name, arguments)
        new_stats = stats_written(name)
        stats = None if stats is None or new_stats is None else stats | {*new_stats} | {*fields_read(name, arguments)}


def _check_keys(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse keys that redirect an operator to fields that a recipe does not record."""
    kinds = {kind.__name__ for kind in registry().modules[name].__mro__}
    if arguments.get("image_key", "images") != "images":
        raise ConfigError(
            f"{name}: image_key = {arguments['image_key']!r}: a row's image is in 'images': remove the argument"
        )
    if "Mapper" in kinds and arguments.get("text_key", "text") != "text":
        raise ConfigError(
            f"{name}: text_key = {arguments['text_key']!r}: a recipe only records what a mapper does to the caption, "
            "which is in 'text': remove the argument"
        )


def _absent_stat(name: str, field: str, stat: str, stats: Collection[str]) -> str:
    pure = (operator for operator, spec in all_specs().items() if spec.pure)
    writers = sorted(operator for operator in pure if stat in (stats_written(operator) or ()))
    fix = f"put {' or '.join(writers)} before it" if writers else nearest(stat, stats)
    return f"operator {name!r} reads the field {field!r}, a stat that no operator before it in the list writes: {fix}"


def stats_written(name: str) -> tuple[str, ...] | None:
    """Return the stats that an operator writes; None for a plugin's operator that does not declare them."""
    declared = spec_of(name).stats
    return _stats_named(registry().modules[name]) if declared is None else declared


@lru_cache(maxsize=512)
def _stats_named(operator: type) -> tuple[str, ...] | None:
    """Parse the stats of a Data-Juicer operator from its source (``StatsKeys.x``); it does not declare them."""
    if not operator.__module__.startswith("data_juicer."):
        return None
    from data_juicer.utils.constant import StatsKeysConstant

    used = re.findall(r"StatsKeys\.(\w+)", inspect.getsource(inspect.getmodule(operator)))  # type: ignore[arg-type]
    return tuple(sorted({getattr(StatsKeysConstant, key) for key in used if hasattr(StatsKeysConstant, key)}))
