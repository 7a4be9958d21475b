"""Where the fixed data of training and evaluation lies. In: settings. Out: paths; the miniature's where none is named.

The fine-tuning set and the two benchmarks are the same for every recipe and for the baseline. Their fingerprint goes
into the keys of the stages that read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bettersynth_assets.config.profile import resolve
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import ConfigError
from toolkit.file_errors import environment_fault
from toolkit.files import file_sha256, json_sha256

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


def check_benchmarks(settings: Settings) -> None:
    """Check the files of both benchmarks as the evaluation does before it answers: all text, every picture's header.

    Raises:
        ConfigError: a file that cannot be used; names the file and the question.
        EnvironmentFault: a file that the environment keeps from us.
    """
    from toolkit.evaluate.inputs import first_broken_image, read_benchmarks

    files = benchmark_files(settings)
    with _named():
        found = read_benchmarks(
            questions=files.textvqa_questions,
            annotations=files.textvqa_annotations,
            images=files.textvqa_images,
            mmbench=files.mmbench,
        )
        if broken := first_broken_image(found):
            raise ValueError(f"question {broken[0]}: {broken[1]}")


def images_digest(files: BenchmarkFiles) -> str:
    """Hash of the names and contents of TextVQA's images; MMBench's are in its table.

    Raises:
        ConfigError: questions that cannot be used, or an image that is missing.
    """
    from toolkit.evaluate.inputs import read_textvqa

    with _named():
        questions = read_textvqa(files.textvqa_questions, files.textvqa_annotations, files.textvqa_images)
        images = sorted({question.image for question in questions})
        return json_sha256([[path.relative_to(files.textvqa_images).as_posix(), _content(path)] for path in images])


@contextmanager
def _named() -> Iterator[None]:
    """Say which section of the profile an error is about."""
    try:
        yield
    except OSError as error:
        if fault := environment_fault(error, error.filename or "", seen=False):
            raise fault from None
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"benchmark files (profile, `evaluation`): {error.filename}: {reason}") from None
    except ValueError as error:
        raise ConfigError(f"benchmark files (profile, `evaluation`): {error}") from None


def fingerprint(files: FinetuneFiles | BenchmarkFiles) -> dict[str, str]:
    """Contents of the files and names of the folders; the images in them have hashes of their own."""
    return {name: _content(path) if path.is_file() else path.name for name, path in asdict(files).items()}


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


def _content(path: Path) -> str:
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """A file's hash, computed once per process for each of its states."""
    return file_sha256(path)
