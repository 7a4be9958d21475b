"""Conversion of a published MGM to a checkpoint: small models in folders as the original code writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig

from toolkit.models.mgm import published
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.tiny import tiny_mgm
from toolkit.models.tiny_tokenizer import tiny_tokenizer

WRITTEN_BY_THE_ORIGINAL = json.loads((Path(__file__).parent / "golden" / "model.json").read_text("utf-8"))["config"]
VISION = {
    "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 1, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
CLIP, CONVNEXT = "model.vision_tower.vision_tower.", "model.vision_tower_aux."
Writer = Callable[..., Path]


@pytest.fixture(scope="module")
def model() -> MGMGemmaForCausalLM:
    return tiny_mgm(seed=4, vision_config=VISION).to(torch.bfloat16)


@pytest.fixture
def write(model: MGMGemmaForCausalLM, tmp_path: Path) -> Writer:
    """Write a published folder; ``config`` and ``weights`` change fields and tensors, None removes one."""

    def written(*, shards: bool = True, safe: bool = True, config: Any = (), weights: Any = ()) -> Path:
        source = tmp_path / "published"
        source.mkdir()
        fields = {name: getattr(model.config, name) for name in WRITTEN_BY_THE_ORIGINAL if hasattr(model.config, name)}
        fields = {**WRITTEN_BY_THE_ORIGINAL, **fields, "torch_dtype": "bfloat16", "transformers_version": "4.38.0"}
        fields |= {"mm_use_im_patch_token": False, "mm_use_im_start_end": False, "hidden_act": "gelu", **dict(config)}
        for gone in ("vision_config", "vision_aux_config", "hidden_activation", "dtype"):
            fields.pop(gone, None)
        (source / "config.json").write_text(json.dumps(fields, default=str))
        tiny_tokenizer().save_pretrained(source)
        kept = {n: t.clone() for n, t in model.state_dict().items() if n != "lm_head.weight"} | dict(weights)
        kept = {name: tensor for name, tensor in kept.items() if tensor is not None}
        save_torch_state_dict(kept, source, max_shard_size="40KB" if shards else "1GB", safe_serialization=safe)
        return source

    return written


def _convert(source: Path, *options: str | Path) -> Path:
    output = source.parent / "converted"
    assert published.main(["--source", str(source), "--output", str(output), *map(str, options)]) == 0
    return output


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("shards", [True, False])
def test_a_converted_model_gives_the_results_of_the_published_one(
    write: Writer, model: MGMGemmaForCausalLM, shards: bool, safe: bool
) -> None:
    tables = {
        f"{CLIP}vision_model.embeddings.position_ids": torch.arange(5)[None],
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "lm_head.weight": model.model.embed_tokens.weight.detach().clone(),
    }
    source = write(shards=shards, safe=safe, weights=tables)
    assert (len(list(source.glob("*model-*"))) > 1) == shards
    output = _convert(source)
    found = MGMGemmaForCausalLM.from_pretrained(output, dtype="auto").eval()
    assert found.dtype == torch.bfloat16 and found.config.hidden_act == "gelu"
    assert found.config.vision_config.num_attention_heads == 1
    own = model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in found.state_dict().items())
    ids = torch.tensor([[2, -200, 30, 31]])
    images = {"images": torch.randn(1, 3, 28, 28), "images_aux": torch.randn(1, 3, 64, 64)}
    with torch.no_grad():
        # Equal weights at different memory addresses may be multiplied in a different order.
        torch.testing.assert_close(found(ids, **images).logits, model(ids, **images).logits, rtol=2e-2, atol=2e-2)
    assert MGMProcessor.from_pretrained(output).image_tokens == 4


def test_a_tower_without_the_prefix_omitted_by_transformers_5_loads_equally(
    write: Writer, model: MGMGemmaForCausalLM
) -> None:
    clip = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(CLIP)}
    short = {name.replace(".vision_model.", "."): tensor.clone() for name, tensor in clip.items()}
    output = _convert(write(weights={**dict.fromkeys(clip), **short}))
    found = MGMGemmaForCausalLM.from_pretrained(output, dtype="auto").state_dict()
    assert clip and all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


@pytest.fixture
def towers(model: MGMGemmaForCausalLM, tmp_path: Path) -> tuple[Path, Path]:
    """Folders of both towers with the model's weights, in float32."""
    clip, convnext = tmp_path / "clip", tmp_path / "convnext"
    clip.mkdir(), convnext.mkdir()
    CLIPVisionConfig(**VISION).save_pretrained(clip)
    own = {name: tensor.float() for name, tensor in model.state_dict().items()}
    save_file({n.removeprefix(CLIP): t for n, t in own.items() if n.startswith(CLIP)}, clip / "model.safetensors")
    trunk = {n.removeprefix(f"{CONVNEXT}vision_"): t for n, t in own.items() if n.startswith(CONVNEXT)}
    torch.save({f"visual.trunk.{n}": t for n, t in trunk.items()}, convnext / "open_clip_pytorch_model.bin")
    return clip, convnext


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_towers_are_loaded_from_their_folders_if_the_checkpoint_has_none(
    write: Writer, model: MGMGemmaForCausalLM, towers: tuple[Path, Path], capsys: pytest.CaptureFixture[str],
    prefix: str,
) -> None:  # fmt: skip
    clip = load_file(towers[0] / "model.safetensors")
    save_file({n.replace("vision_model.", prefix): t for n, t in clip.items()}, towers[0] / "model.safetensors")
    gone = {name: None for name in model.state_dict() if name.startswith((CLIP, CONVNEXT))}
    source = write(weights=gone)
    with pytest.raises(SystemExit, match=r"^2$"):
        _convert(source)
    assert "--clip" in capsys.readouterr().err
    output = _convert(source, "--clip", towers[0], "--convnext", towers[1])
    found = MGMGemmaForCausalLM.from_pretrained(output, dtype="auto").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_towers_given_twice_must_be_equal(
    write: Writer, towers: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stem = f"{CONVNEXT}vision_stem.0.weight"
    source = write()
    _convert(source, "--clip", towers[0], "--convnext", towers[1])
    file = towers[1] / "open_clip_pytorch_model.bin"
    torch.save({**torch.load(file), "visual.trunk.stem.0.weight": torch.ones(4, 3, 4, 4)}, file)
    with pytest.raises(SystemExit, match=r"^2$"):
        _convert(source, "--convnext", towers[1])
    assert stem in capsys.readouterr().err


BROKEN: dict[str, tuple[dict[str, Any], dict[str, Tensor | None], str]] = {
    "other language model": ({"model_type": "mgm_llama"}, {}, "model_type 'mgm_llama'"),
    "linear projector": ({"mm_projector_type": "linear"}, {}, "mm_projector_type 'linear'"),
    "hd model": ({"image_grid": 2, "image_global": True}, {}, "image_grid 2"),
    "image marks": ({"mm_use_im_start_end": True}, {}, "mm_use_im_start_end True"),
    "missing tensor": ({}, {"model.mm_projector.2.bias": None}, "'model.mm_projector.2.bias' is missing"),
    "wrong shape": ({}, {"model.mm_projector.2.bias": torch.ones(3)}, "'model.mm_projector.2.bias' is (3,)"),
    "unknown tensor": ({}, {"model.mm_resampler.0.bias": torch.ones(3)}, "'model.mm_resampler.0.bias'"),
    "untied head": ({}, {"lm_head.weight": torch.ones(300, 32)}, "'lm_head.weight' differs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_that_is_not_mgm_2b_is_refused_by_name(
    write: Writer, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, weights, message = BROKEN[name]
    source = write(config=config, weights=weights)
    with pytest.raises(SystemExit) as ended:
        _convert(source)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (source.parent / "converted").exists()


def test_the_number_of_heads_is_required_if_weights_do_not_determine_it() -> None:
    tower = {
        "vision_model.embeddings.patch_embedding.weight": torch.ones(24, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": torch.ones(5, 24),
        "vision_model.encoder.layers.0.mlp.fc1.weight": torch.ones(48, 24),
    }
    with pytest.raises(published.WeightsError, match=r"24 channels.*--clip"):
        published.clip_sizes(tower, None)
