"""No training outlives its run: terminated in the UI, or by kill -9 of the run's worker or the step's process.

The setup is a user's: ``dagster dev`` in a separate folder, runs launched and terminated by the UI's requests, and the
trainer with a loader process. All cases use one training of many steps: each run after the first resumes from the
previous run's checkpoint, which shows that pool slot, lease and folder have been released. The runs lease a GPU that no
machine has, so that there is a lease to release; the trainer finds no GPU and uses the CPU.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import yaml

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.experiments.run_store import TRAINER
from bettersynth_assets.miniature.generate import generate_world
from bettersynth_assets.scheduler.lease import MASK
from bettersynth_assets_tests.helpers.fake_graph import write_profile
from bettersynth_assets_tests.helpers.small_world import FEWEST
from toolkit.models.mgm.tiny import save_tiny

pytestmark = pytest.mark.e2e

ASSET = "baseline_checkpoint"
"""The shortest way to ``stages/train.py``: its data are rows of the seed, drawn without a model."""
GONE_SECONDS = 60.0
DEADLINE = 900.0
T = TypeVar("T")

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = """mutation($ids: [String!]!) { terminateRuns(runIds: $ids, terminatePolicy: SAFE_TERMINATE) {
    ... on TerminateRunsResult { terminateRunResults { __typename } } ... on PythonError { message } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
LOG = """query($id: ID!, $cursor: String) { logsForRun(runId: $id, afterCursor: $cursor, limit: 1000) {
    ... on EventConnection { cursor events { __typename ... on MessageEvent { message } } } } }"""
LOCATION = "query { workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"


def until(what: str, look: Callable[[], T | None], seconds: float = DEADLINE) -> T:
    """Poll ``look`` until it returns a true value; return it."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)  # each look may be a request to the server that shares the cores with the training
    return found


class Server:
    """``dagster dev`` of one project, queried as the UI queries it."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}/graphql"
        self.root = root
        self.log = root / "dagster-dev.log"
        command = [sys.executable, "-m", "dagster", "dev", "--host", "127.0.0.1", "--port", port]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log)

    def ask(self, query: str, **variables: object) -> Any:
        """Return the result of a GraphQL query of one field."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=DEADLINE) as reply:
            answer = json.load(reply)
        assert "errors" not in answer, answer
        (value,) = answer["data"].values()
        return value

    def is_up(self) -> bool | None:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return [entry["loadStatus"] for entry in self.ask(LOCATION)["locationEntries"]] == ["LOADED"]
        except urllib.error.URLError:
            return None

    def launch(self) -> str:
        """Materialize the checkpoint, as the button does; return the run's id."""
        selector = {"repositoryLocationName": "bettersynth_assets", "repositoryName": "__repository__"}
        selector |= {"pipelineName": "__ASSET_JOB", "assetSelection": [{"path": [ASSET]}]}
        answer = self.ask(LAUNCH, params={"mode": "default", "selector": selector})
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def status(self, run: str) -> str:
        return self.ask(STATUS, id=run)["status"]

    def terminate(self, run: str) -> str:
        """Press the run's "Terminate"; return the type of the response."""
        (result,) = self.ask(TERMINATE, ids=[run])["terminateRunResults"]
        return result["__typename"]

    def messages(self, run: str) -> Iterator[list[str]]:
        """Yield the run's log so far, again and again."""
        seen: list[str] = []
        cursor = None
        while True:
            answer = self.ask(LOG, id=run, cursor=cursor)
            cursor = answer["cursor"]
            seen += [event["message"] for event in answer["events"] if "message" in event]
            yield seen

    def stop(self) -> None:
        """Stop the server, and kill processes that a failed test left."""
        tree = [] if self.process.poll() is not None else psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=120)
        finally:
            for process in living(tree):
                process.kill()
            self.process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running project without any results, whose training takes many minutes."""
    root = tmp_path_factory.mktemp("project")
    world = generate_world(root / "world", rows=60, sizes=FEWEST)
    save_tiny(root / "mgm")
    stage = {"global_batch": 2, "per_device_batch": 2, "learning_rate": 1e-4, "max_steps": 20_000, "workers": 1}
    profile = write_profile(
        root / "long.yaml",
        seed=str(world.seed_file),
        shards=1,
        budget=12,
        models=dict.fromkeys(("clip", "watermark", "captioner"), "none/none") | {"base": str(root / "mgm")},
        gpu={"devices": [0]},
        training={
            "seeds": [0], "stage_1": stage, "stage_2": stage, "checkpoint_every": 5,
            # Silent: a trainer that prints ends by itself once nobody reads, and most of the time it prints nothing.
            "log_every": 20_000,
            "finetune_json": str(world.finetune_json), "finetune_images": str(world.finetune_images),
        },
    )  # fmt: skip
    shutil.copy(PROJECT_ROOT / "workspace.yaml", root)
    instance = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    instance["run_coordinator"] = {
        "module": "dagster.core.run_coordinator",
        "class": "QueuedRunCoordinator",
        "config": {"dequeue_interval_seconds": 1},  # longer intervals would only slow the test down
    }
    instance["run_monitoring"]["poll_interval_seconds"] = 1
    (root / "dagster.yaml").write_text(yaml.safe_dump(instance))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER_", "BETTERSYNTH_"))}
    env |= {"BETTERSYNTH_PROFILE": str(profile), "BETTERSYNTH_DATA": str(root / "data"), "OMP_NUM_THREADS": "1"}
    env |= {"DAGSTER_HOME": str(root), "PYTHONPATH": str(PROJECT_ROOT), MASK: device()}
    server = Server(root, env)
    try:
        until("the code location is loaded", server.is_up)
        yield server
    finally:
        server.stop()
        lock_file().unlink(missing_ok=True)


def device() -> str:
    """Return the name of a GPU that no machine has."""
    return f"test-{os.getpid()}"


def lock_file() -> Path:
    return Path(tempfile.gettempdir()) / f"bettersynth-gpu-{os.getuid()}" / f"{device()}.lock"


def lease_is_free() -> bool:
    """Whether another run could lease the GPU now."""
    with lock_file().open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@dataclass(frozen=True)
class Training:
    """A run that is training: processes of the run, the step and the trainer, and all descendants of the run's."""

    id: str
    run: psutil.Process
    step: psutil.Process
    trainer: psutil.Process
    loaders: list[psutil.Process]
    tree: list[psutil.Process]


