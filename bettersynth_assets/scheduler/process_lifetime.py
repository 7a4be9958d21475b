"""Ties a process to its parent: the kernel kills this process when its parent exits for any reason.

Steps are forked from a server that the run starts. The server outlives a killed run while any step is alive, and a step
waits for its training, so both the server and the steps call ``die_with_parent``. In the server, importing this module
does so: the executor lists it among the server's preloaded modules.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to send SIGKILL to this process when its parent exits. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == 1:  # the parent exited before the signal was requested
        os.kill(os.getpid(), signal.SIGKILL)


if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv) and os.getppid() != 1:
    die_with_parent()
