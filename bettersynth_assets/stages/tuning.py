"""Refuses to compare training settings by their scores on the split ``report``. In: a resolved run. Out: an error.

Only benchmarks that have a split ``tune`` are refused: for others there would be no way to choose settings.
"""

from __future__ import annotations

from collections.abc import Mapping

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.tuning import other_settings
from bettersynth_assets.stages.answers import evaluations
from bettersynth_assets.stages.training_plan import settings_key


def refuse_tuning_on_report(run: ResolvedRun, known: Mapping[str, str] | None = None) -> None:
    """Refuse training settings of this profile if others have scores on the same questions of ``report``.

    Args:
        run: the profile's settings.
        known: ``evaluations`` of the run, if the caller has them.

    Raises:
        ConfigError: names both settings and the ways out.
    """
    evaluation, root = run.settings.profile.evaluation, run.settings.experiments_root
    can_tune = [name for name in evaluation.chosen() if evaluation.can_tune(name)]
    if evaluation.split == "tune" or not can_tune or not (root / "metrics").is_dir():
        return
    keys = known or evaluations(run)
    if found := other_settings(root, {name: keys[name] for name in can_tune}, settings_key(run)):
        raise ConfigError(
            f"training settings would be compared by their scores on the split report: {found}. To choose settings, "
            "set `evaluation: {split: tune}` in the profile, or `purpose: tune` in the experiment. Once they are "
            "chosen, report them on new questions: raise `world_report` in the profile, or name other files"
        )
