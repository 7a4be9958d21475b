"""Every command in README and docs is run, or parsed by its program, or listed here with the reason why not.

A command is a line of a ``sh`` or ``bash`` block, or an inline code span that starts with one of ``PROGRAMS``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import pytest

# Private: the command groups of `dagster` and `dg`, whose options are compared with the docs, have no public name.
from dagster._cli import create_dagster_cli
from dagster_dg_cli.cli import create_dg_cli

from bettersynth_assets.config.model import PROJECT_ROOT, shipped_files
from bettersynth_assets.main import parser

DOCS = sorted((PROJECT_ROOT / "docs").rglob("*.md"))
PAGES = [PROJECT_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "toolkit/README.md")] + DOCS
NOT_CHECKED = {
    r"python3\.11 -m venv ~/vllm .*": "makes the environment of another project",
    r"~/vllm/bin/vllm serve .*": "another project's program, which needs a GPU",
    r"python -m nltk\.downloader .*": "downloads",
    r"dj-process": "names the program; operators/test_dj_process.py runs it",
    r"ray": "names the package",
    r"dg": "names the program",
    r"python -m pytest .*": "the program that runs this test",
    r"hf download .*": "downloads",
    r"deepspeed --num_gpus": "an option that a result is about",
    r"make": "names the program",
    r"(deepspeed --module|torchrun .* -m)": "start of a command; toolkit/training/test_train.py runs both launchers",
    r"python -m toolkit\.…": "stands for the commands of toolkit/README.md",
}
"""Pattern of a whole command and why it is not checked."""


def commands() -> list[tuple[str, str]]:
    """Return all commands with their pages, without repeats."""
    found: dict[tuple[str, str], None] = {}
    programs = "|".join(map(re.escape, PROGRAMS))
    for page in PAGES:
        text, name = page.read_text("utf-8"), page.relative_to(PROJECT_ROOT).as_posix()
        for block in re.findall(r"^ *```(?:sh|bash|console|shell)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found |= {(name, line.partition(" #")[0].strip()): None for line in lines if line.strip(" #")}
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`([^`]+)`", prose):
            command = " ".join(span.split())
            if re.match(rf"(?:[A-Z_]+=\S* )*(?:{programs})(?: |$)", command):
                found[name, command] = None
    return [pair for pair in found if pair[1]]


def check_make(words: list[str]) -> None:
    """The target exists and its recipe can be printed."""
    subprocess.run(["make", "-n", *words[1:]], cwd=PROJECT_ROOT, check=True, capture_output=True)


def check_dagster(words: list[str]) -> None:
    """Dagster's parser accepts the arguments."""
    command, rest = create_dagster_cli(), words[1:]
    while (inner := getattr(command, "commands", {})) and rest and rest[0] in inner:
        command, rest = inner[rest[0]], rest[1:]
    command.make_context("dagster", [*rest, "--help"] if getattr(command, "commands", {}) else rest)


def check_dg(words: list[str]) -> None:
    """The parser of ``dg`` accepts the arguments."""
    command, rest = create_dg_cli(), words[1:]
    while isinstance(command, click.Group) and rest:
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"dg has no command {rest[0]!r}"
        command, rest = found, rest[1:]
    command.make_context("dg", rest)


def check_python(words: list[str]) -> None:
    """The parser of the module or script knows the options; values are not checked."""
    options = {word.strip("[]") for word in words if word.lstrip("[").startswith("--")}
    if words[1] != "-m":
        text = (PROJECT_ROOT / words[1]).read_text("utf-8")
        assert not {option for option in options if f'"{option}"' not in text}
        return
    module = import_module(words[2])
    with pytest.raises(SystemExit) as ended:
        module.main([*(word for word in words[3:4] if word.isalpha() and words[2].endswith("score")), "--help"])
    assert ended.value.code == 0
    source = Path(module.__file__ or "").read_text("utf-8")
    names = set(re.findall(r'"(--[\w-]+)"', source)) | {f"--{name}" for name in re.findall(r'"(\w+)"', source)}
    assert options <= names


def check_bash(words: list[str]) -> None:
    """The script exists and has help."""
    subprocess.run(["bash", *words[1:], "--help"], cwd=PROJECT_ROOT, check=True, capture_output=True)


def check_pip(words: list[str]) -> None:
    """The command installs this project, with existing extras."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert words[1] == "install"
    for word in words[2:]:
        if word != "-e":
            extra = re.fullmatch(r"\.(?:\[(\w+)\])?", word)
            assert extra is not None and extra[1] in {None, *project["optional-dependencies"]}


def check_script(words: list[str]) -> None:
    """The wheel has the command; project/test_wheel.py runs it."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"][words[0]].partition(":")
    assert callable(getattr(import_module(module), function))


