"""Checks of the fixed data of training and evaluation. In: settings. Out: nothing, or an error that names file and row.

They run when a run begins (``Stage.preflight``), so that a broken file is found before captions and training are paid
for. The trainer and the evaluation check again what they read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages.benchmarks import as_benchmarks, benchmark_files, finetune_files
from bettersynth_assets.stages.image_folder import images_hash
from toolkit.file_errors import environment_fault

BENCHMARKS = "benchmark files (profile, `evaluation`)"
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
    """Check the files of both benchmarks as the evaluation does before it answers: all text, every picture's header.

    Raises:
        ConfigError: a file that cannot be used; names the file and the question.
        EnvironmentFault: a file that the environment keeps from us.
    """
    from toolkit.evaluate.inputs import first_broken_image, read_benchmarks
    from toolkit.evaluate.settings import choose

    files = benchmark_files(settings)
    with _about(BENCHMARKS):
        found = read_benchmarks(choose(name, values) for name, values in as_benchmarks(files).items())
        if broken := first_broken_image(found):
            raise ValueError(f"question {broken[0]}: {broken[1]}")


def benchmark_images_hash(settings: Settings) -> str:
    """Hash of the names and contents of TextVQA's images; MMBench's are in its table.

    Raises:
        ConfigError: questions that cannot be used.
        EnvironmentFault: an image that is there and cannot be read.
    """
    from toolkit.evaluate.inputs import read_benchmark
    from toolkit.evaluate.settings import choose

    files = benchmark_files(settings)
    with _about(BENCHMARKS):
        questions = read_benchmark(choose("textvqa", as_benchmarks(files)["textvqa"])).questions.rows
    names = [Path(str(question.image)).relative_to(files.textvqa_images).as_posix() for question in questions]
    return images_hash(files.textvqa_images, names, settings.shared_root / "benchmark_images.parquet")


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
