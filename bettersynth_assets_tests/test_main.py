"""The command ``bettersynth``: arguments, exit codes, errors in one line, and a quick start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bettersynth_assets.main import main, parser

COMMANDS = ("plan", "run", "add-seeds", "table", "diff", "curve", "ladder", "decisions")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["experiment", command, "--help"])
    assert ended.value.code == 0 and "usage: bettersynth experiment" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("experiment", "the following arguments are required: COMMAND"),
        ("experiment table a --json --csv", "not allowed with argument"),
        ("experiment add-seeds a 0", "'0' is not a whole number of 1 or more"),
        ("experiment decisions a --seeds 0", "'0' is not a whole number of 1 or more"),
        ("experiment curve a --repeats 1,x", "'x' is not a whole number of 1 or more"),
        ("experiment curve a --fresh 0.5,1", "'0.5,1': write numbers between 0 and 1, e.g. 0.25,0.5, or none"),
        ("experiment plan a --noise textvqa=x", "'textvqa=x': write BENCHMARK=SD with a positive number"),
    ],
)
def test_wrong_arguments_end_with_2(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("experiment run wich_filter", "error: experiment 'wich_filter' not found: did you mean 'which_filter'?"),
        ("experiment table miniature", "error: experiment miniature has no runs yet: start them with"),
        ("experiment plan miniature --noise gqa=2", "error: --noise gqa: not a deciding benchmark: Valid: mmbench"),
        ("experiment diff miniature clip_topk baseline", "has no arm 'clip_topk': did you mean 'clip_top_k'?"),
        ("experiment add-seeds miniature 9", "9 more seeds would make 9, but seeds.max = 3"),
        (
            "experiment curve baseline_random",
            "error: experiment curve_baseline_random: curve: recipe baseline_random is random rows, with which a curve",
        ),
        ("experiment ladder miniature", "error: ladder of miniature: no profile: name two profiles or more, each once"),
        (
            "experiment ladder miniature --profiles mgm-2b,mgm-2b",
            "error: ladder of miniature: mgm-2b, mgm-2b: name two",
        ),
        ("experiment ladder miniature --profiles mgm-2b,mgm-3b", "error: profile 'mgm-3b' not found: did you mean"),
        ("experiment curve clip_top_k --repeats 2,2", "error: curve: repeats = [2, 2]: 2 is listed twice"),
        ("experiment curve clip_top_k --repeats 4001", "4001 leaves no row: give numbers from 1 to 4000"),
    ],
)
def test_errors_are_one_line_and_end_with_1(
    words: str, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 1
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1
    assert not data.exists()


def test_a_plan_runs_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "plan", "which_filter", "--noise", "textvqa=7.1", "mmbench=3.2"]) == 0
    text = capsys.readouterr().out
    arms = "baseline, third_place, clip_top_k, low_score_recaption, half"
    assert text.startswith(f"which_filter: 5 arms ({arms}), 20 comparisons\n")
    assert "12 seeds per arm:   60 runs to train,      216,000 exposures, device hours unknown: no earlier run" in text
    assert not data.exists()


def test_a_ladder_without_results_names_what_is_not_measured(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "ladder", "miniature", "--profiles", "miniature,mgm-2b", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        [name, "", "not measured"] for name in ("miniature", "mgm-2b")
    ]
    assert not data.exists()


def test_help_imports_neither_settings_nor_libraries() -> None:
    code = (
        "import sys\nfrom bettersynth_assets.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = ('bettersynth_assets.config', 'bettersynth_assets.defs', 'pydantic', 'numpy', 'dagster', 'yaml')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_parser_of_every_command_is_complete() -> None:
    assert parser().parse_args(["experiment", "curve", "a"]).repeats == [1, 2, 4, 8, 16]
    assert parser().parse_args(["experiment", "curve", "a"]).fresh == [0.25]
    assert parser().parse_args(["experiment", "curve", "a", "--fresh", "none"]).fresh == []
    assert parser().parse_args(["experiment", "table", "a"]).form == "md"
    assert parser().parse_args(["experiment", "diff", "a", "b", "c"]).arms == ["b", "c"]
