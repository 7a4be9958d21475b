"""The kit's projector is loaded into a model whose towers are the same, and refused for any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from toolkit.models.mgm.common.names import PROJECTOR
from toolkit.models.mgm.tiny import tiny_mgm
from toolkit.models.mgm.weights import load_projector
from toolkit.models.weights import WeightsError

IN_THE_KITS_FILE = (*PROJECTOR, "model.vision_tower")


@pytest.mark.parametrize("clip", ["vision_model.", ""])
@pytest.mark.parametrize("prefix", ["", "base_model.model.", "module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kits_projector_loads_into_a_model_with_the_same_towers(
    tmp_path: Path, clip: str, prefix: str, dtype: torch.dtype
) -> None:
    trained, model = tiny_mgm(seed=1), tiny_mgm(seed=2)
    trained.model.vision_tower.load_state_dict(model.model.vision_tower.state_dict())
    trained.model.vision_tower_aux.load_state_dict(model.model.vision_tower_aux.state_dict())
    kit = {name: tensor.to(dtype) for name, tensor in trained.state_dict().items() if name.startswith(IN_THE_KITS_FILE)}
    file = {prefix + name.replace("vision_model.", clip): tensor for name, tensor in kit.items()}
    torch.save(file, tmp_path / "mm_projector.bin")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = load_projector(model, tmp_path / "mm_projector.bin")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kit[name].float() if name in names else before[name]), name
    assert set(names) == {name for name in before if name.startswith(PROJECTOR)}


def test_names_without_prefix_are_mapped_to_the_models(tmp_path: Path) -> None:
    model, weights = tiny_mgm(seed=2), tiny_mgm(seed=1).state_dict()
    bare = {n.removeprefix("model."): t for n, t in weights.items() if n.startswith(PROJECTOR)}
    save_file(bare, tmp_path / "projector.safetensors")
    names = load_projector(model, tmp_path / "projector.safetensors")
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in names) and len(names) == len(bare)


PATCHES = "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({PATCHES: torch.zeros(24, 3, 14, 14)}, "patch_embedding.weight' differs"),
        ({PATCHES: torch.zeros(8, 3, 14, 14)}, r"patch_embedding.weight' has shape \(8, 3, 14, 14\)"),
        ({"model.mm_projector.0.bias": None}, "'model.mm_projector.0.bias' is missing in the file"),
        ({"model.mm_projector.0.bias": torch.ones(5)}, r"'model.mm_projector.0.bias' is \(5,\)"),
        ({"model.mm_projector.0.bias": torch.full((32,), torch.nan)}, "'model.mm_projector.0.bias' is not finite"),
        ({"model.embed_tokens.weight": torch.ones(2, 32)}, "'model.embed_tokens.weight'"),
    ],
)
def test_a_projector_that_does_not_match_the_model_is_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    model = tiny_mgm()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kit = {name: tensor for name, tensor in before.items() if name.startswith(IN_THE_KITS_FILE)} | change
    torch.save({name: tensor for name, tensor in kit.items() if tensor is not None}, tmp_path / "mm_projector.bin")
    with pytest.raises(WeightsError, match=message):
        load_projector(model, tmp_path / "mm_projector.bin")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
