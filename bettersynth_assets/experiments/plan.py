"""What an experiment costs and what it can show, before anything is run. In: its declaration, earlier runs. Out: text.

The cost counts training runs; the data stages of each arm come on top, once. The hours follow from the seconds that
earlier runs with the same settings took, and are unknown without any. The smallest detectable differences follow from
the spread over training seeds of earlier runs, or from one that the user gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.experiments.comparison import Scores
from bettersynth_assets.experiments.conclusions import title
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.power import detectable_with


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviation over training seeds of one deciding metric, and where it comes from."""

    sd: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost up to one look, if every arm gets its number of seeds.

    Args:
        seeds: per arm.
        runs: training runs that are still missing.
        exposures: pairs that these runs are shown in pre-training.
        device_hours: of these runs; None if no earlier run with the same settings is known.
    """

    seeds: int
    runs: int
    exposures: int
    device_hours: float | None


@dataclass(frozen=True, kw_only=True)
class Detectable:
    """Smallest difference between two arms that ``seeds`` per arm detect in 80% of experiments.

    Args:
        alone: at the level of this look, for a single comparison.
        first: for the first comparison of the family that Holm's correction judges, at the strictest level.
    """

    benchmark: str
    seeds: int
    alone: float
    first: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Cost and power of an experiment."""

    experiment: str
    arms: tuple[str, ...]
    benchmarks: tuple[str, ...]
    """Deciding metrics, as declared."""
    family: int
    """Number of comparisons that are judged together."""
    confidence: float
    costs: tuple[Cost, ...]
    noise: Mapping[str, Noise]
    detectable: tuple[Detectable, ...]


def make_plan(
    experiment: str,
    declaration: Declaration,
    exposures: Mapping[str, int],
    *,
    runs: Mapping[str, int] | None = None,
    seconds_per_run: float | None = None,
    noise: Mapping[str, Noise] | None = None,
) -> Plan:
    """Compute the cost and the smallest detectable differences at each look.

    Args:
        experiment: name of the experiment.
        declaration: what it declares.
        exposures: of one run, by arm, with the baseline.
        runs: training runs that exist already, by arm.
        seconds_per_run: mean time for which an earlier run held its device.
        noise: by benchmark; benchmarks without one have no smallest detectable difference.
    """
    noise = noise or {}
    done = runs or {}
    family = declaration.family(list(exposures))
    looks = declaration.looks
    levels = looks.nominal_levels(declaration.level), looks.nominal_levels(declaration.level / len(family))
    return Plan(
        experiment=experiment,
        arms=tuple(exposures),
        benchmarks=declaration.benchmarks,
        family=len(family),
        confidence=declaration.confidence,
        costs=tuple(_cost(count, exposures, done, seconds_per_run) for count in looks.counts),
        noise=noise,
        detectable=tuple(
            Detectable(
                benchmark=name,
                seeds=count,
                alone=float(detectable_with(count, noise[name].sd, noise[name].sd, level=alone)),
                first=float(detectable_with(count, noise[name].sd, noise[name].sd, level=first)),
            )
            for name in declaration.benchmarks
            if name in noise
            for count, alone, first in zip(looks.counts, *levels, strict=True)
        ),
    )


def _cost(seeds: int, exposures: Mapping[str, int], done: Mapping[str, int], seconds: float | None) -> Cost:
    missing = {arm: max(0, seeds - done.get(arm, 0)) for arm in exposures}
    runs = sum(missing.values())
    return Cost(
        seeds=seeds,
        runs=runs,
        exposures=sum(count * exposures[arm] for arm, count in missing.items()),
        device_hours=None if seconds is None else runs * seconds / 3600,
    )


def measured_noise(scores: Scores, benchmarks: Sequence[str]) -> dict[str, Noise]:
    """Pool the spread over training seeds of all arms with two or more runs, by benchmark."""
    found = {}
    for name in benchmarks:
        values = {arm: list(runs[name].values()) for arm, runs in scores.items() if len(runs.get(name, ())) > 1}
        df = sum(len(one) - 1 for one in values.values())
        if df:
            squares = sum(float(np.var(one, ddof=1)) * (len(one) - 1) for one in values.values())
            runs_used = sum(map(len, values.values()))
            source = f"measured: {runs_used} runs of {', '.join(values)}"
            found[name] = Noise(sd=float(np.sqrt(squares / df)), source=source)
    return found


def as_text(plan: Plan) -> str:
    """Format a plan for the terminal."""
    lines = [
        f"{plan.experiment}: {len(plan.arms)} arms ({', '.join(plan.arms)}), {plan.family} comparisons",
        "",
        "cost, if every arm gets the seeds of a look (arms with verdicts get no more):",
    ]
    for cost in plan.costs:
        hours = "unknown: no earlier run" if cost.device_hours is None else f"{cost.device_hours:.2f}"
        lines.append(
            f"  {cost.seeds:>3} seeds per arm: {cost.runs:>4} runs to train, {cost.exposures:>12,} exposures, "
            f"device hours {hours}"
        )
    unit = Measure.of(plan.benchmarks[0]).unit
    lines += ["", f"smallest difference detected in 80% of experiments, in {unit}, at confidence {plan.confidence:g}:"]
    for name, noise in plan.noise.items():
        form = f".{Measure.of(name).digits}f"
        lines.append(f"  {title(name)}, sd over seeds {noise.sd:{form}} ({noise.source})")
        for row in plan.detectable:
            if row.benchmark == name:
                alone = f"(a single comparison: {row.alone:{form}})"
                lines.append(f"  {row.seeds:>3} seeds per arm: {row.first:6{form}} {alone}")
    if not plan.noise:
        lines.append("  unknown: no arm has two runs; give the spread, e.g. --noise textvqa=7.1 mmbench=3.2")
    return "\n".join(lines)
