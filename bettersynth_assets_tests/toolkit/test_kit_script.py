"""The kit's script on a tiny model: its steps, its folders, and its stop at the first failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bettersynth_assets_tests.helpers.llava_rows import write_rows
from bettersynth_assets_tests.helpers.paths import ROOT

SCRIPT = ROOT / "toolkit" / "train_mgm_2b_stage_1.sh"


def _run(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "DEVICE": "cpu", "GPUS": "1"}
    settings |= {"DEEPSPEED": "", "PRETRAIN_DATASET": "processed.jsonl", "PRETRAIN_DATASET_IMAGE_PATH": "data/images"}
    settings |= {"PRETRAIN_BATCH_SIZE_PER_GPU": "64", "FINETUNE_BATCH_SIZE_PER_GPU": "64"}
    settings |= {"PRETRAIN_DATALOADER_NUM_WORKERS": "0", "FINETUNE_DATALOADER_NUM_WORKERS": "0"}
    settings |= {"ORIGINAL_QUESTIONS": "questions.json", "FINETUNE_DATASET": "data/data.json"}
    settings |= {"FINETUNE_IMAGES": "data/images", "EXP_NAME": "try", "BASE_MODEL": "empty", "TEXTVQA_IMAGES": "empty"}
    settings |= dict.fromkeys(("TEXTVQA_QUESTIONS", "TEXTVQA_ANNOTATIONS", "MMBENCH"), "data/data.json") | changes
    script = folder / "a copy of" / "toolkit" / SCRIPT.name
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    return subprocess.run(
        ["bash", str(script)], cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=900
    )


def _rows(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "no rows.jsonl").touch()
    data = json.loads(write_rows(folder / "data", pictures=4, text_only=2).read_text())
    (folder / "questions.json").write_text(json.dumps([row for row in data if "image" in row]))
    rows = [
        {"id": f"p{i}", "text": f"<__dj__image>\nnumber {i} <|__dj__eoc|>", "images": [f"{i}.png"]} for i in range(4)
    ]
    (folder / "processed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.e2e
def test_the_eight_steps_write_the_kits_folders(bench: Path, tmp_path: Path) -> None:
    _rows(tmp_path)
    files = {"QUESTIONS": "q.jsonl", "ANNOTATIONS": "a.json", "IMAGES": "images"}
    paths = {f"TEXTVQA_{name}": str(bench / file) for name, file in files.items()}
    paths |= {"CKPT_SAVE_STEPS": "50", "TOTAL_SAVE_CKPT_LIMIT": "2"}
    done = _run(tmp_path, BASE_MODEL=str(bench / "model"), MMBENCH=str(bench / "m.tsv"), **paths)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    (first,) = [at for at, line in enumerate(lines) if '"event": "start"' in line and '"pretrain"' in line]
    last = next(at for at, line in enumerate(lines) if at > first and '"event": "done"' in line)
    assert [json.loads(line)["stage"] for line in lines[first:last] if '"stage_done"' in line] == [
        "pretrain", "finetune",
    ]  # fmt: skip
    assert all(json.loads(line)["event"] for line in lines[first : last + 1])  # the trainer prints only JSON lines
    training = tmp_path / "output" / "training_dirs"
    manifests = [
        json.loads((training / f"MGM-2B-{s}-try" / "manifest.json").read_text()) for s in ("Pretrain", "Finetune")
    ]
    assert [(m["global_batch"], m["planned_steps"], m["final_step"]) for m in manifests] == [(256, 1, 1), (128, 1, 1)]
    assert (training / "MGM-2B-Finetune-try" / "model.safetensors").is_file()
    plan = manifests[0]["plan"]
    assert (plan["checkpoint_every"], plan["checkpoint_limit"]) == (50, 2)
    assert [(stage["loss_group"], stage["learning_rate"]) for stage in plan["stages"]] == [(8, 1e-3), (8, 2e-5)]
    results = tmp_path / "output" / "eval_results" / "MGM-2B-Finetune-try"
    rows = json.loads((results / "results.json").read_text())["results"]
    assert {row["benchmark"]: row["n"] for row in rows if row["metric"] == "accuracy"}["mmbench"] == 3
    assert (results / "textvqa" / "answers.jsonl").is_file() and (results / "mmbench" / "upload.xlsx").is_file()
    assert (tmp_path / "output" / "train.sh").read_bytes() == SCRIPT.read_bytes()


@pytest.mark.parametrize("script", ["train_mgm_2b_stage_1.sh", "download.sh"])
def test_help_is_printed_and_other_arguments_are_refused(tmp_path: Path, script: str) -> None:
    command = ["bash", str(ROOT / "toolkit" / script)]
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0 and f"bash toolkit/{script}" in shown.stdout and "set -" not in shown.stdout
    refused = subprocess.run([*command, "GPUS=1"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "error: unknown argument 'GPUS=1'" in refused.stderr
    assert not list(tmp_path.iterdir())


def _fails(folder: Path, **change: str) -> str:
    failed = _run(folder, **change)
    assert failed.returncode != 0
    assert not (folder / "output" / "train.sh").exists()
    return failed.stderr


def test_every_missing_input_is_found_before_any_step_and_named_by_its_variable(tmp_path: Path) -> None:
    _rows(tmp_path)
    files = ["PRETRAIN_DATASET", "ORIGINAL_QUESTIONS", "FINETUNE_DATASET"]
    files += ["TEXTVQA_QUESTIONS", "TEXTVQA_ANNOTATIONS", "MMBENCH", "DEEPSPEED"]
    folders = ["PRETRAIN_DATASET_IMAGE_PATH", "BASE_MODEL", "FINETUNE_IMAGES", "TEXTVQA_IMAGES"]
    for kind, names in (("file", files), ("folder", folders)):
        for name in names:
            shutil.rmtree(tmp_path / "a copy of", ignore_errors=True)
            # `true` replaces Python, which is not needed before the inputs are checked.
            words = _fails(tmp_path, PYTHON="true", **{name: "no such/path"})
            assert words == (
                f"error: no such {kind}: {name}='no such/path'; set {name}=PATH before the command\n"
                "failed in step: inputs of all steps (exit code 2)\n"
            )
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("gpus", "per_gpu", "pretrain", "finetune"), [("1", "8", "32", "16"), ("8", "8", "4", "2"), ("2", "64", "2", "1")]
)
def test_accumulation_is_derived_from_gpus_and_batch(
    tmp_path: Path, gpus: str, per_gpu: str, pretrain: str, finetune: str
) -> None:
    _rows(tmp_path)
    echo = tmp_path / "echo the arguments"
    echo.write_text('#!/bin/sh\necho "$*"\n')
    echo.chmod(0o755)
    batches = dict.fromkeys(("PRETRAIN_BATCH_SIZE_PER_GPU", "FINETUNE_BATCH_SIZE_PER_GPU"), per_gpu)
    done = _run(tmp_path, PYTHON=str(echo), GPUS=gpus, **batches)
    called = [line.split("check_global_batch_size ")[1] for line in done.stdout.splitlines()[:2]]
    assert called == [
        f"{stage} --gpus {gpus} --per-gpu {per_gpu} --accumulation {steps}"
        for stage, steps in (("pretrain", pretrain), ("finetune", finetune))
    ]


def test_a_subset_or_other_benchmarks_are_evaluated_when_they_are_named(tmp_path: Path) -> None:
    _rows(tmp_path)
    echo = tmp_path / "echo the arguments"
    echo.write_text('#!/bin/sh\necho "$*"\n')
    echo.chmod(0o755)
    for stage in ("pretrain", "finetune"):
        (tmp_path / "output" / "training_dirs" / "MGM-2B-try" / stage).mkdir(parents=True)
        (tmp_path / "output" / "training_dirs" / "MGM-2B-try" / stage / "manifest.json").touch()
    others = {"BENCHMARKS": "mmbench pope", "EVAL_OPTIONS": "--pope-questions q --pope-images i", "TEXTVQA_IMAGES": "-"}
    done = _run(tmp_path, PYTHON=str(echo), **others)
    assert done.returncode == 0, done.stderr
    (called,) = [line for line in done.stdout.splitlines() if "toolkit.evaluation.run" in line]
    assert called.endswith(
        "--mmbench-table data/data.json --pope-questions q --pope-images i --benchmarks mmbench,pope"
    )
    shutil.rmtree(tmp_path / "a copy of")
    (tmp_path / "output" / "train.sh").unlink()
    words = _fails(tmp_path, PYTHON=str(echo), BENCHMARKS="mmbench pope")
    assert "error: BENCHMARKS='mmbench pope': give the files of pope in EVAL_OPTIONS" in words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"PRETRAIN_BATCH_SIZE_PER_GPU": "63"}, "failed in step: 1 global batch"),
        ({"PRETRAIN_GRADIENT_ACCUMULATION_STEPS": "3"}, "= 192, not 256"),
        ({"PRETRAIN_DATASET": "no rows.jsonl"}, "failed in step: 2 sample budget"),
        ({"PRETRAIN_DATASET": "a copy of/toolkit/train_mgm_2b_stage_1.sh"}, "failed in step: 3 LLaVA format"),
        ({}, "failed in step: 4 and 5 training"),
    ],
)
def test_the_first_failure_stops_the_script_and_is_named(tmp_path: Path, change: dict[str, str], cause: str) -> None:
    _rows(tmp_path)
    assert cause in _fails(tmp_path, **change)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXP_NAME", "a/../b"),
        ("EXP_NAME", ".."),
        ("EXP_NAME", "$(touch broken)"),
        ("GPUS", "x[$(touch broken)]"),
        ("GPUS", "0"),
        ("PRETRAIN_BATCH_SIZE_PER_GPU", "8; touch broken"),
        ("FINETUNE_GRADIENT_ACCUMULATION_STEPS", "a[$(touch broken)]"),
        ("SEED", "-1"),
        ("DEVICE", "cuda:0 $(touch broken)"),
    ],
)
def test_values_that_reach_the_shell_are_checked_and_never_run(tmp_path: Path, name: str, value: str) -> None:
    _rows(tmp_path)
    words = _fails(tmp_path, PYTHON="true", **{name: value})
    assert words.startswith(f"error: {name}='{value}': ")
    assert not (tmp_path / "broken").exists() and not (tmp_path / "output").exists()
