"""Runs a child process that never outlives its parent, and hands its output over line by line.

In: a command. Out: its stdout lines, live; :class:`ChildFailedError` with the last stderr lines when it fails.

Between the caller and the command stands a guard, this file run as a script. It dies with its parent (parent-death
signal), adopts whatever its descendants leave behind (subreaper), and on the way out ends them all: TERM to the
command's process group, then KILL to every descendant. So kill -9 of the caller leaves no training
process on a GPU. Linux only.
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
    """The command ended with an exit code other than 0.

    ``returncode`` is negative for a signal; ``stderr_tail`` holds its last lines.
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
    """Run a command to its end.

    Args:
        command: program and arguments; no shell.
        on_line: called with each stdout line (without its end) as it appears, in the caller's thread.
        cwd: working folder; the caller's when None.
        env: whole environment; the caller's when None.
        on_error_line: called with each stderr line, in another thread.
        pass_fds: descriptors that the guard keeps open until all of the command's processes have ended, e.g. of locks.
        grace: seconds between asking processes to end and killing them.

    Raises:
        ChildFailedError: the exit code is not 0.

    Whatever interrupts the caller (also an exception out of ``on_line``) ends the command and its descendants first.
    """
    guard = [sys.executable, str(Path(__file__).resolve()), str(os.getpid()), str(grace), *command]
    process = subprocess.Popen(
        guard, cwd=cwd, env=None if env is None else dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
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
        # The reader closes stderr: closing it here would wait for ever if a process that got away still held it.
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
    """Ask the guard to end its descendants; it needs at most the grace time and a little."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=grace + 5)
    except subprocess.TimeoutExpired:
        process.kill()


class _StopGuard(Exception):
    """Raised by the signal handler, so that a blocking wait ends."""


def _on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    raise _StopGuard(number)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def _die_with_guard() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def guard(parent: int, grace: float, command: Sequence[str]) -> int:
    """Run the command as the guard; returns the exit code to end with."""
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
            child = subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_guard)
        except OSError as error:
            print(f"cannot start {command[0]!r}: {error}", file=sys.stderr)
            return 127
        status = None
        while status is None:
            pid, ended = os.waitpid(-1, 0)
            status = ended if pid == child.pid else None
        code = os.waitstatus_to_exitcode(status)
    except _StopGuard as stop:
        code = 128 + int(stop.args[0])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if child is not None:
            _end_descendants(child.pid, grace)
    return code


def _end_descendants(group: int, grace: float) -> None:
    """TERM to the process group, time to finish, then KILL to every descendant until none is left."""
    _signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while _reap() and time.monotonic() < deadline:
        time.sleep(0.02)
    while _reap():
        _signal_group(group, signal.SIGKILL)
        # Orphans of descendants are direct children by now, because the guard is a subreaper.
        for orphan in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        time.sleep(0.02)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _reap() -> bool:
    """Collect ended children; True while some are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    _code = guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    if _code < 0:
        with contextlib.suppress(OSError):  # KILL cannot be set, and needs not be
            signal.signal(-_code, signal.SIG_DFL)
        os.kill(os.getpid(), -_code)
    sys.exit(_code)
