"""Names of the ways to make an image square. Imports no torch, so that plans can be validated without it."""

from __future__ import annotations

from typing import Literal, get_args

Aspect = Literal["square", "pad"]
"""``square`` crops the centre (``pretrain``); ``pad`` pads the image to a square first (``finetune``, evaluation)."""

ASPECTS: tuple[str, ...] = get_args(Aspect)
