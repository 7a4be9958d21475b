"""Runs the original MGM code on small models and records its results.

    python make_mgm_golden.py /path/to/MGM [/path/to/better-synth-seed-800]

Needs a checkout of github.com/dvlab-research/MGM (imported, never copied) and a separate environment: Python 3.11, a
CPU torch, transformers==4.38.0, tokenizers==0.15.2, timm, open_clip_torch, deepspeed, sentencepiece, protobuf and a
matching accelerate. Out, next to this file: ``model.npz`` and ``model.json`` (features, logits, loss, every
gradient, key names), ``pictures.json``, ``rows.json`` and ``tokenizer/``. Nothing is downloaded.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rows
import rule

HERE = Path(__file__).parent
ORIGINAL = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(ORIGINAL))
# With a CPU torch, a torchvision built for CUDA imports only with the project's hook.
sys.path.append(str(HERE.parents[2]))
importlib.import_module("toolkit")

import original_text  # noqa: E402
import PIL  # noqa: E402
import timm  # noqa: E402
import tokenizers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from mgm import conversation as conversation_lib  # noqa: E402
from mgm.mm_utils import expand2square  # noqa: E402
from mgm.model.language_model.mgm_gemma import MGMConfig, MGMGemmaForCausalLM  # noqa: E402
from mgm.model.multimodal_encoder import openclip_encoder  # noqa: E402
from mgm.model.processor.video_processor import VideoFramesProcessor  # noqa: E402
from PIL import Image  # noqa: E402
from timm.models.convnext import ConvNeXt  # noqa: E402


@timm.models.register_model
def mgm_golden_convnext(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """The ConvNeXt of real size differs from this one only in depths and widths."""
    kwargs = {k: v for k, v in kwargs.items() if k not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}
    model = ConvNeXt(**{**rule.CONVNEXT, **kwargs})
    model.default_cfg = {"pool_size": (3, 3)}
    return model


def fill(module: torch.nn.Module, prefix: str = "") -> None:
    """Set every parameter to the weight of the rule."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(rule.weight(prefix + name, tuple(parameter.shape))))


