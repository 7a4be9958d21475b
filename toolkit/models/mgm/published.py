"""Command that converts a published MGM-2B to a checkpoint of this project.

    python -m toolkit.models.mgm.published --source MGM-2B --output MGM-2B-converted [--clip …] [--convnext …]

In: a folder written by the original code (``config.json`` with ``mm_*`` fields, weights in one file or in shards,
tokenizer), and the folders of CLIP and OpenCLIP ConvNeXt if its weights do not include the towers. Out: a folder that
``MGMGemmaForCausalLM`` and ``MGMProcessor`` load.

Sizes are read from config and weights, never from a path. Towers that are given twice are compared. Weights keep their
dtype. No model is built, so that memory use is that of the weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, GemmaConfig

from toolkit.models.mgm.assemble import convnext_sizes, convnext_trunk, load_tokenizer
from toolkit.models.mgm.common.names import CLIP
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.weights import clip_vision, public_names
from toolkit.models.weights import WeightsError, check_same, read_checkpoint

_CONVNEXT = "model.vision_tower_aux."
_CLIP_HEAD = 64
"""Channels of an attention head in all CLIP models of OpenAI; it cannot be derived from the weights."""

_ONLY: dict[str, tuple[Any, Any]] = {
    "mm_projector_type": ("mlp2x_gelu", "linear"), "mm_vision_select_feature": ("patch", "patch"),
    "image_grid": (1, 1), "image_global": (False, False), "mm_use_im_start_end": (False, False),
    "mm_use_im_patch_token": (False, True),
}  # fmt: skip
"""Implemented value and the original's default of each field."""


def clip_sizes(tower: Mapping[str, Tensor], folder: Path | None) -> dict[str, Any]:
    """Return CLIP's config from a folder's ``config.json`` if given, else derived from the weights ``vision_model.*``.

    Raises:
        WeightsError: the tower is missing, or the number of heads cannot be derived.
    """
    try:
        kernel = tower["vision_model.embeddings.patch_embedding.weight"]
        positions = tower["vision_model.embeddings.position_embedding.weight"]
        inner = tower["vision_model.encoder.layers.0.mlp.fc1.weight"]
    except KeyError as error:
        raise WeightsError(f"the CLIP tower has no {error.args[0]!r}") from error
    if folder is not None:
        return dict(CLIPVisionConfig.from_pretrained(folder).to_dict())
    width, patch = kernel.shape[0], kernel.shape[-1]
    if width % _CLIP_HEAD:
        raise WeightsError(f"{width} channels are not a multiple of {_CLIP_HEAD}; give CLIP's folder with --clip")
    return {
        "hidden_size": width, "patch_size": patch, "image_size": round((len(positions) - 1) ** 0.5) * patch,
        "intermediate_size": inner.shape[0], "num_attention_heads": width // _CLIP_HEAD,
        "num_hidden_layers": sum(name.endswith(".layer_norm1.weight") for name in tower),
    }  # fmt: skip


def mgm_config(values: Mapping[str, Any], clip: dict[str, Any], convnext: dict[str, list[int]]) -> MGMConfig:
    """Return the config of a published model.

    Args:
        found: its ``config.json``.
        clip, convnext: sizes of the two towers.

    Raises:
        WeightsError: the model is not a Gemma-based MGM of the original code, or is of a variant that is not
            implemented.
    """
    if not str(values.get("model_type", "")).endswith("gemma") or "mm_vision_tower" not in values:
        raise WeightsError(
            f"config.json: model_type {values.get('model_type')!r} with mm_vision_tower "
            f"{values.get('mm_vision_tower')!r} is not a published Gemma-based MGM"
        )
    for field, (implemented, default) in _ONLY.items():
        value = values.get(field, default)
        if value != implemented and value is not None:
            raise WeightsError(f"config.json: {field} {value!r} is not implemented, only {implemented!r}")
    kept = set(GemmaConfig().to_dict()) - {"model_type", "architectures", "transformers_version", "dtype"}
    # The transformers release that the original pins computes exact GELU for Gemma, regardless of the config file.
    text = {
        **{name: values[name] for name in kept if name in values},
        "hidden_act": "gelu",
        "hidden_activation": "gelu",
    }
    return MGMConfig(
        text_config=text, vision_config=clip, vision_aux_config=convnext,
        image_size_aux=values.get("image_size_aux", 320), mm_vision_select_layer=values["mm_vision_select_layer"],
    )  # fmt: skip


def convert(source: Path, output: Path, *, clip: Path | None = None, convnext: Path | None = None) -> int:
    """Write the checkpoint and return its number of parameters.

    Raises:
        WeightsError: parts are missing, differ or do not match; the message names the first tensor.
    """
    tensors = public_names(read_checkpoint(source))
    dtype = tensors["model.embed_tokens.weight"].dtype
    for prefix, folder, option in ((CLIP, clip, "--clip"), (_CONVNEXT, convnext, "--convnext")):
        inside = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        given = {}
        if folder is not None:
            part = clip_vision(public_names(read_checkpoint(folder))) if prefix == CLIP else convnext_trunk(folder)
            given = {f"{prefix}{name}": tensor for name, tensor in part.items()}
            check_same(given, inside, where=str(source))
        if not inside and not given:
            raise WeightsError(f"{source}: its weights lack {prefix}*; give that tower's folder with {option}")
        tensors |= {name: tensor.to(dtype) for name, tensor in {**given, **inside}.items()}
    towers = [{n.removeprefix(p): t for n, t in tensors.items() if n.startswith(p)} for p in (CLIP, _CONVNEXT)]
    values = json.loads((source / "config.json").read_text("utf-8"))
    config = mgm_config(values, clip_sizes(towers[0], clip), convnext_sizes(towers[1]))
    config.dtype = dtype
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, tensors["model.embed_tokens.weight"]):
        raise WeightsError(f"{source}: 'lm_head.weight' differs from the word embeddings, to which Gemma ties it")
    with torch.device("meta"):
        model: Any = MGMGemmaForCausalLM(config)
        model.to(dtype)
    for name, wanted in model.state_dict().items():
        if name != "lm_head.weight" and (name not in tensors or tensors[name].shape != wanted.shape):
            has = tuple(tensors[name].shape) if name in tensors else "missing"
            raise WeightsError(f"{source}: {name!r} is {has}, the config requires {tuple(wanted.shape)}")
    extra = sorted(set(tensors) - set(model.state_dict()))
    if extra:
        raise WeightsError(f"{source}: {extra[0]!r} is not part of MGM")
    processor = MGMProcessor.for_config(config, load_tokenizer(source))
    model.save_pretrained(output, state_dict=tensors)
    processor.save_pretrained(output)
    return cast(int, model.num_parameters())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.models.mgm.published", description="Convert a published MGM-2B."
    )
    for name in ("source", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("clip", "convnext"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args(arguments)
    try:
        parameters = convert(options.source, options.output, clip=options.clip, convnext=options.convnext)
    except (ValueError, OSError, KeyError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"{options.output}: {parameters:,} parameters")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
