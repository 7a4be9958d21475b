"""Finds choices by scores of the split ``report``. In: long tables, settings, arms. Out: sentences.

A figure is biased upwards if the settings that it is measured with were chosen by figures of the same questions. Two
such choices can be seen: runs with different training settings and equal questions, and several values of one key of a
recipe in one experiment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bettersynth_assets.config.experiment import Experiment
from bettersynth_assets.experiments.long_tables import RUNS

FEWEST_VALUES = 3
"""Fewer values of a key are a comparison, e.g. with and without an operator; from here on, they are a search."""
AMOUNTS = frozenset({"budget.exposures", "budget.rows", "budget.seed"})
"""Keys that say how much is trained on and which rows are drawn, e.g. in a repetition curve."""
SAME = ("base", "architecture")
SETTINGS = ("training", "deepspeed")


def other_settings(root: Path, evaluations: Mapping[str, str], own: Mapping[str, Any]) -> str | None:
    """Find a run whose answers to the same questions come from other training settings of the same base model.

    Args:
        root: folder of the long tables.
        evaluations: hashes of what determines answers apart from the model, by benchmark.
        own: ``stages.training_plan.settings_key``.

    Returns:
        The run and what differs; None if there is none.
    """
    for run in sorted(_answered(root, evaluations)):
        file = root / "runs" / f"{run}.parquet"
        if not file.is_file():
            continue
        (row,) = pq.read_table(file, schema=RUNS).to_pylist()
        identity = json.loads(row["identity"])
        if all(identity.get(name) == own.get(name) for name in SAME) and (found := _differences(identity, own)):
            return f"run {run} with {found[0]}, and now {found[1]}"
    return None


def searched(experiment: Experiment) -> list[str]:
    """Find keys of which an experiment tries ``FEWEST_VALUES`` values or more in one recipe."""
    values: dict[tuple[str, str], dict[str, str]] = {}
    for name, arm in experiment.arms.items():
        for key, value in arm.set.items():
            if key not in AMOUNTS:
                values.setdefault((arm.recipe or name, key), {}).setdefault(json.dumps(value), name)
    return [
        f"{', '.join(arms.values())}: values {', '.join(arms)} of {key} in {recipe}"
        for (recipe, key), arms in values.items()
        if len(arms) >= FEWEST_VALUES
    ]


def _answered(root: Path, evaluations: Mapping[str, str]) -> set[str]:
    """Return the names of the runs with answers of one of these evaluations."""
    ends = [f"-{benchmark}-{evaluation}.parquet" for benchmark, evaluation in evaluations.items()]
    return {path.name.removesuffix(end) for end in ends for path in (root / "metrics").glob(f"*{end}")}


def _differences(identity: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the settings that differ, as text: those of the identity, and our own."""
    pairs = [dict(_flat({name: one.get(name) for name in SETTINGS})) for one in (identity, own)]
    names = sorted({name for one in pairs for name in one if pairs[0].get(name) != pairs[1].get(name)})
    texts = [", ".join(f"{name} = {one.get(name, 'the default')}" for name in names) for one in pairs]
    return (texts[0], texts[1]) if names else None


def _flat(value: object, name: str = "") -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _flat(below, f"{name}.{key}" if name else key)
    else:
        yield name, value
