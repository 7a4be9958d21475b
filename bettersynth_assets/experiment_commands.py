"""The commands of ``bettersynth experiment``. In: parsed arguments. Out: an exit code; results are printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache, partial

from bettersynth_assets.config.curve import Curve
from bettersynth_assets.config.curve_arms import with_curve_arms
from bettersynth_assets.config.experiment import Experiment, load_experiment, recipes_of
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.recipes import find_recipe
from bettersynth_assets.config.settings import Settings, data_root, load_settings
from bettersynth_assets.defs.cards import CARDS
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiment_runs.curve import curve_experiment, judge_curve
from bettersynth_assets.experiment_runs.experiment_run import ExperimentRun
from bettersynth_assets.experiment_runs.ladder import read_ladder
from bettersynth_assets.experiment_runs.planning import plan_of
from bettersynth_assets.experiment_runs.result import Result
from bettersynth_assets.experiments import decisions, diff, ladder_files, plan
from bettersynth_assets.experiments.conclusions import sentences
from bettersynth_assets.experiments.curve_tables import as_markdown as curve_as_markdown
from bettersynth_assets.experiments.leaderboard_files import FORMATS
from bettersynth_assets.reports.curve_files import write_curve
from toolkit.suggest import nearest

LEASED = frozenset(card.name for card in CARDS if card.uses_models)


def run(arguments: argparse.Namespace) -> int:
    """Run one command."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "plan": _plan, "run": _run, "add-seeds": _add_seeds, "table": _table, "diff": _diff, "curve": _curve,
        "ladder": _ladder, "decisions": _decisions,
    }  # fmt: skip
    return commands[arguments.command](arguments)


def open_experiment(experiment: Experiment, settings: Settings, find: Callable[[str], Recipe]) -> ExperimentRun:
    """Return an experiment under the active profile, with progress on standard error."""
    log = partial(print, file=sys.stderr, flush=True)
    experiment = with_curve_arms(experiment, find, settings.profile)
    return ExperimentRun(experiment, recipes_of(experiment, find), settings, leased=LEASED, log=log)


def _open(name: str) -> ExperimentRun:
    experiment, settings = load_experiment(name), load_settings()
    return open_experiment(experiment, settings, finder(settings))


def finder(settings: Settings) -> Callable[[str], Recipe]:
    """Return a function that loads each recipe once."""
    return cache(partial(find_recipe, profile=settings.profile))


def _plan(arguments: argparse.Namespace) -> int:
    print(plan.as_text(plan_of(_open(arguments.file), dict(arguments.noise))))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    opened = _open(arguments.file)
    _print(opened, opened.decide())
    return 0


def _add_seeds(arguments: argparse.Namespace) -> int:
    opened = _open(arguments.file)
    opened.add_seeds(arguments.seeds)
    _print(opened, opened.result())
    return 0


def _table(arguments: argparse.Namespace) -> int:
    print(FORMATS[arguments.form](_open(arguments.file).result().board), end="")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    opened = _open(arguments.file)
    same = opened.same_as()
    one, other = (same.get(arm, arm) for arm in arguments.arms)
    for arm in (one, other):
        if arm not in opened.arms:
            raise ConfigError(f"experiment {opened.experiment.name} has no arm {arm!r}: {nearest(arm, opened.arms)}")
    if one == other:
        raise ConfigError(f"{' and '.join(arguments.arms)} have the same training data: there is nothing to compare")
    result = opened.result()
    facts = {row.arm: row.facts for row in result.board.rows}
    recipes = [opened.recipes[arm].model_dump(mode="json", exclude={"name", "description"}) for arm in (one, other)]
    compared = diff.comparisons_of(one, other, result.table, result.scores, opened.declaration)
    print(diff.as_text((one, other), diff.recipe_differences(*recipes), (facts[one], facts[other]), compared))
    return 0


def _curve(arguments: argparse.Namespace) -> int:
    settings = load_settings()
    find = finder(settings)
    curve = Curve.parse(
        {"recipe": arguments.recipe, "repeats": arguments.repeats, "fresh": arguments.fresh}, where="curve"
    )
    experiment = curve_experiment(curve, find(arguments.recipe).name, arguments.seeds, settings.profile)
    opened = open_experiment(experiment, settings, find)
    opened.decide()
    _print_curve(opened)
    return 0


def _ladder(arguments: argparse.Namespace) -> int:
    experiment = load_experiment(arguments.file)
    found = read_ladder(experiment.name, arguments.profiles or experiment.ladder, data_root())
    print(ladder_files.FORMATS[arguments.form](found), end="")
    return 0


def _decisions(arguments: argparse.Namespace) -> int:
    opened = _open(arguments.file)
    found = decisions.decision_accuracy(opened.result().scores, opened.declaration.benchmarks, sizes=arguments.seeds)
    print(decisions.FORMATS[arguments.form](found), end="")
    return 0


def _print(opened: ExperimentRun, result: Result) -> None:
    files = result.write(opened.folder)
    for check in result.checks:
        print(f"check {check.name}: {'passed' if check.passed else 'FAILED'}: {check.summary}", file=sys.stderr)
    print(f"leaderboard: {', '.join(str(path) for path in files)}", file=sys.stderr)
    print("\n".join(sentences(result.board)))
    if opened.experiment.curve:
        _print_curve(opened)


def _print_curve(opened: ExperimentRun) -> None:
    result = judge_curve(opened)
    files = write_curve(result, opened.folder)
    print(f"curve: {', '.join(str(path) for path in files.values())}", file=sys.stderr)
    print(curve_as_markdown(result), end="")
