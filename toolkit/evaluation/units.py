"""Answers of one checkpoint to one benchmark: the unit that is committed, kept and reused.

::

    <folder>/questions.jsonl, answers.jsonl, …   the benchmark's files
    <folder>/unit.json                           key, facts, metrics, sha256 of each file; written last

``unit.json`` is removed before the first file of a new version takes its place and is written when all are there, so
where it exists the files next to it belong together. A unit whose key and hashes fit is not answered again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.committed_folder import damaged_files, read_record, write_record
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.question_rows import ROWS
from toolkit.files import flush

UNIT = "unit.json"
PARTIAL = ".partial"


@dataclass(frozen=True, kw_only=True)
class UnitLocation:
    """Where a unit is kept, and what it must have been made from.

    Args:
        folder: of the unit.
        key: hash of everything that the answers depend on.
        run: hash of the part that all benchmarks of one run share; "" where the caller gave the key.
    """

    folder: Path
    key: str
    run: str = ""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Content of ``unit.json``.

    Args:
        benchmark: its name.
        key, run: see ``UnitLocation``.
        facts: device, dtype and settings of the model that answered.
        made: the benchmark's entry in ``results.json``: hashes of its inputs, counts, rate, seconds, chance
            levels, notes, files.
        results: one row per metric (benchmark, metric, value, n, unparsed, protocol), the headline first.
        files: sha256 by path relative to the unit's folder.
    """

    benchmark: str
    key: str
    run: str
    facts: dict[str, Any]
    made: dict[str, Any]
    results: list[dict[str, Any]]
    files: dict[str, str]


def finished(location: UnitLocation) -> Unit | None:
    """The unit of a location if it has the location's key and all its files are whole; else None."""
    unit = read_unit(location.folder)
    if unit is None or unit.key != location.key or damaged_files(location.folder, unit.files):
        return None
    return unit


def read_unit(folder: Path) -> Unit | None:
    """What ``unit.json`` in a folder says; None where it is missing or damaged."""
    try:
        return Unit(**(read_record(folder / UNIT) or {}))
    except TypeError:
        return None


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder for the files of a unit, which is removed at the end; ``locked`` must be held."""
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def commit(partial: Path, folder: Path, unit: Unit) -> None:
    """Replace the unit in ``folder`` by the files in ``partial``; files of anyone else stay."""
    old_files = _file_names(folder, unit.benchmark)
    (folder / UNIT).unlink(missing_ok=True)
    flush(folder)  # the earlier unit.json is gone from the disk before any of its files changes
    for name in unit.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        flush(partial / name)
        (partial / name).replace(folder / name)
    _remove_files(folder, old_files - set(unit.files))
    write_record(folder / UNIT, asdict(unit))


def remove_units_of_other_runs(output: Path, run: str) -> None:
    """Remove units that were not made by ``run`` from ``<output>/<benchmark>``; an output holds one run's units."""
    for name in BENCHMARKS.names():
        unit = read_unit(output / name)
        if (output / name).is_dir() and (unit is None or unit.run != run):
            (output / name / UNIT).unlink(missing_ok=True)
            _remove_files(output / name, _file_names(output / name, name, unit))
            with suppress(OSError):  # not empty: it holds files of someone else
                (output / name).rmdir()


def summary(units: Iterable[Unit], *, model: str) -> dict[str, Any]:
    """What ``results.json`` holds, assembled from units.

    Args:
        units: at least one. The facts at the top are those of the first.
        model: path of the checkpoint.
    """
    all_units = list(units)
    entries: Mapping[str, Mapping[str, Any]] = {unit.benchmark: unit.made for unit in all_units}
    return {
        "model": model,
        **all_units[0].facts,
        "benchmarks": entries,
        "results": [row for unit in all_units for row in unit.results],
        "seconds": round(sum(entry["seconds"] for entry in entries.values()), 2),
    }


def _file_names(folder: Path, benchmark: str, unit: Unit | None = None) -> set[str]:
    """Files that a unit may have written: those of its class, for units of older versions, and those it lists."""
    unit = unit or read_unit(folder)
    return {ROWS, *BENCHMARKS.get(benchmark).output_files, *(unit.files if unit else ())}


def _remove_files(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
        for parent in Path(name).parents:
            if parent != Path():
                with suppress(OSError):  # missing, or holds other files
                    (folder / parent).rmdir()
