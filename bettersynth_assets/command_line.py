"""Makes `dagster asset materialize --select recaptioned_set+` work as it is typed. In: argv. Out: variables.

That command reads neither `workspace.yaml` nor `[tool.dagster]`, and refuses partitioned assets without a partition; it
does read environment variables. `bettersynth_cli.pth`, which is installed beside the package, calls this when a Python
starts as `dagster`. Only that process and its children see the variables.
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
        argv: of this process, the program first.
        env: where the variables are set.
        folder: the working folder; where it holds a ``dagster.yaml``, the history of runs is kept as that says.
    """
    typed = {argument.split("=", 1)[0] for argument in argv[1:]}
    if typed & _TARGETS:
        return
    use_home(env, folder)
    # Dagster would have `dg` typed instead; its version is pinned, so its older commands stay.
    warnings.filterwarnings("ignore", message="Function `.*_command` is superseded")
    if list(argv[1:3]) == ["asset", "list"]:
        env.setdefault(LIST_MODULE, _DEFINITIONS)
    if list(argv[1:3]) == ["asset", "materialize"]:
        env.setdefault(MODULE, _DEFINITIONS)
        if not typed & {"--partition", "--partition-range"} and (value := shard_range(env)):
            env.setdefault(RANGE, value)


def use_home(env: MutableMapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Keep Dagster's history where the working folder's ``dagster.yaml`` says, unless ``DAGSTER_HOME`` is set."""
    here = folder or Path.cwd()
    if (here / "dagster.yaml").is_file():
        env.setdefault(HOME, str(here))


def shard_range(env: MutableMapping[str, str]) -> str | None:
    """First and last shard of the active profile; None where it cannot be read, which the command then tells."""
    from bettersynth_assets.config.settings import load_active_profile
    from bettersynth_assets.errors import ConfigError

    try:
        names = load_active_profile(env).shard_names()
    except ConfigError:
        return None
    return f"{names[0]}...{names[-1]}"
