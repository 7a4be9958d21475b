"""The user's literal commands, in processes that are given only the location of the tiny project.

``dagster`` and ``dg`` each start once from the command line, in a new process. The other commands share a process
(``command_process``). The tests copy the installed package's start-up line to their own folder, because they must also
run from a checkout.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from bettersynth_assets.config.model import PROJECT_ROOT, shipped_files
from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets_tests.helpers.command_process import CommandProcess, command_process
from bettersynth_assets_tests.helpers.tiny_project import BUDGET, SHARDS, write_tiny_project

pytestmark = pytest.mark.e2e

COMMAND = "dagster asset materialize --select recaptioned_set+"
RECIPE_NAME = "tiny_recipe"
ARM = "which_filter.half"
"""Recipe of an arm of a shipped experiment that changes values of another recipe."""
UNSET = ("DAGSTER_", "BETTERSYNTH_")
NEEDED = [stage for stage in STAGES if stage.name != "operator_plan"]
"""What the command makes. Where a recipe keeps its written order, the plan is nobody's input and made on request."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Folder and environment of a tiny project without any runs."""
    root = tmp_path_factory.mktemp("project")
    env = {name: value for name, value in os.environ.items() if not name.startswith(UNSET)}
    env |= write_tiny_project(root)
    # The working folder of the command: the files that Dagster looks for, and nothing shared with other tests.
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(PROJECT_ROOT / name, root / name)
    return root, installed(root, env)


def installed(root: Path, env: dict[str, str]) -> dict[str, str]:
    """Make Python in ``env`` run the package's start-up line, as after ``pip install``."""
    start = root / "start"
    start.mkdir()
    line = (PROJECT_ROOT / "bettersynth_cli.pth").read_text()
    (start / "sitecustomize.py").write_text(line)
    return env | {"PYTHONPATH": os.pathsep.join((str(start), str(PROJECT_ROOT)))}


