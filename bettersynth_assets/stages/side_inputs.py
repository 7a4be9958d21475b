"""Checks the fixed data of training and evaluation. In: a resolved run. Out: an error that names file and row, or ().

The checks run at the start of a run (``Stage.preflight``), so a broken file is found before captioning and training
begin. The trainer and the evaluation check again what they read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages.image_folder import images_hash
from toolkit.evaluation.question_rows import folder_of
from toolkit.evaluation.settings import ChosenBenchmark, choose
from toolkit.file_errors import environment_fault
from toolkit.files import digest_of

SECTION = "benchmark files (profile, `evaluation`)"
FINETUNE = "fine-tuning set (profile, `training`)"


def check_finetune(run: ResolvedRun) -> tuple[str, ...]:
    """Check the rows of the fine-tuning set, and that its image files exist.

    Raises:
        ConfigError: a row is unusable for training, or images are missing; names the file and the row.
        EnvironmentFault: the environment prevents reading a file.
    """
    from toolkit.data.image_files import check_images
    from toolkit.data.llava import read_llava

    files = run.finetune
    with _about(FINETUNE):
        check_images(read_llava(files.data, files.images), files.data, files.images)
    return ()


def check_benchmarks(run: ResolvedRun) -> tuple[str, ...]:
    """Check the files of all benchmarks as the evaluation does before it answers: all text, every image's header.

    Raises:
        ConfigError: a file is unusable; names the file and the question.
        EnvironmentFault: the environment prevents reading a file.
    """
    from toolkit.evaluation.inputs import first_broken_image, read_benchmarks

    with _about(SECTION):
        if broken := first_broken_image(read_benchmarks(_chosen(run))):
            raise ValueError(f"question {broken[0]}: {broken[1]}")
    return ()


def _chosen(run: ResolvedRun) -> list[ChosenBenchmark]:
    return [choose(name, values) for name, values in run.benchmarks.items()]


def benchmarks_key(run: ResolvedRun) -> dict[str, Any]:
    """Return what the answers depend on, by benchmark: files, questions and images inside folders, options, code.

    Raises:
        ConfigError: questions are unusable.
        EnvironmentFault: an image exists but cannot be read.
    """
    with _about(SECTION):
        return {chosen.name: _key_of(chosen, run.settings.shared_root) for chosen in _chosen(run)}


def _key_of(chosen: ChosenBenchmark, memos: Path) -> dict[str, Any]:
    from toolkit.evaluation.keys import benchmark_key

    key = benchmark_key(chosen)
    # Left out where empty, so that benchmarks without them keep their keys.
    for name in ("options", "code"):
        if not key[name]:
            del key[name]
    if set(chosen.files) - set(chosen.given_files()):
        key["folders"] = _folders_hash(chosen, memos)
    return key


def _folders_hash(chosen: ChosenBenchmark, root: Path) -> str:
    """Hash the contents of the questions, and the names and contents of their images."""
    from toolkit.evaluation.inputs import read_benchmark
    from toolkit.evaluation.keys import questions_hash

    questions = read_benchmark(chosen).questions
    rows = questions.rows
    folders = [path for path in chosen.files.values() if path.is_dir()]
    names: dict[Path, list[str]] = {}
    for image in (row.image for row in rows if isinstance(row.image, Path)):
        folder = folder_of(image, folders) or image.parent
        names.setdefault(folder, []).append(image.relative_to(folder).as_posix())
    memos = (root / f"images-{chosen.name}-{number}.parquet" for number in range(len(names)))
    hashes = [
        images_hash(folder, image_names, memo) for (folder, image_names), memo in zip(names.items(), memos, strict=True)
    ]
    return digest_of([hashes, questions_hash(questions)])


@contextmanager
def _about(section: str) -> Iterator[None]:
    """Add the section of the profile to errors."""
    try:
        yield
    except OSError as error:
        if fault := environment_fault(error, error.filename or "", seen=False):
            raise fault from None
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{section}: {error.filename}: {reason}") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from None
