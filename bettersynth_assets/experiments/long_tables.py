"""Long tables of all runs and answers, kept for ever: ``data/<profile>/experiments/``. docs/runs.md has the schema.

::

    runs/<run>.parquet                                 one row: identity and cost
    metrics/<run>-<benchmark>-<evaluation>.parquet     one row per metric
    questions/<run>-<benchmark>-<evaluation>.parquet   one row per question

Files are added and never changed, so that ``read_parquet('.../questions/*.parquet')`` is the whole table. Deleting a
trained model or its answers keeps its rows here. ``evaluation`` is a hash of all that determines answers apart from the
model: files and options of the benchmark, code, generation settings, libraries. Files of older versions lack newer
columns; reading them with the schemas below gives null there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.engine.store import write_table
from bettersynth_assets.experiments.run_store import PHASES, Run

Questions = Iterable[Mapping[str, Any]]

_COST: tuple[tuple[str, pa.DataType], ...] = (
    ("steps", pa.int64()),
    ("exposures", pa.int64()),
    ("unique_rows", pa.int64()),
    ("supervised_tokens", pa.int64()),
    ("final_loss", pa.float64()),
    ("seconds", pa.float64()),
    ("gpu_seconds", pa.float64()),
    ("peak_rss_gib", pa.float64()),
    ("gpu_peak_gib", pa.float64()),
    ("energy_joules", pa.float64()),
    ("device", pa.string()),
    ("processes", pa.int64()),
)
RUNS = pa.schema(
    [
        ("run", pa.string()),
        ("arm", pa.string()),
        ("training_seed", pa.int64()),
        ("identity", pa.string()),
        *((f"{phase}_{name}", kind) for phase in PHASES for name, kind in _COST),
        ("commit", pa.string()),
    ]
)
METRICS = pa.schema(
    [
        ("run", pa.string()),
        ("benchmark", pa.string()),
        ("evaluation", pa.string()),
        ("metric", pa.string()),
        ("headline", pa.bool_()),
        ("value", pa.float64()),
        ("n", pa.int64()),
        ("unparsed", pa.int64()),
        ("protocol", pa.string()),
        ("from_questions", pa.string()),
        ("chance", pa.float64()),
        ("split", pa.string()),
    ]
)
QUESTIONS = pa.schema(
    [
        ("run", pa.string()),
        ("benchmark", pa.string()),
        ("evaluation", pa.string()),
        ("question_id", pa.string()),
        ("cluster", pa.string()),
        ("score", pa.float64()),
        ("log_probability", pa.float64()),
        ("tokens", pa.int64()),
        ("characters", pa.int64()),
        ("split", pa.string()),
    ]
)


class LongTables:
    """Adds rows of runs and of answers; what is there already stays.

    Args:
        root: folder of the tables.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def add_run(self, run: Run) -> None:
        """Add the row of a run."""
        row = {
            "run": run.name,
            "arm": run.identity["arm"],
            "training_seed": run.training_seed,
            "identity": json.dumps(run.identity, sort_keys=True),
            **{f"{phase}_{name}": run.cost[phase].get(name) for phase in PHASES for name, _ in _COST},
            "commit": run.commit or None,
        }
        self._add(f"runs/{run.name}", lambda: [row], RUNS)

    def add_answers(
        self,
        run: str,
        benchmark: str,
        evaluation: str,
        *,
        metrics: Iterable[Mapping[str, Any]],
        questions: Callable[[], Questions],
        from_questions: str | None,
        chance: Mapping[str, float],
        split: str = "report",
    ) -> None:
        """Add the rows of a run's answers to one benchmark.

        Args:
            run: name of the run.
            benchmark: its name.
            evaluation: hash of what determined the answers apart from the model.
            metrics: rows of the toolkit's results; the first is the headline.
            questions: returns the rows of ``questions.jsonl`` with ``cluster``; called only if they are missing here.
            from_questions: how the headline follows from the questions' scores; see ``Benchmark.from_questions``.
            chance: chance levels, by metric; metrics whose level is not known are left out.
            split: of the questions: ``report`` or ``tune``.
        """
        keys = {"run": run, "benchmark": benchmark, "evaluation": evaluation}
        name = "-".join(keys.values())

        def rows() -> list[dict[str, Any]]:
            return [_selected({**row, "score": row["right"], **keys, "split": split}, QUESTIONS) for row in questions()]

        of_metrics = [
            _selected({**row, **keys, "headline": at == 0, "from_questions": from_questions, "split": split,
                       "chance": chance.get(row["metric"])}, METRICS)
            for at, row in enumerate(metrics)
        ]  # fmt: skip
        self._add(f"questions/{name}", rows, QUESTIONS)
        self._add(f"metrics/{name}", lambda: of_metrics, METRICS)

    def _add(self, name: str, rows: Callable[[], list[dict[str, Any]]], schema: pa.Schema) -> None:
        path = self.root / f"{name}.parquet"
        if not path.exists():
            write_table(path, pa.Table.from_pylist(rows(), schema=schema))


def _selected(row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    return {name: row[name] for name in schema.names}
