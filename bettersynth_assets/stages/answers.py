"""Answers of trained models: where they are kept, what they depend on, and their rows in the long tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bettersynth_assets.engine.libraries import key_versions
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.experiments.long_tables import LongTables
from bettersynth_assets.stages.side_inputs import benchmarks_key
from bettersynth_assets.stages.training_plan import architecture_key
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.question_rows import ROWS
from toolkit.evaluation.units import Unit, UnitLocation
from toolkit.files import digest_of

LIBRARIES = ("torch", "transformers")


def unit_locations(run: ResolvedRun, model: Path) -> dict[str, UnitLocation]:
    """Return the folder and key of one checkpoint's answers, by benchmark, in the profile's order."""
    from toolkit.evaluation.keys import VERSION, checkpoint_hashes

    common = [VERSION, checkpoint_hashes(model), run_key(run), key_versions(LIBRARIES)]
    keys = {name: digest_of(name, key, *common) for name, key in benchmarks_key(run).items()}
    root = run.settings.shared_root / "answers"
    return {name: UnitLocation(folder=root / f"{name}-{key[:16]}", key=key) for name, key in keys.items()}


def evaluations(run: ResolvedRun) -> dict[str, str]:
    """Return a hash of all that determines answers apart from the checkpoint, by benchmark."""
    from toolkit.evaluation.keys import VERSION

    common = [VERSION, run_key(run), key_versions(LIBRARIES)]
    return {name: digest_of(name, key, *common)[:16] for name, key in benchmarks_key(run).items()}


def add_to_long_tables(
    run: ResolvedRun, name: str, locations: Mapping[str, UnitLocation], units: Sequence[Unit]
) -> None:
    """Add the answers of one training run to the long tables."""
    tables, keys = LongTables(run.settings.experiments_root), evaluations(run)
    for unit in units:
        benchmark = BENCHMARKS.get(unit.benchmark)
        file = locations[unit.benchmark].folder / ROWS
        tables.add_answers(
            name,
            unit.benchmark,
            keys[unit.benchmark],
            metrics=unit.results,
            questions=partial(_with_clusters, file, benchmark.cluster),
            from_questions=benchmark.from_questions,
            chance=unit.made.get("chance", {}),  # units of older versions have none
            split=run.settings.profile.evaluation.split,
        )


def _with_clusters(file: Path, cluster: Callable[[str, str], str]) -> list[dict[str, Any]]:
    return [row | {"cluster": cluster(row["question_id"], row["cluster_id"])} for row in rows_of(file)]


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Read a ``questions.jsonl``."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def run_key(run: ResolvedRun) -> dict[str, Any]:
    """Return the settings that the answers to every benchmark depend on."""
    return {
        **architecture_key(run),
        "evaluation": run.settings.profile.evaluation.key(),
        "gpu": run.gpu.key("evaluation"),
    }
