"""Ties a process to its parent. In: nothing. Out: the kernel ends this process when its parent ends, in any way.

Steps are forked from a server that the run starts. The server outlives a killed run for as long as any step lives, and
the step waits for its training, so both must be tied: importing this module in the server is enough, because a server
loads the modules that it is told to and nothing else imports it there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL at the parent's end; half-written files are never seen as whole. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == 1:  # the parent ended before the signal was asked for
        os.kill(os.getpid(), signal.SIGKILL)


if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv) and os.getppid() != 1:
    die_with_parent()