def check_bettersynth(words: list[str]) -> None:
    """The parser accepts the arguments, and experiments and recipes that are named exist."""
    arguments = vars(parser().parse_args(words[1:]))
    assert arguments.get("file", "FILE") in {"FILE", *shipped_files("experiments")}
    assert arguments.get("recipe", "RECIPE") in {"RECIPE", *shipped_files("recipes")}


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "dagster": check_dagster,
    "dg": check_dg,
    "python": check_python,
    "bash": check_bash,
    "pip": check_pip,
    "bettersynth": check_bettersynth,
    "bettersynth-init": check_script,
    "bettersynth-train-mgm-2b-stage-1": check_script,
    "bettersynth-download-mgm-2b": check_script,
}
PROGRAMS = (*CHECKS, "deepspeed", "dj-process", "hf", "ray", "sh", "torchrun", "uv")
"""What a code span starts with to be a command."""


def is_checked(command: str) -> bool:
    return not any(re.fullmatch(pattern, command) for pattern in NOT_CHECKED)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), [found for found in commands() if is_checked(found[1])])
def test_a_documented_command_is_valid(page: str, command: str) -> None:
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        assert words[0].split("=")[0] in VARIABLES, f"{page}: no code reads the variable in {command!r}"
        del words[0]
    assert words[0] in CHECKS, f"{page}: {command!r} is in no table of {Path(__file__).name}: add a check or a reason"
    CHECKS[words[0]](words)


def _variables() -> set[str]:
    """Return the names of environment variables that code or scripts read."""
    patterns = ("Makefile", "toolkit/*.sh", "toolkit/**/*.py", "bettersynth_assets/**/*.py", "speed/*.py")
    files = [file for pattern in patterns for file in PROJECT_ROOT.glob(pattern)]
    return {name for file in files for name in re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", file.read_text("utf-8"))}


VARIABLES = _variables() | {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}


def test_every_listed_reason_belongs_to_a_documented_command() -> None:
    known = [command for _, command in commands()]
    unused = [pattern for pattern in NOT_CHECKED if not any(re.fullmatch(pattern, command) for command in known)]
    assert not unused, "remove these"


def test_the_kits_script_without_a_gpu_stops_at_the_missing_inputs(tmp_path: Path) -> None:
    command = "GPUS=1 DEVICE=cpu DEEPSPEED= bash toolkit/train_mgm_2b_stage_1.sh"
    assert any(found == command for _, found in commands())
    (tmp_path / "toolkit").symlink_to(PROJECT_ROOT / "toolkit")
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=_plain(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such file: PRETRAIN_DATASET=" in done.stderr and "failed in step: inputs of all steps" in done.stderr


@pytest.mark.slow
def test_free_slots_runs_in_a_folder_with_a_dagster_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bettersynth_assets.free_slots import main

    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2 and "this folder has no dagster.yaml" in capsys.readouterr().err
    (tmp_path / "dagster.yaml").write_bytes((PROJECT_ROOT / "dagster.yaml").read_bytes())
    assert main([]) == 0 and "no dead run holds a slot" in capsys.readouterr().out


MISSING = [
    ("models.convert_weights", "none out.safetensors"),
    ("preprocess.check_sample_number", "--budget 3 --input none --output out"),
    ("preprocess.dj_to_llava", "--input none --output out"),
    ("training.run", "none"),
    ("evaluation.score", "textvqa --annotations none --answers none"),
    ("evaluation.score", "mmbench --predictions none"),
    ("evaluation.run", "--model none --output out --mmbench-table none"),
]


@pytest.mark.parametrize(("module", "arguments"), MISSING)
def test_a_missing_file_is_reported_as_missing(
    module: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = import_module(f"toolkit.{module}").main(arguments.split())
    except SystemExit as ended:
        code = ended.code
    words = capsys.readouterr().err
    assert code == 2 and words.startswith("error: ") and words.count("\n") == 1
    assert "none" in words and re.search("no such file|is (no|not a) file", words, re.IGNORECASE)
    assert not list(tmp_path.iterdir())


def _plain() -> dict[str, str]:
    kit = ("EXP_NAME", "GPUS", "DEVICE", "DEEPSPEED", "PRETRAIN", "FINETUNE")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if not name.startswith(kit)}
    return env | {"PATH": path, "PYTHONPATH": str(PROJECT_ROOT)}
