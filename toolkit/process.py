"""Child processes that never outlive their parent, with their output as a stream of lines.

In: a command. Out: its stdout lines as they appear; :class:`ChildFailedError` with the last stderr lines if it fails.

The caller does not start the command itself but a supervisor: this file, run as a script. The supervisor is terminated
when its parent dies (parent-death signal) and adopts orphaned descendants (subreaper). Before it exits, it sends
SIGTERM to the command's process group and then SIGKILL to every remaining descendant. Even ``kill -9`` of the caller
therefore leaves no training process on a GPU. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import psutil

GRACE_SECONDS = 10.0
TAIL_LINES = 30
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class ChildFailedError(RuntimeError):
    """A command exited with a code other than 0.

    ``returncode`` is negative if a signal ended the command. ``stderr_tail`` holds its last stderr lines.
    """

    def __init__(self, command: Sequence[str], returncode: int, stderr_tail: Sequence[str]) -> None:
        self.returncode = returncode
        self.stderr_tail = list(stderr_tail)
        shown = " ".join(command[:6]) + (" …" if len(command) > 6 else "")
        super().__init__(f"exit code {returncode} of: {shown}\n" + "\n".join(self.stderr_tail))


def run_lines(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_error_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
    grace: float = GRACE_SECONDS,
) -> None:
    """Run a command until it exits.

    Any exception that interrupts the caller, including one raised by ``on_line``, ends the command and its descendants
    before it propagates.

    Args:
        command: program and arguments; not run through a shell.
        on_line: called in the caller's thread with each stdout line as it appears, without its line end.
        cwd: working directory; None uses the caller's.
        env: complete environment; None uses the caller's.
        on_error_line: called in another thread with each stderr line.
        pass_fds: descriptors, e.g. of locks, that the supervisor keeps open until all processes of the command have
            ended.
        grace: seconds between SIGTERM and SIGKILL.

    Raises:
        ChildFailedError: the exit code is not 0.
    """
    supervisor = [sys.executable, str(Path(__file__).resolve()), str(os.getpid()), str(grace), *command]
    process = subprocess.Popen(
        supervisor, cwd=cwd, env=None if env is None else dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace", bufsize=1, pass_fds=tuple(pass_fds),
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    reader = threading.Thread(target=_drain, args=(process.stderr, tail, on_error_line), daemon=True)
    reader.start()
    try:
        for line in process.stdout:
            on_line(line.rstrip("\n"))
        returncode = process.wait()
    finally:
        _end(process, grace)
        process.stdout.close()
        # The reader closes stderr. Closing it here would block for ever if an escaped process still held it open.
        reader.join(timeout=grace)
    if returncode != 0:
        raise ChildFailedError(command, returncode, tail)


def _drain(stream: IO[str], tail: deque[str], on_error_line: Callable[[str], None] | None) -> None:
    with stream:
        for line in stream:
            tail.append(line.rstrip("\n"))
            if on_error_line is not None:
                on_error_line(tail[-1])


def _end(process: subprocess.Popen[str], grace: float) -> None:
    """Terminate the supervisor, which ends its descendants within slightly more than the grace period."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=grace + 5)
    except subprocess.TimeoutExpired:
        process.kill()


class _StopSupervisor(Exception):
    """Raised by the signal handler to interrupt a blocking wait."""


def _on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    raise _StopSupervisor(number)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def _die_with_supervisor() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def supervise(parent: int, grace: float, command: Sequence[str]) -> int:
    """Run the command under supervision; return the exit code with which the supervisor must exit."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _on_signal)
    child: subprocess.Popen[bytes] | None = None
    code = 128 + signal.SIGTERM
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        if os.getppid() != parent:
            return code  # the parent died before the signal was set up
        try:
            child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_supervisor)
        except OSError as error:
            print(f"cannot start {command[0]!r}: {error}", file=sys.stderr)
            return 127
        status = None
        while status is None:
            pid, ended = os.waitpid(-1, 0)
            status = ended if pid == child.pid else None
        code = os.waitstatus_to_exitcode(status)
    except _StopSupervisor as stop:
        code = 128 + int(stop.args[0])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if child is not None:
            _end_descendants(child.pid, grace)
    return code


def _end_descendants(group: int, grace: float) -> None:
    """Send SIGTERM to the process group, wait for the grace period, then SIGKILL every remaining descendant."""
    _signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while _reap() and time.monotonic() < deadline:
        time.sleep(0.02)
    while _reap():
        _signal_group(group, signal.SIGKILL)
        # Orphaned descendants are direct children by now, because the supervisor is a subreaper.
        for orphan in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        time.sleep(0.02)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _reap() -> bool:
    """Reap exited children; return whether any child is still alive."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    _code = supervise(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    if _code < 0:
        with contextlib.suppress(OSError):  # SIGKILL's handler cannot be set and is already the default
            signal.signal(-_code, signal.SIG_DFL)
        os.kill(os.getpid(), -_code)
    sys.exit(_code)
