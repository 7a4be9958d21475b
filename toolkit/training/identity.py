"""Identity of a training. In: a plan. Out: plain values that are equal for plans of the same training.

Every setting is part of the identity unless its field is marked with a reason (``NotInKey`` in
``toolkit.training.settings`` and ``.plan``). Such settings either do not affect the weights or affect only their
rounding, as does the number of processes. Files are identified by their content.

A plan with the same identity as its output folder resumes the training there, or finds it complete; losses differ by
rounding at most. A plan with another identity is refused. Torch is imported only for a plan with a feature cache, to
ask its architecture whether it uses one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.files import file_sha256
from toolkit.models import ARCHITECTURES, architecture_of, model_type
from toolkit.training.plan import PhasePlan, TrainingPlan

_FORMAT = 4


def training_identity(plan: TrainingPlan) -> dict[str, Any]:
    """Return all that determines the weights up to rounding, as plain values; defaults are left out."""
    values = plan.key()
    for value, phase in zip(values["stages"], plan.stages, strict=True):
        value["data"] = file_sha256(phase.data)
        if plan.loss_average != "micro_batch":
            del value["loss_group"]
        if phase.deepspeed is not None:
            value["deepspeed"] = file_sha256(Path(phase.deepspeed))
    values["stages"] = {phase["name"]: phase for phase in values["stages"]}
    if plan.projector is not None:
        values["projector"] = file_sha256(plan.projector)
    code = ARCHITECTURES.fingerprint(model_type(plan.base_model))
    if code is not None:  # an architecture from an extension
        values["architecture"] = code
    # `cached` is part of the identity because a cache rounds features to float16, which exceeds summation rounding.
    cached = plan.cache_dir is not None and architecture_of(plan.base_model).caches_features
    return values | {"base": base_fingerprint(plan.base_model), "cached": cached, "format": _FORMAT}


def base_fingerprint(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a checkpoint that affects its outputs, by name."""
    files = sorted(
        [*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.model"), *folder.glob("*.jinja")]
    )
    return {file.name: file_sha256(file) for file in files if file.name != "manifest.json"}


def differences(stored: dict[str, Any], current: dict[str, Any]) -> Iterator[str]:
    """Describe each difference between two identities, as ``name is 1 there and 2 here``."""
    yield from _differences(_with_defaults(stored), _with_defaults(current), "")


def _with_defaults(identity: dict[str, Any]) -> dict[str, Any]:
    """Return an identity with the defaults filled in."""
    phases = {name: PhasePlan.defaults() | phase for name, phase in identity.get("stages", {}).items()}
    return TrainingPlan.defaults() | identity | {"stages": phases}


def _differences(stored: Any, current: Any, name: str) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in sorted({*stored, *current}):
            yield from _differences(stored.get(key), current.get(key), f"{name}.{key}" if name else key)
    elif stored != current:
        hashed = any(isinstance(value, str) and len(value) == 64 for value in (stored, current))
        yield f"{name} has different content" if hashed else f"{name} is {stored!r} there and {current!r} here"
