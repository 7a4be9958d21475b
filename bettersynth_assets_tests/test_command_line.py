"""What the installed `.pth` line adds to a command, and which commands it does not change."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Private: the names of these tags are documented, but no constant for them is exported.
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from bettersynth_assets.command_line import (
    DG_RANGE,
    HOME,
    LIST_MODULE,
    MODULE,
    RANGE,
    refusal,
    set_defaults,
)
from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.names import RANGE_TAGS
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


def test_history_is_stored_if_the_folder_has_a_dagster_yaml(tmp_path):
    assert HOME not in filled(COMMAND, tmp_path)
    (tmp_path / "dagster.yaml").touch()
    assert filled(COMMAND, tmp_path)[HOME] == str(tmp_path)
    assert filled(COMMAND, tmp_path, DAGSTER_HOME="/mine")[HOME] == "/mine"


def test_asset_list_finds_the_graph(tmp_path):
    assert filled(["/bin/dagster", "asset", "list"], tmp_path) == {LIST_MODULE: "bettersynth_assets.definitions"}


@pytest.mark.parametrize("kind", ["execute", "launch"])
def test_a_job_covers_all_shards(tmp_path, kind):
    profile = str(write_profile(tmp_path / "p.yaml"))
    command = ["/bin/dagster", "job", kind, "-j", "everything"]
    env = filled(command, tmp_path, BETTERSYNTH_PROFILE=profile)
    assert env[f"DAGSTER_CLI_JOB_{kind.upper()}_MODULE_NAME"] == "bettersynth_assets.definitions"
    tags = json.loads(env[f"DAGSTER_CLI_JOB_{kind.upper()}_TAGS"])
    assert tags == {ASSET_PARTITION_RANGE_START_TAG: "shard-00000", ASSET_PARTITION_RANGE_END_TAG: "shard-00002"}
    assert tuple(tags) == RANGE_TAGS
    assert not any(name.endswith("_TAGS") for name in filled([*command, "--tags", "{}"], tmp_path))


def test_dg_launch_covers_all_shards(tmp_path):
    profile = str(write_profile(tmp_path / "p.yaml"))
    command = ["/bin/dg", "launch", "--job", "everything"]
    assert filled(command, tmp_path, BETTERSYNTH_PROFILE=profile)[DG_RANGE] == "shard-00000...shard-00002"
    assert DG_RANGE not in filled([*command, "--partition", "shard-00001"], tmp_path, BETTERSYNTH_PROFILE=profile)


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
        ("extends: miniature\nshard: 3", "unknown key 'shard': did you mean 'shards'? Valid: budget, description, "),
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


def test_other_unusable_inputs_of_asset_materialize_are_refused_too(project):
    recipe = write(project / "mine.yaml", "proces: []")
    assert "unknown key 'proces'" in refusal(COMMAND, {"BETTERSYNTH_RECIPE": recipe}, project)
    assert refusal([*COMMAND, "--config-json={}"], {"BETTERSYNTH_RECIPE": recipe}, project) is None
    assert refusal(["/bin/dagster", "dev"], {"BETTERSYNTH_RECIPE": recipe}, project) is None
    root = write(project / "file", "")
    assert refusal(COMMAND, {"BETTERSYNTH_DATA": root}, project).startswith(f"BETTERSYNTH_DATA = '{root}' cannot be")
    assert refusal(COMMAND, {"BETTERSYNTH_DATA": str(project / "new" / "data")}, project) is None
    assert sorted(path.name for path in project.iterdir()) == ["file", "mine.yaml", "workspace.yaml"]


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
