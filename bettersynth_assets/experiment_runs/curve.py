"""Repetition curve: a recipe with fewer and fewer different rows. In: an experiment that declares one. Out: its result.

Every run draws its own rows. A recipe that keeps fewer rows than wanted is repeated more often; the result has the
measured numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from bettersynth_assets.config.curve import RANDOM, Curve
from bettersynth_assets.config.experiment import Experiment
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipes import identifier
from bettersynth_assets.experiment_runs.experiment_run import ExperimentRun
from bettersynth_assets.experiments.curve import CurveResult, curve_result
from bettersynth_assets.experiments.kit_score import BENCHMARKS


def curve_experiment(curve: Curve, name: str, seeds: int, profile: Profile) -> Experiment:
    """Return the experiment of a curve that no file declares.

    Args:
        curve: the curve.
        name: of its recipe.
        seeds: training seeds per arm.
        profile: its benchmarks decide; those of the contest alone if it has them.
    """
    chosen = [*profile.evaluation.chosen()]
    return Experiment.parse(
        {
            "name": f"curve_{identifier(name)}",
            "curve": curve.model_dump(),
            "seeds": {"start": seeds, "max": seeds},
            "decide": {"benchmarks": [name for name in chosen if name in BENCHMARKS] or chosen},
        }
    )


def judge_curve(opened: ExperimentRun) -> CurveResult:
    """Compare the recipe with random rows at each point, and fit the curves.

    Raises:
        ConfigError: no arm has a run.
    """
    experiment = opened.experiment
    assert experiment.curve is not None, "only an experiment with a curve is judged as one"
    result = opened.result()
    names: Sequence[str] = [arm for arm in experiment.arms if not arm.startswith(RANDOM)]
    return curve_result(
        experiment.name,
        experiment.curve.recipe,
        experiment.curve.repeats,
        names,
        {row.arm: row for row in result.board.rows},
        result.scores,
        opened.same_as(),
        opened.declaration,
    )
