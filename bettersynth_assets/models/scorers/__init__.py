"""Scorers by the checkpoint's family. In: a folder or hub id. Out: a ``Backend``.

A scorer is a function ``load(name, device, dtype) -> Backend``. Its key is the ``model_type`` that the checkpoint's
``config.json`` says, or ``open_clip`` for a folder with ``open_clip_config.json`` and for ``hf-hub:org/name``. Scores
are cosines in every family; SigLIP's logit scale and bias, which no ranking depends on, are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bettersynth_assets.config.devices import HUB_PREFIX
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.model_type import model_type
from bettersynth_assets.models.scorers.backend import Backend
from toolkit.registry import Registry

OPEN_CLIP = "open_clip"
_HERE = "bettersynth_assets.models.scorers"

SCORERS: Registry[Callable[[str, str, Any], Backend]] = Registry(
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
    """The key in ``SCORERS`` of a checkpoint.

    Args:
        name: an existing folder or a hub id.

    Raises:
        ConfigError: no ``config.json`` there, or one of a model that is no scorer here; names the known ones.
    """
    if name.startswith(HUB_PREFIX) or (Path(name) / "open_clip_config.json").is_file():
        return OPEN_CLIP
    found, says = model_type(name)
    if found is None or found not in SCORERS.names():
        hub = "hf-hub:org/name" if Path(name).is_dir() else f"{HUB_PREFIX}{name}"
        raise ConfigError(
            f"models.clip = {name!r}: {says}, and scores are made by {', '.join(SCORERS.names())}: name a checkpoint "
            f"of one of these types as save_pretrained leaves it, a folder with open_clip_config.json, or {hub} for a "
            "model of OpenCLIP on the hub"
        )
    return found


def load_backend(name: str, device: str, dtype: Any) -> Backend:
    """Load a checkpoint by the scorer of its family.

    Args:
        name: an existing folder or a hub id.
        device: torch device.
        dtype: torch type of the weights.

    Raises:
        ConfigError: as ``scorer_kind``; weights that are missing.
    """
    # Captions are tokenized beside the model and the decoders; threads of the tokenizer's own would take their cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return SCORERS.get(scorer_kind(name))(name, device, dtype)
