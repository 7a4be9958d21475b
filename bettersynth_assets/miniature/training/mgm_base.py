"""Assembles the MGM base. In: the two towers and the language model. Out: one folder in the toolkit's format.

It does not contain the projector and the three mining projections: pre-training initializes them for each training
seed.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from bettersynth_assets.miniature.tokenizer import make_tokenizer
from bettersynth_assets.miniature.training.bank import SQUARE
from bettersynth_assets.miniature.training.language_model import gemma_config
from bettersynth_assets.miniature.training.towers import CLIP_FIELDS, CONVNEXT_DEPTHS, CONVNEXT_DIMS, KEPT_LAYERS
from toolkit.models.mgm.common.names import CLIP, PROJECTOR
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.tensor_files import save_tensors

PARTS = {
    "clip_tower": f"{CLIP}vision_model.",
    "convnext_tower": "model.vision_tower_aux.vision_",
    "language": "",
}
"""Prefix of each part's keys in MGM."""


def save_part(module: nn.Module, path: Path) -> None:
    """Save one trained part for :func:`assemble`."""
    tied = {"lm_head.weight"}
    save_tensors({k: v.contiguous() for k, v in module.state_dict().items() if k not in tied}, path)


OUTPUT_SCALE = 1.5
"""Factor on the projector's output. Loss after 100 steps of pre-training: 1.24 with 0.24 (the standard deviation of the
word embeddings), 0.91 with 1.0, 0.67 with 1.5, 0.66 with 2.2 and 0.75 with 4."""


def mgm_config(vocabulary: int) -> MGMConfig:
    """Architecture of the miniature MGM."""
    return MGMConfig(
        text_config=gemma_config(vocabulary).to_dict(),
        vision_config={**CLIP_FIELDS, "num_hidden_layers": KEPT_LAYERS},
        vision_aux_config={"depths": list(CONVNEXT_DEPTHS), "dims": list(CONVNEXT_DIMS), "drop_path_rate": 0.0,
                           "layer_scale_init": 0.1},
        image_size_aux=SQUARE, mm_feature_norm=True, mm_projector_output_scale=OUTPUT_SCALE,
    )  # fmt: skip


def assemble(parts: Path, folder: Path, vocabulary: int) -> dict[str, float]:
    """Join the parts and write ``config.json``, ``model.safetensors`` (float16), tokenizer and image preprocessing.

    Returns:
        Number of parameters of each part, and the standard deviation of the embeddings.

    Raises:
        ValueError: a part is missing or its weights do not fit the model.
    """
    state: dict[str, Tensor] = {}
    counts: dict[str, float] = {}
    for part, prefix in PARTS.items():
        path = parts / f"{part}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path} is missing; train {part!r} first and keep it with --bank")
        tensors = load_file(path)
        counts[part] = sum(v.numel() for v in tensors.values())
        state |= {f"{prefix}{key}": value for key, value in tensors.items() if not key.startswith("norm_pre")}
    deviation = float(state["model.embed_tokens.weight"].float().std())
    config = mgm_config(vocabulary)
    model = MGMGemmaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [k for k in missing if not k.startswith(PROJECTOR) and k != "lm_head.weight"]
    unexpected = [k for k in unexpected if not k.startswith("model.vision_tower_aux.vision_head")]
    if missing or unexpected:
        raise ValueError(
            f"the trained parts do not fit MGM; train them again: missing {missing[:5]}, unexpected {unexpected[:5]}"
        )
    model.tie_weights()
    saved = {k: v.half() for k, v in model.state_dict().items() if not k.startswith(PROJECTOR)}
    parameters = sum(v.numel() for v in saved.values())
    model.half().save_pretrained(folder, state_dict=saved)  # empties the dictionary
    MGMProcessor.for_config(config, make_tokenizer("gemma")).save_pretrained(folder)
    return {**counts, "embedding_sd": deviation, "parameters": parameters}
