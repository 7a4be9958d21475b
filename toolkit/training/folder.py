"""The output folder of a plan: whose it is, and that one run at a time works in it.

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
from toolkit.training.plan import Plan, PlanError, to_values

RUN = "run.json"
LOCK_WAIT = 10.0
"""Seconds that a run waits for one that is just ending in its folder."""


def check_folder(plan: Plan, identity: dict[str, Any]) -> bool:
    """Whether the same training has claimed the folder.

    Raises:
        PlanError: another training, or files that are none of ours; ``run.json`` cannot be read.
    """
    folder, mark = plan.output_dir, plan.output_dir / RUN
    if not mark.exists():
        # The other processes come too early or too late to judge what the first one is just writing.
        if is_main_process() and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PlanError(f"output_dir: {str(folder)!r} holds other files but no {RUN}; give an empty folder")
        return False
    try:
        found = read_marker(mark, ("key",))
    except MarkerError as error:
        raise PlanError(f"output_dir: {error}; put {RUN} back, or give an empty folder") from error
    if found["key"] != json_sha256(identity):
        named = list(differences(found["identity"], identity)) if isinstance(found.get("identity"), dict) else []
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        raise PlanError(
            f"output_dir: {str(folder)!r} holds a run of another plan, data or base model"
            f"{': ' if named else ''}{', '.join(named[:3])}{more}; give an empty folder"
        )
    return True


def claim_folder(plan: Plan, identity: dict[str, Any]) -> None:
    """Take an empty folder, or one that the same training left; see :func:`check_folder`."""
    if not check_folder(plan, identity) and is_main_process():
        values = {"key": json_sha256(identity), "identity": identity, "plan": to_values(plan)}
        write_json(plan.output_dir / RUN, values)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a claimed folder, while this process lives.

    When a launcher is killed, the processes that it started may live on and go on writing there.

    Raises:
        PlanError: another run is still at work in the folder.
    """
    if not is_main_process():
        yield
        return
    with (folder / RUN).open("r+") as mark:
        until = time.monotonic() + LOCK_WAIT
        while True:
            try:
                # A POSIX lock: loader processes do not inherit it, and it goes with the process, however that ends.
                fcntl.lockf(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    break  # a file system without locks
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if time.monotonic() > until:
                    raise PlanError(
                        f"output_dir: {str(folder)!r} is in use by another run; wait for it, or end its processes "
                        "(they may outlive a launcher that was killed)"
                    ) from error
            time.sleep(0.2)
        yield
