"""Leases: one holder per device, relative to the inherited mask, kept by child processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.errors import DeviceError
from bettersynth_assets.scheduler.lease import MASK, chosen_devices, held_locks, lease, visible_devices


def test_devices_are_counted_within_the_inherited_mask():
    assert visible_devices({MASK: "2, 5"}) == ["2", "5"]
    assert visible_devices({MASK: ""}) == []
    assert visible_devices({MASK: "3,-1,4"}) == ["3"]
    assert chosen_devices(Gpu(devices=[1]), ["2", "5"]) == ["5"]
    assert chosen_devices(Gpu(devices="auto"), ["2", "5"]) == ["2", "5"]
    assert chosen_devices(Gpu(devices="cpu"), ["2"]) == []


def test_a_missing_device_is_named():
    with pytest.raises(DeviceError, match=r"gpu.devices = \[0, 3\] requests GPU 3, but this process sees 2 GPU"):
        chosen_devices(Gpu(devices=[0, 3]), ["0", "1"])


def test_a_lease_sets_the_mask_and_restores_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setenv(MASK, "4,5")
    with lease(["5"], print, tmp_path):
        assert os.environ[MASK] == "5"
        assert len(held_locks()) == 1
    assert os.environ[MASK] == "4,5"
    assert held_locks() == []


def test_a_second_holder_waits_and_logs_it(tmp_path):
    logged: list[str] = []
    entered = threading.Event()

    def second() -> None:
        with lease(["0"], logged.append, tmp_path):
            entered.set()

    with lease(["0"], logged.append, tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 120
        while not logged and time.monotonic() < deadline:
            time.sleep(0.01)
        assert logged == ["GPU 0 is busy with another run: waiting for it"]
        assert not entered.is_set()
    thread.join(timeout=120)
    assert entered.is_set()


def test_the_device_of_a_killed_holder_is_released(tmp_path):
    code = (
        "import sys; from pathlib import Path; from bettersynth_assets.scheduler.lease import lease\n"
        "with lease(['0'], print, Path(sys.argv[1])): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT_ROOT) as holder:
        assert holder.stdout.readline() == b"held\n"
        logged: list[str] = []
        killer = threading.Timer(0.3, holder.kill)
        killer.start()
        with lease(["0"], logged.append, tmp_path):
            assert holder.wait(timeout=120) == -signal.SIGKILL
        assert logged == ["GPU 0 is busy with another run: waiting for it"]


def test_a_child_that_outlives_the_holder_keeps_the_device(tmp_path):
    with lease(["0"], print, tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=held_locks())
    logged: list[str] = []
    ended = threading.Timer(0.3, lambda: child.communicate(b"\n"))
    ended.start()
    with lease(["0"], logged.append, tmp_path):
        assert child.wait(timeout=120) == 0
    assert len(logged) == 1
