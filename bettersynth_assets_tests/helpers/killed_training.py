"""Trainings that kill themselves with SIGKILL at a given point: ``… runs.json``.

In: a list of ``{"plan": file, "processes": n, "point": point}``, run one after the other. Each run has n forked
processes that connect as under torchrun. At the point the last of them dies, and the others are killed, as by a
launcher. Points: ``none``; ``step:<stage>:<n>`` after step n; ``write:<stage>:<n>`` while the checkpoint of step n is
written; ``publish:<stage>:<n>`` between its last write and the rename; ``weights:<stage>`` while the results of a stage
are written. Exit code 0: every run ended as its point requires.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import deepspeed
import torch

import toolkit.training.checkpoint as checkpoint
import toolkit.training.session as session
from bettersynth_assets_tests.helpers.launched import variables
from toolkit.models import architecture_of
from toolkit.training.base_model import load_base
from toolkit.training.plan import TrainingPlan, read_plan
from toolkit.training.progress import Progress


def die() -> None:
    """Kill this process as by ``kill -9`` if it is the last one of its run."""
    if int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Make the process kill itself at the point."""
    kind, _, where = point.partition(":")
    stage, _, number = where.partition(":")
    take_step, write = Progress.on_step_end, session.write_atomically
    save, publish = checkpoint._save, checkpoint.publish

    def on_step_end(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        take_step(self, args, state, control, **kwargs)
        if kind == "step" and (self.phase, str(state.global_step)) == (stage, number):
            die()

    def half_saved(trainer: Any, folder: Path) -> None:
        save(trainer, folder)
        if kind == "write" and (folder.parents[1].name, str(trainer.state.global_step)) == (stage, number):
            for file in folder.rglob("*.*"):
                os.truncate(file, file.stat().st_size // 2)
            die()

    def unpublished(partial: Path, final: Path) -> None:
        if kind == "publish" and (final.parents[1].name, int(final.name[5:])) == (stage, int(number)):
            die()
        publish(partial, final)

    def unwritten(path: Path, content: str) -> None:
        if kind == "weights" and path.parent.name == stage:
            die()
        write(path, content)

    Progress.on_step_end = on_step_end  # type: ignore[method-assign]
    checkpoint._save, checkpoint.publish, session.write_atomically = half_saved, unpublished, unwritten  # type: ignore[assignment]


def run(plan: Path, processes: int, point: str) -> bool:
    """Train a plan in forked processes; return whether they ended as the point requires."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            if processes > 1:
                os.environ.update(variables(rank, processes, port=port))
            code = 1
            try:
                arm(point)
                session.train(read_plan(plan), print)
                code = 0
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    codes = []
    while children:
        child, status = os.wait()
        children.remove(child)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[0] != 0:
            for other in children:
                os.kill(other, signal.SIGKILL)
    return codes[0] == (0 if point == "none" else -signal.SIGKILL)


def preload(plan: TrainingPlan) -> None:
    """Import here, once, what each forked process would import when it first loads a model or takes a step."""
    load_base(architecture_of(plan.base_model), plan)
    for module in ("torch._dynamo", "transformers.loss.loss_utils"):
        import_module(module)
    gc.freeze()  # the garbage collections of the forked processes need not visit, and thereby copy, all these objects


def main(file: str) -> int:
    """Execute all runs; return 1 at the first one that does not end as expected."""
    torch.set_num_threads(1)
    # On the CPU DeepSpeed would first compile its collectives for a minute or two; gloo's need no compilation.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    runs = json.loads(Path(file).read_text())
    preload(read_plan(Path(runs[0]["plan"])))
    for given in runs:
        if not run(Path(given["plan"]), given["processes"], given["point"]):
            print(f"did not end as it should: {given}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
