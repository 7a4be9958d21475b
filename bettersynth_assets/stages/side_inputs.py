"""Checks of the fixed data of training and evaluation. In: settings. Out: nothing, or an error that names file and row.

They run when a run begins (``Stage.preflight``), so that a broken file is found before captions and training are paid
for. The trainer and the evaluation check again what they read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages.benchmarks import chosen_benchmarks, finetune_files
from bettersynth_assets.stages.image_folder import images_hash
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.question_rows import folder_of
from toolkit.evaluation.settings import Chosen
from toolkit.file_errors import environment_fault
from toolkit.files import digest_of, sha256_once

SECTION = "benchmark files (profile, `evaluation`)"
FINETUNE = "fine-tuning set (profile, `training`)"


def check_finetune(settings: Settings) -> None:
    """Check the rows of the fine-tuning set, and that its image files are there.

    Raises:
        ConfigError: a row that cannot be trained on, or missing images; names the file and the row.
        EnvironmentFault: a file that the environment keeps from us.
    """
    from toolkit.data.image_files import check_images
    from toolkit.data.llava import read_llava

    files = finetune_files(settings)
    with _about(FINETUNE):
        check_images(read_llava(files.data, files.images), files.data, files.images)


def check_benchmarks(settings: Settings) -> None:
    """Check the files of all benchmarks as the evaluation does before it answers: all text, every picture's header.

    Raises:
        ConfigError: a file that cannot be used; names the file and the question.
        EnvironmentFault: a file that the environment keeps from us.
    """
    from toolkit.evaluation.inputs import first_broken_image, read_benchmarks

    with _about(SECTION):
        if broken := first_broken_image(read_benchmarks(chosen_benchmarks(settings))):
            raise ValueError(f"question {broken[0]}: {broken[1]}")


def benchmarks_key(settings: Settings) -> dict[str, Any]:
    """What the answers depend on, by benchmark: files, questions and pictures inside folders, options, code.

    Raises:
        ConfigError: questions that cannot be used.
        EnvironmentFault: an image that is there and cannot be read.
    """
    with _about(SECTION):
        return {chosen.name: _key_of(chosen, settings) for chosen in chosen_benchmarks(settings)}


def _key_of(chosen: Chosen, settings: Settings) -> dict[str, Any]:
    code = BENCHMARKS.fingerprint(chosen.name)
    return {
        "files": {role: sha256_once(path) for role, path in chosen.given_files().items()},
        "version": chosen.benchmark.version,
        **({"options": options} if (options := chosen.options.key()) else {}),
        **({"code": code} if code else {}),
        **({"folders": _folders_hash(chosen, settings)} if set(chosen.files) - set(chosen.given_files()) else {}),
    }


def _folders_hash(chosen: Chosen, settings: Settings) -> str:
    """Hash of what the questions hold and of the names and contents of their pictures."""
    from toolkit.evaluation.inputs import read_benchmark
    from toolkit.evaluation.keys import questions_hash

    questions = read_benchmark(chosen).questions
    rows = questions.rows
    folders = [path for path in chosen.files.values() if path.is_dir()]
    names: dict[Path, list[str]] = {}
    for image in (row.image for row in rows if isinstance(row.image, Path)):
        folder = folder_of(image, folders) or image.parent
        names.setdefault(folder, []).append(image.relative_to(folder).as_posix())
    memos = (settings.shared_root / f"images-{chosen.name}-{number}.parquet" for number in range(len(names)))
    pictures = [images_hash(folder, some, memo) for (folder, some), memo in zip(names.items(), memos, strict=True)]
    return digest_of([pictures, questions_hash(questions)])


@contextmanager
def _about(section: str) -> Iterator[None]:
    """Say which section of the profile an error is about."""
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
