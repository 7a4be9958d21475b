"""Plans of trainings, and what determines their weights. In: a resolved run. Out: a plan's values; values for keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bettersynth_assets.config.profile import resolve
from bettersynth_assets.engine.libraries import key_versions
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.run_store import Identity
from bettersynth_assets.stages.budget import LLAVA_FILE
from bettersynth_assets.stages.image_folder import finetune_images_hash
from toolkit.files import digest_of, sha256_once
from toolkit.models import ARCHITECTURES, ArchitectureError, model_type
from toolkit.training.settings import PhaseSettings

LIBRARIES = ("torch", "transformers", "accelerate")


def training_plan(run: ResolvedRun, output: Path, data: Path, training_seed: int) -> dict[str, Any]:
    """Return one run's plan for ``toolkit.training.plan``; what the contest fixes is the default there."""
    settings, gpu, finetune = run.settings, run.gpu, run.finetune
    training = settings.profile.training
    return {
        "base_model": run.base.name,
        "output_dir": str(output),
        "extensions": settings.profile.extension_files(),
        "seed": training_seed,
        "device": "cpu" if gpu.devices == "cpu" else "auto",
        "dtype": gpu.dtype,
        "cache_dir": str(settings.profile_root / "features") if training.feature_cache else None,
        "memory_limit_gib": gpu.memory_limit_gib,
        **training.of_the_plan(),
        "stages": [
            {
                "name": "pretrain", "data": str(data), "images": str(run.image_root), "trained": "projector",
                "image_aspect": "square", **_parameters(training.stage_1),
            },
            {
                "name": "finetune", "data": str(finetune.data), "images": str(finetune.images),
                "trained": "projector+llm", "image_aspect": "pad", "group_by_modality_length": True,
                **_parameters(training.stage_2),
            },
        ],
    }  # fmt: skip


def launcher(run: ResolvedRun) -> list[str]:
    """Return the profile's launcher; commands of this Python environment are found even if ``PATH`` lacks them."""
    command = list(run.settings.profile.training.launcher)
    if command and (own := Path(sys.executable).parent / command[0]).is_file():
        command[0] = str(own)
    return command


def settings_key(run: ResolvedRun) -> dict[str, Any]:
    """Return the base model and the training settings, without training seeds."""
    training = run.settings.profile.training
    return {
        "base": run.base.fingerprint,
        **architecture_key(run),
        "training": {name: value for name, value in training.key().items() if name != "seeds"},
        "deepspeed": [_deepspeed(stage) for stage in (training.stage_1, training.stage_2)],
    }


def training_key(run: ResolvedRun) -> dict[str, Any]:
    """Return what determines the weights of a run besides its training file and its training seed."""
    finetune = run.finetune
    return {
        **settings_key(run),
        "finetune": finetune.fingerprint(),
        "finetune_images": finetune_images_hash(
            finetune.data, finetune.images, run.settings.shared_root / "finetune_images.parquet"
        ),
        "gpu": run.gpu.key("training"),
    }


def arm_digest(budgeted: Manifest) -> str:
    """Hash a training file and the names and contents of its images: equal for equal training data."""
    rows = budgeted.table().select(["image", "image_hash"]).to_pylist()
    images = sorted({(row["image"], row["image_hash"]) for row in rows})
    return digest_of(sha256_once(budgeted.file(LLAVA_FILE)), images)


def run_identity(run: ResolvedRun, arm: str, training_seed: int) -> Identity:
    """Return the identity of the training of an arm with a training seed."""
    return {
        "arm": arm,
        "training_seed": training_seed,
        "libraries": key_versions(LIBRARIES),
        **training_key(run),
    }


def architecture_key(run: ResolvedRun) -> dict[str, str]:
    """Return the hash of the base model's architecture if it comes from an extension.

    Raises:
        ConfigError: no architecture is registered for a local base model.
    """
    base = Path(run.base.name)
    if not (base / "config.json").is_file():
        return {}
    try:
        code = ARCHITECTURES.fingerprint(model_type(base))
    except ArchitectureError as error:
        raise ConfigError(f"models.base: {error}") from error
    return {} if code is None else {"architecture": code}


def _deepspeed(phase: PhaseSettings) -> str | None:
    """Return the hash of a phase's DeepSpeed file; a missing file is reported by the training plan."""
    file = None if phase.deepspeed is None else Path(resolve(phase.deepspeed))
    return sha256_once(file) if file is not None and file.is_file() else None


def _parameters(phase: PhaseSettings) -> dict[str, Any]:
    return phase.model_dump(mode="json") | {"deepspeed": phase.deepspeed and resolve(phase.deepspeed)}
