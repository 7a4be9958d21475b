"""mgm_checkpoint and baseline_checkpoint. In: the exposures in training order. Out: a trained model per training seed.

One child process trains the seeds one after the other (on the CPU several at a time), each through stage 1 (projector)
and stage 2 (projector and language model) into its folder ``seed-<n>``. After a kill, a new run skips finished seeds
and finished stages of a seed, and continues an unfinished stage from its newest checkpoint.

kept: seed int64, final_loss float64, steps int64 (of both stages), path string (checkpoint, relative to the folder).
Durations are in the stats, not in the rows, so equal data, settings and seeds give equal rows.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.profile import resolve
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Log, Result, Stage, Work
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.scheduler.child_process import ChildError, Event, run_child
from bettersynth_assets.stages.budget import LLAVA_FILE
from bettersynth_assets.stages.image_folder import finetune_images_hash
from bettersynth_assets.stages.rules import FINITE_LOSS
from bettersynth_assets.stages.side_inputs import check_finetune
from bettersynth_assets.stages.world import prepare_finetune
from toolkit.files import sha256_once
from toolkit.models import ARCHITECTURES, ArchitectureError, model_type
from toolkit.training.file_record import MarkerError, read_marker
from toolkit.training.settings import PhaseSettings

MODULE = "toolkit.training.run"
STAGES = ("pretrain", "finetune")
CHECKPOINTS = pa.schema(
    [("seed", pa.int64()), ("final_loss", pa.float64()), ("steps", pa.int64()), ("path", pa.string())]
)
_CURVE_POINTS = 100
_MARKER = "manifest.json"


def run(work: Work, *, source: str) -> Result:
    """Train all seeds of the profile.

    Raises:
        ChildError: the trainer refuses the data or a loss, or ends before its last step; finished seeds are kept.
    """
    seeds = work.settings.profile.training.seeds
    data = work.inputs[source][0].file(LLAVA_FILE)
    plans = {
        work.folder / f"plan-{training_seed}.json": training_plan(work.run, work.folder, data, training_seed)
        for training_seed in seeds
    }
    run_child(
        MODULE,
        plans,
        on_event=Reporter(source, work.log),
        log=work.log,
        launcher=launcher(work.run),
    )
    done = {training_seed: _read(work.folder / folder_of(training_seed)) for training_seed in seeds}
    rows = [
        {
            "seed": training_seed,
            "final_loss": stages["finetune"]["loss_curve"][-1],
            "steps": sum(stages[name]["final_step"] for name in STAGES),
            "path": f"{folder_of(training_seed)}/finetune",
        }
        for training_seed, stages in done.items()
    ]
    names = [name for training_seed in seeds for name in _written(work.folder, folder_of(training_seed))]
    return Result(
        rows_in=len(seeds),
        kept=pa.Table.from_pylist(rows, schema=CHECKPOINTS),
        stats=_stats(done),
        files=tuple(name for name in names if name.endswith(".safetensors")),
        other_files=tuple(name for name in names if not name.endswith(".safetensors")),
    )


def _written(folder: Path, seed_folder: str) -> list[str]:
    """Return the files of a finished seed, relative to ``folder``, without those needed only for resuming."""
    found = [path.relative_to(folder) for path in sorted((folder / seed_folder).rglob("[!.]*")) if path.is_file()]
    return [path.as_posix() for path in found if "checkpoints" not in path.parts]


def training_plan(run: ResolvedRun, folder: Path, data: Path, training_seed: int) -> dict[str, Any]:
    """Return one seed's plan for ``toolkit.training.plan``; what the contest fixes is the default there."""
    settings, gpu, finetune = run.settings, run.gpu, run.finetune
    training = settings.profile.training
    return {
        "base_model": run.base.name,
        "output_dir": str(folder / folder_of(training_seed)),
        "extensions": settings.profile.extension_files(),
        "seed": training_seed,
        "device": "cpu" if gpu.devices == "cpu" else "auto",
        "dtype": gpu.dtype,
        "cache_dir": str(settings.profile_root / "features") if training.feature_cache else None,
        "memory_limit_gib": gpu.memory_limit_gib,
        **training.of_the_plan(),
        "stages": [
            {
                "name": "pretrain", "data": str(data), "images": str(run.image_root), "trained": "projector",
                "image_aspect": "square", **_parameters(training.stage_1),
            },
            {
                "name": "finetune", "data": str(finetune.data), "images": str(finetune.images),
                "trained": "projector+llm", "image_aspect": "pad", "group_by_modality_length": True,
                **_parameters(training.stage_2),
            },
        ],
    }  # fmt: skip


def launcher(run: ResolvedRun) -> list[str]:
    """Return the profile's launcher; commands of this Python environment are found even if ``PATH`` lacks them."""
    command = list(run.settings.profile.training.launcher)
    if command and (own := Path(sys.executable).parent / command[0]).is_file():
        command[0] = str(own)
    return command


