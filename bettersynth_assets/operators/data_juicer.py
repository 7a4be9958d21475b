"""Builds a recipe's list of operators. In: YAML entries with limits. Out: Data-Juicer operators and their key.

``recipe_lists`` defines what a list may contain. Model arguments that the recipe omits come from the profile.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.config.resolved_model import files_fingerprint
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.apply import BuiltFilter, BuiltMapper
from bettersynth_assets.operators.built import BuiltOperator
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.custom_operators import code_key
from bettersynth_assets.operators.dataset_operators import BuiltSetOperator
from bettersynth_assets.operators.fields import top_fields
from bettersynth_assets.operators.image_classifiers import BuiltClassifier, flips
from bettersynth_assets.operators.local_models import (
    checked_paths,
    loading_from,
    local_fingerprint,
    needs_of,
)
from bettersynth_assets.operators.operator_calls import operator_context
from bettersynth_assets.operators.recipe_lists import check_operators, entry_of, needs_set
from bettersynth_assets.operators.sandbox import operator_environment, registry
from bettersynth_assets.operators.trust import PLACE, nested

if TYPE_CHECKING:
    from data_juicer.ops.base_op import OP


def own_similarity(entries: Sequence[Operator]) -> bool:
    """Whether an operator of this list scores differently from clip_scores (other model, flipped images)."""
    return any(spec_of(name).measures_similarity_with & arguments.keys() for name, arguments in map(entry_of, entries))


def compares_images(entries: Sequence[Operator]) -> bool:
    """Whether an operator of this list uses the embeddings stored by clip_scores, not those of another model."""
    pairs = [(spec_of(name).embeddings_unless, arguments) for name, arguments in map(entry_of, entries)]
    return any(replaced_by is not None and not replaced_by & arguments.keys() for replaced_by, arguments in pairs)


def operators_key(entries: Sequence[Operator], models: OperatorModels, gpu: Gpu) -> dict[str, Any]:
    """Return what identifies a list's models and code, for keys.

    Holds the fingerprints of the profile's models and of named folders, by operator, the code of external operators,
    and how classifiers run if that differs from Data-Juicer.
    """
    pairs = [entry_of(entry) for entry in entries]
    specs = {name: spec_of(name) for name, _ in pairs}
    loaded = {name: models.model(spec.model.role) for name, spec in sorted(specs.items()) if spec.model}
    paths = {
        f"{name}.{argument}": files_fingerprint(Path(value))
        for name, arguments in pairs
        for argument, key, value in nested(arguments)
        if PLACE.search(key) and isinstance(value, str) and "/" in value and Path(value).exists()
    }
    local = {
        f"{name}.{need.role}": local_fingerprint(name, need, arguments, models)
        for name, arguments in pairs
        for need in needs_of(name, arguments)
    }
    options: dict[str, Any] = {}
    if any(spec.classifier for spec in specs.values()):
        options |= gpu.key("operators")
    options |= code_key(specs)
    options |= {f"{name}.way": spec.execution for name, spec in specs.items() if spec.execution}
    fingerprints = {name: model.fingerprint for name, model in loaded.items() if model is not None}
    return paths | local | options | fingerprints


def build_operators(
    entries: Sequence[Operator],
    models: OperatorModels,
    gpu: Gpu,
    *,
    device: str,
    shards: int = 1,
    trusted_code: bool = False,
) -> list[BuiltOperator]:
    """Build a list with resolved limits.

    Args:
        entries: a ``process:`` list.
        models: the profile's models.
        gpu: how the profile runs models.
        device: torch's name of the device that operators with a model use.
        shards: number of shards that the rows are split into; 1 if the operators receive all rows at once.
        trusted_code: setting of the profile.

    Raises:
        ConfigError: as ``check_operators``; a model that does not exist; a value that the operator refuses; an operator
            that needs all rows but would see one shard of several.
    """
    set_operators = [name for name, _ in map(entry_of, entries) if needs_set(name)]
    if set_operators and shards > 1:
        raise ConfigError(
            f"operator {set_operators[0]!r} needs all rows at once, but this profile splits them into {shards} "
            "shards: move it to the recipe's `budget.select`, which sees the rows of all shards, or set `shards: 1` in "
            "the profile"
        )
    # Limits are resolved here; the recipe's values for these operators were checked before.
    limited = [name for name, _ in map(entry_of, entries) if spec_of(name).limits]
    unlimited = [entry for entry in entries if entry_of(entry)[0] not in limited]
    check_operators(unlimited, trusted_code=trusted_code)
    if limited and own_similarity(entries):
        rescoring = next(name for name, arguments in map(entry_of, entries) if own_similarity([{name: arguments}]))
        raise ConfigError(
            f"{rescoring} with its own model and {limited[0]} are in one list, but Data-Juicer stores one similarity "
            "per row: remove `hf_clip`, or one of the two operators"
        )
    built = []
    for entry in entries:
        name, arguments = entry_of(entry)
        limits = json.dumps(arguments, sort_keys=True)
        spec = spec_of(name)
        if spec.model and (model := models.model(spec.model.role)) is not None:
            arguments.setdefault(spec.model.argument, model.name)
        if spec.check and not spec.limits:
            spec.check(arguments)
        local = checked_paths(name, arguments, models)
        options = device, gpu.decode, gpu.dtype
        kind = registry().modules[name]
        built.append(_build(name, kind, limits, json.dumps(arguments, sort_keys=True), *options, local))
    return built


@lru_cache(maxsize=32)
def _build(
    name: str,
    kind: type,
    limits: str,
    arguments_json: str,
    device: str,
    decode: str,
    dtype: str,
    local: tuple[tuple[str, str], ...],
) -> BuiltOperator:
    """Build one operator; cached for all shards of the process, because it holds its model.

    Args:
        name: the operator.
        kind: its class; another recipe's file may have registered a different class under this name.
        limits: see ``BuiltOperator``.
        arguments_json: its arguments.
        device: torch's name of the device.
        decode: see ``Gpu`` of the profile.
        dtype: see ``Gpu`` of the profile.
        local: role and path of each of the profile's models that it loads and that is not from the hub.
    """
    from data_juicer.ops.base_op import Filter

    arguments = json.loads(arguments_json)
    accelerator = {"accelerator": "cpu"} if device == "cpu" else {}
    with operator_context(name, arguments_json, "while it was built"), operator_environment(), loading_from(local):
        operator: OP = kind(
            **{"skip_op_error": False, "auto_op_parallelism": False, "num_proc": None, **accelerator, **arguments}
        )
        uses_gpu = device != "cpu" and operator.use_cuda()
    common: dict[str, Any] = {
        "name": name,
        "limits": limits,
        "operator": operator,
        "rank": int(device.split(":")[1]) if uses_gpu else None,
        "reads": frozenset(top_fields(name, arguments)),
    }
    if needs_set(name):
        return BuiltSetOperator(**common)
    if not isinstance(operator, Filter):
        return BuiltMapper(**common)
    spec = spec_of(name)
    if spec.classifier and not flips(operator):
        return BuiltClassifier(**common, head=spec.classifier, decode=decode if uses_gpu else "pillow", dtype=dtype)
    step = int(operator.batch_size) if operator.is_batched_op() else 1
    return BuiltFilter(**common, step=step, header_stats=spec.header_stats)
