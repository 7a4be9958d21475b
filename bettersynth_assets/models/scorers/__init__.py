"""Registry of scorers by the checkpoint's family. In: a folder or hub id. Out: a ``Backend``.

A scorer is a function ``load(name, device, dtype) -> Backend``. Its key is the ``model_type`` of the checkpoint's
``config.json``, or ``open_clip`` for a folder with ``open_clip_config.json`` and for ``hf-hub:org/name``. Scores are
cosines in all families; SigLIP's logit scale and bias do not affect rankings and are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bettersynth_assets.config.model_type import model_type
from bettersynth_assets.config.resolved_model import HUB_PREFIX
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.scorers.backend import Backend
from toolkit.registry import Registry

if TYPE_CHECKING:
    import torch

OPEN_CLIP = "open_clip"
_HERE = "bettersynth_assets.models.scorers"

SCORERS: Registry[Callable[[str, str, torch.dtype], Backend]] = Registry(
    "scorer",
    group="bettersynth.scorers",
    built_in={
        "clip": f"{_HERE}.clip:load_clip",
        "metaclip_2": f"{_HERE}.clip:load_metaclip2",
        "siglip": f"{_HERE}.siglip:load_siglip",
        "siglip2": f"{_HERE}.siglip2_naflex:load_siglip2_naflex",
        OPEN_CLIP: f"{_HERE}.openclip:load_open_clip",
    },
)


def scorer_kind(name: str) -> str:
    """Return the key of a checkpoint in ``SCORERS``.

    Args:
        name: an existing folder or a hub id.

    Raises:
        ConfigError: there is no ``config.json``, or its model is not a known scorer; names the known ones.
    """
    if name.startswith(HUB_PREFIX) or (Path(name) / "open_clip_config.json").is_file():
        return OPEN_CLIP
    kind, description = model_type(name)
    if kind is None or kind not in SCORERS.names():
        hub = "hf-hub:org/name" if Path(name).is_dir() else f"{HUB_PREFIX}{name}"
        raise ConfigError(
            f"models.clip = {name!r}: {description}, but scorers are of type {', '.join(SCORERS.names())}: use a "
            f"checkpoint of one of these types as written by save_pretrained, a folder with open_clip_config.json, or "
            f"{hub} for a model of OpenCLIP on the hub"
        )
    return kind


def load_backend(name: str, device: str, dtype: torch.dtype) -> Backend:
    """Load a checkpoint with the scorer of its family.

    Args:
        name: an existing folder or a hub id.
        device: torch device.
        dtype: torch type of the weights.

    Raises:
        ConfigError: as ``scorer_kind``, or weights are missing.
    """
    # Captions are tokenised in parallel with model and decoders; the tokenizer's threads would take their cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return SCORERS.get(scorer_kind(name))(name, device, dtype)
