"""Which settings of a plan make it another training, and which do not.

===================  ==============================================================================================
counts for nothing   where and how a plan runs: ``NOT_IN_WEIGHTS``; files count by content, not by path
only rounds          how a step is cut and computed: ``ROUNDING``, and the number of processes, which is no setting
counts               everything else: data, base model, projector, seed, dtype, whether features are cached, DeepSpeed's
                     JSON, global batch, steps, learning rate and its schedule, loss average and its group, …
===================  ==============================================================================================

A plan that differs from the one of its folder in the first two only goes on where that one stopped, or finds it
complete; the losses differ by rounding at most. Any other is refused. Torch is not imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.files import file_sha256
from toolkit.models import ARCHITECTURES, model_type
from toolkit.train.plan import Plan, to_values

NOT_IN_WEIGHTS = ("log_every", "report_to", "checkpoint_every", "checkpoint_limit", "memory_limit_gib")
"""Settings of a plan that leave the trained weights as they are."""
ROUNDING = ("device", "speed")
"""Settings of a plan that change the rounding of the trained weights, and nothing else."""
STAGE_ROUNDING = ("per_device_batch", "accumulation", "workers", "pad_multiple")
"""The same of a stage. ``loss_group`` is not among them: it changes which rows are averaged."""
_BY_CONTENT = ("output_dir", "base_model", "cache_dir", "projector", "extensions")
_FORMAT = 3


def training_identity(plan: Plan) -> dict[str, Any]:
    """Plain values of all that the weights depend on, but for rounding; equal for plans that are the same training."""
    left_out = (*NOT_IN_WEIGHTS, *ROUNDING, *_BY_CONTENT)
    values = {name: value for name, value in to_values(plan).items() if name not in left_out}
    for value, stage in zip(values["stages"], plan.stages, strict=True):
        for name in (*STAGE_ROUNDING, "images"):
            del value[name]
        value["data"] = file_sha256(stage.data)
        value["loss_group"] = stage.group if plan.loss_average == "micro_batch" else None
        value["deepspeed"] = None if stage.deepspeed is None else file_sha256(Path(stage.deepspeed))
    values["stages"] = {stage["name"]: stage for stage in values["stages"]}
    values["projector"] = None if plan.projector is None else file_sha256(plan.projector)
    code = ARCHITECTURES.fingerprint(model_type(plan.base_model))
    if code is not None:  # an architecture from outside; the code of ours counts by its version
        values["architecture"] = code
    # With a cache the towers' features are rounded to float16: more than the rounding of a sum.
    return values | {"base": base_fingerprint(plan.base_model), "cached": plan.cache_dir is not None, "format": _FORMAT}


def base_fingerprint(folder: Path) -> dict[str, str]:
    """Digest of each file of a checkpoint that decides what comes out of it."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.model")])
    return {file.name: file_sha256(file) for file in files if file.name != "manifest.json"}


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What differs between two identities, each as ``name is 1 there and 2 here``."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        hashed = any(isinstance(value, str) and len(value) == 64 for value in (there, here))
        yield f"{name} has other content" if hashed else f"{name} is {there!r} there and {here!r} here"
