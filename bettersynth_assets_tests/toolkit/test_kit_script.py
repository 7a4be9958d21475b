"""The kit's script on a tiny model: its steps, its folders, and that it stops at the first failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bettersynth_assets_tests.toolkit.test_evaluate_run import bench  # noqa: F401 (a fixture)
from bettersynth_assets_tests.toolkit.test_train_data import write_rows

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "toolkit" / "train_mgm_2b_stage_1.sh"


def _run(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "DEVICE": "cpu", "GPUS": "1"}
    settings |= {"DEEPSPEED": "", "PRETRAIN_DATASET": "processed.jsonl", "PRETRAIN_DATASET_IMAGE_PATH": "data/images"}
    settings |= {"PRETRAIN_BATCH_SIZE_PER_GPU": "64", "FINETUNE_BATCH_SIZE_PER_GPU": "64"}
    settings |= {"PRETRAIN_DATALOADER_NUM_WORKERS": "0", "FINETUNE_DATALOADER_NUM_WORKERS": "0"}
    settings |= {"ORIGINAL_QUESTIONS": "data/data.json", "FINETUNE_DATASET": "data/data.json"}
    settings |= {"FINETUNE_IMAGES": "data/images", "EXP_NAME": "try"} | changes
    return subprocess.run(
        ["bash", str(SCRIPT)], cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )


def _rows(folder: Path) -> None:
    write_rows(folder / "data", pictures=4, text_only=2)
    rows = [
        {"id": f"p{i}", "text": f"<__dj__image>\nnumber {i} <|__dj__eoc|>", "images": [f"{i}.png"]} for i in range(4)
    ]
    (folder / "processed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_eight_steps_leave_the_kits_folders(bench: Path, tmp_path: Path) -> None:  # noqa: F811
    _rows(tmp_path)
    files = {"QUESTIONS": "q.jsonl", "ANNOTATIONS": "a.json", "IMAGES": "images"}
    paths = {f"TEXTVQA_{name}": str(bench / file) for name, file in files.items()}
    paths |= {"CKPT_SAVE_STEPS": "50", "TOTAL_SAVE_CKPT_LIMIT": "2"}
    done = _run(tmp_path, BASE_MODEL=str(bench / "model"), MMBENCH=str(bench / "m.tsv"), **paths)
    assert done.returncode == 0, done.stderr[-2000:]
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
    assert json.loads((results / "results.json").read_text())["mmbench"]["n"] == 3
    assert (results / "textvqa" / "answers.jsonl").is_file() and (results / "mmbench" / "upload.xlsx").is_file()
    assert (tmp_path / "output" / "train.sh").read_bytes() == SCRIPT.read_bytes()


@pytest.mark.parametrize("script", ["train_mgm_2b_stage_1.sh", "download.sh"])
def test_help_is_printed_and_other_arguments_are_refused(tmp_path: Path, script: str) -> None:
    command = ["bash", str(ROOT / "toolkit" / script)]
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0 and f"bash toolkit/{script}" in shown.stdout and "set -" not in shown.stdout
    refused = subprocess.run([*command, "GPUS=1"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "error: argument 'GPUS=1' is not known" in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"PRETRAIN_BATCH_SIZE_PER_GPU": "63"}, "failed in step: 1 global batch"),
        ({"PRETRAIN_DATASET": "missing.jsonl"}, "failed in step: 2 sample budget"),
        ({"BASE_MODEL": "nowhere"}, "failed in step: 4 and 5 training"),
        ({"EXP_NAME": "a/../b"}, "EXP_NAME may hold letters"),
    ],
)
def test_the_first_failure_stops_it_and_is_named(tmp_path: Path, change: dict[str, str], cause: str) -> None:
    _rows(tmp_path)
    failed = _run(tmp_path, **change)
    assert failed.returncode != 0 and cause in failed.stderr
    assert not (tmp_path / "output" / "train.sh").exists()
