"""Defaults for Dagster's commands, so that e.g. `dagster asset materialize --select recaptioned_set+` works as typed.

Some commands read neither `workspace.yaml` nor `[tool.dagster]`, and refuse partitioned assets without a partition.
They do read environment variables. `bettersynth_cli.pth`, installed next to the package, calls this module when Python
is started as `dagster` or `dg`. Only that process and its children see the variables. All commands record their runs
in the same folder (`use_home`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from itertools import pairwise
from pathlib import Path

from bettersynth_assets.config.names import EXPERIMENT, RANGE_TAGS

LIST_MODULE = "DAGSTER_CLI_ASSET_LIST_MODULE_NAME"
MODULE = "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME"
RANGE = "DAGSTER_CLI_ASSET_MATERIALIZE_PARTITION_RANGE"
JOB_MODULE = "DAGSTER_CLI_JOB_{}_MODULE_NAME"
JOB_TAGS = "DAGSTER_CLI_JOB_{}_TAGS"
DG_RANGE = "DAGSTER_DG_LAUNCH_PARTITION_RANGE"
HOME = "DAGSTER_HOME"
CONFIG = "dagster.yaml"
_DEFINITIONS = "bettersynth_assets.definitions"
JOB_RUNS = (["job", "execute"], ["job", "launch"])
_PARTITIONS = {"--partition", "--partition-range"}
_TARGETS = {"-m", "--module-name", "-f", "--python-file", "--package-name", "-w", "--workspace"}


def start(argv: Sequence[str], env: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Print a one-line error and exit if the settings are invalid; else set defaults for missing options.

    Dagster itself would print a traceback of about 70 lines, and ``dagster dev`` would not show the message.
    """
    from bettersynth_assets.errors import ConfigError

    if not (message := refusal(argv, env, folder)):
        try:
            return set_defaults(argv, env, folder)
        except ConfigError as error:
            message = str(error)
    print(f"error: {message}", file=sys.stderr, flush=True)
    # SystemExit would print a traceback during Python's start-up.
    os._exit(2)


def refusal(argv: Sequence[str], env: Mapping[str, str] = os.environ, folder: Path | None = None) -> str | None:
    """Return why a command that loads these definitions cannot run; None if it can, or if it loads other code."""
    command = [argument for argument in argv[1:3] if not argument.startswith("-")]
    loading = (
        ("launch", "dev", "check", "list") if Path(argv[0]).name == "dg" else ("dev", "asset", "definitions", "job")
    )
    if not command or command[0] not in loading or "--help" in argv:
        return None
    if not _loads_ours(argv, folder or Path.cwd(), by_default=command[0] == "asset" or command in JOB_RUNS):
        return None

    from bettersynth_assets.config.experiments import load_experiments
    from bettersynth_assets.config.recipes import load_recipes
    from bettersynth_assets.config.settings import check_data_root, data_root, load_active_profile
    from bettersynth_assets.errors import ConfigError

    try:
        profile = load_active_profile(env)
        load_experiments(profile, load_recipes(profile, env), env)
        if command == ["asset", "materialize"]:
            check_data_root(data_root(env))
    except ConfigError as error:
        return str(error)
    return None


def _loads_ours(argv: Sequence[str], folder: Path, *, by_default: bool) -> bool:
    """Return whether a command loads this package: it names it, or it names no target and the folder configures it."""
    words = [word for argument in argv for word in argument.split("=", 1)]
    is_target = bool(_TARGETS & {*words})
    if by_default and not is_target:
        return True
    named = [word for word in words if word.endswith(".yaml")] if is_target else ["workspace.yaml", "pyproject.toml"]
    files = [path for path in (folder / name for name in named) if path.is_file()]
    return (is_target and _DEFINITIONS in words) or any(_DEFINITIONS in path.read_text("utf-8") for path in files)


