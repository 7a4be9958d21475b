"""Registry of captioners by the checkpoint's ``model_type``. One class per captioner.

The registry's values are classes with the interface of ``captioner.Captioner``, called as ``captioner(name, device=…,
dtype=…, batch=…)``. ``names`` of a class is a pattern of hub ids and served names of its models, by which a recipe's
``captioner:`` is checked before anything is downloaded. Modules of this package import torch inside functions only.
"""

from __future__ import annotations

from typing import Any

from toolkit.registry import Registry

_HERE = "bettersynth_assets.models.captioners"

CAPTIONERS: Registry[Any] = Registry(
    "captioner",
    group="bettersynth.captioners",
    built_in={"blip-2": f"{_HERE}.blip2:Blip2Captioner", "llava": f"{_HERE}.llava:LlavaCaptioner"},
)
