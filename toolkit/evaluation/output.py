"""A run's output, whole or not at all. In: a folder that may hold an earlier run's. Out: all files of one run.

Files are written into ``.partial`` inside the folder and take the earlier run's place together, when all are there:
``results.json`` is removed first and put in place last, so where it exists the answers next to it are of the same
model and the same benchmark files. A run that fails leaves the earlier output as it was.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from toolkit.evaluation.answer_files import AnswerError
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.question_rows import ROWS

RESULTS = "results.json"
PARTIAL = ".partial"


def output_files(name: str) -> list[str]:
    """Files that a benchmark may write, relative to the folder of the output."""
    return [f"{name}/{file}" for file in (ROWS, *BENCHMARKS.get(name).output_files)]


@contextmanager
def replaced_together(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; its files replace those of ``folder`` when the block ends without an error.

    Args:
        folder: made when missing. Only a run's own files (``output_files``, ``RESULTS``) are removed from it.

    Raises:
        AnswerError: another run writes to the folder, or ``folder`` is a file.
        OSError: the folder cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise AnswerError(f"output: {str(folder)!r} is a file; give a folder")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    partial = folder / PARTIAL
    try:
        _lock(lock, folder)
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir()
        try:
            yield partial
            _swap(partial, folder, lock)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(lock)
        if is_new:
            with suppress(OSError):  # not empty: the run's output is there
                folder.rmdir()


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AnswerError(f"output: another evaluation is writing to {folder}; wait for it or give another") from None


def _swap(partial: Path, folder: Path, handle: int) -> None:
    (folder / RESULTS).unlink(missing_ok=True)
    os.fsync(handle)  # the earlier results are gone from the disk before any of their answers is
    for name in [file for benchmark in BENCHMARKS.names() for file in output_files(benchmark)]:
        target = folder / name
        if (partial / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (partial / name).replace(target)
        else:
            target.unlink(missing_ok=True)
            for parent in target.parents[: len(Path(name).parts) - 1]:
                with suppress(OSError):  # missing, or holds other files
                    parent.rmdir()
    (partial / RESULTS).replace(folder / RESULTS)
    os.fsync(handle)
