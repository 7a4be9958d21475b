"""Command that assembles an MGM base model for training from public weights.

    python -m toolkit.models.mgm.assemble --gemma gemma-2b-it --clip clip-vit-large-patch14-336 \
        --convnext openclip-convnext-… --output MGM-2B-base [--image-size-aux 768] [--dtype bfloat16]

In: local folders of a Gemma, a CLIP and an OpenCLIP ConvNeXt. Out: one checkpoint with their weights, tokenizer and
preprocessing. Projector and mining projections are newly initialized. Sizes are read from configs and weights, never
from a folder's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPVisionModel,
    GemmaConfig,
    GemmaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from toolkit.models.assemble_command import assemble_parser, write_assembled
from toolkit.models.mgm.common.names import CLIP, PROJECTOR
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.weights import clip_vision, public_names
from toolkit.models.weights import WeightsError, read_tensors

CONVNEXT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_TRUNK = "visual.trunk."


def convnext_trunk(folder: Path) -> dict[str, Tensor]:
    """Read stem and stages of an OpenCLIP ConvNeXt, by their names in MGM's second tower.

    Raises:
        WeightsError: the folder has no weight file, or the file contains no ConvNeXt.
    """
    file = next((folder / name for name in CONVNEXT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(
            f"{folder}: contains none of {', '.join(CONVNEXT_FILES)}; give an OpenCLIP ConvNeXt's folder"
        )
    trunk = {
        f"vision_{name.removeprefix(_TRUNK)}": tensor
        for name, tensor in public_names(read_tensors(file)).items()
        if name.startswith((f"{_TRUNK}stem.", f"{_TRUNK}stages."))
    }
    if "vision_stem.0.weight" not in trunk:
        raise WeightsError(f"{file}: has no {_TRUNK}stem, so it is not an OpenCLIP ConvNeXt")
    return trunk


def convnext_sizes(trunk: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return depths and widths of the four stages according to the weights."""
    depths, dims = [], []
    for stage in range(4):
        pattern = re.compile(rf"vision_stages\.{stage}\.blocks\.(\d+)\.conv_dw\.weight")
        widths = {int(match[1]): trunk[match[0]] for match in map(pattern.fullmatch, trunk) if match}
        if not widths:
            raise WeightsError(f"the ConvNeXt has no stage {stage}; MGM needs four")
        depths.append(len(widths))
        dims.append(widths[0].shape[0])
    return {"depths": depths, "dims": dims}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a folder from ``tokenizer.json``, or convert ``tokenizer.model`` if possible.

    ``tokenizer.json`` is loaded without the tokenizer class that the folder names, because such a class may add special
    tokens, as ``GemmaTokenizer`` does.

    Raises:
        WeightsError: the folder has no usable tokenizer.
    """
    try:
        if (folder / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder, config=GemmaConfig())
    except (ValueError, OSError, ImportError) as error:
        raise WeightsError(
            f"{folder}: no fast tokenizer; put gemma-2b-it's tokenizer.json there, or install sentencepiece 0.2.0 and "
            "protobuf to convert tokenizer.model"
        ) from error


def assemble(
    gemma: Path, clip: Path, convnext: Path, *, image_size_aux: int, dtype: torch.dtype
) -> MGMGemmaForCausalLM:
    """Build the model.

    Raises:
        WeightsError: parts are missing or do not match.
    """
    for name, folder in (("gemma", gemma), ("clip", clip), ("convnext", convnext)):
        if not folder.is_dir():  # transformers would treat the path as a hub id
            raise WeightsError(f"{name}: {str(folder)!r} is not a folder; give a local copy")
    language: Any = GemmaForCausalLM.from_pretrained(gemma, dtype=dtype)
    vision: Any = CLIPVisionModel.from_pretrained(clip, dtype=dtype)
    trunk = convnext_trunk(convnext)
    # The transformers release pinned by the kit computes exact GELU for Gemma, regardless of the config file.
    text = {**language.config.to_dict(), "hidden_act": "gelu", "hidden_activation": "gelu"}
    config = MGMConfig(
        text_config=text, vision_config=vision.config, vision_aux_config=convnext_sizes(trunk),
        image_size_aux=image_size_aux,
    )  # fmt: skip
    parts = dict(language.state_dict())
    parts |= {f"{CLIP}{name}": tensor for name, tensor in clip_vision(vision.state_dict()).items()}
    parts |= {f"model.vision_tower_aux.{name}": tensor for name, tensor in trunk.items()}
    model = MGMGemmaForCausalLM(config)
    cast(torch.nn.Module, model).to(dtype)
    result = model.load_state_dict(parts, strict=False)
    missing = [name for name in result.missing_keys if not name.startswith(PROJECTOR)]
    if missing or result.unexpected_keys:
        raise WeightsError(f"parts do not match: missing {missing[:5]}, unexpected {list(result.unexpected_keys)[:5]}")
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = assemble_parser(
        "toolkit.models.mgm.assemble", "Assemble an MGM base model from public weights.", ("gemma", "clip", "convnext")
    )
    parser.add_argument("--image-size-aux", type=int, default=768)
    options = parser.parse_args(arguments)

    def build() -> tuple[MGMGemmaForCausalLM, MGMProcessor]:
        dtype = getattr(torch, options.dtype)
        model = assemble(
            options.gemma, options.clip, options.convnext, image_size_aux=options.image_size_aux, dtype=dtype
        )
        return model, MGMProcessor.for_config(cast(MGMConfig, model.config), load_tokenizer(options.gemma))

    return write_assembled(parser, options.output, build)


if __name__ == "__main__":
    raise SystemExit(main())
