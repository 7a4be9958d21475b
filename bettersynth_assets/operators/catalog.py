"""Catalogue of ``OperatorSpec`` by operator name. In: the name in a recipe. Out: the operator's spec.

Specs of Data-Juicer's operators are in ``stock``. Our operators are modules of ``ours``, which register a class with
Data-Juicer and a spec here. External operators can provide a spec by ``register_spec`` or a class attribute
``bettersynth_spec``; an operator without a spec runs as in Data-Juicer.
"""

from __future__ import annotations

from bettersynth_assets.operators import stock, thresholds
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.spec import OperatorSpec

_specs = {spec.name: spec for spec in (*stock.SPECS, thresholds.SPEC)}
_KNOWN = frozenset(_specs)


def register_spec(spec: OperatorSpec) -> OperatorSpec:
    """Register the spec of an operator.

    Raises:
        ValueError: another spec has this name.
    """
    if _specs.setdefault(spec.name, spec) is not spec:
        raise ValueError(f"operator {spec.name!r} already has a spec: choose another name")
    return spec


def forget_spec(name: str) -> None:
    """Remove the spec of an operator that is no longer registered."""
    _specs.pop(name, None)


def spec_of(name: str) -> OperatorSpec:
    """Return an operator's spec; imports Data-Juicer for names that are not in its release 1.6.1."""
    if name not in _specs:
        declared = getattr(registry().modules.get(name), "bettersynth_spec", None)  # imports our operators too
        return _specs.get(name) or declared or OperatorSpec(name=name)
    return _specs[name]


def is_known(name: str) -> bool:
    """Whether an operator belongs to Data-Juicer or this project; avoids importing Data-Juicer if possible."""
    return name in _KNOWN


def all_specs() -> dict[str, OperatorSpec]:
    """Return all specs by name, including ours."""
    registry()
    return dict(_specs)
