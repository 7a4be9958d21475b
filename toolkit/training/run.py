"""Command that trains plans: ``python -m toolkit.training.run plan.json [plan.json …]``.

In: plans (see ``toolkit.training.plan``). Out, in each plan's ``output_dir``::

    run.json                    the plan, data and base model to which this folder belongs
    pretrain/projector.safetensors, config.json, samples.jsonl, manifest.json
    finetune/  a complete checkpoint for from_pretrained, samples.jsonl, manifest.json
    <phase>/checkpoints/    during training: checkpoints for resuming a killed run; see toolkit.training.checkpoint
    <phase>/logs/           with report_to

A phase's manifest is written last and contains the hash of every other file of the phase. A phase is complete if its
manifest exists and all hashes match.

Progress events go to stdout, one JSON object per line, each with its ``output_dir``: ``damaged`` (a file that is not
used, and the consequence), ``features``, ``projector`` (fitted by regression), ``start``, ``resume``, ``step``,
``stage_done``, ``done``, ``error``. All other output goes to stderr. Several plans on the CPU are trained in parallel,
one per core (``--jobs``); with several GPUs in ``CUDA_VISIBLE_DEVICES``, one per GPU. The command can also be started
by torchrun or by DeepSpeed's launcher.

Exit codes: 0 done; 2 invalid plan, data or files; 3 a loss that is NaN, infinite or diverging. A launcher may return
its own exit code instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from toolkit.events import json_lines
from toolkit.file_errors import EnvironmentFault
from toolkit.jobs import devices_for, jobs_for, run_all, run_on_devices
from toolkit.training.plan import LossError, read_plan

MODULE = "toolkit.training.run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.training.run", description="Train one or several plans.")
    parser.add_argument("plan", type=Path, nargs="+", help="YAML or JSON files")
    parser.add_argument(
        "--jobs", type=int, default=0, help="plans to train in parallel (default on the CPU: about one per core)"
    )
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    emit = json_lines()
    try:
        plans = [read_plan(path) for path in options.plan]
        on_cpu = all(plan.device == "cpu" for plan in plans)
        if not options.jobs and (devices := devices_for(len(plans), on_cpu=on_cpu)):
            return run_on_devices(MODULE, options.plan, devices, stdout=emit.descriptor)
        # Imports torch and transformers: only after the plans are validated, so that an error appears at once.
        from toolkit.training.session import train

        jobs = options.jobs or jobs_for(len(plans), on_cpu=on_cpu)
        run_all(partial(train, emit=emit), plans, jobs)
    except (ValueError, EnvironmentFault, LossError) as error:
        emit({"event": "error", "kind": type(error).__name__, "message": str(error)})
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, LossError) else 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