def type_in(command: str, project) -> subprocess.CompletedProcess[str]:
    """Run a command line in the project's folder, in a new process."""
    root, env = project
    env = env | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), env["PATH"]))}
    return subprocess.run(command.split(), cwd=root, env=env, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def commands(project) -> Iterator[CommandProcess]:
    """The process of all commands that need no new one."""
    with command_process(*project) as process:
        yield process


@contextmanager
def opened(root: Path) -> Iterator[dg.DagsterInstance]:
    """The history of the project's only profile and seed file."""
    (home,) = (root / ".dagster").iterdir()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture(scope="module")
def ran(project):
    done = type_in(COMMAND, project)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


@pytest.fixture(scope="module")
def pipeline(project):
    return Pipeline(STAGES, ResolvedRun(load_settings(project[1])))


def test_the_command_builds_everything_from_scratch(ran, pipeline):
    for stage in NEEDED:
        assert len(pipeline.current(stage.name)) == (SHARDS if stage.sharded else 1), stage.name
    (budgeted,) = pipeline.current("budgeted_set")
    assert sum(budgeted.table()["exposures"].to_pylist()) == BUDGET
    (results,) = pipeline.current("eval_results")
    assert {*results.table()["seed"].to_pylist()} == {0}


def test_no_deprecation_warning_is_shown(ran):
    assert "Supersession" not in ran.stderr
    assert "is superseded" not in ran.stderr


def test_history_is_stored_and_built_upstream_sets_are_materialized(ran, project):
    with opened(project[0]) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        for stage in NEEDED:
            found = instance.get_materialized_partitions(dg.AssetKey(stage.name))
            event = instance.get_latest_materialization_event(dg.AssetKey(stage.name))
            assert event is not None, stage.name
            assert len(found - {None}) == (SHARDS if stage.sharded else 0), stage.name


def test_the_summary_is_written_with_both_arms(ran, project):
    summary = json.loads((project[0] / "data" / "tiny" / "tiny_recipe" / "summary.json").read_text())
    assert set(summary["arms"]) == {"tiny_recipe", "baseline"}
    assert [stage["name"] for stage in summary["stages"]] == [stage.name for stage in NEEDED]


def asset_keys() -> set[str]:
    """Return all assets: those with plain names, of every shipped recipe, and of every shipped experiment."""
    own = [stage.name for stage in STAGES if stage.scope == "recipe"]
    recipes = {f"{recipe}/{name}" for recipe in (*shipped_files("recipes"), ARM) for name in own}
    baseline = {f"budget_2000/{stage.name}" for stage in STAGES if stage.scope == "budget"}
    parts = ("runs", "comparisons", "leaderboard")
    experiments = {f"experiment_{name}/{part}" for name in shipped_files("experiments") for part in parts}
    return {stage.name for stage in STAGES} | recipes | baseline | experiments


def test_runs_have_the_tags_of_recipe_profile_and_seed_file(ran, project):
    with opened(project[0]) as instance:
        tags = instance.get_runs()[-1].tags
    assert (tags["bettersynth/recipe"], tags["bettersynth/profile"]) == (RECIPE_NAME, "tiny")
    assert tags["bettersynth/seed_file"].endswith("mgm_pretrain_stage_1.jsonl")


def test_another_recipe_is_selected_by_its_prefix_and_changes_no_result_of_the_first(ran, project, commands, pipeline):
    before = made_when(pipeline)
    done = commands.run(["dagster", "asset", "materialize", "--select", 'key:"baseline_random/filtered_set"'])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with opened(project[0]) as instance:
        run = instance.get_runs(limit=1)[0]
        assert run.tags["bettersynth/recipe"] == "baseline_random"
        names = {key for key, _ in materialized(instance, run.run_id)}
    assert names == {"baseline_random/filtered_set"}
    assert made_when(pipeline) == before


def made_when(pipeline) -> dict[tuple[str, str], str]:
    return {(item.stage, item.shard): item.created for stage in STAGES for item in pipeline.current(stage.name)}


@pytest.fixture(scope="module")
def dg_project(project):
    """The same folder with what ``dg`` expects in a project: its settings and its package."""
    shutil.copy(PROJECT_ROOT / "pyproject.toml", project[0])
    (project[0] / "bettersynth_assets").symlink_to(PROJECT_ROOT / "bettersynth_assets")
    return project


def test_dg_checks_and_lists_the_definitions(dg_project, commands):
    checked = commands.run(["dg", "check", "defs"])
    assert checked.returncode == 0 and "All definitions loaded successfully." in checked.stdout
    listed = commands.run(["dg", "list", "defs", "--json"])
    assert listed.returncode == 0, listed.stderr[-3000:]
    found = json.loads(listed.stdout)
    assert {asset["asset_key"] for asset in found["assets"]} == asset_keys()
    assert all(asset["description"] and asset["group_name"] and asset["kinds"] for asset in found["assets"])
    experiments = {f"experiment_{name}" for name in shipped_files("experiments")}
    recipes = {RECIPE_NAME, *shipped_files("recipes"), ARM.replace(".", "_")}
    assert {job["name"] for job in found["jobs"]} == recipes | experiments


def test_dg_launches_the_selected_assets_over_all_shards_or_a_named_one(ran, dg_project, commands):
    for partition, shards in (([], range(SHARDS)), (["--partition", "shard-00001"], (1,))):
        done = commands.run(["dg", "launch", "--assets", "filtered_set", *partition])
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        with opened(dg_project[0]) as instance:
            run = instance.get_runs(limit=1)[0]
            assert run.asset_selection == {dg.AssetKey("filtered_set")}
            shown = {partition for _, partition in materialized(instance, run.run_id)}
            assert shown == {f"shard-{shard:05d}" for shard in shards}


def materialized(instance: dg.DagsterInstance, run_id: str) -> set[tuple[str, str | None]]:
    """Return asset and partition of every materialization that a run logged."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    events = [entry.get_dagster_event() for entry in entries]
    return {(event.asset_key.to_user_string(), event.partition) for event in events}


@pytest.mark.parametrize("command", [f"dagster job execute -j {RECIPE_NAME}", f"dg launch --job {RECIPE_NAME}"])
def test_the_job_covers_all_shards_and_rebuilds_nothing(ran, dg_project, commands, pipeline, command):
    project, before = dg_project, made_when(pipeline)
    done = type_in(command, project) if command.startswith("dg ") else commands.run(command.split())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert before and before.items() <= made_when(pipeline).items()  # operator_plan is new: only the job includes it
    with opened(project[0]) as instance:
        run = instance.get_runs(limit=1)[0]
        assert (run.job_name, run.status) == (RECIPE_NAME, dg.DagsterRunStatus.SUCCESS)
        shown = materialized(instance, run.run_id)
        assert {("filtered_set", f"shard-{shard:05d}") for shard in range(SHARDS)} <= shown
        assert ("eval_results", None) in shown


def test_one_shard_can_be_named(ran, commands):
    done = commands.run(["dagster", "asset", "materialize", "--select", "filtered_set", "--partition", "shard-00001"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "filtered_set - ASSET_MATERIALIZATION" in done.stderr


def test_the_operator_order_is_planned_on_request(ran, commands, pipeline):
    assert commands.run(["dagster", "asset", "materialize", "--select", "operator_plan"]).returncode == 0
    (plan,) = pipeline.current("operator_plan")
    assert sorted(plan.table()["position"].to_pylist()) == sorted(plan.table()["planned"].to_pylist())


def test_asset_list_needs_no_further_arguments(commands):
    done = commands.run(["dagster", "asset", "list"])
    assert done.stdout.split() == sorted(asset_keys())
