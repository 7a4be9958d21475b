"""mgm_checkpoint and baseline_checkpoint. In: the exposures in training order. Out: a trained model per training seed.

Runs are kept in a store that all recipes, budgets and baselines share (``experiments.run_store``). The set is a view of
the store: a run that another recipe, or another list of seeds, has trained is linked into the set's folder ``seed-<n>``
and not trained again. One child process trains the missing runs (on the CPU one per core, with several GPUs one per
GPU), each through pre-training (projector) and fine-tuning (projector and language model). After a kill, a new run
continues at the newest checkpoint.

kept: seed int64, run string (name in the store and in the long tables), final_loss float64, steps int64 (of both
phases), path string (checkpoint, relative to the folder), and of each phase: exposures, unique_rows, supervised_tokens.
Durations are in the stats, not in the rows, so equal data, settings and seeds give equal rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.experiments.long_tables import LongTables
from bettersynth_assets.experiments.run_store import PHASES, TRAINER, Commit, Identity, Run, RunStore
from bettersynth_assets.scheduler.child_process import run_child
from bettersynth_assets.stages.budget import LLAVA_FILE
from bettersynth_assets.stages.rules import FINITE_LOSS
from bettersynth_assets.stages.side_inputs import check_finetune
from bettersynth_assets.stages.training_log import Reporter
from bettersynth_assets.stages.training_plan import (
    LIBRARIES,
    arm_digest,
    launcher,
    run_identity,
    training_key,
    training_plan,
)
from bettersynth_assets.stages.world import prepare_finetune

COUNTS = ("exposures", "unique_rows", "supervised_tokens")
CHECKPOINTS = pa.schema(
    [
        ("seed", pa.int64()),
        ("run", pa.string()),
        ("final_loss", pa.float64()),
        ("steps", pa.int64()),
        ("path", pa.string()),
        *((f"{phase}_{name}", pa.int64()) for phase in PHASES for name in COUNTS),
    ]
)
_CURVE_POINTS = 100


def run(work: Work, *, source: str) -> Result:
    """Collect the runs of the profile's seeds; train the missing ones.

    Raises:
        ChildError: the trainer refuses the data or a loss, or ends before its last step; finished runs are kept.
    """
    runs = ensure_runs(work, source, work.settings.profile.training.seeds)
    tables = LongTables(work.settings.experiments_root)
    names = []
    for training_run in runs:
        tables.add_run(training_run)
        folder = folder_of(training_run.training_seed)
        names += [f"{folder}/{name}" for name in training_run.link_into(work.folder / folder)]
    return Result(
        rows_in=len(runs),
        kept=pa.Table.from_pylist([_row(training_run) for training_run in runs], schema=CHECKPOINTS),
        stats=_stats(runs),
        files=tuple(name for name in names if name.endswith(".safetensors")),
        other_files=tuple(name for name in names if not name.endswith(".safetensors")),
    )


def ensure_runs(work: Work, source: str, seeds: Sequence[int]) -> list[Run]:
    """Return the runs of a training set with these training seeds; train the missing ones.

    Args:
        work: the run, and a folder for plans.
        source: the input with the training file.
        seeds: training seeds.

    Raises:
        ChildError: see ``run``.
    """
    (budgeted,) = work.inputs[source]
    arm = arm_digest(budgeted)
    store = RunStore(work.settings.runs_root, work.log)
    identities = [run_identity(work.run, arm, seed) for seed in seeds]
    return store.ensure(identities, partial(_train, work, source, budgeted.file(LLAVA_FILE)))


def _train(work: Work, source: str, data: Path, runs: Mapping[Path, Identity], commit: Commit) -> None:
    seeds = {folder: int(identity["training_seed"]) for folder, identity in runs.items()}
    plans = {
        work.folder / f"plan-{seed}.json": training_plan(work.run, folder, data, seed) for folder, seed in seeds.items()
    }
    run_trainer(plans, work.run, Reporter(source, work.log, seeds, commit))


def run_trainer(plans: Mapping[Path, Mapping[str, Any]], run: ResolvedRun, report: Reporter) -> None:
    """Train plans in one child process, with the profile's launcher; on several GPUs without one, a plan per GPU.

    Raises:
        ChildError: the trainer refuses a plan or a loss, or does not end with exit code 0.
    """
    run_child(TRAINER, plans, on_event=report, log=report.log, launcher=launcher(run), on_all_gpus=True)


def folder_of(training_seed: int) -> str:
    """Return the name of a training seed's folder."""
    return f"seed-{training_seed}"


def _row(run: Run) -> dict[str, Any]:
    return {
        "seed": run.training_seed,
        "run": run.name,
        "final_loss": run.cost["finetune"]["final_loss"],
        "steps": sum(run.cost[phase]["steps"] for phase in PHASES),
        "path": f"{folder_of(run.training_seed)}/finetune",
        **{f"{phase}_{name}": run.cost[phase].get(name) for phase in PHASES for name in COUNTS},
    }


def _stats(runs: Sequence[Run]) -> dict[str, Any]:
    stats: dict[str, Any] = {"seeds": len(runs)}
    for phase in PHASES:
        costs, manifests = [run.cost[phase] for run in runs], [run.phase(phase) for run in runs]
        stats[f"{phase}_steps"] = costs[0]["steps"]
        stats[f"{phase}_supervised_tokens"] = costs[0].get("supervised_tokens")
        rates = [manifest["samples_per_s"] for manifest in manifests]
        stats[f"{phase}_samples_per_second"] = round(sum(rates) / len(rates), 2)
        stats[f"{phase}_seconds"] = round(sum(cost["seconds"] for cost in costs), 2)
        for name in ("gpu_seconds", "energy_joules"):
            known = [cost[name] for cost in costs if cost.get(name) is not None]
            stats[f"{phase}_{name}"] = round(sum(known), 2) if len(known) == len(costs) else None
        for name in ("peak_rss_gib", "gpu_peak_gib"):
            stats[f"{phase}_{name}"] = max((cost[name] for cost in costs if cost.get(name) is not None), default=None)
        for run, manifest in zip(runs, manifests, strict=True):
            curve = manifest["loss_curve"]
            stats[f"loss_{phase}_seed_{run.training_seed}"] = curve[:: max(1, len(curve) // _CURVE_POINTS)]
    return stats


def depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    return {**training_key(run), "seeds": run.settings.profile.training.seeds}


MGM_CHECKPOINT = Stage(
    name="mgm_checkpoint",
    version=4,
    rules=(FINITE_LOSS,),
    run=partial(run, source="budgeted_set"),
    depends=depends,
    sharded=False,
    inputs=("budgeted_set",),
    libraries=LIBRARIES,
    prepare=prepare_finetune,
    preflight=check_finetune,
)
BASELINE_CHECKPOINT = replace(
    MGM_CHECKPOINT,
    name="baseline_checkpoint",
    run=partial(run, source="baseline_set"),
    inputs=("baseline_set",),
    scope="budget",
)
