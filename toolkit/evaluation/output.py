"""The output folder of a run. In: units. Out: ``results.json``, which exists only when all benchmarks are finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.plan import EvaluationPlan
from toolkit.evaluation.units import Unit, UnitLocation, finished, read_unit, remove_units_of_other_runs, summary
from toolkit.files import flush, write_json
from toolkit.locks import locked_folder
from toolkit.questions.answer_files import AnswerError

RESULTS = "results.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an output folder, which is created.

    Raises:
        AnswerError: another run writes to the folder, or ``folder`` is a file.
        OSError: the folder cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise AnswerError(f"output: {str(folder)!r} is a file; give a folder")

    def refuse() -> None:
        raise AnswerError(
            f"output: another evaluation is writing to {folder}; wait for it or give another folder"
        ) from None

    is_new = not folder.exists()
    with locked_folder(folder, on_wait=refuse):
        try:
            yield
        finally:
            if is_new:
                with suppress(OSError):  # not empty: it holds finished benchmarks
                    folder.rmdir()


def begin_commit(folder: Path, place: UnitLocation) -> None:
    """Remove ``results.json`` and, from a run's own output, the units of other runs, before a unit is committed."""
    (folder / RESULTS).unlink(missing_ok=True)
    flush(folder)
    if place.run:
        remove_units_of_other_runs(folder, place.run)


def write_results(plan: EvaluationPlan, places: Mapping[str, UnitLocation]) -> dict[str, Any]:
    """Assemble ``results.json``: the plan's benchmarks in its order, then others of the same run in the output.

    Raises:
        AnswerError: a unit was damaged or replaced by another process since it was finished.
    """
    units = [_whole(name, place) for name, place in places.items()]
    runs = {place.run for place in places.values()} - {""}
    others = [name for name in BENCHMARKS.names() if name not in places and runs]
    other_units = [read_unit(plan.output / name) for name in others]
    units += [unit for unit in other_units if unit is not None and unit.run in runs]
    results = summary(units, model=str(plan.model))
    write_json(plan.output / RESULTS, results)
    flush(plan.output)
    return results


def _whole(name: str, place: UnitLocation) -> Unit:
    unit = finished(place)
    if unit is None:
        raise AnswerError(f"{name}: {place.folder} was changed after it was answered; run the evaluation again")
    return unit
