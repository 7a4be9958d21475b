"""Ownership and locking of a plan's output folder.

In: a plan and its identity. Out: ``run.json``, or an error that names what differs.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.events import is_main_process
from toolkit.files import json_sha256, write_json
from toolkit.training.file_record import MarkerError, read_marker
from toolkit.training.identity import differences
from toolkit.training.plan import PlanError, TrainingPlan, to_values

RUN = "run.json"
LOCK_WAIT = 10.0
"""Seconds to wait for another run that is about to release the folder."""


def check_folder(plan: TrainingPlan, identity: dict[str, Any]) -> bool:
    """Return whether the same training has claimed the folder; False if the folder is empty or missing.

    Raises:
        PlanError: the folder belongs to another training, contains other files, or has an invalid ``run.json``.
    """
    folder, mark = plan.output_dir, plan.output_dir / RUN
    if not mark.exists():
        # Only the main process checks: the others could see the folder while the main process is writing to it.
        if is_main_process() and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PlanError(f"output_dir: {str(folder)!r} contains files but no {RUN}; give an empty folder")
        return False
    try:
        run = read_marker(mark, ("key",))
    except MarkerError as error:
        raise PlanError(f"output_dir: {error}; restore {RUN}, or give an empty folder") from error
    if run["key"] != json_sha256(identity):
        named = list(differences(run["identity"], identity)) if isinstance(run.get("identity"), dict) else []
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        raise PlanError(
            f"output_dir: {str(folder)!r} holds a run of another plan, data or base model"
            f"{': ' if named else ''}{', '.join(named[:3])}{more}; give an empty folder"
        )
    return True


def claim_folder(plan: TrainingPlan, identity: dict[str, Any]) -> None:
    """Claim an empty folder, or one of the same training, by writing ``run.json``; see :func:`check_folder`."""
    if not check_folder(plan, identity) and is_main_process():
        values = {"key": json_sha256(identity), "identity": identity, "plan": to_values(plan)}
        write_json(plan.output_dir / RUN, values)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a claimed folder against other runs for as long as this process lives.

    If a launcher is killed, the processes that it started may survive and keep writing to the folder.

    Raises:
        PlanError: another run is using the folder.
    """
    if not is_main_process():
        yield
        return
    with (folder / RUN).open("r+") as mark:
        until = time.monotonic() + LOCK_WAIT
        while True:
            try:
                # A POSIX lock is not inherited by loader processes, and the kernel releases it when the process exits.
                fcntl.lockf(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    break  # the file system does not support locks
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if time.monotonic() > until:
                    raise PlanError(
                        f"output_dir: {str(folder)!r} is in use by another run; wait for it, or end its processes "
                        "(they may outlive a launcher that was killed)"
                    ) from error
            time.sleep(0.2)
        yield
