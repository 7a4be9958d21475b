"""A recipe's ``process:`` list as Data-Juicer operators. In: YAML entries. Out: built operators, or an error by name.

Allowed are Filters and Mappers that look at one row and give one row back. Refused, with the reason: operators that
need the whole set (Deduplicator, Selector, Grouper, Aggregator, Pipeline), mappers that add or drop rows or write
captions (the recipe's ``caption`` section does that), ``skip_op_error`` and ``trust_remote_code``. Arguments are
checked against the operator's own signature before anything runs. A model argument that the recipe leaves out is taken
from the profile.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_type_hints

from bettersynth_assets.config.devices import model_fingerprint, model_path, resolve_devices
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.errors import ConfigError, nearest
from bettersynth_assets.operators.guard import registry, undisturbed
from bettersynth_assets.operators.thresholds import NAME as CLIP_SCORE_FILTER
from bettersynth_assets.operators.thresholds import check_arguments, last_tied_id, score_limits

SIMILARITY_FILTER = "image_text_similarity_filter"
MODEL_ARGUMENTS = {  # operator: (its argument, role in the profile's models)
    "image_watermark_filter": ("hf_watermark_model", "watermark"),
    SIMILARITY_FILTER: ("hf_clip", "clip"),
    CLIP_SCORE_FILTER: ("clip_model", "clip"),
}
SYNTHESIS = ("image_captioning_mapper", "mllm_mapper", "image_diffusion_mapper")
WHOLE_SET = ("Deduplicator", "Selector", "Grouper", "Aggregator", "Pipeline")
FILTER_ARGUMENTS = ("min_closed_interval", "max_closed_interval", "reversed_range")
REFUSED_ARGUMENTS = {
    "skip_op_error": "one failing row would empty its whole batch without a word",
    "trust_remote_code": "a model's own code is never run",
}


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


def entry_of(entry: Operator) -> tuple[str, dict[str, Any]]:
    """Split one ``name: {arguments}`` entry."""
    ((name, arguments),) = entry.items()
    return name, dict(arguments or {})


def check_operators(entries: Sequence[Operator]) -> None:
    """Check a ``process:`` list without building anything.

    Raises:
        ConfigError: unknown operator or argument (with the nearest valid one), a value of the wrong type, or an
            operator that is refused (with the reason).
    """
    for entry in entries:
        name, arguments = entry_of(entry)
        _check_class(name)
        if name == CLIP_SCORE_FILTER:
            check_arguments(arguments)
        else:
            _check_arguments(name, arguments)


def _check_class(name: str) -> None:
    modules = registry().modules
    if name not in modules:
        raise ConfigError(f"operator {name!r} is unknown to Data-Juicer: {_near(name, modules)}")
    kinds = [kind.__name__ for kind in modules[name].__mro__]
    whole = next((kind for kind in kinds if kind in WHOLE_SET), None)
    if whole:
        raise ConfigError(
            f"operator {name!r} is a {whole}, which needs the whole set, while rows are worked shard by shard: "
            "run it over the seed beforehand with dj-process, or take it out"
        )
    if name in SYNTHESIS:
        raise ConfigError(f"operator {name!r} writes captions or images: describe synthesis in the `caption` section")
    if not {"Filter", "Mapper"} & set(kinds):
        raise ConfigError(f"operator {name!r} is a {kinds[1]}; a recipe takes Filters and Mappers")


def _near(name: str, valid: Iterable[str]) -> str:
    """The nearest names only: Data-Juicer has two hundred."""
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "see Data-Juicer's list of operators"


def _check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    from data_juicer.ops.base_op import OP
    from pydantic import TypeAdapter, ValidationError

    operator_class = registry().modules[name]
    own = [item for item in _parameters(operator_class) if item not in ("args", "kwargs")]
    valid = {*own, *OP._BASE_PARAMS, *FILTER_ARGUMENTS}
    hints = get_type_hints(vars(operator_class).get("__init__", OP.__init__), include_extras=True)
    for argument, value in arguments.items():
        if argument not in valid:
            raise ConfigError(f"{name}: unknown argument {argument!r}: {nearest(argument, own)}")
        if argument in REFUSED_ARGUMENTS and value:
            raise ConfigError(
                f"{name}: {argument} = {value!r} is refused ({REFUSED_ARGUMENTS[argument]}): leave it out"
            )
        if argument in hints:
            try:
                # Lenient (4 for a float) but for text: "4" is not 4 to the operator.
                TypeAdapter(hints[argument]).validate_python(value, strict=isinstance(value, str | bool))
            except ValidationError as error:
                raise ConfigError(f"{name}: {argument} = {value!r}: {error.errors()[0]['msg']}") from None


def _parameters(operator_class: Any) -> list[str]:
    return [item for item in inspect.signature(operator_class.__init__).parameters if item != "self"]


def resolve_limits(entries: Sequence[Operator], scores: Any, ids: Sequence[str]) -> list[Operator]:
    """Put numbers in the place of ``clip_score_filter``'s methods.

    Args:
        entries: a ``process:`` list.
        scores: cosines of all rows of the seed, shape (n,).
        ids: their ids, in the same order.

    Returns:
        The list with ``min_score`` and ``max_score`` (and ``last_tied_id`` where a tie is cut) filled in. It is plain
        JSON, and all that a filtered shard depends on besides its rows and models.
    """
    resolved: list[Operator] = []
    for entry in entries:
        name, arguments = entry_of(entry)
        if name == CLIP_SCORE_FILTER:
            arguments = {"method": "mean", **arguments}
            low, high = score_limits(arguments, scores)
            limits = {"min_score": low, "max_score": high, "last_tied_id": last_tied_id(arguments, scores, ids)}
            arguments |= {key: value for key, value in limits.items() if value is not None}
        resolved.append({name: arguments})
    return resolved


def own_similarity(entries: Sequence[Operator]) -> bool:
    """Whether a stock similarity filter of this list scores otherwise than clip_scores did (other model, flipped)."""
    different = {"hf_clip", "horizontal_flip", "vertical_flip"}
    return any(name == SIMILARITY_FILTER and different & arguments.keys() for name, arguments in map(entry_of, entries))


def operators_key(entries: Sequence[Operator], profile: Profile) -> dict[str, str]:
    """Fingerprints of the models that a list takes from the profile, by operator."""
    names = {entry_of(entry)[0] for entry in entries} & MODEL_ARGUMENTS.keys()
    return {name: model_fingerprint(getattr(profile.models, MODEL_ARGUMENTS[name][1])) for name in sorted(names)}


def build_operators(entries: Sequence[Operator], profile: Profile) -> list[BuiltOperator]:
    """Build a list whose limits are resolved.

    Raises:
        ConfigError: as ``check_operators``; a model that does not exist; a value that the operator itself refuses.
        DeviceError: a GPU that is not there.
    """
    stock = [entry for entry in entries if entry_of(entry)[0] != CLIP_SCORE_FILTER]
    check_operators(stock)
    if own_similarity(entries) and len(stock) < len(entries):
        raise ConfigError(
            f"{SIMILARITY_FILTER} with a model of its own and {CLIP_SCORE_FILTER} stand in one list, and Data-Juicer "
            "keeps one similarity per row: take out `hf_clip`, or one of the two"
        )
    device = resolve_devices(profile.gpu)[0]
    built = []
    for entry in entries:
        name, arguments = entry_of(entry)
        limits = json.dumps(arguments, sort_keys=True)
        argument, role = MODEL_ARGUMENTS.get(name, ("", ""))
        if argument:
            arguments.setdefault(argument, model_path(getattr(profile.models, role), role=role))
        built.append(_build(name, limits, json.dumps(arguments, sort_keys=True), device))
    return built


@lru_cache(maxsize=32)
def _build(name: str, limits: str, arguments_json: str, device: str) -> BuiltOperator:
    """Build one operator; kept for all shards of the process, because each holds its model."""
    operators = registry()
    from data_juicer.ops.base_op import Filter

    arguments = json.loads(arguments_json)
    accelerator = {"accelerator": "cpu"} if device == "cpu" else {}
    try:
        with undisturbed():
            operator = operators.modules[name](
                **{"skip_op_error": False, "auto_op_parallelism": False, "num_proc": None, **accelerator, **arguments}
            )
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"{name} with {arguments_json}: {error}") from error
    uses_gpu = device != "cpu" and operator.use_cuda()
    return BuiltOperator(
        name=name,
        limits=limits,
        operator=operator,
        is_filter=isinstance(operator, Filter),
        rank=int(device.split(":")[1]) if uses_gpu else None,
    )