def newest_checkpoint(server: Server) -> int:
    """Return the last step with a complete checkpoint; 0 if there is none."""
    found = server.root.glob("data/long/shared/runs/*/pretrain/checkpoints/step-*[0-9]/complete.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in found), default=0)


def log_with(part: str, messages: list[str]) -> str | None:
    text = "\n".join(messages)
    return text if part in text else None


def start_training(server: Server) -> Training:
    """Launch a run and wait until it has written a checkpoint newer than that of the last run."""
    before = newest_checkpoint(server)
    run = server.launch()
    messages = server.messages(run)
    until("a checkpoint newer than the last run's", lambda: newest_checkpoint(server) > before)
    start = f"pretrain: continues after step {before}" if before else "pretrain: 20000 steps over"
    text = until(f"log with {start!r}", lambda: log_with(start, next(messages)))
    pid = re.search(r"multiprocess executor: parent process \(pid: (\d+)\)", text)
    assert pid is not None, text
    worker = psutil.Process(int(pid[1]))
    tree = [worker, *worker.children(recursive=True)]
    # The supervisor's command line ends with the trainer's; loaders are forks of the trainer with its command line.
    (trainer,) = (
        process
        for process in tree
        if TRAINER in process.cmdline() and process.parent().cmdline()[1].endswith("toolkit/process.py")
    )
    loaders = trainer.children(recursive=True)
    step = trainer.parent().parent()
    assert loaders and step in tree and step != worker
    assert not lease_is_free()
    return Training(run, worker, step, trainer, loaders, tree)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run; a zombie has ended and only waits for its parent."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_from_ui(server: Server, training: Training) -> None:
    assert server.terminate(training.id) == "TerminateRunSuccess"


def kill_run(server: Server, training: Training) -> None:
    training.run.kill()


def kill_step(server: Server, training: Training) -> None:
    training.step.kill()


@pytest.mark.parametrize(("end", "status"), [(kill_run, "FAILURE"), (kill_step, "FAILURE"), (end_from_ui, "CANCELED")])
def test_training_ends_with_its_run_and_the_next_run_resumes_it(
    server: Server, end: Callable[[Server, Training], None], status: str
) -> None:
    training = start_training(server)
    try:
        end(server, training)
        of_the_gpu = [training.trainer, *training.loaders]
        until("trainer and loaders are gone", lambda: not living(of_the_gpu), GONE_SECONDS)
        until("the lease is free", lease_is_free, GONE_SECONDS)
        until(f"the run is {status}", lambda: server.status(training.id) == status)
        until("nothing of the run is left", lambda: not living(training.tree), GONE_SECONDS)
    finally:
        for process in living(training.tree):
            process.kill()
