"""What the installed `.pth` line fills in, and when it keeps its hands off."""

import pytest

from bettersynth_assets.command_line import HOME, LIST_MODULE, MODULE, RANGE, set_defaults
from bettersynth_assets_tests.dagster.fake_graph import write_profile

COMMAND = ["/bin/dagster", "asset", "materialize", "--select", "recaptioned_set+"]


def filled(argv, folder, **env):
    set_defaults(argv, env, folder)
    return env


def test_the_range_covers_the_active_profiles_shards(tmp_path):
    profile = str(write_profile(tmp_path / "p.yaml", shards=12))
    env = filled(COMMAND, tmp_path, BETTERSYNTH_PROFILE=profile)
    assert env[RANGE] == "shard-00000...shard-00011"
    assert env[MODULE] == "bettersynth_assets.definitions"


def test_history_is_kept_where_there_is_a_dagster_yaml(tmp_path):
    assert HOME not in filled(COMMAND, tmp_path)
    (tmp_path / "dagster.yaml").touch()
    assert filled(COMMAND, tmp_path)[HOME] == str(tmp_path)
    assert filled(COMMAND, tmp_path, DAGSTER_HOME="/mine")[HOME] == "/mine"


def test_asset_list_finds_the_graph(tmp_path):
    assert filled(["/bin/dagster", "asset", "list"], tmp_path) == {LIST_MODULE: "bettersynth_assets.definitions"}


@pytest.mark.parametrize("typed", [["--partition", "shard-00001"], ["--partition-range=a...b"]])
def test_a_typed_partition_is_left_alone(tmp_path, typed):
    env = filled([*COMMAND, *typed], tmp_path)
    assert RANGE not in env
    assert MODULE in env


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/dagster", "dev"],
        ["/bin/dagster", "job", "execute"],
        [*COMMAND, "-m", "other.definitions"],
        [*COMMAND, "--python-file=x.py"],
    ],
)
def test_other_commands_and_other_projects_see_nothing(tmp_path, argv):
    assert filled(argv, tmp_path) == {}


def test_a_broken_profile_is_left_for_the_command_to_tell(tmp_path):
    assert RANGE not in filled(COMMAND, tmp_path, BETTERSYNTH_PROFILE="no-such")
