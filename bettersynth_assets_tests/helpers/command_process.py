"""One process that runs several commands of ``dagster`` and ``dg`` one after another.

A command in a process of its own loads Dagster and the definitions twice, for itself and for its steps: about 7 s of
CPU time. Here only the first command does. Every command gets its arguments, the package's start-up line and the entry
point of its script, as a new process would, and the environment that the process was started with.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from bettersynth_assets.config.model import PROJECT_ROOT

TIMEOUT = 900


class CommandProcess:
    """Runs commands in ``folder``; their output goes to files in it."""

    def __init__(self, pool: ProcessPoolExecutor, folder: Path) -> None:
        self._pool = pool
        self._files = _output_files(folder)

    def run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command line, e.g. ``["dagster", "asset", "list"]``."""
        starts = [file.stat().st_size if file.exists() else 0 for file in self._files]
        code = self._pool.submit(_run, words).result(TIMEOUT)
        outputs = [file.read_bytes()[start:].decode() for file, start in zip(self._files, starts, strict=True)]
        return subprocess.CompletedProcess(words, code, *outputs)


@contextmanager
def command_process(folder: Path, env: Mapping[str, str]) -> Iterator[CommandProcess]:
    """Start the process with working folder ``folder`` and environment ``env``; end it afterwards."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_enter, initargs=(folder, dict(env))) as pool:
        yield CommandProcess(pool, folder)


def _output_files(folder: Path) -> tuple[Path, Path]:
    return folder / "commands.out", folder / "commands.err"


def _enter(folder: Path, env: dict[str, str]) -> None:
    """Set up the process. The processes of steps write to the same two files: all inherit them from the first one."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for stream, file in zip((sys.stdout, sys.stderr), _output_files(folder), strict=True):
        with file.open("ab") as opened:
            os.dup2(opened.fileno(), stream.fileno())


def _run(words: list[str]) -> int:
    """Run a command as its script does; return its exit code."""
    program = words[0]
    env, folder = dict(os.environ), Path.cwd()
    sys.argv = [str(Path(sys.executable).with_name(program)), *words[1:]]
    (script,) = entry_points(group="console_scripts", name=program)
    try:
        exec((PROJECT_ROOT / "bettersynth_cli.pth").read_text())
        script.load()()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
    return 0
