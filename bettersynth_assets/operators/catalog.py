"""Every operator's ``OperatorSpec`` by name. In: the name in a recipe. Out: what the engine knows of it.

Data-Juicer's own are in ``stock``. One of ours is a module of ``ours``, which registers a class with Data-Juicer and
its spec here. An operator from outside may say the same of itself, by ``register_spec`` or a class attribute
``bettersynth_spec``; one that says nothing is run as Data-Juicer runs it.
"""

from __future__ import annotations

from bettersynth_assets.operators import stock, thresholds
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.spec import OperatorSpec

_specs = {spec.name: spec for spec in (*stock.SPECS, thresholds.SPEC)}
_KNOWN = frozenset(_specs)


def register_spec(spec: OperatorSpec) -> OperatorSpec:
    """Say what is known of an operator.

    Raises:
        ValueError: the name has another spec.
    """
    if _specs.setdefault(spec.name, spec) is not spec:
        raise ValueError(f"operator {spec.name!r} has a spec already: choose another name")
    return spec


def forget_spec(name: str) -> None:
    """Forget the spec of an operator that is no longer registered."""
    _specs.pop(name, None)


def spec_of(name: str) -> OperatorSpec:
    """What is known of an operator; imports Data-Juicer for names that are not in its list of 1.6.1."""
    if name not in _specs:
        own = getattr(registry().modules.get(name), "bettersynth_spec", None)  # this imports ours
        return _specs.get(name) or own or OperatorSpec(name=name)
    return _specs[name]


def is_known(name: str) -> bool:
    """Whether an operator is Data-Juicer's or ours, told without importing Data-Juicer where it can be."""
    return name in _KNOWN


def all_specs() -> dict[str, OperatorSpec]:
    """Specs by name, ours among them."""
    registry()
    return dict(_specs)
