"""An MGM base from public parts in their published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.convnext import ConvNeXt
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, GemmaConfig, GemmaForCausalLM

from toolkit.models.mgm import assemble
from toolkit.models.mgm.common.names import CLIP, PROJECTOR
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.tiny_tokenizer import tiny_tokenizer
from toolkit.models.weights import WeightsError

BIN = "open_clip_pytorch_model.bin"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny equivalents of the three public checkpoints in their layouts."""
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


def test_public_parts_are_assembled_to_a_base_that_loads(parts: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_clip_is_accepted_with_both_spellings_of_its_names(
    parts: Path, tmp_path: Path, prefix: str, pickled: bool
) -> None:
    vision = CLIPVisionModel.from_pretrained(parts / "clip")
    vision.config.save_pretrained(tmp_path)
    file = {f"{prefix}{name}": tensor for name, tensor in vision.state_dict().items()}
    torch.save(file, tmp_path / "pytorch_model.bin") if pickled else save_file(file, tmp_path / "model.safetensors")
    base = assemble.assemble(
        parts / "gemma", tmp_path, parts / "convnext", image_size_aux=64, dtype=torch.float32
    ).state_dict()
    own = vision.state_dict()
    assert own and all(torch.equal(base[f"{CLIP}vision_model.{name}"], tensor) for name, tensor in own.items())


@pytest.mark.slow
def test_all_public_layouts_give_the_same_base(parts: Path, tmp_path: Path) -> None:
    """Shards, pickles, a CLIP with its text tower, float16 and OpenCLIP's heads, as the three are published."""
    gemma = GemmaForCausalLM.from_pretrained(parts / "gemma")
    gemma.save_pretrained(tmp_path / "gemma", max_shard_size="40KB")
    assert (tmp_path / "gemma" / "model.safetensors.index.json").exists()
    tiny_tokenizer().save_pretrained(tmp_path / "gemma")
    vision = CLIPVisionModel.from_pretrained(parts / "clip")
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(vision_config=vision.config.to_dict(), text_config={**text, "vocab_size": 20}))
    whole.vision_model.load_state_dict(vision.state_dict())
    whole.config.save_pretrained(tmp_path / "clip")
    # Older releases of transformers stored the table of positions too.
    table = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    torch.save({**whole.state_dict(), **table}, tmp_path / "clip" / "pytorch_model.bin")
    trunk = load_file(parts / "convnext" / "open_clip_model.safetensors")
    heads = {"visual.head.mlp.fc1.weight": torch.ones(8, 10), "visual.trunk.head.norm.weight": torch.ones(10)}
    (tmp_path / "convnext").mkdir()
    torch.save({"state_dict": {f"module.{n}": t for n, t in {**trunk, **heads}.items()}}, tmp_path / "convnext" / BIN)
    small = assemble.convnext_trunk(tmp_path / "convnext")
    assert small.keys() == assemble.convnext_trunk(parts / "convnext").keys()
    torch.manual_seed(0)
    expected = assemble.assemble(
        parts / "gemma", parts / "clip", parts / "convnext", image_size_aux=64, dtype=torch.float32
    )
    torch.manual_seed(0)
    found = assemble.assemble(
        tmp_path / "gemma", tmp_path / "clip", tmp_path / "convnext", image_size_aux=64, dtype=torch.float32
    )
    assert found.config.vision_config.num_attention_heads == 2
    frozen = {n: t for n, t in expected.state_dict().items() if not n.startswith(PROJECTOR)}
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in frozen.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_of_half_precision_parts_are_preserved(parts: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    for name, kind in (("gemma", GemmaForCausalLM), ("clip", CLIPVisionModel)):
        kind.from_pretrained(parts / name).to(dtype).save_pretrained(tmp_path / name)
    found = assemble.assemble(
        tmp_path / "gemma", tmp_path / "clip", parts / "convnext", image_size_aux=64, dtype=torch.float32
    ).state_dict()
    language = GemmaForCausalLM.from_pretrained(parts / "gemma").state_dict()
    assert all(torch.equal(found[name], tensor.to(dtype).float()) for name, tensor in language.items())


def test_the_error_for_a_missing_fast_tokenizer_names_the_file_to_add(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    config = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=f"{tmp_path}: no fast tokenizer; put gemma-2b-it's tokenizer.json there"):
        assemble.load_tokenizer(tmp_path)
    assert assemble.load_tokenizer(parts / "gemma").is_fast


def test_parts_that_do_not_match_are_named(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="contains none of open_clip_model"):
        assemble.convnext_trunk(tmp_path)
    save_file({"visual.other": torch.ones(1)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(WeightsError, match="not an OpenCLIP ConvNeXt"):
        assemble.convnext_trunk(tmp_path)
