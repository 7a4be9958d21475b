"""Kills a small pipeline at its N-th file-system call, for every N, and checks the files on disk then and afterwards.

    python -m bettersynth_assets_tests.helpers.killed_storage --kills 10000

A child process works on a copy of a start state (empty, an older version, a damaged one, a broken link) and is killed
right before its N-th open, rename, link, removal, new folder or flush below the data root; a partial file that was
about to be flushed is first truncated to half. Some children are killed again in the next run. Then

- a reader finds each set complete, in its old or its new version;
- the next run finishes, and the folder has exactly the names and bytes of an undisturbed run;
- the run after that finds everything up to date.

Prints the numbers of kills and findings as JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Stage, Work
from bettersynth_assets.records.schema import REJECTS, rows_table
from bettersynth_assets_tests.helpers.seeds import settings_for
from toolkit.files import write_atomically, write_json

COUNTED = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.scandir", "shutil.rmtree"}
"""Audit events of Python that are counted, and ``os.fsync``, which has none."""
NOT_REPEATED = ("created", "seconds", "usage", "sha256")
"""Values of a manifest that differ from run to run."""
NAMES = ("numbers", "captioned", "trained")
KILLED = 9


def stages(version: int) -> list[Stage]:
    """Return three stages: rows with rejects; a memo and a file next to the rows; a resumable set with nested files."""

    def numbers(work: Work) -> Result:
        rejects = rows_table([{"id": "9", "stage": "numbers", "operator": "odd"}], REJECTS)
        return Result(rows_in=4, kept=pa.table({"value": [version, 2, 3]}), rejects=rejects)

    def captioned(work: Work) -> Result:
        rows = work.rows("numbers")

        def update(stored: pa.Table | None) -> pa.Table:
            return pa.table({"caption": ["a", "b", str(version)]}) if stored is None else stored

        captions = work.memo("captions", f"{version:012d}", update)
        write_atomically(work.folder / "lines.txt", f"{rows['value'].to_pylist()}\n")
        return Result(rows_in=3, kept=rows.append_column("caption", captions["caption"]), files=("lines.txt",))

    def trained(work: Work) -> Result:
        lines = work.inputs["captioned"][0].file("lines.txt").read_bytes()
        for seed in ("seed-1", "seed-2"):
            folder = work.folder / seed
            if not (folder / "done.json").is_file():
                folder.mkdir(exist_ok=True)
                (folder / "weights.bin").write_bytes(lines * 100)
                write_json(folder / "done.json", {"seed": seed})
        weights = tuple(f"seed-{seed}/weights.bin" for seed in (1, 2))
        done = tuple(f"seed-{seed}/done.json" for seed in (1, 2))
        return Result(rows_in=2, kept=pa.table({"seed": [1, 2]}), files=weights, other_files=done)

    def version_of(run: ResolvedRun, shard: str, inputs: object) -> object:
        return version

    return [
        Stage(name="numbers", version=1, run=numbers, depends=version_of, sharded=True, scope="seed"),
        Stage(name="captioned", version=1, run=captioned, depends=version_of, sharded=True, inputs=("numbers",)),
        Stage(name="trained", version=1, run=trained, depends=version_of, sharded=False, inputs=("captioned",),
              resume=True),
    ]  # fmt: skip


def settings_of(root: Path) -> Settings:
    return settings_for(root / "none.jsonl", root, shards=1)


def run(root: Path, version: int, settings: Settings) -> Pipeline:
    """Build everything that is not up to date."""
    pipeline = Pipeline(stages(version), ResolvedRun(settings), log=lambda line: None)
    pipeline.ensure("trained")
    return pipeline


def break_link(how: str) -> Callable[[Path], None]:
    """Start state: the link of each set is broken."""

    def apply(root: Path) -> None:
        for link in root.rglob("current"):
            link.unlink()
            if how == "dangling":
                link.symlink_to("v-000000000000")
            elif how == "folder":
                link.mkdir()
                (link / "of-a-user.txt").write_text("kept")
            elif how == "empty folder":
                link.mkdir()
            elif how == "file":
                link.write_text("kept")

    return apply


def flip_bit(root: Path) -> None:
    """Start state: one byte of each table of kept rows is flipped."""
    for path in root.rglob("kept.parquet"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def nothing(root: Path) -> None:
    """Start state: unchanged."""


SCENARIOS: dict[str, tuple[int, Callable[[Path], None], int]] = {
    "from nothing": (0, nothing, 1),
    "another version": (1, nothing, 2),
    "damaged rows": (1, flip_bit, 1),
    **{f"link: {how}": (1, break_link(how), 1) for how in ("missing", "dangling", "folder", "empty folder", "file")},
}
"""Start version (0: none), what is then done to it, version that the killed run builds."""


def killed_run(root: Path, version: int, settings: Settings, at: int) -> bool:
    """Run in a child that is killed at its ``at``-th call; return False if it finished before that."""
    child = os.fork()
    if child == 0:
        try:
            kill_at(root, at)
            run(root, version, settings)
        except BaseException:  # noqa: BLE001 (a forked child must not return into the caller's code)
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, KILLED):
        raise AssertionError(f"the child failed with exit code {code}")
    return code == KILLED


def kill_at(root: Path, at: int) -> None:
    """Kill this process right before its ``at``-th file-system call below ``root``."""
    count, prefix, flush = 0, str(root), os.fsync

    def on_call(path: object) -> bool:
        nonlocal count
        count += isinstance(path, str | os.PathLike) and os.fspath(path).startswith(prefix)
        return count >= at

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # Removing a tree passes file names relative to an open folder.
        inside = event in ("os.remove", "os.rmdir") and arguments[1] >= 0
        if event in COUNTED and on_call(prefix if inside else arguments[0]):
            os._exit(KILLED)

    def fsync(handle: int) -> None:
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        if on_call(path):
            if path.endswith(".partial"):
                os.truncate(path, Path(path).stat().st_size // 2)
            os._exit(KILLED)
        flush(handle)

    os.fsync = fsync
    sys.addaudithook(hook)


def snapshot(root: Path) -> dict[str, Any]:
    """Return every file, link and folder below ``root`` with its content."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        elif path.name == "manifest.json":
            values = json.loads(path.read_bytes())
            found[name] = {key: value for key, value in values.items() if key not in NOT_REPEATED}
        else:
            found[name] = path.read_bytes()
    return found


