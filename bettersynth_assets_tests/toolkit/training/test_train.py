"""A complete training of a tiny model: what it writes, repeats, refuses and reports."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from bettersynth_assets_tests.helpers.launched import variables
from bettersynth_assets_tests.helpers.paths import ROOT
from bettersynth_assets_tests.helpers.small_training import Event
from bettersynth_assets_tests.helpers.small_training import plan_values as _values
from bettersynth_assets_tests.helpers.small_training import run_plan as _run
from toolkit.data.order import exposure_order, loss_weights
from toolkit.images.reading import ImageError
from toolkit.models.mgm.common.names import PROJECTOR, TOWERS
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.training.plan import NonFiniteLossError, PlanError, parse_plan, read_plan
from toolkit.training.run import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def trained(world: Path) -> tuple[Path, list[Event]]:
    output = world / "out"
    return output, _run(_values(world, output, cache_dir=str(world / "cache")))


def test_training_reports_features_steps_and_the_end(trained: tuple[Path, list[Event]]) -> None:
    events = trained[1]
    assert [e["event"] for e in events] == ["features", "start", "step", "step", "stage_done"] * 2 + ["done"]
    assert [e["computed"] for e in events if e["event"] == "features"] == [6, 6]
    steps = [e for e in events if e["event"] == "step"]
    assert [(e["stage"], e["step"], e["steps"]) for e in steps[:2]] == [("pretrain", 2, 3), ("pretrain", 3, 3)]
    assert all(e["loss"] > 0 and e["samples_per_s"] > 0 for e in steps)


def test_each_stage_changes_only_the_weights_that_it_trains(world: Path, trained: tuple[Path, list[Event]]) -> None:
    base = load_file(world / "base" / "model.safetensors")
    projector = load_file(trained[0] / "pretrain" / "projector.safetensors")
    full = load_file(trained[0] / "finetune" / "model.safetensors")
    assert set(projector) == {name for name in base if name.startswith(PROJECTOR)}
    changed = {name for name in base if not torch.equal(base[name], full[name])}
    assert not any(name.startswith(TOWERS) for name in changed)
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.mm_projector.0.weight"} <= changed


def test_the_checkpoint_loads_and_answers(trained: tuple[Path, list[Event]]) -> None:
    model = MGMGemmaForCausalLM.from_pretrained(trained[0] / "finetune")
    processor = MGMProcessor.from_pretrained(trained[0] / "finetune")
    prompt = torch.tensor([processor.encode_prompt("Say a word")])
    assert model.generate(prompt, max_new_tokens=2, do_sample=False).shape[1] > prompt.shape[1]


def test_the_manifest_records_data_samples_losses_and_versions(world: Path, trained: tuple[Path, list[Event]]) -> None:
    manifest = json.loads((trained[0] / "pretrain" / "manifest.json").read_text())
    assert manifest["final_step"] == manifest["planned_steps"] == 3 == len(manifest["loss_curve"])
    samples = [json.loads(line) for line in (trained[0] / "pretrain" / "samples.jsonl").read_text().splitlines()]
    assert [len(step) for step in samples] == [4, 4, 4]
    known = {row["id"] for row in json.loads((world / "data.json").read_text())}
    flat = [i for step in samples for i in step]
    assert set(flat) == known
    assert manifest["seed"] == 7 and manifest["versions"]["torch"] == torch.__version__
    cost = manifest["cost"]
    assert (cost["exposures"], cost["unique_rows"], cost["gpu_seconds"], cost["energy_joules"]) == (12, 10, 0.0, None)
    assert cost["supervised_tokens"] > 12 and cost["seconds"] > 0 and cost["peak_rss_gib"] > 0


def test_a_complete_run_is_found_and_not_repeated(world: Path, trained: tuple[Path, list[Event]]) -> None:
    before = (trained[0] / "finetune" / "manifest.json").stat().st_mtime_ns
    events = _run(_values(world, trained[0], cache_dir=str(world / "cache")))
    assert [(e["event"], e["cached"]) for e in events] == [("done", True)]
    assert (trained[0] / "finetune" / "manifest.json").stat().st_mtime_ns == before


def test_the_folder_of_another_run_is_refused(world: Path, trained: tuple[Path, list[Event]], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="another plan, data or base model"):
        _run(_values(world, trained[0], cache_dir=str(world / "cache"), seed=8))
    (tmp_path / "other.txt").touch()
    with pytest.raises(PlanError, match=r"no run\.json"):
        _run(_values(world, tmp_path))


def test_equal_plans_give_equal_weights_and_only_a_lost_stage_is_redone(
    world: Path, trained: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    values = _values(world, tmp_path / "again", cache_dir=str(world / "cache"))
    _run(values)
    expected = load_file(trained[0] / "finetune" / "model.safetensors")

    def check() -> None:
        found = load_file(tmp_path / "again" / "finetune" / "model.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    check()
    (tmp_path / "again" / "finetune" / "manifest.json").unlink()
    events = _run(values)
    assert [e["stage"] for e in events if e["event"] == "stage_done" and e["cached"]] == ["pretrain"]
    check()


def test_the_second_stage_starts_from_a_given_projector(
    world: Path, trained: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    projector = trained[0] / "pretrain" / "projector.safetensors"
    values = _values(world, tmp_path / "second", cache_dir=str(world / "cache"), projector=str(projector))
    values["stages"] = values["stages"][1:]
    _run(values)
    first, second = (load_file(p / "finetune" / "model.safetensors") for p in (trained[0], tmp_path / "second"))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    values["projector"] = str(world / "data.json")
    with pytest.raises(PlanError, match="holds a run of another plan"):
        _run(values)


def test_another_seed_gives_another_projector(world: Path, trained: tuple[Path, list[Event]], tmp_path: Path) -> None:
    values = _values(world, tmp_path / "other", seed=8)
    values["stages"] = values["stages"][:1]
    _run(values)
    ours, theirs = (load_file(p / "pretrain" / "projector.safetensors") for p in (trained[0], tmp_path / "other"))
    assert not torch.equal(ours["model.mm_projector.0.weight"], theirs["model.mm_projector.0.weight"])


def test_accumulated_batches_average_per_token_or_per_micro_batch(world: Path, tmp_path: Path) -> None:
    losses: dict[tuple[str, int, int | None], float] = {}
    for average in ("token", "micro_batch"):
        for size, group in ((1, None), (4, None), (2, 4), (2, 1)):
            output = tmp_path / f"{average}{size}{group}"
            values = _values(world, output, loss_average=average)
            values["stages"] = [{**values["stages"][0], "per_device_batch": size, "loss_group": group, "max_steps": 1}]
            _run(values)
            curve = json.loads((output / "pretrain" / "manifest.json").read_text())["loss_curve"]
            losses[average, size, group] = curve[0]
    by_token = losses["token", 4, None]
    assert [losses["token", size, group] for size, group in ((1, None), (2, 4), (2, 1))] == pytest.approx(
        [by_token] * 3
    )
    # Without a group the loss is the mean over 4 rows (8 do not divide a batch of 4), for every batch per device.
    by_rows = losses["micro_batch", 2, 4]
    assert [losses["micro_batch", size, None] for size in (1, 4)] == pytest.approx([by_rows] * 2)
    assert by_rows == pytest.approx(by_token)
    assert abs(losses["micro_batch", 2, 1] - by_rows) > 1e-4


def test_a_non_finite_loss_stops_before_the_weights_change_and_names_step_and_samples(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = exposure_order(10, 5, 2, seed=7)
    poisoned = 5

    def weights(*given: Any) -> Any:
        weights_of_tokens = loss_weights(*given)
        weights_of_tokens[poisoned] = np.nan
        return weights_of_tokens

    monkeypatch.setattr("toolkit.data.exposures.loss_weights", weights)
    values = _values(world, tmp_path / "out", checkpoint_every=1)
    values["stages"] = [{**values["stages"][0], "per_device_batch": 1, "global_batch": 2, "max_steps": 5}]
    ids = [row["id"] for row in json.loads((world / "data.json").read_text())]
    step = poisoned // 2 + 1
    with pytest.raises(NonFiniteLossError, match=rf"nan in step {step}; samples of the batch: {ids[order[poisoned]]}$"):
        _run(values)
    kept = [path.name for path in (tmp_path / "out" / "pretrain" / "checkpoints").iterdir()]
    assert kept == [f"step-{step - 1:06d}"]
    assert not (tmp_path / "out" / "pretrain" / "manifest.json").exists()


@pytest.fixture(scope="module")
def plain(world: Path) -> Path:
    """The training of ``trained`` without cached features."""
    _run(_values(world, world / "plain"))
    return world / "plain"


@pytest.mark.parametrize("changes", [{"speed": "reference"}, {"speed": {"fused_decoder": False}}, {"workers": 2}])
def test_neither_speed_nor_loaders_change_the_trained_weights(
    world: Path, plain: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    values = _values(world, tmp_path, **({} if "workers" in changes else changes))
    values["stages"] = [{**stage, "workers": changes.get("workers", 0)} for stage in values["stages"]]
    _run(values)
    ours, theirs = (load_file(run / "finetune" / "model.safetensors") for run in (plain, tmp_path))
    for name, value in ours.items():
        assert_close(theirs[name], value, rtol=1e-5, atol=3e-6)


def test_an_unreadable_image_in_a_loader_process_gives_only_the_samples_name(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "images", tmp_path / "images")
    (tmp_path / "images" / "3.png").write_bytes(b"no picture")
    values = _values(world, tmp_path / "out")
    values["stages"] = [{**values["stages"][0], "images": str(tmp_path / "images"), "workers": 1}]
    with pytest.raises(ImageError, match=r"^sample 'p3': image .*3\.png cannot be read \(.*\); repair or remove .*$"):
        _run(values)


def test_frozen_weights_are_bfloat16_and_one_dtype_is_written(world: Path, plain: Path, tmp_path: Path) -> None:
    events = _run(_values(world, tmp_path / "half", dtype="bfloat16"))
    projector = load_file(tmp_path / "half" / "pretrain" / "projector.safetensors")
    assert {value.dtype for value in projector.values()} == {torch.float32}
    assert {v.dtype for v in load_file(tmp_path / "half" / "finetune" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    for dtype in (torch.float32, torch.bfloat16):
        loaded = MGMGemmaForCausalLM.from_pretrained(tmp_path / "half" / "finetune", dtype=dtype)
        assert loaded.dtype == dtype
    losses = [e["loss"] for e in events if e["event"] == "stage_done"]
    manifests = [json.loads((plain / s / "manifest.json").read_text()) for s in ("pretrain", "finetune")]
    assert losses == pytest.approx([m["loss_curve"][-1] for m in manifests], abs=5e-3)


def test_tensorboard_logs_are_written_next_to_the_stage(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = _values(world, tmp_path / "out", report_to=["tensorboard"], log_every=1)
    values["stages"] = values["stages"][:1]
    _run(values)
    found = EventAccumulator(str(tmp_path / "out" / "pretrain" / "logs"))
    found.Reload()
    curve = json.loads((tmp_path / "out" / "pretrain" / "manifest.json").read_text())["loss_curve"]
    # The Trainer logs the loss with four digits.
    assert [scalar.value for scalar in found.Scalars("train/loss")] == pytest.approx(curve, abs=6e-5)


def test_a_log_whose_package_is_missing_is_named_with_the_command(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.training.plan.find_spec", lambda name: None)
    with pytest.raises(PlanError, match=r"report_to = \['wandb'\]: wandb is not installed; pip install wandb"):
        parse_plan(_values(world, tmp_path, report_to=["wandb"]))
    with pytest.raises(PlanError, match=r"report_to\.0 = 'paper': Input should be 'tensorboard', 'wandb' or 'mlflow'"):
        parse_plan(_values(world, tmp_path, report_to=["paper"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 1}, r"unknown key 'sed': did you mean 'seed'\?"),
        ({"device": "tpu"}, "device = 'tpu': Input should be 'auto', 'cpu' or 'cuda'"),
        ({"base_model": "nowhere"}, "base_model = 'nowhere': 'nowhere' holds no config.json"),
        ({"stages": []}, r"stages = \[\]: must be pretrain, finetune or both"),
        ({"seed": "x"}, "seed = 'x': Input should be a valid integer"),
    ],
)
def test_faults_of_a_plan_are_named(world: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(_values(world, tmp_path, **change))


def test_a_wrong_global_batch_is_refused(world: Path, tmp_path: Path) -> None:
    stage = parse_plan(_values(world, tmp_path)).stages[1]
    assert (stage.accumulation_for(1), stage.accumulation_for(2)) == (2, 1)
    for processes in (3, 4):
        with pytest.raises(PlanError, match=f"global_batch 4 .*{processes} processes"):
            stage.accumulation_for(processes)
    with pytest.raises(PlanError, match=r"stages\.0\.data = 'nope\.json': is not a file"):
        parse_plan(_values(world, tmp_path, stages=[{**_values(world, tmp_path)["stages"][0], "data": "nope.json"}]))


def test_a_missing_gpu_is_named_in_the_error(world: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(PlanError, match="no GPU"):
        _run(_values(world, tmp_path / "out", device="cuda"))


def test_the_command_prints_only_json_lines_and_fails_with_the_cause(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = _values(world, tmp_path / "out")
    good, bad = tmp_path / "good.json", tmp_path / "bad.yaml"
    good.write_text(json.dumps({**values, "stages": values["stages"][:1]}))
    assert _command(good) == 0  # test_kit_script.py covers a process of its own
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert events[-1]["event"] == "done" and (tmp_path / "out" / "pretrain" / "manifest.json").is_file()
    bad.write_text("seed: 1\nstages: []\n")
    with pytest.raises(PlanError, match=r"bad\.yaml: .*'base_model' is missing"):
        read_plan(bad)
    twice = tmp_path / "twice.json"
    twice.write_text('{"seed": 1,\n "seed": 2}')
    with pytest.raises(PlanError, match=r"twice\.json: duplicate key 'seed' in lines 1 and 2"):
        read_plan(twice)
    with pytest.raises(PlanError, match=r"none\.json: No such file"):
        read_plan(tmp_path / "none.json")
    capfd.readouterr()
    assert _command(bad) == 2
    failed = capfd.readouterr()
    assert "'base_model' is missing" in failed.err and json.loads(failed.out)["event"] == "error"


def _command(plan: Path) -> int:
    """Run the command in this process, and undo its redirection of stdout."""
    stdout = os.dup(1)
    try:
        return main([str(plan)])
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@pytest.mark.e2e
def test_two_processes_of_deepspeeds_launcher_give_the_results_of_one(world: Path, tmp_path: Path) -> None:
    plans = []
    for processes in (1, 2):
        values = _values(world, tmp_path / f"out{processes}", loss_average="token")
        plans.append({**values, "stages": [{**values["stages"][0], "per_device_batch": 2}]})
    _run(plans[0])
    (tmp_path / "plan.json").write_text(json.dumps(plans[1]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The profile leaves the number of processes to the machine; without a GPU it must be given.
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus=2", f"--master_port={port}", "--module"]
    _launch([*launcher, "toolkit.training.run", str(tmp_path / "plan.json")])
    manifests = [json.loads((tmp_path / f"out{n}" / "pretrain" / "manifest.json").read_text()) for n in (1, 2)]
    assert [m["processes"] for m in manifests] == [1, 2]
    assert manifests[0]["loss_curve"] == pytest.approx(manifests[1]["loss_curve"], abs=1e-5)


@pytest.mark.slow
def test_torchrun_gives_each_process_what_other_tests_train_with(tmp_path: Path) -> None:
    """Results of processes with these variables, in test_train_resume.py, equal those of one process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    _launch([*launcher, "bettersynth_assets_tests.helpers.launched", str(tmp_path)])
    for rank in (0, 1):
        given = json.loads((tmp_path / f"{rank}.json").read_text())
        assert given["arguments"] == [str(tmp_path)]
        found = given["environment"]
        expected = variables(rank, processes=2, address=found["MASTER_ADDR"], port=int(found["MASTER_PORT"]))
        assert {name: found[name] for name in expected} == expected


def _launch(command: list[str]) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=True, timeout=900)
