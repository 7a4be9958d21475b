"""A recipe's list of operators as Data-Juicer's own objects. In: YAML entries, limits. Out: built operators, their key.

``recipe_lists`` says what a list may hold. A model argument that the recipe leaves out is taken from the profile.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bettersynth_assets.config.devices import (
    files_fingerprint,
    model_fingerprint,
    model_path,
    resolve_devices,
)
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.custom_operators import code_key
from bettersynth_assets.operators.fields import top_fields
from bettersynth_assets.operators.guarded import guarded
from bettersynth_assets.operators.local_models import (
    check_local,
    loading_from,
    local_files,
    local_fingerprint,
    needs_of,
)
from bettersynth_assets.operators.recipe_lists import check_operators, entry_of, needs_set
from bettersynth_assets.operators.sandbox import registry, undisturbed
from bettersynth_assets.operators.trust import PLACE, nested


@dataclass(frozen=True, kw_only=True)
class BuiltOperator:
    """One operator, ready to run."""

    name: str
    limits: str
    """The recipe's arguments with limits filled in, as JSON, for the reject ledger."""
    operator: Any
    """Data-Juicer's ``OP`` object."""
    is_filter: bool
    rank: int | None
    """GPU number for operators with a model; None on the CPU."""
    step: int = 1
    """Rows that it is given at once. Mappers get one: only so does it show when one makes more rows of one."""
    reads: frozenset[str] = frozenset()
    """Columns that its arguments name."""
    needs_set: bool = False
    """True for Deduplicators and Selectors, which judge all rows at once."""
    decode: str = "pillow"
    """What makes pixels of files for an image classifier, see ``image_chunks.chunks``."""
    dtype: str = "float32"
    """Of an image classifier's model."""


def resolve_limits(entries: Sequence[Operator], scores: Any, ids: Sequence[str]) -> list[Operator]:
    """Put numbers in the place of the methods by which operators choose limits.

    Args:
        entries: a ``process:`` list.
        scores: cosines of all rows of the seed, shape (n,).
        ids: their ids, in the same order.

    Returns:
        The list with ``min_score`` and ``max_score`` (and ``last_tied_id`` where a tie is cut) filled in. It is plain
        JSON, and all that a filtered shard depends on besides its rows and models.
    """
    resolved: list[Operator] = []
    for name, arguments in map(entry_of, entries):
        limits = spec_of(name).limits
        resolved.append({name: dict(limits(arguments, scores, ids)) if limits else arguments})
    return resolved


def own_similarity(entries: Sequence[Operator]) -> bool:
    """Whether an operator of this list scores otherwise than clip_scores did (other model, flipped)."""
    return any(spec_of(name).measures_similarity_with & arguments.keys() for name, arguments in map(entry_of, entries))


def compares_images(entries: Sequence[Operator]) -> bool:
    """Whether an operator of this list wants the embeddings that clip_scores keeps, and not another model's."""
    pairs = [(spec_of(name).embeddings_unless, arguments) for name, arguments in map(entry_of, entries)]
    return any(own is not None and not own & arguments.keys() for own, arguments in pairs)