def original_model(folder: Path) -> MGMGemmaForCausalLM:
    """Build the original classes with the original's two initialisers."""
    clip, convnext, base = folder / "openai-clip", folder / "openclip-convnext-large-d-320", folder / "gemma"
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**rule.CLIP)).save_pretrained(clip)
    public = {"crop_size": 336, "size": 336, "resample": 3, "do_resize": True, "do_center_crop": True}
    (clip / "preprocessor_config.json").write_text(json.dumps({**public, "do_normalize": True}))
    vision = {"timm_model_name": "mgm_golden_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 96}
    model_cfg = {"embed_dim": 8, "vision_cfg": {**vision, "timm_model_pretrained": False, "timm_drop_path": 0.1}}
    # The original supports three sizes by name; the small one is registered under one of these names.
    openclip_encoder.get_model_config = lambda name: {**copy.deepcopy(model_cfg), "text_cfg": {}}
    convnext.mkdir()
    (convnext / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    trunk = ConvNeXt(**rule.CONVNEXT, num_classes=0).state_dict()
    torch.save({f"visual.trunk.{k}": v for k, v in trunk.items()}, convnext / "open_clip_pytorch_model.bin")
    base.mkdir()
    (base / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    arguments = SimpleNamespace(
        vision_tower=str(clip), vision_tower_aux=str(convnext), mm_vision_select_layer=-2,
        mm_vision_select_feature="patch", pretrain_mm_mlp_adapter=None, mm_projector_type="mlp2x_gelu",
        image_size_aux=rule.IMAGE_SIZE_AUX, model_name_or_path=str(base), drop_path=False,
    )  # fmt: skip
    model = MGMGemmaForCausalLM(MGMConfig(**rule.GEMMA))
    model.get_model().initialize_vision_modules(arguments)
    model.config.mm_hidden_size_aux = sum(rule.CONVNEXT["dims"])
    model.get_model().initialize_uni_modules(arguments)
    model.config.image_grid, model.config.image_global = 1, False
    model.config.tokenizer_padding_side, model.config.tokenizer_model_max_length = "right", 2048
    fill(model)
    return model.train()


def model_numbers(model: MGMGemmaForCausalLM) -> dict[str, np.ndarray]:
    """Compute both towers, projected images, logits, loss and all gradients of one batch."""
    given = {name: torch.from_numpy(values) for name, values in rule.batch().items()}
    core = model.get_model()
    found = {
        "low": core.get_vision_tower()(given["images"]),
        "maps": core.get_vision_tower_aux()(given["images_aux"])[[0, 3]],
        "projected": model.encode_images(given["images"], given["images_aux"]),
    }
    # Lists, as from its collator for different shapes, and stacked tensors must give the same result.
    out = model(**{**given, "images": list(given["images"]), "images_aux": list(given["images_aux"])})
    assert torch.equal(out.loss, model(**given).loss)
    out.loss.backward()
    gradients = {f"gradient/{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    prepared = model.prepare_inputs_labels_for_multimodal(
        given["input_ids"], None, given["attention_mask"], None, given["labels"], given["images"], given["images_aux"]
    )
    found |= {"logits": out.logits, "loss": out.loss, "attention_mask": prepared[2], "labels": prepared[5]}
    answers = [
        model.eval().generate(
            torch.from_numpy(prompt)[None], images=given["images"][[row]], images_aux=given["images_aux"][[row]],
            do_sample=False, max_new_tokens=rule.NEW_TOKENS, eos_token_id=None, use_cache=True,
            output_scores=True, return_dict_in_generate=True,
        )
        for row, prompt in rule.prompts().items()
    ]  # fmt: skip
    found["answers"] = torch.cat([answer.sequences for answer in answers])
    found["answer_logits"] = torch.cat([torch.stack(answer.scores, dim=1) for answer in answers])
    return {name: tensor.detach().numpy() for name, tensor in {**found, **gradients}.items()}


def picture_numbers(shown: Image.Image, aspect: str) -> dict[str, Any]:
    """Return the hash of the high-resolution tensor and some values of the low-resolution one, by the original code."""
    with tempfile.TemporaryDirectory() as folder:
        public = {"crop_size": 336, "size": 336, "resample": 3, "do_resize": True, "do_center_crop": True}
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps({**public, "do_normalize": True}))
        processor = VideoFramesProcessor.from_pretrained(folder)
    raw = [processor.crop_size["height"], processor.crop_size["width"]]
    processor.crop_size["height"] = processor.crop_size["width"] = processor.size["shortest_edge"] = 768
    image = shown.convert("RGB")
    if aspect == "pad":
        image = expand2square(image, tuple(int(mean * 255) for mean in processor.image_mean))
    aux = processor.preprocess(image, return_tensors="pt")["pixel_values"][0]
    low = torch.nn.functional.interpolate(aux[None], size=raw, mode="bilinear", align_corners=False)[0]
    return {"aux_sha256": hashlib.sha256(aux.numpy().tobytes()).hexdigest(), "low": low[:, 7::128, 5::128].tolist()}


def save(name: str, content: dict[str, Any]) -> None:
    """Write a JSON file next to this one, lists of plain values on one line each."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    assert json.loads(text) == content
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Write all files; see the module docstring."""
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "-C", str(ORIGINAL), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    packages = (torch, transformers, tokenizers, timm, PIL, np)
    versions = {package.__name__: package.__version__ for package in packages}
    about = {"original": "github.com/dvlab-research/MGM", "commit": commit, "versions": versions}
    with tempfile.TemporaryDirectory() as folder:
        model = original_model(Path(folder))
        np.savez_compressed(HERE / "model.npz", **model_numbers(model))
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        config = json.loads(model.config.to_json_string(use_diff=False))
        config |= {key: f"model_zoo/{Path(config[key]).name}" for key in ("mm_vision_tower", "mm_vision_tower_aux")}
        save("model.json", {**about, "rule": "rule.weight, rule.batch", "state_dict": shapes, "config": config})
    made = {n: {a: picture_numbers(p, a) for a in ("square", "pad")} for n, p in rule.pictures().items()}
    real = {}
    if len(sys.argv) > 2:
        seed = Path(sys.argv[2])
        for name in rule.REAL:
            with Image.open(seed / name) as picture:
                real[name] = {a: picture_numbers(picture, a)["aux_sha256"] for a in ("square", "pad")}
    three_high = picture_numbers(rule.three_high(), "square")["aux_sha256"]
    save("pictures.json", {**about, "made": made, "three_high": three_high, "real": real})
    conversation_lib.default_conversation = conversation_lib.conv_templates["gemma"]
    slow, fast = original_text.make_tokenizer(HERE / "tokenizer")
    encoded = {n: original_text.row_numbers(fast, *row) for n, row in rows.ROWS.items()}
    differs = [n for n, row in rows.ROWS.items() if original_text.row_numbers(slow, *row) != encoded[n]]
    prompts = {question: original_text.prompt_ids(fast, question) for question in rows.QUESTIONS}
    save("rows.json", {**about, "rows": encoded, "prompts": prompts, "slow_tokenizer_differs": differs})


if __name__ == "__main__":
    main()
