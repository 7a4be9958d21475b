"""Experiments whose training sets are real and small, and whose models are replaced by scores from a formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets.config.curve_arms import with_curve_arms
from bettersynth_assets.config.experiment import Experiment, recipes_of
from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.experiment_runs import experiment_run, runs
from bettersynth_assets.experiment_runs.experiment_run import ExperimentRun
from bettersynth_assets.experiment_runs.runs import Wanted
from bettersynth_assets.experiments.long_tables import LongTables
from bettersynth_assets.experiments.run_store import Run
from bettersynth_assets_tests.helpers.fake_trainer import COST
from bettersynth_assets_tests.helpers.seeds import kit_row, settings_for, write_images, write_lines
from bettersynth_assets_tests.helpers.toy import toy_stages

ROWS = 8
BUDGET = 12
LEAST = 0.2
"""Recipes reject rows with a lower score, so that their rows are not those of the baseline."""
STAGES = toy_stages(least=LEAST, of_baseline=-1.0)
Score = Callable[[str, int], float]
"""Score of a run by arm and training seed, in both benchmarks."""


class FakeExperiments:
    """Opens experiments in one folder; notes which runs are trained.

    Args:
        root: folder of seed file and data.
        score: scores of the runs.
    """

    def __init__(self, root: Path, score: Score) -> None:
        write_images(root, range(ROWS))
        seed = write_lines(root, [kit_row(number) for number in range(ROWS)])
        self.settings: Settings = settings_for(seed, root / "data", shards=1, budget=BUDGET)
        self.score = score
        self.trained: list[str] = []
        self.fails_after: int | None = None
        self.commit = "12ab"

    def open(self, arms: Mapping[str, Any], **values: Any) -> ExperimentRun:
        decide = {"benchmarks": ["textvqa", "mmbench"], **values.pop("decide", {})}
        experiment = Experiment.parse({"name": "mine", "arms": arms, "decide": decide, **values})
        return self.opened(experiment)

    def opened(self, experiment: Experiment) -> ExperimentRun:
        experiment = with_curve_arms(experiment, load_recipe, self.settings.profile)
        recipes = recipes_of(experiment, load_recipe)
        return ExperimentRun(experiment, recipes, self.settings, leased=frozenset(), stages=STAGES)

    def train_and_answer(self, wanted: Sequence[Wanted], run: ResolvedRun, label: str, log: object) -> None:
        """Write the rows of runs to the long tables, as training and evaluation do."""
        tables = LongTables(run.settings.experiments_root)
        for one in {each.name: each for each in reversed(wanted)}.values():
            if self.fails_after is not None and len(self.trained) >= self.fails_after:
                raise ValueError("on purpose")
            self.trained.append(one.label)
            manifest = one.training_set.manifest
            shown = {"exposures": manifest.stats["exposures"], "unique_rows": manifest.kept}
            phase = {**COST, "steps": 3, "final_loss": 1.0, "device": "cpu", "processes": 1, **shown}
            cost = {"pretrain": phase, "finetune": phase}
            tables.add_run(Run(folder=Path(), key=one.name * 4, identity=one.identity, files={}, cost=cost,
                               commit=self.commit))  # fmt: skip
            value = self.score(one.label.partition("|")[0], one.seed)
            metric = {"metric": "accuracy", "value": value, "n": 1, "unparsed": 0, "protocol": "p"}
            likelihood = {**metric, "metric": "log_probability_per_token", "value": value / 100 - 2}
            for name in ("textvqa", "mmbench"):
                tables.add_answers(
                    one.name,
                    name,
                    "e",
                    metrics=[metric, likelihood],
                    questions=list,
                    from_questions=None,
                    chance={"accuracy": 2.5},
                )


def fake_experiments(root: Path, monkeypatch: pytest.MonkeyPatch, score: Score) -> FakeExperiments:
    """Replace training, evaluation and what their keys need."""
    found = FakeExperiments(root, score)
    monkeypatch.setattr(experiment_run, "train_and_answer", found.train_and_answer)
    monkeypatch.setattr(experiment_run, "evaluations", lambda run: {"textvqa": "e", "mmbench": "e"})
    monkeypatch.setattr(runs, "run_identity", lambda run, arm, seed: {"arm": arm, "training_seed": seed})
    return found
