"""What makes a plan another training. In: a plan. Out: plain values that two plans of the same training share.

Every setting counts, unless its field says why not (``NotInKey`` in ``toolkit.training.settings`` and ``.plan``): some
leave the weights as they are, some only change their rounding, as does the number of processes; files count by content.

A plan that has the same identity as the one of its folder goes on where that one stopped, or finds it complete; the
losses differ by rounding at most. Any other is refused. Torch is imported only for a plan with a feature cache, whose
architecture says whether it uses one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.files import file_sha256
from toolkit.models import ARCHITECTURES, architecture_of, model_type
from toolkit.training.plan import Plan, StagePlan

_FORMAT = 4


def training_identity(plan: Plan) -> dict[str, Any]:
    """Plain values of all that the weights depend on, but for rounding; fields at their default are left out."""
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
    if code is not None:  # an architecture from outside; the code of ours counts by its version
        values["architecture"] = code
    # With a cache the towers' features are rounded to float16: more than the rounding of a sum.
    cached = plan.cache_dir is not None and architecture_of(plan.base_model).caches_features
    return values | {"base": base_fingerprint(plan.base_model), "cached": cached, "format": _FORMAT}


def base_fingerprint(folder: Path) -> dict[str, str]:
    """Digest of each file of a checkpoint that decides what comes out of it."""
    files = sorted(
        [*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.model"), *folder.glob("*.jinja")]
    )
    return {file.name: file_sha256(file) for file in files if file.name != "manifest.json"}


def differences(there: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    """What differs between two identities, each as ``name is 1 there and 2 here``."""
    yield from _differences(_whole(there), _whole(here), "")


def _whole(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity with the defaults that it leaves out."""
    stages = {name: StagePlan.defaults() | stage for name, stage in identity.get("stages", {}).items()}
    return Plan.defaults() | identity | {"stages": stages}


def _differences(there: Any, here: Any, name: str) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        hashed = any(isinstance(value, str) and len(value) == 64 for value in (there, here))
        yield f"{name} has other content" if hashed else f"{name} is {there!r} there and {here!r} here"
