"""Weights from elsewhere: pickles without code, and an MGM base out of its public parts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.convnext import ConvNeXt
from transformers import CLIPVisionConfig, CLIPVisionModel, GemmaConfig, GemmaForCausalLM

from toolkit.convert_weights import WeightsError, convert, main, read_tensors
from toolkit.mgm import assemble
from toolkit.mgm.modeling_mgm import TRAINED_IN_STAGE_1, MGMGemmaForCausalLM
from toolkit.mgm.processing_mgm import MGMProcessor
from toolkit.mgm.tiny import tiny_mgm, tiny_tokenizer


class _Bomb:
    def __reduce__(self) -> Any:
        return (os.system, ("touch exploded",))


def test_projector_pickle_becomes_safetensors_without_the_towers(tmp_path: Path) -> None:
    weights = tiny_mgm().state_dict()
    wanted = {name: t for name, t in weights.items() if name.startswith((*TRAINED_IN_STAGE_1, "model.vision_tower"))}
    torch.save(wanted, tmp_path / "mm_projector.bin")
    names = convert(tmp_path / "mm_projector.bin", tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert set(found) == set(names["kept"]) == {name for name in weights if name.startswith(TRAINED_IN_STAGE_1)}
    assert all(torch.equal(found[name], weights[name]) for name in found)
    assert len(names["skipped"]) == len(wanted) - len(found)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1), "b": _Bomb()}, "zip.bin")
    Path("plain.bin").write_bytes(pickle.dumps(_Bomb()))
    for name in ("zip.bin", "plain.bin"):
        with pytest.raises(WeightsError, match=name):
            read_tensors(Path(name))
        with pytest.raises(SystemExit):
            main([name, "out.safetensors"])
    assert not Path("exploded").exists()
    torch.save([1, 2], "list.bin")
    with pytest.raises(WeightsError, match="holds list"):
        read_tensors(Path("list.bin"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny stand-ins of the three public checkpoints, in their own layouts."""
    folder = tmp_path_factory.mktemp("parts")
    gemma = GemmaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    GemmaForCausalLM(gemma).save_pretrained(folder / "gemma")
    tiny_tokenizer().save_pretrained(folder / "gemma")
    clip = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    CLIPVisionModel(clip).save_pretrained(folder / "clip")
    trunk = ConvNeXt(depths=(1, 2, 1, 1), dims=(4, 6, 8, 10), num_classes=0)
    weights = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    (folder / "convnext").mkdir()
    save_file({**weights, "logit_scale": torch.ones(1)}, folder / "convnext" / "open_clip_model.safetensors")
    return folder


def test_public_parts_join_to_a_base_that_loads(parts: Path, tmp_path: Path) -> None:
    options = ["--gemma", "gemma", "--clip", "clip", "--convnext", "convnext"]
    arguments = [str(parts / o) if not o.startswith("--") else o for o in options]
    done = assemble.main([*arguments, "--output", str(tmp_path), "--image-size-aux", "64", "--dtype", "float32"])
    assert done == 0
    model = MGMGemmaForCausalLM.from_pretrained(tmp_path)
    assert model.config.vision_aux_config["depths"] == [1, 2, 1, 1] and model.config.hidden_act == "gelu"
    weights = model.state_dict()
    language = GemmaForCausalLM.from_pretrained(parts / "gemma").state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in language.items())
    pixels = torch.randn(1, 3, 28, 28)
    clip = CLIPVisionModel.from_pretrained(parts / "clip")
    expected = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    features = model.encode_images(pixels, torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(features.low, expected)
    trunk = load_file(parts / "convnext" / "open_clip_model.safetensors")
    name = "stages.1.blocks.1.mlp.fc1.weight"
    assert torch.equal(weights[f"model.vision_tower_aux.vision_{name}"], trunk[f"visual.trunk.{name}"])
    assert MGMProcessor.from_pretrained(tmp_path).image_tokens == 4


def test_parts_that_do_not_fit_are_named(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds none of open_clip_model"):
        assemble.convnext_trunk(tmp_path)
    save_file({"visual.other": torch.ones(1)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match="no OpenCLIP ConvNeXt"):
        assemble.convnext_trunk(tmp_path)
