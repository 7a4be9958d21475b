"""A projector fitted by regression solves the documented least-squares problem; its training repeats exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bettersynth_assets_tests.helpers.llava_rows import write_rows
from bettersynth_assets_tests.helpers.small_training import plan_values, run_plan, stage_of
from toolkit.data.collator import Collator
from toolkit.data.rows import Rows
from toolkit.images.reading import read_image
from toolkit.models import architecture_of
from toolkit.models.base import Architecture
from toolkit.models.llava.tiny import save_tiny_llava
from toolkit.models.weights import read_tensors
from toolkit.training.base_model import load_base, load_processor
from toolkit.training.plan import PlanError, TrainingPlan, parse_plan
from toolkit.training.projector_start import RIDGE, start_by_regression
from toolkit.training.session import read_rows

CPU = torch.device("cpu")


def _loaded(values: dict[str, Any]) -> tuple[TrainingPlan, Architecture, Any, Rows, Collator]:
    plan = parse_plan(values)
    architecture = architecture_of(plan.base_model)
    processor = load_processor(architecture, plan)
    model = load_base(architecture, plan)
    architecture.start_projector(model, plan.seed)
    collator = Collator(processor=processor, aspect="square")
    return plan, architecture, model, read_rows(plan.stages[0], processor), collator


@pytest.fixture(params=["mgm", "llava"])
def values(request: pytest.FixtureRequest, world: Path, tmp_path: Path) -> dict[str, Any]:
    if request.param == "mgm":
        return plan_values(world, tmp_path / "out")
    save_tiny_llava(tmp_path / "base")
    write_rows(tmp_path, pictures=6, text_only=4)
    return plan_values(tmp_path, tmp_path / "out")


def test_the_last_layer_solves_the_ridge_regression_and_keeps_its_spread(values: dict[str, Any]) -> None:
    _, architecture, model, rows, collator = _loaded(values)
    with_image = [at for at in range(len(rows)) if rows.images[at]]
    words = model.get_input_embeddings().weight.detach().double().numpy()
    hidden, targets, before = [], [], []
    with torch.no_grad():
        for at in with_image:
            ids, labels = rows.encoded(at)
            pixels = collator.processor.squares([_image(rows, at)], aspect="square")
            units, last = architecture.projector_hidden(model, collator.processor.pixel_inputs(pixels))
            hidden.append(units[0].double().numpy())
            before.append(last(units)[0].double().numpy())
            targets.append(np.mean([words[i] for i, label in zip(ids, labels, strict=True) if label == i], axis=0))
    y = np.stack(targets) - np.mean(targets, axis=0)
    x = np.concatenate(hidden)
    y = np.repeat(y, len(hidden[0]), axis=0)
    # Ridge regression as ordinary least squares: the penalty is further rows, and the constant is removed by centring.
    penalty = np.sqrt(RIDGE * (x**2).sum(axis=0).mean())
    design = np.concatenate([x - x.mean(axis=0), penalty * np.eye(x.shape[1])])
    solution = np.linalg.lstsq(design, np.concatenate([y - y.mean(axis=0), np.zeros((x.shape[1], y.shape[1]))]))[0]
    outputs = (x - x.mean(axis=0)) @ solution
    spread = np.sqrt(np.concatenate(before).var(axis=0).mean())
    expected = outputs * spread / np.sqrt(outputs.var(axis=0).mean())

    assert start_by_regression(architecture, model, rows, collator, CPU) == len(with_image)
    with torch.no_grad():
        after = last(torch.from_numpy(x).float()).double().numpy()
    assert np.abs(after - expected).max() < 1e-3 * spread
    assert np.isclose(np.sqrt(after.var(axis=0).mean()), spread, rtol=1e-3)


def _image(rows: Rows, at: int) -> Any:
    path = rows.image(at)
    assert path is not None
    return read_image(path, sample_id=rows.ids[at])


@pytest.mark.slow
def test_rows_with_one_text_leave_the_projector_as_it_was(values: dict[str, Any]) -> None:
    data = Path(values["stages"][0]["data"])
    rows_of_file = json.loads(data.read_text())
    for row in rows_of_file:
        row["conversations"][1]["value"] = "number"
    one_text = data.with_name("one-text.json")
    one_text.write_text(json.dumps(rows_of_file))
    _, architecture, model, rows, collator = _loaded(stage_of(values, "pretrain", data=str(one_text)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start_by_regression(architecture, model, rows, collator, CPU) == 0
    for name, value in model.state_dict().items():
        assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.slow
def test_a_training_starts_with_it_and_repeats_exactly(world: Path, tmp_path: Path) -> None:
    def projector(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        plan = stage_of(plan_values(world, tmp_path / name, **changes), "pretrain")
        events = run_plan(plan)
        assert ("projector" in {event["event"] for event in events}) == (changes != {})
        return read_tensors(tmp_path / name / "pretrain" / "projector.safetensors")

    random = projector("a")
    first, second = projector("b", projector_start="regression"), projector("c", projector_start="regression")
    for name, tensor in first.items():
        assert_close(tensor, second[name], rtol=0, atol=0)
    assert any(not torch.equal(tensor, random[name]) for name, tensor in first.items())


def test_an_architecture_without_the_interface_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, architecture, *_ = _loaded(plan_values(world, tmp_path / "out", projector_start="regression"))
    monkeypatch.setattr(type(architecture), "projector_hidden", Architecture.projector_hidden)
    with pytest.raises(PlanError, match=r"projector_start: 'regression' needs MGMArchitecture\.projector_hidden"):
        run_plan(plan.model_dump(mode="json"))