def folder_of(training_seed: int) -> str:
    """Return the name of a training seed's folder."""
    return f"seed-{training_seed}"


def _parameters(stage: PhaseSettings) -> dict[str, Any]:
    return stage.model_dump(mode="json") | {"deepspeed": stage.deepspeed and resolve(stage.deepspeed)}


class Reporter:
    """Logs a child's events; the training seeds are interleaved."""

    def __init__(self, source: str, log: Log) -> None:
        self.source, self.log = source, log

    def __call__(self, event: Event) -> None:
        """Log one event."""
        folder = Path(event.get("output_dir", "")).name.replace("-", " ")
        kind, where = event.get("event"), f"{self.source} {folder} {event.get('stage', '')}".rstrip()
        if kind == "start":
            self.log(f"{where}: {event['steps']} steps over {event['rows']} rows")
        elif kind == "resume":
            self.log(f"{where}: continues after step {event['step']}")
        elif kind == "damaged":
            self.log(f"{where}: {event['message']}")
        elif kind == "features":
            self.log(f"{where}: features of {event['computed']} images in {event['seconds']:.1f} s")
        elif kind == "step":
            rate = f"{event['samples_per_s']:.1f} samples/s"
            self.log(f"{where}: step {event['step']}/{event['steps']}, loss {event['loss']:.4f}, {rate}")
        elif kind == "done":
            self.log(
                f"{where}: " + ("finished earlier" if event["cached"] else f"finished in {event['seconds']:.1f} s")
            )


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Read a seed's manifests by stage; the toolkit writes them last.

    A launcher may return 0 although its trainer died, so the exit code alone is not sufficient.

    Raises:
        ChildError: a stage has no manifest, or its manifest does not confirm the last step.
    """
    return {name: _finished(folder / name / _MARKER) for name in STAGES}


def _finished(marker: Path) -> dict[str, Any]:
    try:
        found = read_marker(marker, ("final_step", "planned_steps", "loss_curve", "cost", "samples_per_s"))
    except MarkerError as error:
        raise ChildError(f"{MODULE} ended with exit code 0 before its last step: {error}; check its output") from error
    if found["final_step"] != found["planned_steps"]:
        steps = f"step {found['final_step']} of {found['planned_steps']}"
        raise ChildError(f"{MODULE} ended with exit code 0 but after {steps}: {marker}; check its output")
    return found


def _stats(done: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    stats: dict[str, Any] = {"seeds": len(done)}
    for name in STAGES:
        stats[f"{name}_steps"] = next(iter(done.values()))[name]["final_step"]
        rates = [stages[name]["samples_per_s"] for stages in done.values()]
        stats[f"{name}_samples_per_second"] = round(sum(rates) / len(rates), 2)
        stats[f"{name}_seconds"] = round(sum(stages[name]["cost"]["seconds"] for stages in done.values()), 2)
        for training_seed, stages in done.items():
            curve = stages[name]["loss_curve"]
            stats[f"loss_{name}_seed_{training_seed}"] = curve[:: max(1, len(curve) // _CURVE_POINTS)]
    return stats


def depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    training, finetune = run.settings.profile.training, run.finetune
    return {
        "base": run.base.fingerprint,
        **architecture_key(run),
        "training": training.key(),
        "deepspeed": [_deepspeed(stage) for stage in (training.stage_1, training.stage_2)],
        "finetune": finetune.fingerprint(),
        "finetune_images": finetune_images_hash(
            finetune.data, finetune.images, run.settings.shared_root / "finetune_images.parquet"
        ),
        "gpu": run.gpu.key("training"),
    }


def architecture_key(run: ResolvedRun) -> dict[str, str]:
    """Return the hash of the base model's architecture if it comes from an extension.

    Raises:
        ConfigError: no architecture is registered for a local base model.
    """
    base = Path(run.base.name)
    if not (base / "config.json").is_file():
        return {}
    try:
        code = ARCHITECTURES.fingerprint(model_type(base))
    except ArchitectureError as error:
        raise ConfigError(f"models.base: {error}") from error
    return {} if code is None else {"architecture": code}


def _deepspeed(stage: PhaseSettings) -> str | None:
    """Return the hash of a stage's DeepSpeed file; a missing file is reported by the training plan."""
    file = None if stage.deepspeed is None else Path(resolve(stage.deepspeed))
    return sha256_once(file) if file is not None and file.is_file() else None


MGM_CHECKPOINT = Stage(
    name="mgm_checkpoint",
    version=3,
    rules=(FINITE_LOSS,),
    run=partial(run, source="budgeted_set"),
    depends=depends,
    sharded=False,
    inputs=("budgeted_set",),
    libraries=("torch", "transformers", "accelerate"),
    resume=True,
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
