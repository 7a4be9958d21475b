"""Cost and smallest detectable difference of an experiment before it runs."""

from __future__ import annotations

import pytest

from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.plan import Noise, as_text, make_plan, measured_noise
from bettersynth_assets.experiments.power import detectable_with
from bettersynth_assets.experiments.sequential import Looks

DECLARED = Declaration(baseline="baseline", benchmarks=("textvqa",), looks=Looks((4, 8), "linear"))
EXPOSURES = {"baseline": 4000, "filtered": 4000, "half": 2000}
NOISE = {"textvqa": Noise(sd=7.1, source="given")}


def test_only_missing_runs_cost_something() -> None:
    plan = make_plan("mine", DECLARED, EXPOSURES, runs={"baseline": 6, "half": 1}, seconds_per_run=60.0)
    assert [(cost.seeds, cost.runs, cost.exposures) for cost in plan.costs] == [
        (4, 0 + 4 + 3, 4 * 4000 + 3 * 2000),
        (8, 2 + 8 + 7, 2 * 4000 + 8 * 4000 + 7 * 2000),
    ]
    assert [cost.device_hours for cost in plan.costs] == pytest.approx([7 / 60, 17 / 60])


def test_without_earlier_runs_the_hours_are_said_to_be_unknown() -> None:
    plan = make_plan("mine", DECLARED, EXPOSURES)
    assert plan.costs[0].device_hours is None and "device hours unknown: no earlier run" in as_text(plan)
    assert "--noise textvqa=7.1" in as_text(plan) and plan.detectable == ()


def test_the_smallest_detectable_difference_has_the_level_of_its_look() -> None:
    plan = make_plan("mine", DECLARED, EXPOSURES, noise=NOISE)
    first, last = plan.detectable
    assert plan.family == 3 and (first.seeds, last.seeds) == (4, 8)
    assert first.alone == pytest.approx(float(detectable_with(4, 7.1, 7.1, level=0.025)), rel=1e-3)  # half of 0.05
    assert last.first > last.alone and first.alone > last.alone
    one_look = make_plan(
        "mine", Declaration(baseline="baseline", benchmarks=("textvqa",), looks=Looks((4,))), EXPOSURES, noise=NOISE
    )
    assert one_look.detectable[0].alone == pytest.approx(16.8, abs=0.05)  # docs/statistics.md


def test_noise_is_pooled_over_arms_with_two_or_more_runs() -> None:
    scores = {
        "a": {"textvqa": {0: 1.0, 1: 3.0}},
        "b": {"textvqa": {0: 10.0, 1: 12.0, 2: 14.0}},
        "c": {"textvqa": {0: 99.0}},
    }
    found = measured_noise(scores, ["textvqa"])["textvqa"]
    assert found.sd == pytest.approx(((2 + 8) / 3) ** 0.5) and found.source == "measured: 5 runs of a, b"
    assert measured_noise({"c": scores["c"]}, ["textvqa"]) == {}
