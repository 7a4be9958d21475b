"""One experiment on disk: what exists of it, and the loop that adds what its verdicts need.

Everything is found by content: a run that is interrupted, or that another experiment needs too, is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from bettersynth_assets.config.deciding import check_metric
from bettersynth_assets.config.experiment import BASELINE, Experiment
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.settings import Settings, check_data_root
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiment_runs.cells import Cell, cells_of, set_of, training_seeds
from bettersynth_assets.experiment_runs.result import Result, arm_facts, judge
from bettersynth_assets.experiment_runs.runs import Wanted, is_done, train_and_answer
from bettersynth_assets.experiment_runs.sets import OnBuilt, Sets, ignore
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.leaderboard import ArmFacts
from bettersynth_assets.experiments.looks import seeds_wanted, undecided
from bettersynth_assets.experiments.tuning import other_settings
from bettersynth_assets.stages.answers import evaluations
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets.stages.training_plan import settings_key
from bettersynth_assets.stages.tuning import refuse_tuning_on_report
from bettersynth_assets.stages.world import prepare_benchmarks

OnCell = Callable[[Cell, Wanted], None]


def ignore_cell(cell: Cell, wanted: Wanted) -> None:
    """No-op report of a finished cell."""


class ExperimentRun:
    """An experiment under the active profile.

    Args:
        experiment: the experiment.
        recipes: by arm (``config.experiment.recipes_of``).
        settings: of the active profile.
        leased: names of the stages that lease a device while they run.
        stages: of the graph.
        log: called with progress lines.
        on_built: called with each shard of a training set that is built, and its run.
        on_cell: called with each cell that has been trained and evaluated now.

    Raises:
        ConfigError: the profile does not evaluate a deciding benchmark, or the data root cannot be used.
    """

    def __init__(
        self,
        experiment: Experiment,
        recipes: Mapping[str, Recipe],
        settings: Settings,
        *,
        leased: frozenset[str],
        stages: tuple[Stage, ...] = STAGES,
        log: Callable[[str], None] = print,
        on_built: OnBuilt = ignore,
        on_cell: OnCell = ignore_cell,
    ) -> None:
        try:
            chosen = settings.with_benchmarks(experiment.decide.evaluated)
            for name in experiment.decide.benchmarks:  # the benchmark may be registered since the file was read
                check_metric(name)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"experiment {experiment.name}: decide.{error}") from None
        try:
            self.settings = chosen.for_tuning() if experiment.purpose == "tune" else chosen
        except ConfigError as error:
            raise ConfigError(f"experiment {experiment.name}: purpose: tune: {error}") from None
        check_data_root(settings.data_root)
        self.experiment, self.recipes, self.log, self.on_cell = experiment, recipes, log, on_cell
        self.run = ResolvedRun(self.settings)
        self.sets = Sets(leased=leased, stages=stages, log=log, on_built=on_built)
        split = self.settings.profile.evaluation.split
        self.declaration = replace(Declaration.of(experiment), split=split)
        self.arms = (BASELINE, *experiment.arms)

    @property
    def folder(self) -> Path:
        """Folder of the experiment's leaderboard."""
        return self.settings.experiments_root / self.experiment.name

    @cached_property
    def evaluations(self) -> dict[str, str]:
        """What distinguishes answers of one model under these settings, by benchmark."""
        return evaluations(self.run)

    def wanted(self, cell: Cell) -> Wanted | None:
        """Return the run of a cell; None if its training set is not up to date."""
        found = self.sets.find(set_of(cell, self.experiment, self.recipes, self.settings))
        return None if found is None else Wanted(label=cell.partition, training_set=found, seed=cell.seed)

    def is_done(self, wanted: Wanted | None) -> bool:
        """Tell whether the run of a cell has been trained and evaluated."""
        return wanted is not None and is_done(wanted, self.experiment.decide.evaluated, self.evaluations)

    def counts(self) -> dict[str, int]:
        """Return the number of finished runs of each arm, counted up to the first one that is missing."""
        seeds = training_seeds(self.settings.profile, self.experiment.seeds.max)
        found = {}
        for arm in self.arms:
            done = (self.is_done(self.wanted(Cell(arm=arm, seed=seed))) for seed in seeds)
            found[arm] = next((at for at, one in enumerate(done) if not one), len(seeds))
        return found

    def bring(self, cells: Iterable[Cell]) -> list[Cell]:
        """Build the sets of cells, train and evaluate those that are missing.

        Returns:
            The cells that were missing.

        Raises:
            UserError: a set cannot be built, or a training or evaluation failed; finished runs are kept.
        """
        cells = list(cells)
        self._renew_world()
        self.sets.build(set_of(cell, self.experiment, self.recipes, self.settings) for cell in cells)
        missing = {cell: wanted for cell in cells if (wanted := self.wanted(cell)) and not self.is_done(wanted)}
        if missing:
            check_data_root(self.settings.data_root, writing=True)
            refuse_tuning_on_report(self.run, self.evaluations)
            self.log(f"{self.experiment.name}: {len(missing)} of {len(cells)} runs are missing: {_named(missing)}")
            try:
                train_and_answer([*missing.values()], self.run, self.experiment.name, self.log)
            finally:
                for cell, wanted in missing.items():
                    if self.is_done(wanted):
                        self.on_cell(cell, wanted)
        return [*missing]

    def decide(self) -> Result:
        """Add seeds, look by look, until every comparison has a verdict or all seeds are used.

        Raises:
            UserError: see ``bring``.
        """
        self._renew_world()
        while True:
            counts, same = self.counts(), self.same_as()
            comparisons = self.result(counts).table.comparisons if all(counts.values()) else ()
            owners = {arm: count for arm, count in counts.items() if arm not in same}
            wanted = seeds_wanted(comparisons, owners, self.declaration)
            wanted = {arm: max(counts[arm], wanted.get(same.get(arm, arm), 0)) for arm in self.arms}
            if wanted == counts:
                result = self.result(counts)
                open_ones = undecided(result.table.comparisons)
                self.log(f"{self.experiment.name}: finished; {open_ones} comparisons without a verdict")
                return result
            self.bring(cells_of(wanted, self.settings.profile))

    def _renew_world(self) -> None:
        """Generate the miniature world again if it is one of an older version, which may lack the split's files."""
        if self.settings.world.root.is_dir():
            prepare_benchmarks(self.run)

    def add_seeds(self, number: int) -> list[Cell]:
        """Train and evaluate more seeds of every arm.

        Raises:
            ConfigError: there would be more than ``seeds.max``.
            UserError: see ``bring``.
        """
        counts, most = self.counts(), self.experiment.seeds.max
        if (largest := max(counts.values()) + number) > most:
            raise ConfigError(
                f"experiment {self.experiment.name}: {number} more seeds would make {largest}, but seeds.max = {most} "
                "belongs to what the experiment has declared; add fewer, or write another experiment"
            )
        return self.bring(cells_of({arm: count + number for arm, count in counts.items()}, self.settings.profile))

    def result(self, counts: Mapping[str, int] | None = None) -> Result:
        """Compare the runs that exist.

        Raises:
            ConfigError: no arm has a run.
        """
        counts = counts or self.counts()
        if not any(counts.values()):
            raise ConfigError(
                f"experiment {self.experiment.name} has no runs yet: start them with "
                f"`bettersynth experiment run {self.experiment.name}`"
            )
        same = self.same_as()
        owners = {arm: self.names(arm, counts[arm]) for arm in self.arms if arm not in same}
        facts = {arm: self.facts(arm, owners[arm], [a for a, owner in same.items() if owner == arm]) for arm in owners}
        root = self.settings.experiments_root
        other = other_settings(root, self.evaluations, settings_key(self.run))
        return judge(self.experiment, self.declaration, root, owners, self.evaluations, facts, other)

    def names(self, arm: str, count: int) -> list[str]:
        """Return the names of the first runs of an arm."""
        cells = cells_of({arm: count}, self.settings.profile)
        return [wanted.name for cell in cells if (wanted := self.wanted(cell))]

    def same_as(self) -> dict[str, str]:
        """Return the arms whose training data are those of an earlier arm, and that arm."""
        first = training_seeds(self.settings.profile, 1)[0]
        owners: dict[tuple[str, int], str] = {}
        same = {}
        for arm in self.experiment.arms:
            wanted = self.wanted(Cell(arm=arm, seed=first))
            if wanted is not None:
                draws = self.experiment.arms[arm].draws
                owner = owners.setdefault((wanted.training_set.digest, draws), arm)
                if owner != arm:
                    same[arm] = owner
        return same

    def facts(self, arm: str, runs: Sequence[str], same_as: Sequence[str]) -> ArmFacts:
        """Return what the leaderboard says about an arm besides its scores."""
        return arm_facts(arm, self.recipes[arm], self.settings.experiments_root, runs, same_as)


def _named(cells: Iterable[Cell]) -> str:
    return ", ".join(cell.partition for cell in cells)