def seen(root: Path, settings: Settings) -> dict[str, Any]:
    """Return what a reader finds of each set: key and rows by manifest, and rows through the link."""
    pipeline, found = Pipeline(stages(1), ResolvedRun(settings), log=lambda line: None), {}
    for name in NAMES:
        slot = pipeline.slot(name, pipeline.shards(name)[0])
        manifest = slot.read()
        found[name] = None if manifest is None else (manifest.key, manifest.table().to_pydict())
        through = slot.folder / "current" / "kept.parquet"
        found[f"{name} by link"] = pq.read_table(through, use_threads=False).to_pydict() if through.is_file() else None
    return found


class Campaign:
    """Trials on copies of the start states in one folder."""

    def __init__(self, folder: Path, scenarios: Iterable[str] = tuple(SCENARIOS)) -> None:
        self.folder = folder
        self.work, self.settings = folder / "work", settings_of(folder / "work")
        self.findings: list[str] = []
        self.expected: dict[str, dict[str, Any]] = {}
        """What an undisturbed run leaves on disk, by scenario."""
        self.views: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {}
        """What a reader sees before and after it; None before it where the data is damaged."""
        self.kills = 0
        for name in scenarios:
            start, change, version = SCENARIOS[name]
            if start:
                run(self.work, start, self.settings)
            self.work.mkdir(exist_ok=True)
            change(self.work)
            shutil.copytree(self.work, self._start(name), symlinks=True)
            before = None if change is flip_bit else seen(self.work, self.settings)
            run(self.work, version, self.settings)
            self.expected[name] = snapshot(self.work)
            self.views[name] = before, seen(self.work, self.settings)
            shutil.rmtree(self.work)

    def _start(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")

    def trial(self, name: str, at: int, again_at: int | None = None) -> bool:
        """Run one start state, killed once or twice; return False if the run ended before the first kill."""
        version, where = SCENARIOS[name][2], f"{name}, call {at}" + (f", then {again_at}" if again_at else "")
        shutil.copytree(self._start(name), self.work, symlinks=True)
        try:
            if not killed_run(self.work, version, self.settings, at):
                return False
            self.kills += 1
            self._look(name, where)
            if again_at and killed_run(self.work, version, self.settings, again_at):
                self.kills += 1
                self._look(name, where)
            run(self.work, version, self.settings)
            self._compare(name, where)
            if Pipeline(stages(version), ResolvedRun(self.settings)).up_to_date_shard("trained") is None:
                self.findings.append(f"{where}: the run after that would build something again")
        except Exception as error:  # noqa: BLE001 (any exception of a run after a kill is a finding)
            self.findings.append(f"{where}: {type(error).__name__}: {error}")
        finally:
            shutil.rmtree(self.work)
        return True

    def _look(self, name: str, where: str) -> None:
        before, after = self.views[name]
        if before is None:
            return
        now = seen(self.work, self.settings)
        for what, value in now.items():
            if value not in (before[what], after[what]):
                self.findings.append(f"{where}: a reader sees neither the old nor the new {what}: {value}")

    def _compare(self, name: str, where: str) -> None:
        found, expected = snapshot(self.work), self.expected[name]
        differing = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
        if differing:
            self.findings.append(f"{where}: other than after an undisturbed run: {sorted(differing)}")

    def calls(self, name: str) -> Iterator[int]:
        """Yield every call of a scenario at which a child can be killed, and kill one there."""
        at = 1
        while self.trial(name, at):
            yield at
            at += 1


def every_call(folder: Path, kills: int, seed: int = 0) -> Campaign:
    """Kill once at each call of each scenario, then twice at random calls, up to the given number of kills."""
    campaign = Campaign(folder)
    calls = {name: sum(1 for _ in campaign.calls(name)) for name in SCENARIOS}
    rng = random.Random(seed)
    names = [name for name in SCENARIOS for _ in range(calls[name])]
    while campaign.kills < kills:
        if campaign.kills % 100 < 2:
            print(f"{campaign.kills} kills, findings: {campaign.findings}", file=sys.stderr)
        name = rng.choice(names)
        campaign.trial(name, rng.randint(1, calls[name]), rng.randint(1, calls[name]))
    return campaign


def sample(folder: Path, kills: int, seed: int = 0) -> Campaign:
    """Kill at the given number of random calls over all scenarios."""
    campaign, rng = Campaign(folder), random.Random(seed)
    while campaign.kills < kills:
        campaign.trial(rng.choice(list(SCENARIOS)), rng.randint(1, 60), rng.choice([None, rng.randint(1, 60)]))
    return campaign


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser(description="Kill a small pipeline at its file-system calls.")
    parser.add_argument("--kills", type=int, default=10_000)
    given = parser.parse_args(arguments)
    began = time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        pa.set_cpu_count(1)
        gc.freeze()  # children share the memory of imported modules
        campaign = every_call(Path(folder), given.kills)
    seconds = round(time.monotonic() - began, 1)
    found = {"kills": campaign.kills, "findings": len(campaign.findings), "seconds": seconds}
    print(json.dumps({**found, "first": campaign.findings[:20]}, indent=1))
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    sys.exit(main())