def set_defaults(argv: Sequence[str], env: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Set environment variables for options that the command line leaves out; never override the user's values.

    Args:
        argv: arguments of this process, starting with the program.
        env: environment in which the variables are set.
        folder: working directory; see ``use_home``.

    Raises:
        ConfigError: see ``use_home``.
    """
    typed = {argument.split("=", 1)[0] for argument in argv[1:]}
    if typed & _TARGETS and not _loads_ours(argv, folder or Path.cwd(), by_default=False):
        return
    use_home(env, folder)
    if typed & _TARGETS:
        return
    # Dagster recommends `dg`. The older commands keep working, because Dagster's version is pinned.
    warnings.filterwarnings("ignore", message="Function `.*_command` is superseded")
    program, command = Path(argv[0]).name, list(argv[1:3])
    if program == "dg":
        if command[:1] == ["launch"] and not typed & _PARTITIONS and has_shards(argv):
            _set_range(env, DG_RANGE)
    elif command == ["asset", "list"]:
        env.setdefault(LIST_MODULE, _DEFINITIONS)
    elif command == ["asset", "materialize"]:
        env.setdefault(MODULE, _DEFINITIONS)
        if not typed & _PARTITIONS and has_shards(argv):
            _set_range(env, RANGE)
    elif command in JOB_RUNS:
        kind = command[1].upper()
        env.setdefault(JOB_MODULE.format(kind), _DEFINITIONS)
        # These commands have no option for partitions; run tags select the shards.
        if "--tags" not in typed and has_shards(argv) and (value := shard_range(env)):
            env.setdefault(JOB_TAGS.format(kind), json.dumps(dict(zip(RANGE_TAGS, value.split("..."), strict=True))))


def _set_range(env: MutableMapping[str, str], variable: str) -> None:
    """Select all shards."""
    if value := shard_range(env):
        env.setdefault(variable, value)


def has_shards(argv: Sequence[str]) -> bool:
    """Return whether a command selects assets with shards, which need a range of partitions.

    Dagster refuses the range for other assets: those without partitions, and the runs of an experiment. True if the
    selection is missing or cannot be read, which the command then reports.
    """
    if job := _option(argv, "-j", "--job"):
        return not job.startswith(EXPERIMENT)
    selection = _option(argv, "--select", "--assets")
    if selection is None:
        return True
    import dagster as dg

    from bettersynth_assets.definitions import defs

    graph = defs.resolve_asset_graph()
    try:
        keys = dg.AssetSelection.from_string(selection).resolve(graph)
    except dg.DagsterError:
        return True
    return any(graph.get(key).partitions_def is not None and not key.path[0].startswith(EXPERIMENT) for key in keys)


def _option(argv: Sequence[str], *names: str) -> str | None:
    """Return the value of an option, given as ``--name value`` or ``--name=value``."""
    parts = [part for argument in argv for part in argument.split("=", 1 if argument.startswith("--") else 0)]
    return next((value for option, value in pairwise(parts) if option in names), None)


def use_home(env: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Set ``DAGSTER_HOME`` to the folder of the active profile and seed file, unless the variable is set.

    Only if the working directory contains a ``dagster.yaml``; Dagster finds that file through a link in its home.

    Raises:
        ConfigError: the folder cannot be created.
    """
    from bettersynth_assets.errors import ConfigError
    from toolkit.file_errors import EnvironmentFault

    here = folder or Path.cwd()
    config = here / CONFIG
    if env.get(HOME) or not config.is_file():
        return
    if (name := home_name(env)) is not None:
        home = here / ".dagster" / name
        try:
            _link(home / CONFIG, config)
        except (OSError, EnvironmentFault) as error:
            raise ConfigError(
                f"no history can be kept in {home}: {error}; set DAGSTER_HOME to another folder"
            ) from None
        env[HOME] = str(home)


def home_name(env: Mapping[str, str]) -> str | None:
    """Return the folder name of the history of the active profile and seed file; None if the profile is invalid.

    One asset must not show results of several profiles or seed files, so each pair has its own history.
    """
    from bettersynth_assets.config.settings import load_active_profile, seed_label
    from bettersynth_assets.errors import ConfigError

    try:
        profile = load_active_profile(env)
    except ConfigError:
        return None
    seed = seed_label(profile)
    if seed is None:
        return profile.name
    # Without characters that are unsafe in paths and URLs of storages.
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", Path(seed).stem)[:40]
    return f"{profile.name}-{stem}-{hashlib.sha256(seed.encode()).hexdigest()[:8]}"


def _link(link: Path, target: Path) -> None:
    """Make ``link`` a relative link to ``target``, so that the project can be moved; create its folder."""
    from toolkit.files import replacing

    wanted = os.path.relpath(target, link.parent)
    if link.is_symlink() and str(link.readlink()) == wanted:
        return
    with replacing(link, durable=False) as partial:
        partial.symlink_to(wanted)


def shard_range(env: MutableMapping[str, str]) -> str | None:
    """Return the active profile's shards as ``first...last``; None if it is invalid, which the command reports."""
    from bettersynth_assets.config.settings import load_active_profile
    from bettersynth_assets.errors import ConfigError

    try:
        names = load_active_profile(env).shard_names()
    except ConfigError:
        return None
    return f"{names[0]}...{names[-1]}"
