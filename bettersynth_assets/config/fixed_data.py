"""Locations of the fixed data of training and evaluation. In: a profile's sections. Out: paths.

The fine-tuning set and the benchmarks are the same for every recipe and the baseline. Their contents enter the keys of
the stages that read them. What a profile does not name is taken from the miniature world.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bettersynth_assets.config.profile import Training, absolute
from bettersynth_assets.config.world_paths import WorldPaths
from bettersynth_assets.errors import ConfigError
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.settings import EvaluationSettings, Split
from toolkit.files import sha256_once


@dataclass(frozen=True, kw_only=True)
class FinetuneFiles:
    """The fine-tuning set of stage 2 in LLaVA's JSON format."""

    data: Path
    images: Path

    def fingerprint(self) -> dict[str, str]:
        """Hash the contents of the file and the name of the folder; images are hashed separately."""
        return {name: sha256_once(path) if path.is_file() else path.name for name, path in asdict(self).items()}


def finetune_files(training: Training, world: WorldPaths) -> FinetuneFiles:
    """Return the files of the fine-tuning set.

    Raises:
        ConfigError: a file that the profile names is missing, or the profile names only one of the two.
    """
    if training.finetune_json is None and training.finetune_images is None:
        return FinetuneFiles(data=world.finetune_json, images=world.finetune_images)
    return FinetuneFiles(
        data=_existing("training.finetune_json", training.finetune_json),
        images=_existing("training.finetune_images", training.finetune_images),
    )


def benchmark_files(evaluation: EvaluationSettings, world: WorldPaths) -> dict[str, dict[str, Any]]:
    """Return files (absolute, by role) and options of the profile's benchmarks, by name.

    Raises:
        ConfigError: a file that the profile names is missing, or none is named and the miniature world has none.
    """
    entries = {}
    for name, values in evaluation.chosen().items():
        roles = [file.role for file in BENCHMARKS.get(name).files]
        options = {key: value for key, value in values.items() if key not in roles}
        named = {role: values[role] for role in roles if values.get(role) is not None}
        if named:
            where = f"evaluation.benchmarks.{name}"
            files = {role: _existing(f"{where}.{role}", path) for role, path in named.items()}
        else:
            files = _of_the_world(world, name, evaluation.split, roles)
        entries[name] = {role: str(path) for role, path in files.items()} | options
    return entries


def _of_the_world(world: WorldPaths, name: str, split: Split, roles: list[str]) -> dict[str, Path]:
    files = world.benchmark(name, split)
    if files is None:
        raise ConfigError(
            f"evaluation.benchmarks.{name} names no files, and the miniature world has none for it: set its "
            f"{', '.join(roles)}"
        )
    return files


def _existing(key: str, named: str | None) -> Path:
    if named is None:
        raise ConfigError(f"{key} is missing: set it too, or remove its section to use the miniature's files")
    path = absolute(named)
    if not path.exists():
        raise ConfigError(f"{key} = {named!r}: nothing at {path}; put the file there or set another path")
    return path
