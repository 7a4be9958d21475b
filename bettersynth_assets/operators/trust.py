"""What a recipe may run. In: an operator, its arguments, the profile's ``trusted_code``. Out: nothing, or a refusal.

A recipe is data of any origin, so by default it runs no code, contacts no address and writes no file:
docs/security.md defines the boundary. ``stock`` holds the review of Data-Juicer's operators. An operator of an
installed plugin runs, unless its parameters name an address, and causes a warning.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.stock import UNUSABLE_PREFIXES

ADDRESS_PARAMETERS = {"api_model", "api_or_hf_model", "api_endpoint", "api_url", "endpoint_url", "redis_address"}
LOADER_PARAMETERS = {"model_params", "model_kwargs", "engine_kwargs", "get_model_args"}
NEVER = {"trust_remote_code": "a model's own code is never run"}
"""Arguments that are refused at any depth, regardless of the profile."""
NEEDS_TRUST_KEYS = re.compile(
    r"api_?key|access_?key|secret_?key|session_token|base_?url|(^|_)(endpoint|url|address|proxy)$", re.I
)
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.I)
PLACE = re.compile(r"^hf_|(^|_)(model|path|dir|file|folder|classifier|home|root)$", re.I)
"""Arguments whose value is a location; other arguments are text, which may contain an address."""
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".npy")
FIX = "remove it, or set `trusted_code: true` in the profile if you trust the recipe as you would trust a program"


def check_trust(name: str, operator: type, arguments: Mapping[str, Any], *, trusted_code: bool) -> None:
    """Refuse operators and arguments that could run code or access more than the rows.

    Args:
        name: the operator.
        operator: its class.
        arguments: its arguments in the recipe.
        trusted_code: setting of the profile.

    Raises:
        ConfigError: names the operator and the argument.
    """
    if reason := unusable(name):
        raise ConfigError(f"operator {name!r} {reason}: remove it")
    if not trusted_code and (reason := code_reason(name, operator)):
        raise ConfigError(f"operator {name!r} {reason}: {FIX}")
    spec = spec_of(name)
    for path, key, value in nested(arguments):
        if key in NEVER and value:
            raise ConfigError(f"{name}: {path} = {value!r} is refused ({NEVER[key]}): remove it")
        if PLACE.search(key) and isinstance(value, str) and value.lower().endswith(PICKLES):
            raise ConfigError(f"{name}: {path} = {value!r} is refused (pickles are never loaded): remove it")
        if trusted_code:
            continue
        if reason := spec.code_arguments.get(path) if value is not None else None:
            raise ConfigError(f"{name}: {path} = {value!r} {reason}: {FIX}")
        if NEEDS_TRUST_KEYS.search(key) and value:
            raise ConfigError(f"{name}: {path} names an address or holds a secret: {FIX}")
        if PLACE.search(key) and isinstance(value, str) and URL.match(value):
            raise ConfigError(f"{name}: {path} = {value!r} is an address: {FIX}")


def unusable(name: str) -> str | None:
    """Return why an operator cannot be used on image-text pairs, regardless of the profile."""
    by_prefix = (reason for prefix, reason in UNUSABLE_PREFIXES.items() if name.startswith(prefix))
    return next(by_prefix, None) or spec_of(name).unusable


def code_reason(name: str, operator: type) -> str | None:
    """Return why an operator needs ``trusted_code``; None if it is known to be pure or a plugin's without addresses."""
    spec = spec_of(name)
    if spec.needs_trust or (spec.pure and is_reviewed(operator)):
        return spec.needs_trust
    parameters = _parameters(operator)
    if names := sorted(parameters & ADDRESS_PARAMETERS):
        return f"sends rows to an address ({names[0]})"
    if names := sorted(parameters & LOADER_PARAMETERS):
        return f"passes free arguments to a model's loader ({names[0]}), which can run code"
    return "is not among the reviewed operators" if is_reviewed(operator) else None


def is_reviewed(operator: type) -> bool:
    """Whether an operator belongs to Data-Juicer or this project, not to a plugin."""
    return operator.__module__.split(".")[0] in ("data_juicer", "bettersynth_assets")


def warning(name: str, operator: type) -> str | None:
    """Return a warning about an operator that has not been reviewed; None for all others."""
    if is_reviewed(operator):
        return None
    return (
        f"operator {name!r} comes from a plugin ({operator.__module__}) and has not been reviewed: it may run code, "
        "contact addresses and write files. Read it before you trust its recipe"
    )


def nested(value: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield every (path, key, value) in nested arguments; ``model_params.device_map`` is a path."""
    if isinstance(value, Mapping):
        for key, inner_value in value.items():
            inner = f"{path}.{key}" if path else str(key)
            yield inner, str(key), inner_value
            yield from nested(inner_value, inner)
    elif isinstance(value, list | tuple):
        for index, inner_value in enumerate(value):
            yield from nested(inner_value, f"{path}[{index}]")


def _parameters(operator: type) -> set[str]:
    """Return the parameter names of an operator's constructor and of the constructors that it passes arguments to."""
    return {
        name
        for kind in operator.__mro__
        if "__init__" in vars(kind)
        for name in inspect.signature(vars(kind)["__init__"]).parameters
    }
