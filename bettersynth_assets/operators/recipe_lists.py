"""Validates a recipe's lists of operators before anything runs. In: YAML entries. Out: nothing, or an error.

Allowed are Filters and Mappers that turn one row into one row, and, in ``budget.select`` or with one shard,
Deduplicators and Selectors, which need all rows. Refused, with the reason: Groupers, Aggregators and Pipelines; mappers
that add or remove rows or write captions (the recipe's ``caption`` section does that); operators for other kinds of
data; operators that need the profile's ``trusted_code`` (``trust``); and ``skip_op_error``. Arguments are checked
against the operator's signature.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.spec import OperatorSpec
from bettersynth_assets.operators.trust import check_trust
from toolkit.suggest import nearest

if TYPE_CHECKING:
    from data_juicer.ops.base_op import OP

NEEDS_SET = ("Deduplicator", "Selector")
OTHER_ROWS = ("Grouper", "Aggregator", "Pipeline")
FILTER_ARGUMENTS = ("min_closed_interval", "max_closed_interval", "reversed_range")
REFUSED_ARGUMENTS = {
    "skip_op_error": "one failing row would silently empty its whole batch",
    "batch_mode": "the engine sets the batch mode of each operator",
}


def entry_of(entry: Operator) -> tuple[str, dict[str, Any]]:
    """Split one ``name: {arguments}`` entry."""
    ((name, arguments),) = entry.items()
    return name, dict(arguments or {})


def check_operators(entries: Sequence[Operator], *, trusted_code: bool = False) -> None:
    """Check a ``process:`` list without building operators.

    Args:
        entries: the list.
        trusted_code: setting of the profile.

    Raises:
        ConfigError: an unknown operator or argument (with the nearest valid one), a value of the wrong type, or a
            refused operator (with the reason).
    """
    for entry in entries:
        name, arguments = entry_of(entry)
        check_kind(name)
        check_trust(name, registry().modules[name], arguments, trusted_code=trusted_code)
        spec = spec_of(name)
        if spec.limits is None:
            _check_arguments(spec, arguments)
        if spec.check:
            spec.check(arguments)


def check_select(entries: Sequence[Operator]) -> None:
    """Refuse Mappers in ``budget.select``.

    Raises:
        ConfigError: the list contains a Mapper.
    """
    for name, _ in map(entry_of, entries):
        if is_mapper(name):
            raise ConfigError(
                f"operator {name!r} in budget.select is a Mapper; captions that it changes there would have no score: "
                "move it to `process` or to `caption.refilter`"
            )


def check_kind(name: str) -> None:
    """Check that an operator is known and of a kind that a recipe accepts.

    Raises:
        ConfigError: the operator is unknown or of another kind; states the reason.
    """
    modules = registry().modules
    if name not in modules:
        raise ConfigError(f"operator {name!r} is unknown to Data-Juicer: {_near(name, modules)}")
    kinds = _kinds(name)
    refused = next((kind for kind in kinds if kind in OTHER_ROWS), None)
    if refused:
        raise ConfigError(f"operator {name!r} turns its rows into other rows (kind: {refused}): remove it")
    if name.startswith("ray_"):
        raise ConfigError(f"operator {name!r} only runs in Data-Juicer's Ray mode: {_near(name[4:], modules)}")
    if spec_of(name).synthesises:
        raise ConfigError(f"operator {name!r} writes captions or images: use the recipe's `caption` section")
    if not {"Filter", "Mapper", *NEEDS_SET} & set(kinds):
        raise ConfigError(
            f"operator {name!r} is a {kinds[1]}; a recipe accepts Filters, Mappers, Deduplicators and Selectors"
        )


def is_mapper(name: str) -> bool:
    """Whether an operator changes rows."""
    return "Mapper" in _kinds(name)


def needs_set(name: str) -> bool:
    """Whether an operator judges all rows at once."""
    return bool({*NEEDS_SET} & {*_kinds(name)})


def _kinds(name: str) -> list[str]:
    """Return the names of an operator's class and its base classes."""
    return [kind.__name__ for kind in registry().modules[name].__mro__]


def _near(name: str, valid: Iterable[str]) -> str:
    """Suggest the nearest names only, because Data-Juicer has two hundred."""
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "see Data-Juicer's list of operators"


def _check_arguments(spec: OperatorSpec, arguments: Mapping[str, Any]) -> None:
    from data_juicer.ops.base_op import OP
    from pydantic import TypeAdapter, ValidationError

    name = spec.name
    operator_class = registry().modules[name]
    declared = [item for item in _parameters(operator_class) if item not in ("args", "kwargs")]
    valid = {*declared, *OP._BASE_PARAMS, *FILTER_ARGUMENTS}
    hints = {key: kind for key, (kind, _) in OP._BASE_PARAMS.items() if kind is not None}
    hints |= get_type_hints(vars(operator_class).get("__init__", OP.__init__), include_extras=True)
    if missing := next((item for item in spec.required if not arguments.get(item)), None):
        raise ConfigError(f"{name}: argument {missing!r} is missing; without it the operator does nothing: add it")
    for argument, value in arguments.items():
        if argument not in valid:
            raise ConfigError(f"{name}: unknown argument {argument!r}: {nearest(argument, declared)}")
        if argument in REFUSED_ARGUMENTS and value:
            raise ConfigError(f"{name}: {argument} = {value!r} is refused ({REFUSED_ARGUMENTS[argument]}): remove it")
        if argument in hints:
            try:
                # Lenient (4 for a float) except for text: "4" is not 4 to the operator.
                TypeAdapter(hints[argument]).validate_python(value, strict=isinstance(value, str | bool))
            except ValidationError as error:
                raise ConfigError(f"{name}: {argument} = {value!r}: {error.errors()[0]['msg']}") from None
        if argument == "batch_size" and isinstance(value, int) and value < 1:
            raise ConfigError(f"{name}: batch_size = {value}: use 1 or more")
        if argument in spec.not_zero and value == 0:
            raise ConfigError(f"{name}: {argument} = {value!r} would keep no row: use a share above 0")


def _parameters(operator_class: type[OP]) -> list[str]:
    return [name for name in inspect.signature(operator_class.__init__).parameters if name != "self"]
