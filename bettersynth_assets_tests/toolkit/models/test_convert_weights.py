"""The command from pickles to safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from toolkit.models.convert_weights import convert, main
from toolkit.models.mgm.common.names import PROJECTOR
from toolkit.models.mgm.tiny import tiny_mgm


def test_a_projector_pickle_is_converted_to_safetensors_without_the_towers(tmp_path: Path) -> None:
    weights = tiny_mgm().state_dict()
    wanted = {name: t for name, t in weights.items() if name.startswith((*PROJECTOR, "model.vision_tower"))}
    torch.save(wanted, tmp_path / "mm_projector.bin")
    names = convert(tmp_path / "mm_projector.bin", tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert set(found) == set(names["kept"]) == {name for name in weights if name.startswith(PROJECTOR)}
    assert all(torch.equal(found[name], weights[name]) for name in found)
    assert len(names["skipped"]) == len(wanted) - len(found)


def test_tensors_of_another_architecture_get_its_models_names(tmp_path: Path) -> None:
    original = {"model.mm_projector.0.weight": torch.ones(2, 3), "model.mm_projector.2.bias": torch.zeros(2)}
    torch.save(original | {"model.vision_tower.a": torch.ones(1)}, tmp_path / "mm_projector.bin")
    options = ["--architecture", "llava", str(tmp_path / "mm_projector.bin"), str(tmp_path / "out.safetensors")]
    assert main(options) == 0
    found = load_file(tmp_path / "out.safetensors")
    projector = "model.multi_modal_projector"
    assert set(found) == {f"{projector}.linear_1.weight", f"{projector}.linear_2.bias"}
    assert torch.equal(found[f"{projector}.linear_1.weight"], original["model.mm_projector.0.weight"])
