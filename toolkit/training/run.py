"""Trains plans: ``python -m toolkit.training.run plan.json [plan.json …]``, also under torchrun or DeepSpeed.

In: plans (see ``toolkit.training.plan``). Out, in each plan's ``output_dir``::

    run.json                    which plan, data and base model this folder belongs to
    pretrain/projector.safetensors, config.json, samples.jsonl, manifest.json
    finetune/  a complete checkpoint for from_pretrained, samples.jsonl, manifest.json
    <stage>/checkpoints/    while the stage is trained: what a killed run goes on from; see toolkit.training.checkpoint
    <stage>/logs/           with report_to

A stage's manifest is written last and has the hash of each file: a stage is complete when both agree. Progress goes to
stdout, one JSON object a line, each with its ``output_dir``: ``damaged`` (a file that is not used, and what is done
instead), ``features``, ``start``, ``resume``, ``step``, ``stage_done``, ``done``, ``error``. Everything else goes to
stderr. Several plans on the CPU are trained side by side, one per core (``--jobs``).

Exit codes: 0 done, 2 a fault in plan, data or files, 3 a loss that is NaN or infinite or exploded; a launcher may put
its own in their place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from toolkit.events import json_lines
from toolkit.file_errors import EnvironmentFault
from toolkit.jobs import jobs_for, run_all
from toolkit.training.plan import LossError, read_plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.training.run", description="Train as plans say.")
    parser.add_argument("plan", type=Path, nargs="+", help="YAML or JSON files")
    parser.add_argument(
        "--jobs", type=int, default=0, help="plans trained at once; one per core when all are on the CPU"
    )
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    emit = json_lines()
    try:
        plans = [read_plan(path) for path in given.plan]
        # Only now, so that a fault in a plan shows at once: this imports torch and transformers.
        from toolkit.training.session import train

        jobs = given.jobs or jobs_for(len(plans), on_cpu=all(plan.device == "cpu" for plan in plans))
        run_all(partial(train, emit=emit), plans, jobs)
    except (ValueError, EnvironmentFault, LossError) as error:
        emit({"event": "error", "kind": type(error).__name__, "message": str(error)})
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, LossError) else 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
