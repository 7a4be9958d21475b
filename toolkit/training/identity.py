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
from toolkit.training.plan import StagePlan, TrainingPlan

_FORMAT = 4


def training_identity(plan: TrainingPlan) -> dict[str, Any]:
    """Return all that determines the weights up to rounding, as plain values; defaults are left out."""
    values = plan.key()
    for value, stage in zip(values["stages"], plan.stages, strict=True):
        value["data"] = file_sha256(stage.data)
        if plan.loss_average != "micro_batch":
            del value["loss_group"]
        if stage.deepspeed is not None:
            value["deepspeed"] = file_sha256(Path(stage.deepspeed))
    values["stages"] = {stage["name"]: stage for stage in values["stages"]}
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


def differences(there: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    """Describe each difference between two identities, as ``name is 1 there and 2 here``."""
    yield from _differences(_whole(there), _whole(here), "")


def _whole(identity: dict[str, Any]) -> dict[str, Any]:
    """Return an identity with the defaults filled in."""
    stages = {name: StagePlan.defaults() | stage for name, stage in identity.get("stages", {}).items()}
    return TrainingPlan.defaults() | identity | {"stages": stages}


def _differences(there: Any, here: Any, name: str) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        hashed = any(isinstance(value, str) and len(value) == 64 for value in (there, here))
        yield f"{name} has different content" if hashed else f"{name} is {there!r} there and {here!r} here"
