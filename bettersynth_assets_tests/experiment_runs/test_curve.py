"""A repetition curve on real training sets: its rows, its comparisons, its fit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bettersynth_assets.config.curve import Curve
from bettersynth_assets.experiment_runs.cells import Cell
from bettersynth_assets.experiment_runs.curve import curve_experiment, judge_curve
from bettersynth_assets.experiment_runs.experiment_run import ExperimentRun
from bettersynth_assets_tests.helpers.fake_experiment import BUDGET, FakeExperiments, fake_experiments

SEEDS = 3


def score(arm: str, seed: int) -> float:
    """Return scores that fall with the repeats of the recipe's rows only."""
    number = {"x2": 2, "x3": 3, "x4": 4}.get(arm)
    level = 40.0 if number is None else 80.0 - number
    return level + seed * 7 % 5 / 3


def decided(fake: FakeExperiments, repeats: list[int], fresh: list[float]) -> ExperimentRun:
    curve = Curve.parse({"recipe": "third_place", "repeats": repeats, "fresh": fresh})
    run = fake.opened(curve_experiment(curve, "third_place", SEEDS, fake.settings.profile))
    run.decide()
    return run


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeExperiments]:
    with pytest.MonkeyPatch.context() as patch:
        yield fake_experiments(tmp_path_factory.mktemp("curve"), patch, score)


@pytest.fixture(scope="module")
def repeated(fake: FakeExperiments) -> ExperimentRun:
    return decided(fake, [2, 3, 4], [0.25])


@pytest.fixture(scope="module")
def from_once(fake: FakeExperiments) -> ExperimentRun:
    return decided(fake, [1, 2, 4], [])


def digests(run: ExperimentRun, arm: str) -> set[str]:
    found = [run.wanted(Cell(arm=arm, seed=seed)) for seed in range(SEEDS)]
    return {one.training_set.digest for one in found if one}


@pytest.mark.slow
def test_both_arms_of_a_point_are_compared_at_measured_numbers_of_repeats(repeated: ExperimentRun) -> None:
    found = judge_curve(repeated)
    assert [point.name for point in found.points] == ["x2", "x3", "x4", "fresh_25"]
    assert [point.recipe.facts.exposures for point in found.points] == [BUDGET] * 3 + [BUDGET // 4]
    assert [point.random.facts.unique_rows for point in found.points] == [6, 4, 3, 3]
    assert [point.random.facts.repeats for point in found.points] == [2, 3, 4, 1]
    words = [{str(one.verdict.word) for one in point.differences} for point in found.points]
    assert words[:3] == [{"better"}] * 3
    assert {one.benchmark for one in found.fits} == {"textvqa", "mmbench"} and all(one.fit for one in found.fits)


@pytest.mark.slow
def test_every_run_of_a_point_draws_its_own_rows(repeated: ExperimentRun) -> None:
    for arm in ("x4", "random_x2", "random_x4", "random_fresh_25"):
        assert len(digests(repeated, arm)) == SEEDS, arm


@pytest.mark.slow
def test_points_with_the_same_training_data_are_trained_and_fitted_once(
    fake: FakeExperiments, from_once: ExperimentRun
) -> None:
    run = from_once
    # The seed file has fewer rows than the budget, so that the point without repetition shows all of them.
    rows = run.wanted(Cell(arm="x1", seed=0))
    assert rows is not None and rows.training_set.manifest.kept < BUDGET
    found = judge_curve(run)
    same = run.same_as()
    for one in found.fits:
        names = ["x1", "x2", "x4"] if one.rows == "recipe" else ["random_x1", "random_x2", "random_x4"]
        assert len(one.runs) == len({same.get(name, name) for name in names})
    assert not {cell for cell in fake.trained if cell.partition("|")[0] in same}


@pytest.mark.slow
def test_random_rows_without_repetition_are_the_baselines_runs(fake: FakeExperiments, from_once: ExperimentRun) -> None:
    assert digests(from_once, "random_x1") == digests(from_once, "baseline")
    assert not [cell for cell in fake.trained if cell.startswith("random_x1|")]