def operators_key(entries: Sequence[Operator], profile: Profile) -> dict[str, Any]:
    """Fingerprints of the models that a list takes from the profile, by operator, and of folders that it names; how
    classifiers are run, where that is not Data-Juicer's way."""
    models = profile.models
    pairs = [entry_of(entry) for entry in entries]
    specs = {name: spec_of(name) for name, _ in pairs}
    roles = {name: spec.model.role for name, spec in specs.items() if spec.model}
    given = {name: getattr(models, role) for name, role in roles.items()}
    own = {
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
    how: dict[str, Any] = {}
    if any(spec.classifier for spec in specs.values()):
        how |= profile.gpu.key("operators")
    how |= code_key(specs)
    how |= {f"{name}.way": spec.way for name, spec in specs.items() if spec.way}
    fingerprints = {
        name: model_fingerprint(given[name], role=roles[name]) for name in sorted(given) if given[name] is not None
    }
    return own | local | how | fingerprints


def build_operators(
    entries: Sequence[Operator], profile: Profile, *, has_whole_set: bool = False
) -> list[BuiltOperator]:
    """Build a list whose limits are resolved.

    Args:
        entries: a ``process:`` list.
        profile: models, device and number of shards.
        has_whole_set: True where the operators will be given the rows of all shards at once.

    Raises:
        ConfigError: as ``check_operators``; a model that does not exist; a value that the operator itself refuses; an
            operator that needs the whole set where it would see one shard of several.
        DeviceError: a GPU that is not there.
    """
    set_wide = [name for name, _ in map(entry_of, entries) if needs_set(name)]
    if set_wide and profile.shards > 1 and not has_whole_set:
        raise ConfigError(
            f"operator {set_wide[0]!r} needs the whole set, and this profile works rows in {profile.shards} shards, so "
            "that it would miss what lies in two of them: write it in the recipe's `budget.select`, which sees all "
            "shards' rows at once, or set `shards: 1` in the profile"
        )
    # Limits are resolved by now, and what the recipe says of these operators was checked before.
    limited = [name for name, _ in map(entry_of, entries) if spec_of(name).limits]
    others = [entry for entry in entries if entry_of(entry)[0] not in limited]
    check_operators(others, trusted_code=profile.trusted_code)
    if limited and own_similarity(entries):
        own = next(name for name, arguments in map(entry_of, entries) if own_similarity([{name: arguments}]))
        raise ConfigError(
            f"{own} with a model of its own and {limited[0]} stand in one list, and Data-Juicer keeps one similarity "
            "per row: take out `hf_clip`, or one of the two"
        )
    device = resolve_devices(profile.gpu)[0]
    built = []
    for entry in entries:
        name, arguments = entry_of(entry)
        limits = json.dumps(arguments, sort_keys=True)
        spec = spec_of(name)
        if spec.model and (model := getattr(profile.models, spec.model.role)) is not None:
            arguments.setdefault(spec.model.argument, model_path(model, role=spec.model.role))
        if spec.check and not spec.limits:
            spec.check(arguments)
        check_local(name, arguments, profile.models)
        local = tuple(
            (need.role, str(local_files(name, need, arguments, profile.models)[0]))
            for need in needs_of(name, arguments)
        )
        how = device, profile.gpu.decode, profile.gpu.dtype
        kind = registry().modules[name]
        built.append(_build(name, kind, limits, json.dumps(arguments, sort_keys=True), *how, local))
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
    """Build one operator; kept for all shards of the process, because each holds its model.

    Args:
        name: the operator.
        kind: its class; a recipe's file may have registered another one under this name before.
        limits: see ``BuiltOperator``.
        arguments_json: its arguments.
        device: torch's name of it.
        decode: the profile's.
        dtype: the profile's.
        local: role and path of each of the profile's models that it loads, where it is not one from the hub.
    """
    from data_juicer.ops.base_op import Filter

    arguments = json.loads(arguments_json)
    accelerator = {"accelerator": "cpu"} if device == "cpu" else {}
    with guarded(name, arguments_json, "when it was made"), undisturbed(), loading_from(local):
        operator: Any = kind(
            **{"skip_op_error": False, "auto_op_parallelism": False, "num_proc": None, **accelerator, **arguments}
        )
        uses_gpu = device != "cpu" and operator.use_cuda()
        is_filter = isinstance(operator, Filter)
        step = int(operator.batch_size) if is_filter and operator.is_batched_op() else 1
    return BuiltOperator(
        name=name,
        limits=limits,
        operator=operator,
        is_filter=is_filter,
        rank=int(device.split(":")[1]) if uses_gpu else None,
        step=step,
        reads=frozenset(top_fields(name, arguments)),
        needs_set=needs_set(name),
        decode=decode if uses_gpu else "pillow",
        dtype=dtype,
    )
