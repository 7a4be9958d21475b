"""Training runs of an experiment's cells. In: cells with their training sets. Out: runs and answers, kept for ever.

All missing runs are trained by one child process, whatever arm they belong to, and then answered by another one; on the
CPU both work on as many runs in parallel as there are cores. A run counts as done once the long tables have its row and
its answers, so a model that was deleted afterwards is not trained again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bettersynth_assets.engine.job import under_lease
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.experiment_runs.sets import BuiltSet
from bettersynth_assets.experiments.long_tables import LongTables
from bettersynth_assets.experiments.run_store import NAME_DIGITS, Commit, Identity, Run, RunStore, run_key
from bettersynth_assets.stages.budget import LLAVA_FILE
from bettersynth_assets.stages.evaluate import Model, answer_models
from bettersynth_assets.stages.train import run_trainer
from bettersynth_assets.stages.training_log import Reporter
from bettersynth_assets.stages.training_plan import run_identity, training_plan


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A run of one training set with one training seed; ``label`` is its name in log lines."""

    label: str
    training_set: BuiltSet
    seed: int

    @property
    def identity(self) -> Identity:
        return run_identity(self.training_set.run, self.training_set.digest, self.seed)

    @property
    def name(self) -> str:
        """Return the run's name in the store and in the long tables."""
        return run_key(self.identity)[:NAME_DIGITS]


def is_done(wanted: Wanted, benchmarks: Sequence[str], keys: Mapping[str, str]) -> bool:
    """Tell whether the long tables have a run and its answers.

    Args:
        wanted: the run.
        benchmarks: names.
        keys: of the evaluation, by benchmark (``stages.evaluate.evaluations``).
    """
    root = wanted.training_set.run.settings.experiments_root
    files = [f"metrics/{wanted.name}-{name}-{keys[name]}.parquet" for name in benchmarks]
    return all((root / file).is_file() for file in (f"runs/{wanted.name}.parquet", *files))


def train_and_answer(wanted: Sequence[Wanted], run: ResolvedRun, label: str, log: Callable[[str], None]) -> None:
    """Train and answer runs; those that are stored are not trained again.

    Args:
        wanted: the runs; equal ones are trained once.
        run: settings with the benchmarks to answer, resolved.
        label: what log lines begin with.
        log: called with progress lines.

    Raises:
        ChildError: a training or an evaluation failed; finished runs are kept.
    """
    unique = list({one.name: one for one in reversed(wanted)}.values())[::-1]
    run.settings.profile_root.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".experiment-", dir=run.settings.profile_root) as folder,
        under_lease(run, log) as leased,
    ):
        trained = _train(unique, leased, Path(folder), label, log)
        tables = LongTables(run.settings.experiments_root)
        for stored in trained:
            tables.add_run(stored)
        models = [
            Model(label=one.label, run=stored.name, path=stored.folder / "finetune")
            for one, stored in zip(unique, trained, strict=True)
        ]
        answer_models(leased, models, Path(folder), label, log)


def _train(
    wanted: Sequence[Wanted], leased: ResolvedRun, plans: Path, label: str, log: Callable[[str], None]
) -> list[Run]:
    store = RunStore(leased.settings.runs_root, log)
    by_folder = {store.folder(run_key(one.identity)): one for one in wanted}

    def train(missing: Mapping[Path, Identity], commit: Commit) -> None:
        chosen = {folder: by_folder[folder] for folder in missing}
        files = {plans / f"train-{folder.name}.json": _plan(one, folder, leased) for folder, one in chosen.items()}
        seeds = {folder: one.seed for folder, one in chosen.items()}
        run_trainer(files, leased, Reporter(label, log, seeds, commit))

    return store.ensure([one.identity for one in wanted], train)


def _plan(wanted: Wanted, folder: Path, leased: ResolvedRun) -> Mapping[str, object]:
    data = wanted.training_set.manifest.file(LLAVA_FILE)
    return training_plan(wanted.training_set.run.with_gpu(leased.gpu), folder, data, wanted.seed)
