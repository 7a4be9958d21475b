"""Child processes: lines arrive live, failures are named, and no child survives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bettersynth_assets_tests.helpers.paths import ROOT
from toolkit.process import ChildFailedError, run_lines

_TREE = """
import os, subprocess, sys, time
setsid = len(sys.argv) > 1
grandchild = subprocess.Popen([sys.executable, "-c", "import signal, time\\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\nprint('ready', flush=True)\\ntime.sleep(300)"],
    start_new_session=setsid, stdout=subprocess.PIPE)
grandchild.stdout.readline()
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(300)
"""

_CALLER = """
import sys
from toolkit import process
command = [sys.executable, "-c", *sys.argv[1:]]
process.run_lines(command, on_line=lambda line: print(line, flush=True), grace=0.3)
"""


def _gone(pids: list[int], seconds: float) -> bool:
    """Whether all processes end in time; zombies of another parent count as ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        alive = [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def test_lines_arrive_while_the_child_still_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = (
        "import pathlib, sys, time\nprint('first', flush=True)\n"
        f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\nprint('second é')"
    )
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        gate.touch()  # the child continues, and the test ends, only if the first line arrives before the child exits

    run_lines([sys.executable, "-c", code], on_line=on_line)
    assert seen == ["first", "second é"]


@pytest.mark.parametrize(("code", "expected"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)])
def test_a_failure_has_the_exit_code_and_the_last_stderr_lines(code: str, expected: int) -> None:
    script = f"import os, sys\nfor i in range(100): print('line', i, file=sys.stderr)\nsys.stderr.flush()\n{code}"
    with pytest.raises(ChildFailedError) as failure:
        run_lines([sys.executable, "-c", script], on_line=print)
    assert failure.value.returncode == expected
    assert failure.value.stderr_tail[-1] == "line 99" and len(failure.value.stderr_tail) == 30
    assert "line 99" in str(failure.value)


def test_an_unknown_program_is_named_and_a_child_gets_environment_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ChildFailedError, match="no-such-program"):
        run_lines(["no-such-program"], on_line=print)
    seen: list[str] = []
    code = "import os; print(os.environ['COLOUR'], os.getcwd())"
    run_lines([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "COLOUR": "blue"}, on_line=seen.append)
    assert seen == [f"blue {tmp_path}"]


@pytest.mark.slow
@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("end", [lambda p: p.kill(), lambda p: p.send_signal(signal.SIGINT)])
def test_no_descendant_outlives_a_killed_or_interrupted_parent(
    end: Callable[[subprocess.Popen[str]], None], own_session: bool
) -> None:
    command = [sys.executable, "-c", _CALLER, _TREE, *(["setsid"] if own_session else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
        end(parent)
        assert _gone(pids, 15)


def test_an_error_in_the_callers_code_ends_the_child() -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        run_lines(
            [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(300)"], on_line=on_line
        )
    assert _gone(pids, 5)
