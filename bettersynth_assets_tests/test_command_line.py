"""What the installed `.pth` line adds to a command, and which commands it does not change."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

# Private: the names of these tags are documented, but no constant for them is exported.
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from bettersynth_assets.command_line import (
    DG_RANGE,
    HOME,
    LIST_MODULE,
    MODULE,
    RANGE,
    home_name,
    refusal,
    set_defaults,
)
from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.names import RANGE_TAGS
from bettersynth_assets.errors import ConfigError
from bettersynth_assets_tests.helpers.fake_graph import write_profile

COMMAND = ["/bin/dagster", "asset", "materialize", "--select", "recaptioned_set+"]


def filled(argv, folder, **env):
    set_defaults(argv, env, folder)
    return env


def test_the_range_covers_the_active_profiles_shards(tmp_path):
    profile = str(write_profile(tmp_path / "p.yaml", shards=12))
    env = filled(COMMAND, tmp_path, BETTERSYNTH_PROFILE=profile)
    assert env[RANGE] == "shard-00000...shard-00011"
    assert env[MODULE] == "bettersynth_assets.definitions"


@pytest.mark.slow
def test_history_is_stored_if_the_folder_has_a_dagster_yaml(tmp_path):
    assert HOME not in filled(COMMAND, tmp_path)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}")
    home = Path(filled(COMMAND, tmp_path)[HOME])
    assert home == tmp_path / ".dagster" / "miniature"
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}"
    assert filled(COMMAND, tmp_path, DAGSTER_HOME="/mine")[HOME] == "/mine"
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.root_directory == str(home) and not instance.telemetry_enabled


def test_each_profile_and_seed_file_has_its_own_history(tmp_path):
    (tmp_path / "dagster.yaml").touch()
    profile = write_profile(tmp_path / "small.yaml")
    variables = [
        {},
        {"BETTERSYNTH_PROFILE": str(profile)},
        {"BETTERSYNTH_SEED": "/data/my seed.jsonl"},
        {"BETTERSYNTH_SEED": "/other/my seed.jsonl"},
    ]
    names = [Path(filled(COMMAND, tmp_path, **env)[HOME]).name for env in variables]
    assert [name.rpartition("-")[0] for name in names[1:]] == ["small-seed", *["miniature-my_seed"] * 2]
    assert len({*names}) == 4 and names[0] == "miniature"
    seed = "input/mgm_pretrain_stage_1.jsonl"
    here = {home_name({"BETTERSYNTH_SEED": path}) for path in (str(PROJECT_ROOT / seed), f"{PROJECT_ROOT}/{seed}")}
    assert here == {f"miniature-mgm_pretrain_stage_1-{hashlib.sha256(seed.encode()).hexdigest()[:8]}"}


@pytest.mark.parametrize(
    "command",
    [
        "dagster dev", "dagster dev -m bettersynth_assets.definitions", "dagster dev -w workspace.yaml", "dg dev",
        "dagster asset materialize --select recaptioned_set+", "dagster job execute -j third_place",
        "dg launch --assets recaptioned_set+", "dagster run list",
    ],
)  # fmt: skip
def test_all_commands_record_runs_in_the_same_folder(project, command):
    shutil.copy(PROJECT_ROOT / "dagster.yaml", project)
    env = filled([f"/bin/{command.split()[0]}", *command.split()[1:]], project)
    assert env[HOME] == str(project / ".dagster" / "miniature")


def test_a_folder_that_cannot_hold_the_history_is_refused_with_the_fix(tmp_path):
    (tmp_path / "dagster.yaml").touch()
    (tmp_path / ".dagster").touch()
    with pytest.raises(ConfigError, match=r"no history can be kept in .*/\.dagster/miniature: .*set DAGSTER_HOME"):
        filled(COMMAND, tmp_path)


def test_a_link_to_the_configuration_that_points_elsewhere_is_replaced(tmp_path):
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: true}")
    home = tmp_path / ".dagster" / "miniature"
    home.mkdir(parents=True)
    (home / "dagster.yaml").symlink_to("/nowhere")
    assert filled(COMMAND, tmp_path)[HOME] == str(home)
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: true}"


def test_asset_list_finds_the_graph(tmp_path):
    assert filled(["/bin/dagster", "asset", "list"], tmp_path) == {LIST_MODULE: "bettersynth_assets.definitions"}


@pytest.mark.parametrize("kind", ["execute", "launch"])
def test_a_job_covers_all_shards(tmp_path, kind):
    profile = str(write_profile(tmp_path / "p.yaml"))
    command = ["/bin/dagster", "job", kind, "-j", "third_place"]
    env = filled(command, tmp_path, BETTERSYNTH_PROFILE=profile)
    assert env[f"DAGSTER_CLI_JOB_{kind.upper()}_MODULE_NAME"] == "bettersynth_assets.definitions"
    tags = json.loads(env[f"DAGSTER_CLI_JOB_{kind.upper()}_TAGS"])
    assert tags == {ASSET_PARTITION_RANGE_START_TAG: "shard-00000", ASSET_PARTITION_RANGE_END_TAG: "shard-00002"}
    assert tuple(tags) == RANGE_TAGS
    assert not any(name.endswith("_TAGS") for name in filled([*command, "--tags", "{}"], tmp_path))


def test_dg_launch_covers_all_shards(tmp_path):
    profile = str(write_profile(tmp_path / "p.yaml"))
    command = ["/bin/dg", "launch", "--job", "third_place"]
    assert filled(command, tmp_path, BETTERSYNTH_PROFILE=profile)[DG_RANGE] == "shard-00000...shard-00002"
    assert DG_RANGE not in filled([*command, "--partition", "shard-00001"], tmp_path, BETTERSYNTH_PROFILE=profile)


@pytest.mark.parametrize(
    "command",
    [
        ["/bin/dg", "launch", "--job", "experiment_which_filter"],
        ["/bin/dg", "launch", "--assets", 'key:"experiment_which_filter/comparisons"'],
        ["/bin/dagster", "asset", "materialize", "--select", 'key:"experiment_which_filter/comparisons"+'],
        ["/bin/dagster", "job", "execute", "-j", "experiment_which_filter"],
    ],
)
def test_an_experiment_has_no_shards(tmp_path, command):
    env = filled(command, tmp_path)
    assert not {RANGE, DG_RANGE} & env.keys() and not any(name.endswith("_TAGS") for name in env)


@pytest.mark.parametrize("typed", [["--partition", "shard-00001"], ["--partition-range=a...b"]])
def test_a_given_partition_is_not_changed(tmp_path, typed):
    env = filled([*COMMAND, *typed], tmp_path)
    assert RANGE not in env
    assert MODULE in env


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/dagster", "dev"],
        ["/bin/dagster", "job", "list"],
        ["/bin/dg", "list", "defs"],
        [*COMMAND, "-m", "other.definitions"],
        [*COMMAND, "--python-file=x.py"],
    ],
)
def test_other_commands_and_other_projects_are_not_changed(tmp_path, argv):
    assert filled(argv, tmp_path) == {}


def write(path, text):
    path.write_text(text)
    return str(path)


@pytest.fixture
def project(tmp_path):
    """A folder whose ``workspace.yaml`` names the graph."""
    shutil.copy(PROJECT_ROOT / "workspace.yaml", tmp_path)
    return tmp_path


DEFINITIONS = ["dev", "asset list", "asset materialize --select x", "definitions validate", "job execute -j x"]


@pytest.mark.parametrize("command", DEFINITIONS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: miniature\nshard: 3", "unknown key 'shard': did you mean 'shards'? Valid: budget, default_recipe, "),
        ("extends: PROFILE", "PROFILE extends itself: remove `extends` from one of PROFILE"),
        ("extends: no-such", "profile 'no-such' not found: Valid: "),
        ("shards: 1\nshards: 2", "duplicate key 'shards' in lines 1 and 2"),
    ],
)
def test_an_unusable_profile_is_refused_before_dagster_starts(project, command, text, words):
    profile = project / "mine.yaml"
    write(profile, text.replace("PROFILE", str(profile)))
    found = refusal(["/bin/dagster", *command.split()], {"BETTERSYNTH_PROFILE": str(profile)}, project)
    assert found is not None and "\n" not in found
    assert words.replace("PROFILE", str(profile)) in found


def test_the_variable_of_earlier_versions_is_refused_with_the_selection_that_replaces_it(project):
    found = refusal(COMMAND, {"BETTERSYNTH_RECIPE": "clip_top_k"}, project)
    assert found.startswith("BETTERSYNTH_RECIPE = 'clip_top_k' is not supported any more: ")
    assert "`dg launch --assets 'key:\"clip_top_k/recaptioned_set\"+'`" in found and "then unset it" in found
    found = refusal(COMMAND, {"BETTERSYNTH_RECIPE": "/x/my-own.yaml"}, project)
    assert "put the file into a folder that BETTERSYNTH_RECIPES names" in found and "dg launch --job my_own" in found


def test_other_unusable_inputs_are_refused_too(project):
    (project / "recipes").mkdir()
    recipe = write(project / "recipes" / "mine.yaml", "proces: []")
    for command in (COMMAND, ["/bin/dagster", "dev"]):
        found = refusal(command, {"BETTERSYNTH_RECIPES": str(project / "recipes")}, project)
        assert found.startswith(f"{recipe}: unknown key 'proces'") and "\n" not in found
    root = write(project / "file", "")
    assert refusal(COMMAND, {"BETTERSYNTH_DATA": root}, project).startswith(f"BETTERSYNTH_DATA = '{root}' cannot be")
    assert refusal(COMMAND, {"BETTERSYNTH_DATA": str(project / "new" / "data")}, project) is None
    assert sorted(path.name for path in project.iterdir()) == ["file", "recipes", "workspace.yaml"]


@pytest.mark.parametrize(
    "argv",
    [
        ["dev"],
        ["definitions", "validate"],
        ["asset", "materialize", "--select", "x", "-m", "other.definitions"],
        ["asset", "materialize", "--help"],
        ["instance", "info"],
    ],
)
def test_other_projects_and_commands_do_not_read_the_profile(tmp_path, argv):
    assert refusal(["/bin/dagster", *argv], {"BETTERSYNTH_PROFILE": "no-such"}, tmp_path) is None


@pytest.mark.parametrize(
    "argv", [["dev", "-m", "bettersynth_assets.definitions"], ["dev", "--module-name=bettersynth_assets.definitions"]]
)
def test_the_graph_named_on_the_command_line_is_read(tmp_path, argv):
    assert "'no-such' not found" in refusal(["/bin/dagster", *argv], {"BETTERSYNTH_PROFILE": "no-such"}, tmp_path)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "command", ["dagster asset materialize --select seed_dataset", "dagster dev", "dagster definitions validate"]
)
def test_the_literal_command_reports_the_fault_in_one_line(project, command):
    start = project / "start"
    start.mkdir()
    shutil.copy(PROJECT_ROOT / "bettersynth_cli.pth", start / "sitecustomize.py")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(start), str(PROJECT_ROOT))),
        "BETTERSYNTH_PROFILE": "no-such",
    }
    program = Path(sys.executable).parent / "dagster"
    done = subprocess.run(
        [program, *command.split()[1:]], cwd=project, env=env, capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stdout) == (2, "")
    names = ", ".join(sorted(path.stem for path in (PROJECT_ROOT / "profiles").glob("*.yaml")))
    assert done.stderr == f"error: profile 'no-such' not found: Valid: {names}, or give the path of a .yaml file\n"


@pytest.mark.parametrize(
    ("selection", "has_shards"),
    [
        ("recaptioned_set+", True),
        ("+eval_results", True),
        ('key:"clip_top_k/recaptioned_set"+', True),
        ("operator_plan", False),
        ("mgm_checkpoint+", False),
        ('key:"clip_top_k/budgeted_set"', False),
        ('key:"experiment_which_filter/runs"', False),
        ("not a selection (", True),
    ],
)
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_only_a_selection_with_shards_gets_their_range(tmp_path, selection, has_shards, form):
    option = ["--select", selection] if form == "two words" else [f"--select={selection}"]
    env = {"BETTERSYNTH_DATA": str(tmp_path)}
    set_defaults(["/bin/dagster", "asset", "materialize", *option], env, tmp_path)
    assert (RANGE in env) is has_shards


def test_other_options_may_contain_the_word_that_experiments_begin_with(tmp_path):
    command = ["/bin/dagster", "asset", "materialize", "--select", "recaptioned_set+", "--config", "experiment_1.yaml"]
    assert RANGE in filled(command, tmp_path)


def test_an_invalid_experiment_is_refused_in_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("arms: {nowhere: {}}\ndecide: {benchmarks: [textvqa]}\n")
    env = {"BETTERSYNTH_EXPERIMENTS": str(tmp_path), "BETTERSYNTH_DATA": str(tmp_path / "data")}
    message = refusal(["/bin/dagster", "asset", "materialize", "--select", "recaptioned_set+"], env, tmp_path)
    assert message is not None and "nowhere" in message and "\n" not in message
