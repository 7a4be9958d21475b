"""Ladder of an experiment from the files on disk. In: names of profiles. Out: their agreement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.settings import experiments_root
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiment_runs.result import NAME
from bettersynth_assets.experiments.ladder import Ladder, ladder, read_rung


def read_ladder(experiment: str, profiles: Sequence[str], root: Path) -> Ladder:
    """Read the leaderboards of several profiles and compare them; makes no results.

    Args:
        experiment: name of the experiment.
        profiles: names or paths, in the order of the rungs.
        root: data root.

    Raises:
        ConfigError: fewer than two profiles, one of them twice, an unknown one, or a leaderboard of an older version.
    """
    names = [load_profile(name).name for name in profiles]
    if len(names) < 2 or len(set(names)) != len(names):
        raise ConfigError(
            f"ladder of {experiment}: {', '.join(names) or 'no profile'}: name two profiles or more, each once, with "
            "--profiles or with `ladder` in the experiment's file"
        )
    files = {name: experiments_root(root, name) / experiment / f"{NAME}.json" for name in names}
    rungs = [rung for name, file in files.items() if (rung := read_rung(name, file))]
    return ladder(experiment, names, rungs)
