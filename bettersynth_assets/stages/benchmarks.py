"""Where the fixed data of training and evaluation lies. In: settings. Out: paths; the miniature's where none is named.

The fine-tuning set and the two benchmarks are the same for every recipe and for the baseline. Their fingerprint goes
into the keys of the stages that read them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bettersynth_assets.config.profile import resolve
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import ConfigError
from toolkit.files import sha256_once

if TYPE_CHECKING:
    from bettersynth_assets.miniature.generate import WorldPaths


@dataclass(frozen=True, kw_only=True)
class FinetuneFiles:
    """The instruction set of stage 2, LLaVA JSON."""

    data: Path
    images: Path


@dataclass(frozen=True, kw_only=True)
class BenchmarkFiles:
    """TextVQA in LLaVA's format and its annotations; MMBench as its TSV."""

    textvqa_questions: Path
    textvqa_annotations: Path
    textvqa_images: Path
    mmbench: Path


def finetune_files(settings: Settings) -> FinetuneFiles:
    """The fine-tuning set.

    Raises:
        ConfigError: a file that the profile names and that is not there, or only one of the two named.
    """
    training = settings.profile.training
    if training.finetune_json is None and training.finetune_images is None:
        world = world_paths(settings)
        return FinetuneFiles(data=world.finetune_json, images=world.finetune_images)
    return FinetuneFiles(
        data=_existing("training.finetune_json", training.finetune_json),
        images=_existing("training.finetune_images", training.finetune_images),
    )


def benchmark_files(settings: Settings) -> BenchmarkFiles:
    """The benchmarks.

    Raises:
        ConfigError: a file that the profile names and that is not there, or only some of the four named.
    """
    evaluation = settings.profile.evaluation
    named = {name: getattr(evaluation, name) for name in BenchmarkFiles.__dataclass_fields__}
    if not any(named.values()):
        world = world_paths(settings)
        return BenchmarkFiles(**{name: getattr(world, name) for name in named})
    return BenchmarkFiles(**{name: _existing(f"evaluation.{name}", path) for name, path in named.items()})


def as_benchmarks(files: BenchmarkFiles) -> dict[str, dict[str, str]]:
    """Files by benchmark and role."""
    roles = ("questions", "annotations", "images")
    textvqa = {role: str(getattr(files, f"textvqa_{role}")) for role in roles}
    return {"textvqa": textvqa, "mmbench": {"table": str(files.mmbench)}}


def fingerprint(files: FinetuneFiles | BenchmarkFiles) -> dict[str, str]:
    """Contents of the files and names of the folders; the images in them have hashes of their own."""
    return {name: sha256_once(path) if path.is_file() else path.name for name, path in asdict(files).items()}


def world_paths(settings: Settings) -> WorldPaths:
    """The miniature world's files; it is generated where it is not there yet."""
    from bettersynth_assets.miniature.generate import generate_world

    return generate_world(settings.world_root, rows=settings.profile.world_rows)


def _existing(key: str, named: str | None) -> Path:
    if named is None:
        raise ConfigError(f"{key} is missing: name it too, or none of its section for the miniature's own")
    path = Path(resolve(named)).expanduser()
    if not path.exists():
        raise ConfigError(f"{key} = {named!r}: nothing at {path.absolute()}; put the file there or name another")
    return path.absolute()
