"""Faults 38 and 40: the web server listens on loopback, and no shell command is built from data."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

# Private: the command group of `dagster`, whose defaults are tested, has no public name.
from dagster._cli import create_dagster_cli

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets_tests.helpers.source_calls import calls_of

LOOPBACK = {"127.0.0.1", "::1"}
SCRIPTS = [*PROJECT_ROOT.glob("toolkit/*.sh"), *PROJECT_ROOT.glob("tools/*.sh"), PROJECT_ROOT / ".ci" / "run"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_make_ui_names_the_loopback_address() -> None:
    done = subprocess.run(["make", "-n", "ui"], cwd=PROJECT_ROOT, check=True, capture_output=True, text=True)
    assert "dagster dev --host 127.0.0.1" in done.stdout.splitlines()


@pytest.mark.e2e
def test_the_web_server_listens_only_on_loopback_unless_another_host_is_given(tmp_path: Path) -> None:
    # `dagster dev` passes --host on only if given; otherwise it starts this server with this default.
    (host,) = [option for option in create_dagster_cli().commands["dev"].params if option.name == "host"]
    assert not isinstance(host.default, str) and not host.envvar
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    env["DAGSTER_HOME"] = str(tmp_path)
    command = [sys.executable, "-m", "dagster_webserver", "--empty-workspace", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not (listening := addresses(server.pid)):
            assert server.poll() is None and time.monotonic() < deadline, "the web server did not start"
            time.sleep(0.1)
        assert port in {at.port for at in listening} and {at.ip for at in listening} <= LOOPBACK
    finally:
        server.terminate()
        server.wait(timeout=300)


def addresses(pid: int) -> list[Any]:
    """Return the addresses that a process and its children listen on."""
    process = psutil.Process(pid)
    sockets = [found for one in (process, *process.children(recursive=True)) for found in one.net_connections("tcp")]
    return [found.laddr for found in sockets if found.status == psutil.CONN_LISTEN]


def test_documents_and_profiles_name_no_other_address_to_listen_on() -> None:
    files = [PROJECT_ROOT / name for name in ("README.md", "Makefile", "dagster.yaml")]
    files += [*PROJECT_ROOT.glob("docs/*.md"), *PROJECT_ROOT.glob("profiles/*.yaml")]
    other = re.compile(r"0\.0\.0\.0|--host[ =](?!127\.0\.0\.1)\S")
    assert not [file.name for file in files if other.search(file.read_text("utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("package", ["bettersynth_assets", "toolkit", "speed"])
def test_no_code_passes_a_string_to_a_shell(package: str) -> None:
    found = []
    for path, name, call in calls_of(package):
        shell = any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in call.keywords)
        if shell or name in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}:
            found.append(f"{path}:{call.lineno}: {name}")
    assert not found


def test_imports_of_dagsters_private_modules_say_which_public_way_is_missing() -> None:
    found = []
    for package in ("bettersynth_assets", "toolkit", "speed", "bettersynth_assets_tests"):
        for path in sorted((PROJECT_ROOT / package).rglob("*.py")):
            for block in re.split(r"\n\n+", path.read_text("utf-8")):
                if re.search(r"^from dagster\._core", block, re.MULTILINE) and "# Private: " not in block:
                    found.append(str(path.relative_to(PROJECT_ROOT)))
    assert not found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_evaluate_no_strings(script: Path) -> None:
    assert not re.search(r"\b(eval|sh -c|bash -c)\b", script.read_text("utf-8"))


def test_shellcheck_finds_nothing() -> None:
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([program, *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
