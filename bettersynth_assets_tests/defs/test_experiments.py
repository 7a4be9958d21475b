"""Assets of an experiment: the grid of runs, the loop, the leaderboard, its checks and its job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from bettersynth_assets.config.curve_arms import with_curve_arms
from bettersynth_assets.config.experiment import Experiment, recipes_of
from bettersynth_assets.config.experiments import KnownExperiment, load_experiments, with_arms
from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.config.recipes import load_recipes
from bettersynth_assets.config.settings import load_active_profile
from bettersynth_assets.defs.experiment_step import name_experiments
from bettersynth_assets.defs.experiments import build_experiment, build_experiment_job, build_experiment_schedules
from bettersynth_assets.defs.recipe_assets import name_assets
from bettersynth_assets.defs.resources.gpu import GpuResource
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.checks import DESCRIPTIONS
from bettersynth_assets_tests.helpers.fake_experiment import STAGES, FakeExperiments, fake_experiments

ARMS = {"third_place": {}, "half": {"recipe": "third_place", "set": {"budget.exposures": 6}}}
SEEDS = {"start": 3, "step": 2, "max": 5}
GROUP = "experiment_mine"


def score(arm: str, seed: int) -> float:
    return {"baseline": 40.0, "third_place": 80.0}.get(arm, 80.5) + (seed * 7 % 5) / 3


class Launcher:
    """Materializes assets of one experiment in this process."""

    def __init__(self, fake: FakeExperiments, instance: dg.DagsterInstance, **values: Any) -> None:
        self.fake, self.instance = fake, instance
        text: dict[str, Any] = {
            "name": "mine",
            "arms": ARMS,
            "seeds": SEEDS,
            "decide": {"benchmarks": ["textvqa", "mmbench"]},
        }
        if "curve" in values:
            del text["arms"]
        profile = fake.settings.profile
        experiment = with_curve_arms(Experiment.parse(text | values), load_recipe, profile)
        known = KnownExperiment(experiment=experiment, recipes=recipes_of(experiment, load_recipe))
        recipes = name_assets(with_arms([load_recipe("third_place")], [known]), profile)
        (self.own,) = name_experiments([known], recipes, STAGES, ())
        self.assets = build_experiment(self.own, profile)
        self.gpu = GpuResource.of(profile.gpu)

    def launch(self, *names: str, partition: str | None = None) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            self.assets,
            selection=[self.own.key(name) for name in names],
            partition_key=partition,
            resources={"settings": RunSettings(), "gpu": self.gpu},
            instance=self.instance,
            raise_on_error=False,
        )

    def cells(self) -> set[str]:
        return set(self.instance.get_materialized_partitions(self.own.key("runs")))


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    fake = fake_experiments(tmp_path, monkeypatch, score)
    seed = fake.settings.profile.seed
    assert seed is not None
    profile = tmp_path / "small.yaml"
    profile.write_text("extends: miniature\nname: miniature\nshards: 1\nbudget: 12\n")
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(profile))
    monkeypatch.setenv("BETTERSYNTH_SEED", seed)
    monkeypatch.setenv("BETTERSYNTH_DATA", str(fake.settings.data_root))
    fake.settings = replace(fake.settings, profile=load_active_profile())
    with dg.DagsterInstance.ephemeral() as instance:
        yield Launcher(fake, instance)


@pytest.mark.slow
def test_the_job_trains_the_cells_that_verdicts_need_and_reports_them_in_the_grid(launcher: Launcher) -> None:
    done = launcher.launch("comparisons", "leaderboard")
    assert done.success
    expected = {f"baseline|{seed}" for seed in range(3)}
    expected |= {f"{arm}|{seed}" for arm in ("third_place", "half") for seed in range(5)}
    assert launcher.cells() == expected == set(launcher.fake.trained)
    events = {event.asset_key: event for event in done.get_asset_materialization_events()}
    event = events[launcher.own.key("comparisons")]
    shown = str(event.step_materialization_data.materialization.metadata["decision accuracy"].value)
    # Three runs of the baseline: one or two seeds against one other.
    assert "ordered alike by 1 other |" in shown and "| TextVQA | 2 |" in shown and "3 pairs of 3 arms" in shown
    sets = launcher.instance.get_latest_materialization_event(dg.AssetKey("budgeted_set"))
    assert sets is not None
    checks = {check.check_name: check.passed for check in done.get_asset_check_evaluations()}
    assert checks == dict.fromkeys(DESCRIPTIONS, True)


@pytest.mark.slow
def test_the_leaderboard_is_markdown_in_the_ui_and_files_on_disk(launcher: Launcher) -> None:
    launcher.launch("comparisons")
    (event,) = launcher.launch("leaderboard").get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    text = metadata["leaderboard"].value
    assert "| half |" in text and "than random rows" in text
    folder = launcher.fake.settings.profile_root / "experiments" / "mine"
    assert (folder / "leaderboard.md").read_text() == text
    assert Path(metadata["csv"].value) == folder / "leaderboard.csv"


@pytest.mark.slow
def test_a_ladder_compares_the_leaderboards_of_the_profiles_that_the_file_names(launcher: Launcher) -> None:
    assert len(launcher.assets) == 3
    laddered = Launcher(launcher.fake, launcher.instance, ladder=["miniature", "mgm-2b"])
    assert laddered.launch("comparisons", "leaderboard").success
    (event,) = laddered.launch("ladder").get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    file = launcher.fake.settings.profile_root / "experiments" / "mine" / "ladder.md"
    assert file.read_text() == metadata["ladder"].value
    assert "| miniature | 3 to 5 |" in file.read_text() and "| mgm-2b |  | not measured |" in file.read_text()


@pytest.mark.slow
def test_one_cell_is_trained_alone_and_shows_its_cost(launcher: Launcher) -> None:
    done = launcher.launch("runs", partition="half|4")
    assert done.success and launcher.fake.trained == ["half|4"] and launcher.cells() == {"half|4"}
    event = done.get_asset_materialization_events()[-1]
    metadata = event.step_materialization_data.materialization.metadata
    assert metadata["pretrain_exposures"].value == 6 and metadata["training_seed"].value == 4


@pytest.mark.slow
def test_finished_cells_are_reported_when_another_one_fails(launcher: Launcher) -> None:
    launcher.fake.fails_after = 2
    assert not launcher.launch("comparisons").success
    assert launcher.cells() == {*launcher.fake.trained} and len(launcher.cells()) == 2
    launcher.fake.fails_after = None
    assert launcher.launch("comparisons").success and len(launcher.fake.trained) == 13


def test_the_grid_has_a_partition_for_every_arm_and_seed(launcher: Launcher) -> None:
    partitions = launcher.assets[0].partitions_def
    assert partitions is not None
    arms = ("baseline", "third_place", "half")
    assert partitions.get_partition_keys() == [f"{arm}|{seed}" for arm in arms for seed in range(5)]
    assert launcher.own.sets() == [
        dg.AssetKey("baseline_set"), dg.AssetKey("budgeted_set"), dg.AssetKey(["mine.half", "budgeted_set"]),
    ]  # fmt: skip


def test_a_schedule_is_made_if_the_file_names_one(launcher: Launcher) -> None:
    assert build_experiment_schedules([launcher.own]) == []
    (schedule,) = build_experiment_schedules([Launcher(launcher.fake, launcher.instance, schedule="0 4 * * 1").own])
    assert (schedule.name, schedule.cron_schedule, schedule.job_name) == (f"{GROUP}_schedule", "0 4 * * 1", GROUP)


@pytest.mark.slow
def test_a_curve_is_an_asset_of_the_experiments_job_with_its_plot_as_metadata(launcher: Launcher) -> None:
    curve = {"recipe": "third_place", "repeats": [2, 3, 4], "fresh": []}
    own = Launcher(launcher.fake, launcher.instance, curve=curve, seeds={"start": 3, "max": 3})
    defs = dg.Definitions(
        own.assets, jobs=[build_experiment_job(own.own)], resources={"settings": RunSettings(), "gpu": own.gpu}
    )
    chosen = {key.path[-1] for key in defs.resolve_job_def(GROUP).asset_layer.selected_asset_keys}
    assert chosen == {"comparisons", "leaderboard", "curve"}
    assert own.own.sets() == [dg.AssetKey("baseline_set")], "the sets of a curve's points have no assets"
    done = own.launch("comparisons", "curve")
    assert done.success and own.cells() == set(own.fake.trained) != set()
    (event,) = [one.step_materialization_data.materialization for one in done.get_asset_materialization_events()
                if one.asset_key == own.own.key("curve")]  # fmt: skip
    folder = own.fake.settings.profile_root / "experiments" / "mine"
    assert "| x4 | 12 | 3 | 4.00 | 4.00 |" in str(event.metadata["curve"].value)
    assert event.metadata["curve"].value == (folder / "curve.md").read_text()
    assert str(event.metadata["plot"].value).startswith("![curve](data:image/svg+xml;base64,")
    assert (folder / "curve.svg").is_file() and (folder / "curve.json").is_file()


def test_own_folders_are_read_and_experiments_that_do_not_fit_the_profile_are_left_out(tmp_path: Path) -> None:
    profile = load_active_profile({})
    recipes = load_recipes(profile, {})
    (tmp_path / "own.yaml").write_text("arms: {clip_top_k: {}}\ndecide: {benchmarks: [textvqa]}\n")
    (tmp_path / "other.yaml").write_text("arms: {clip_top_k: {}}\ndecide: {benchmarks: [pope]}\n")
    env = {"BETTERSYNTH_EXPERIMENTS": str(tmp_path)}
    assert [known.experiment.name for known in load_experiments(profile, recipes, env)] == [
        "miniature", "which_filter", "own",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"BETTERSYNTH_EXPERIMENTS: .* is not a folder"):
        load_experiments(profile, recipes, {"BETTERSYNTH_EXPERIMENTS": str(tmp_path / "none")})
    (tmp_path / "miniature.yaml").write_text("arms: {clip_top_k: {}}\ndecide: {benchmarks: [textvqa]}\n")
    with pytest.raises(ConfigError, match="another experiment has the name 'miniature'"):
        load_experiments(profile, recipes, env)
