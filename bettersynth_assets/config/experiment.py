"""Experiments: which recipes are compared, with how many training seeds. In: a YAML file. Out: a frozen ``Experiment``.

    arms        recipes, each with optional changes (``set``)
    curve       instead of arms: one recipe at several numbers of repeats
    baseline    the recipe that every arm is compared with
    seeds       numbers of training seeds at which the experiment may decide
    purpose     report, or tune: to choose settings
    decide      metrics and rules of the verdicts (docs/statistics.md)

Everything that a verdict depends on is declared here, before the first run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from bettersynth_assets.config.curve import Curve
from bettersynth_assets.config.deciding import Measure, check_metric
from bettersynth_assets.config.model import ConfigModel, read_yaml
from bettersynth_assets.config.names import check_name
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.errors import ConfigError

BASELINE = "baseline"
"""Name of the arm of the baseline."""
Spending = Literal["obrien_fleming", "linear"]
Purpose = Literal["report", "tune"]


class Arm(ConfigModel):
    """One training set: a recipe, or a recipe with changed values."""

    recipe: str | None = None
    """Name or path of the recipe; None uses the recipe with the arm's name."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values that replace the recipe's, by dotted key, e.g. ``budget.exposures: 2000``. A list or a value in a section
    is replaced as a whole."""
    draws: int = Field(default=1, ge=1)
    """Number of training sets that differ in the random seed of the budget (``budget.seed``); runs take them in turn. 1
    gives all runs the same set. With several, the result does not depend on one draw of rows."""

    @field_validator("set")
    @classmethod
    def _keys_of_a_recipe(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in values:
            if not all(key.split(".")) or key.split(".")[0] in ("name", "custom_operators"):
                raise ValueError(f"{key!r} cannot be set here: use a dotted key of a recipe, e.g. budget.exposures")
        return values


class Baseline(ConfigModel):
    """The arm that every other arm is compared with."""

    recipe: str = "baseline_random"
    """Name or path of the recipe."""
    draws: int | None = Field(default=None, ge=1)
    """Number of random draws of the rows of a baseline of random rows. None draws new rows for every run. With
    fewer draws than runs, some runs share their rows, and the baseline looks less noisy than random rows are."""


class Seeds(ConfigModel):
    """Numbers of training seeds per arm. All three belong to the declaration: another ``max`` changes every verdict's
    level."""

    start: int = Field(default=4, ge=3)
    """Seeds of every arm before the first verdict; nothing is compared with fewer than 3."""
    step: int = Field(default=4, ge=1)
    """Seeds that are added to arms without a verdict."""
    max: int = Field(default=12, ge=3)

    @model_validator(mode="after")
    def _reaches_max(self) -> Self:
        if self.max < self.start or (self.max - self.start) % self.step:
            below = self.start + max(0, self.max - self.start) // self.step * self.step
            raise ValueError(
                f"steps of {self.step} from start = {self.start} do not reach max = {self.max}: use max = {below} or "
                f"{below + self.step}"
            )
        return self

    def counts(self) -> tuple[int, ...]:
        """Return the numbers of seeds at which the experiment may decide, in ascending order."""
        return tuple(range(self.start, self.max + 1, self.step))


class Decide(ConfigModel):
    """Rules of the verdicts (docs/statistics.md)."""

    benchmarks: list[str] = Field(min_length=1)
    """Benchmarks of the profile that decide, by their headline metrics, or ``benchmark/metric`` for another metric in
    which higher is better, e.g. ``mmbench/row_accuracy``. The leaderboard is sorted by the mean of these metrics."""
    margin: float | None = Field(default=None, gt=0)
    """Differences of fewer points do not matter; None never calls arms equivalent. Not for log-probabilities."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """1 - chance of a false verdict in the whole experiment."""
    spending: Spending = "linear"
    """How the chance of a false verdict is spent over the looks: ``linear`` decides clear differences with few seeds,
    ``obrien_fleming`` spends almost all of it at ``max``."""
    pairs: Literal["all", "baseline"] = "all"
    """``all`` compares each two arms, ``baseline`` each arm with the baseline only, which needs fewer seeds."""
    paired: bool = False
    """Compare runs of equal training seeds. Helps only if the training sets are nearly alike."""

    @field_validator("benchmarks")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is listed twice: list each benchmark once")
        for name in names:
            check_metric(name)
        return names

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        nats = [name for name in self.benchmarks if Measure.of(name).is_log_probability]
        if nats and len(nats) < len(self.benchmarks):
            raise ValueError(
                f"{', '.join(nats)} is in nats and other metrics are in percent, so they have no mean: decide by "
                "metrics of one unit"
            )
        if nats and self.margin is not None:
            raise ValueError(f"margin = {self.margin:g} is in points, and {', '.join(nats)} is in nats: leave it out")
        return self

    @property
    def evaluated(self) -> list[str]:
        """Return the benchmarks of the deciding metrics, each once."""
        return list(dict.fromkeys(Measure.of(name).benchmark for name in self.benchmarks))


class Experiment(ConfigModel):
    """A comparison of recipes."""

    name: str
    description: str = ""
    arms: dict[str, Arm] = Field(default_factory=dict)
    """By name. An arm without ``recipe`` is the recipe of that name."""
    curve: Curve | None = None
    """Instead of ``arms``: a repetition curve. It takes one look, by default at 4 seeds, and by default compares each
    arm with the baseline only."""
    baseline: Baseline = Field(default_factory=Baseline)
    seeds: Seeds = Field(default_factory=Seeds)
    decide: Decide
    ladder: list[str] = Field(default_factory=list)
    """Names or paths of profiles whose results the asset ``ladder`` compares. It reads them and runs nothing."""
    purpose: Purpose = "report"
    """``tune`` evaluates on the benchmarks' split ``tune``, for choosing settings by their scores, e.g. a threshold or
    the learning rate. Such scores are not to be published. ``report`` uses the profile's ``evaluation.split``."""
    schedule: str | None = None
    """Cron schedule of the experiment's job; off until it is switched on in the UI. None makes no schedule."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_a_curve(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("curve"):
            return values
        decide = values.get("decide")
        pairs = {"decide": {"pairs": "baseline", **decide}} if isinstance(decide, dict) else {}
        return {"seeds": {"start": 4, "max": 4}, **values, **pairs}

    @model_validator(mode="after")
    def _arms_or_a_curve(self) -> Self:
        if bool(self.arms) == bool(self.curve):
            raise ValueError("give either `arms` or a `curve`")
        if self.curve and self.seeds.start != self.seeds.max:
            raise ValueError(
                f"all points of a curve have the same seeds: set seeds.start = seeds.max, e.g. {self.seeds.start}"
            )
        return self

    @field_validator("name")
    @classmethod
    def _name_in_dagster(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise ValueError("use letters (a-z, A-Z), digits and '_' only: it names a group of assets and a job")
        return name

    @field_validator("arms")
    @classmethod
    def _names_of_arms(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        for name in arms:
            check_name("arm", name)
            if name.lower() == BASELINE:
                raise ValueError(f"{name!r} is the name of the baseline's arm: choose another name")
        return arms


def load_experiment(name: str) -> Experiment:
    """Load an experiment by name (of the folder ``experiments``) or by path.

    Raises:
        ConfigError: an unknown file or key (the message suggests the nearest valid one), or a value out of range.
    """
    values, path = read_yaml(name, "experiments")
    return Experiment.parse(values, where=str(path))


def with_values(recipe: Recipe, arm: str, changes: dict[str, Any], *, experiment: str) -> Recipe:
    """Return a recipe with the changes of an arm; it is a recipe of its own, named ``<experiment>.<arm>``.

    Raises:
        ConfigError: a key that no recipe has, or a value that it cannot have; the message names the arm.
    """
    if not changes:
        return recipe
    where = f"experiment {experiment}: arms.{arm}.set"
    values = recipe.model_dump(mode="json")
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = values
        for at, section in enumerate(sections):
            if place.get(section) is None:  # an optional section that the recipe does not have
                place[section] = {}
            if not isinstance(place[section], dict):
                whole = ".".join(sections[: at + 1])
                raise ConfigError(f"{where}: {key!r}: {whole} is not a section: set {whole} as a whole")
            place = place[section]
        place[last] = value
    text = "; ".join(f"{key} = {value}" for key, value in changes.items())
    names = {"name": f"{experiment}.{arm}", "description": f"{recipe.name} with {text}"}
    return Recipe.parse(values | names, where=where)


def recipes_of(experiment: Experiment, find: Callable[[str], Recipe]) -> dict[str, Recipe]:
    """Return the recipe of every arm, the baseline's first.

    Args:
        experiment: the experiment.
        find: returns a recipe by its name or path.

    Raises:
        ConfigError: an unknown recipe, a change that the recipe cannot have, or ``draws`` for a baseline whose rows are
            not drawn at random.
    """
    where = f"experiment {experiment.name}"
    baseline = _found(find, experiment.baseline.recipe, f"{where}: baseline.recipe")
    if experiment.baseline.draws is not None and not is_random_rows(baseline):
        raise ConfigError(
            f"{where}: baseline.draws = {experiment.baseline.draws}: the recipe {baseline.name} is more than random "
            "rows, so that a draw does not give another sample; leave `draws` out"
        )
    found = {BASELINE: baseline}
    for name, arm in experiment.arms.items():
        recipe = _found(find, arm.recipe or name, f"{where}: arms.{name}")
        found[name] = with_values(recipe, name, arm.set, experiment=experiment.name)
    return found


def is_random_rows(recipe: Recipe) -> bool:
    """Tell whether a recipe only draws rows of the seed file, so that another random seed draws another sample."""
    budget = recipe.budget
    return not (recipe.process or recipe.caption or recipe.regenerate or budget.select or budget.rows)


def _found(find: Callable[[str], Recipe], name: str, where: str) -> Recipe:
    try:
        return find(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
