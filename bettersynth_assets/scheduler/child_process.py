"""Runs a module in a child process. In: a module of ``toolkit`` and its plans. Out: the child's events as they arrive.

Training and evaluation run in a child process, so that GPU memory is freed when they exit for any reason. The child
dies with the step (``toolkit.process``). Its standard output has one JSON object per event; other lines are logged.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.errors import UserError
from bettersynth_assets.scheduler.lease import MASK, held_locks
from toolkit.files import write_atomically
from toolkit.image_decoding import strict_decoding

Event = dict[str, Any]


class ChildError(UserError):
    """An error that a child reported before it exited, e.g. invalid data, an invalid plan or a non-finite loss."""


def run_child(
    module: str,
    plans: Mapping[Path, Mapping[str, Any]],
    *,
    on_event: Callable[[Event], None],
    log: Callable[[str], None],
    launcher: Sequence[str] = (),
    on_all_gpus: bool = False,
) -> None:
    """Run ``python -m <module> <plan file> …`` and wait for it to exit.

    Args:
        module: e.g. ``toolkit.training.run``.
        plans: plans by the file to write each one to.
        on_event: called with each JSON object that the child prints.
        log: called with each other line.
        launcher: replaces ``python -m``, e.g. ``[torchrun, --nproc_per_node=8, -m]``; without a launcher, the child is
            a single process that sees one GPU.
        on_all_gpus: let the child see all GPUs if there are several plans, which it then runs side by side.

    Raises:
        ChildError: the child failed and reported the reason.
        toolkit.process.ChildFailedError: the child failed without reporting a reason.
    """
    from toolkit.process import ChildFailedError, run_lines

    for path, plan in plans.items():
        write_atomically(path, json.dumps(plan, indent=1, sort_keys=True))
    reasons: list[str] = []

    def on_line(line: str) -> None:
        event = _event(line)
        if event is None:
            log(line)
        elif event.get("event") == "error":
            reasons.append(str(event.get("message")))
        else:
            on_event(event)

    command = [*(launcher or (sys.executable, "-m")), module, *map(str, plans)]
    try:
        run_lines(
            command,
            on_line=on_line,
            env=_environment(bool(launcher) or (on_all_gpus and len(plans) > 1)),
            pass_fds=held_locks(),
        )
    except ChildFailedError:
        if reasons:
            raise ChildError(f"{module}: {reasons[-1]}") from None
        raise


def _environment(sees_all_gpus: bool) -> dict[str, str]:
    # Lets the child import the package even if it is not installed.
    path = os.pathsep.join(filter(None, (str(PROJECT_ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, **strict_decoding.environment(), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    if not sees_all_gpus and env.get(MASK):
        env[MASK] = env[MASK].split(",")[0]
    return env


def _event(line: str) -> Event | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None
