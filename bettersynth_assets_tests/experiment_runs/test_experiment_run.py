"""The loop of an experiment on real training sets: which runs it adds, what it shares, and how it continues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiment_runs import runs
from bettersynth_assets.experiment_runs.cells import Cell
from bettersynth_assets.experiment_runs.experiment_run import ExperimentRun
from bettersynth_assets.experiment_runs.ladder import read_ladder
from bettersynth_assets.experiment_runs.planning import plan_of
from bettersynth_assets.experiments import diff
from bettersynth_assets.experiments.conclusions import TUNE_ONLY, conclusions
from bettersynth_assets.experiments.leaderboard_files import as_markdown
from bettersynth_assets.experiments.plan import as_text as plan_as_text
from bettersynth_assets.stages.training_plan import settings_key
from bettersynth_assets_tests.helpers.fake_experiment import BUDGET, FakeExperiments, fake_experiments

ARMS = {
    "third_place": {},
    "copy": {"recipe": "third_place"},
    "half": {"recipe": "third_place", "set": {"budget.exposures": BUDGET // 2}},
}
SEEDS = {"start": 3, "step": 2, "max": 7}
MEANS = {"baseline": 40.0, "third_place": 80.0, "half": 80.5}
WOBBLE = (0.0, 1.0, -1.0, 0.5, -0.5, 0.8, -0.8)


def score(arm: str, seed: int) -> float:
    return MEANS.get(arm, 50.0) + WOBBLE[(seed + len(arm)) % len(WOBBLE)]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeExperiments:
    return fake_experiments(tmp_path, monkeypatch, score)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeExperiments]:
    """The experiment after all its verdicts, for tests that train nothing more."""
    with pytest.MonkeyPatch.context() as patch:
        found = fake_experiments(tmp_path_factory.mktemp("decided"), patch, score)
        found.open(ARMS, seeds=SEEDS).decide()
        yield found


@pytest.mark.slow
def test_only_arms_without_a_verdict_get_more_seeds_and_equal_arms_are_trained_once(decided: FakeExperiments) -> None:
    opened = decided.open(ARMS, seeds=SEEDS)
    result = opened.decide()
    assert opened.same_as() == {"copy": "third_place"}
    assert opened.counts() == {"baseline": 3, "third_place": 7, "copy": 7, "half": 7}
    expected = {
        f"{arm}|{seed}" for arm, count in (("baseline", 3), ("third_place", 7), ("half", 7)) for seed in range(count)
    }
    assert sorted(decided.trained) == sorted(expected)
    words = {(one.arm, one.other): str(one.verdict.word) for one in result.table.comparisons}
    assert words == {
        ("third_place", "baseline"): "better",
        ("half", "baseline"): "better",
        ("third_place", "half"): "indistinguishable",
    }
    assert result.board.rows[-1].arm == "baseline" and result.board.rows[0].facts.recipe_hash
    assert {row.arm: row.facts.same_as for row in result.board.rows}["third_place"] == ("copy",)


@pytest.mark.slow
def test_a_second_run_trains_nothing_and_gives_the_same_result(decided: FakeExperiments) -> None:
    before, first = [*decided.trained], decided.open(ARMS, seeds=SEEDS).result()
    again = decided.open(ARMS, seeds=SEEDS)
    assert again.decide() == first == again.result() and decided.trained == before


@pytest.mark.slow
def test_an_interrupted_run_continues(fake: FakeExperiments) -> None:
    fake.fails_after = 4
    reported: list[Cell] = []
    opened = fake.open(ARMS, seeds=SEEDS)
    opened.on_cell = lambda cell, wanted: reported.append(cell)
    with pytest.raises(ValueError, match="on purpose"):
        opened.decide()
    assert len(fake.trained) == 4 and {cell.partition for cell in reported} >= {*fake.trained}
    fake.fails_after = None
    fake.open(ARMS, seeds=SEEDS).decide()
    assert len(fake.trained) == len(set(fake.trained)) == 3 + 7 + 7


def test_another_experiment_uses_the_same_runs(decided: FakeExperiments) -> None:
    before, other = [*decided.trained], {"mine_too": {"recipe": "third_place"}}
    decided.open(other, seeds={"start": 3, "step": 1, "max": 3}).decide()
    assert decided.trained == before


@pytest.mark.slow
def test_every_run_of_the_baseline_draws_its_own_rows_unless_draws_are_limited(fake: FakeExperiments) -> None:
    arms: dict[str, dict[str, object]] = {"third_place": {}}
    seeds = {"start": 3, "step": 1, "max": 3}

    def digests(opened: ExperimentRun) -> list[str]:
        found = [opened.wanted(Cell(arm="baseline", seed=seed)) for seed in range(3)]
        return [one.training_set.digest for one in found if one]

    opened = fake.open(arms, seeds=seeds)
    opened.decide()
    assert len(set(digests(opened))) == 3
    limited = fake.open(arms, seeds=seeds, baseline={"draws": 2})
    limited.decide()
    first, second, third = digests(limited)
    assert first == third != second


def test_a_single_missing_cell_is_trained_alone(fake: FakeExperiments) -> None:
    opened = fake.open(ARMS, seeds=SEEDS)
    assert opened.bring([Cell(arm="half", seed=5)]) == [Cell(arm="half", seed=5)]
    assert fake.trained == ["half|5"] and opened.counts()["half"] == 0
    assert opened.bring([Cell(arm="half", seed=5)]) == []


def test_seeds_can_be_added_up_to_the_declared_maximum(fake: FakeExperiments) -> None:
    opened = fake.open(ARMS, seeds=SEEDS)
    opened.add_seeds(2)
    assert set(opened.counts().values()) == {2}
    board = opened.result().board
    assert not any(against.value for row in board.rows for against in row.to_baseline.values())
    with pytest.raises(ConfigError, match=r"6 more seeds would make 8, but seeds\.max = 7"):
        opened.add_seeds(6)


def test_the_checks_accept_a_budget_that_the_file_sets(decided: FakeExperiments) -> None:
    result = decided.open(ARMS, seeds=SEEDS).result()
    checks = {check.name: check for check in result.checks}
    assert all(check.passed for check in checks.values())
    assert checks["budget_equal"].summary == f"exposures of the baseline: {BUDGET}; half: {BUDGET // 2}, as declared"


@pytest.mark.slow
def test_the_leaderboard_has_the_commits_of_the_code_that_trained(fake: FakeExperiments) -> None:
    opened = fake.open(ARMS, seeds=SEEDS)
    opened.add_seeds(2)
    fake.commit = "34cd"
    result = opened.decide()
    assert {row.facts.commits for row in result.board.rows} == {("12ab", "34cd")}
    for path in (fake.settings.experiments_root / "runs").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["commit"]), path)  # as older versions wrote it
    assert {row.facts.commits for row in opened.result().board.rows} == {()}


def test_the_leaderboard_is_written_in_three_forms(decided: FakeExperiments) -> None:
    opened = decided.open(ARMS, seeds=SEEDS)
    files = opened.result().write(opened.folder)
    assert [file.name for file in files] == ["leaderboard.md", "leaderboard.json", "leaderboard.csv"]
    assert all(file.parent == decided.settings.profile_root / "experiments" / "mine" for file in files)
    found = json.loads(files[1].read_text())
    assert found["conclusions"][0].startswith(("third_place is better than random rows: ", "half is better than"))


@pytest.mark.slow
def test_a_ladder_reads_the_leaderboards_of_several_profiles(fake: FakeExperiments) -> None:
    opened = fake.open(ARMS, seeds=SEEDS)
    result = opened.decide()
    result.write(opened.folder)
    root, own = fake.settings.data_root, fake.settings.profile.name
    assert read_ladder("mine", [own, "mgm-2b"], root).not_measured == ("mgm-2b",)
    result.write(root / "mgm-2b" / "experiments" / "mine")
    found = read_ladder("mine", [own, "mgm-2b"], root)
    # Equal leaderboards: both decide that the two recipes are better than the baseline, and not which of them is.
    assert {(step.measure, step.arms, step.share, step.agree, step.disagree) for step in found.steps} == {
        (measure, 3, 1.0, 2, 0) for measure in ("textvqa", "mmbench", "mean")
    }


def test_a_plan_counts_what_is_missing_and_uses_the_measured_noise(
    fake: FakeExperiments, decided: FakeExperiments
) -> None:
    assert plan_of(fake.open(ARMS, seeds=SEEDS), {}).costs[0].runs == 4 * 3
    plan = plan_of(decided.open(ARMS, seeds=SEEDS), {"mmbench": 3.0})
    assert [cost.runs for cost in plan.costs] == [0, 2, 4]  # of the baseline
    assert plan.costs[2].device_hours == pytest.approx(4 * 2 * 1.5 / 3600)
    assert plan.noise["mmbench"].source == "given" and 0.5 < plan.noise["textvqa"].sd < 1.5


@pytest.mark.slow
def test_an_experiment_can_decide_by_another_metric_of_the_same_answers(decided: FakeExperiments) -> None:
    names = ["textvqa/log_probability_per_token", "mmbench/log_probability_per_token"]
    opened = decided.open(ARMS, seeds=SEEDS, decide={"benchmarks": names})
    result = opened.result()
    assert opened.counts() == {"baseline": 3, "third_place": 7, "copy": 7, "half": 7}  # those of the headlines
    row = next(row for row in result.board.rows if row.arm == "third_place")
    assert list(row.means) == names and row.means[names[0]].mean == pytest.approx(-1.2, abs=0.01)
    by_headlines = decided.open(ARMS, seeds=SEEDS).result().table
    assert result.table.kit_scores == by_headlines.kit_scores and row.kit_score is not None
    plan = plan_of(opened, {names[1]: 0.03})
    assert list(plan.noise) == names and plan.noise[names[0]].sd < 0.02
    text = plan_as_text(plan)
    assert "in nats" in text and "MMBench log_probability_per_token, sd over seeds 0.030 (given)" in text


def test_nothing_is_compared_without_runs(fake: FakeExperiments) -> None:
    with pytest.raises(
        ConfigError, match="experiment mine has no runs yet: start them with `bettersynth experiment run"
    ):
        fake.open(ARMS).result()
    assert not fake.settings.data_root.exists()


def test_a_benchmark_that_the_profile_does_not_evaluate_is_refused(fake: FakeExperiments) -> None:
    with pytest.raises(ConfigError, match=r"experiment mine: decide\.benchmarks: 'pope' is not evaluated"):
        fake.open(ARMS, decide={"benchmarks": ["pope"]})


@pytest.mark.slow
def test_an_experiment_for_tuning_uses_the_questions_for_it_and_says_so(fake: FakeExperiments) -> None:
    opened = fake.open(ARMS, seeds=SEEDS, purpose="tune")
    assert opened.run.settings.profile.evaluation.split == "tune"
    result = opened.decide()
    assert result.board.split == "tune" and conclusions(result.board)[-1] == TUNE_ONLY
    assert TUNE_ONLY in as_markdown(result.board) and "split tune" in as_markdown(result.board)
    reported = fake.open(ARMS, seeds=SEEDS).result()
    assert reported.board.split == "report" and TUNE_ONLY not in conclusions(reported.board)


def test_questions_without_a_split_for_tuning_are_refused(fake: FakeExperiments) -> None:
    evaluation = fake.settings.profile.evaluation.changed(benchmarks={"textvqa": {}, "mmbench": {"table": "m.tsv"}})
    profile = fake.settings.profile.model_copy(update={"evaluation": evaluation})
    fake.settings = replace(fake.settings, profile=profile)
    with pytest.raises(ConfigError, match=r"experiment mine: purpose: tune: .*no files of mmbench: name questions"):
        fake.open(ARMS, purpose="tune")


@pytest.mark.slow
def test_other_training_settings_are_refused_on_the_same_report(
    fake: FakeExperiments, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_settings(run: ResolvedRun, arm: str, seed: int) -> dict[str, object]:
        return {"arm": arm, "training_seed": seed, **settings_key(run)}

    monkeypatch.setattr(runs, "run_identity", of_settings)
    fake.open(ARMS, seeds=SEEDS).decide()
    training = fake.settings.profile.training
    other = training.changed(stage_2=training.stage_2.changed(learning_rate=0.25))
    fake.settings = replace(fake.settings, profile=fake.settings.profile.model_copy(update={"training": other}))
    with pytest.raises(
        ConfigError, match=r"compared by their scores on the split report: run \w+ with .*learning_rate = .* = 0\.25\."
    ):
        fake.open(ARMS, seeds=SEEDS).decide()
    tuned = fake.open(ARMS, seeds=SEEDS, purpose="tune").decide()
    assert {check.name: check.passed for check in tuned.checks}["not_tuned_on_report"]
    failed = {check.name: check for check in fake.open(ARMS, seeds=SEEDS).result().checks}
    assert not failed["not_tuned_on_report"].passed


@pytest.mark.slow
def test_a_diff_shows_recipes_sets_and_scores(fake: FakeExperiments) -> None:
    opened = fake.open(ARMS, seeds=SEEDS, decide={"pairs": "baseline"})
    result = opened.decide()
    recipes = [opened.recipes[arm].model_dump(mode="json") for arm in ("third_place", "half")]
    found = diff.recipe_differences(*recipes)
    assert found["budget.exposures"] == (None, BUDGET // 2)
    compared = diff.comparisons_of("third_place", "half", result.table, result.scores, opened.declaration)
    assert compared[1] is False and len(compared[0]) == 2
    facts = {row.arm: row.facts for row in result.board.rows}
    text = diff.as_text(("third_place", "half"), found, (facts["third_place"], facts["half"]), compared)
    assert f"  budget.exposures: - | {BUDGET // 2}" in text and "not declared by the experiment" in text
