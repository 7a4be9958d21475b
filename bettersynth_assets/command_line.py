"""Makes `dagster asset materialize --select recaptioned_set+` work as it is typed. In: argv. Out: variables.

That command reads neither `workspace.yaml` nor `[tool.dagster]`, and refuses partitioned assets without a partition; it
does read environment variables. `bettersynth_cli.pth`, which is installed beside the package, calls this when a
Python starts whose arguments are those of the command. Only that process and its children see the variables.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import MutableMapping, Sequence
from pathlib import Path

LIST_MODULE = "DAGSTER_CLI_ASSET_LIST_MODULE_NAME"
MODULE = "DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME"
RANGE = "DAGSTER_CLI_ASSET_MATERIALIZE_PARTITION_RANGE"
HOME = "DAGSTER_HOME"
_DEFINITIONS = "bettersynth_assets.definitions"
_TARGETS = {"-m", "--module-name", "-f", "--python-file", "--package-name", "-w", "--workspace"}


def set_defaults(argv: Sequence[str], env: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Fill in what the command line leaves out; what the user typed or set stays.

    Args:
        argv: of this process.
        env: where the variables are set.
        folder: the working folder; one that holds a ``dagster.yaml`` keeps the run's history.
    """
    typed = {argument.split("=", 1)[0] for argument in argv}
    command = list(argv[1:3])  # the same for `dagster …` and `python -m dagster …`
    if typed & _TARGETS or command not in (["asset", "materialize"], ["asset", "list"]):
        return
    if command == ["asset", "list"]:
        env.setdefault(LIST_MODULE, _DEFINITIONS)
        return
    # Dagster would have `dg launch` typed instead; the version is pinned, so the command stays.
    warnings.filterwarnings("ignore", message="Function `asset_materialize_command` is superseded")
    env.setdefault(MODULE, _DEFINITIONS)
    here = folder or Path.cwd()
    if (here / "dagster.yaml").is_file():
        env.setdefault(HOME, str(here))
    if not typed & {"--partition", "--partition-range"} and (value := shard_range(env)):
        env.setdefault(RANGE, value)


def shard_range(env: MutableMapping[str, str]) -> str | None:
    """First and last shard of the active profile; None where it cannot be read, which the command then tells."""
    from bettersynth_assets.config.settings import load_active_profile
    from bettersynth_assets.errors import ConfigError

    try:
        names = load_active_profile(env).shard_names()
    except ConfigError:
        return None
    return f"{names[0]}...{names[-1]}"
