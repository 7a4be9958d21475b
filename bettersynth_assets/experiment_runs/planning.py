"""Plan of an experiment from the runs that exist. In: an experiment. Out: cost and detectable differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow.parquet as pq

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiment_runs.experiment_run import ExperimentRun
from bettersynth_assets.experiment_runs.result import device_hours
from bettersynth_assets.experiments.long_tables import RUNS
from bettersynth_assets.experiments.plan import Noise, Plan, make_plan, measured_noise
from toolkit.suggest import nearest


def plan_of(opened: ExperimentRun, given: Mapping[str, float]) -> Plan:
    """Return the cost and the smallest detectable differences of an experiment; runs nothing.

    Args:
        opened: the experiment.
        given: standard deviations over training seeds, by benchmark; others are those of earlier runs.

    Raises:
        ConfigError: a benchmark that the experiment does not decide by.
    """
    benchmarks = opened.declaration.benchmarks
    for name in given:
        if name not in benchmarks:
            raise ConfigError(f"--noise {name}: not a deciding benchmark: {nearest(name, benchmarks)}")
    counts = opened.counts()
    measured = measured_noise(opened.result(counts).scores, benchmarks) if any(counts.values()) else {}
    exposures = {arm: replace(opened.settings, recipe=opened.recipes[arm]).budget for arm in opened.arms}
    return make_plan(
        opened.experiment.name,
        opened.declaration,
        exposures,
        runs=counts,
        seconds_per_run=_seconds_per_run(opened),
        noise=measured | {name: Noise(sd=sd, source="given") for name, sd in given.items()},
    )


def _seconds_per_run(opened: ExperimentRun) -> float | None:
    """Return the mean time of this profile's earlier runs with the profile's number of exposures."""
    files = sorted((opened.settings.experiments_root / "runs").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file, schema=RUNS).to_pylist()]
    alike = [row for row in rows if row["pretrain_exposures"] == opened.settings.profile.budget]
    hours = device_hours(alike)
    return None if hours is None else 3600 * hours / len(alike)
