"""Makes Dagster's commands work as typed, e.g. `dagster asset materialize --select recaptioned_set+`.

Those commands read neither `workspace.yaml` nor `[tool.dagster]`, and refuse partitioned assets without a partition.
They do read environment variables. `bettersynth_cli.pth`, which is installed next to the package, calls this when a
Python starts as `dagster` or `dg`. Only that process and its children see the variables.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping, MutableMapping, Sequence, Set
from pathlib import Path

from bettersynth_assets.config.names import RANGE_TAGS

LIST_MODULE = "DAGSTER_CLI_ASSET_LIST_MODULE_NAME"
MODULE = "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME"
RANGE = "DAGSTER_CLI_ASSET_MATERIALIZE_PARTITION_RANGE"
JOB_MODULE = "DAGSTER_CLI_JOB_{}_MODULE_NAME"
JOB_TAGS = "DAGSTER_CLI_JOB_{}_TAGS"
DG_RANGE = "DAGSTER_DG_LAUNCH_PARTITION_RANGE"
HOME = "DAGSTER_HOME"
_DEFINITIONS = "bettersynth_assets.definitions"
JOB_RUNS = (["job", "execute"], ["job", "launch"])
_CONFIGS = {"-c", "--config", "--config-json"}
_PARTITIONS = {"--partition", "--partition-range"}
_TARGETS = {"-m", "--module-name", "-f", "--python-file", "--package-name", "-w", "--workspace"}


def start(argv: Sequence[str], env: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Refuse settings that cannot be used in one line, else fill in what the command line leaves out.

    Dagster would print its own traceback of some 70 lines, ``dagster dev`` without the message.
    """
    if message := refusal(argv, env, folder):
        print(f"error: {message}", file=sys.stderr, flush=True)
        # Not SystemExit: while Python starts, that would print a traceback too.
        os._exit(2)
    set_defaults(argv, env, folder)


def refusal(argv: Sequence[str], env: Mapping[str, str] = os.environ, folder: Path | None = None) -> str | None:
    """Why a command that loads our definitions cannot work; None where it can, or loads something else."""
    command = [argument for argument in argv[1:3] if not argument.startswith("-")]
    loading = (
        ("launch", "dev", "check", "list") if Path(argv[0]).name == "dg" else ("dev", "asset", "definitions", "job")
    )
    if not command or command[0] not in loading or "--help" in argv:
        return None
    if not _loads_ours(argv, folder or Path.cwd(), unless_told=command[0] == "asset" or command in JOB_RUNS):
        return None

    from bettersynth_assets.config.settings import check_data_root, load_active_profile, load_settings
    from bettersynth_assets.errors import ConfigError

    try:
        if command == ["asset", "materialize"] and not _CONFIGS & {argument.split("=", 1)[0] for argument in argv}:
            check_data_root(load_settings(env).data_root)
        else:
            load_active_profile(env)
    except ConfigError as error:
        return str(error)
    return None


def _loads_ours(argv: Sequence[str], folder: Path, *, unless_told: bool) -> bool:
    """Whether a command's code is this package: it is named, or nothing is and the folder says so."""
    words = [word for argument in argv for word in argument.split("=", 1)]
    if _TARGETS & {*words}:
        return _DEFINITIONS in words
    files = (folder / name for name in ("workspace.yaml", "pyproject.toml"))
    return unless_told or any(_DEFINITIONS in path.read_text("utf-8") for path in files if path.is_file())


def set_defaults(argv: Sequence[str], env: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Fill in what the command line leaves out; what the user typed or set stays.

    Args:
        argv: of this process, the program first.
        env: where the variables are set.
        folder: the working folder; where it holds a ``dagster.yaml``, the history of runs is kept as that says.
    """
    typed = {argument.split("=", 1)[0] for argument in argv[1:]}
    if typed & _TARGETS:
        return
    use_home(env, folder)
    # Dagster recommends `dg`; its version is pinned, so the older commands stay.
    warnings.filterwarnings("ignore", message="Function `.*_command` is superseded")
    program, command = Path(argv[0]).name, list(argv[1:3])
    if program == "dg":
        if command[:1] == ["launch"]:
            _set_range(env, DG_RANGE, typed)
    elif command == ["asset", "list"]:
        env.setdefault(LIST_MODULE, _DEFINITIONS)
    elif command == ["asset", "materialize"]:
        env.setdefault(MODULE, _DEFINITIONS)
        _set_range(env, RANGE, typed)
    elif command in JOB_RUNS:
        kind = command[1].upper()
        env.setdefault(JOB_MODULE.format(kind), _DEFINITIONS)
        # These commands have no option for partitions; the tags of a run name its shards.
        if "--tags" not in typed and (value := shard_range(env)):
            env.setdefault(JOB_TAGS.format(kind), json.dumps(dict(zip(RANGE_TAGS, value.split("..."), strict=True))))


def _set_range(env: MutableMapping[str, str], variable: str, typed: Set[str]) -> None:
    """Cover all shards unless the user typed some."""
    if not typed & _PARTITIONS and (value := shard_range(env)):
        env.setdefault(variable, value)


def use_home(env: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Keep Dagster's history where the working folder's ``dagster.yaml`` says, unless ``DAGSTER_HOME`` is set."""
    here = folder or Path.cwd()
    if (here / "dagster.yaml").is_file():
        env.setdefault(HOME, str(here))


def shard_range(env: MutableMapping[str, str]) -> str | None:
    """First and last shard of the active profile; None where it cannot be read, which the command reports."""
    from bettersynth_assets.config.settings import load_active_profile
    from bettersynth_assets.errors import ConfigError

    try:
        names = load_active_profile(env).shard_names()
    except ConfigError:
        return None
    return f"{names[0]}...{names[-1]}"
