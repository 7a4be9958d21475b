"""How a picture of any shape becomes a square: names alone, so that a plan can be checked without importing torch."""

from __future__ import annotations

from typing import Literal, get_args

Aspect = Literal["square", "pad"]
"""``square`` crops the centre (stage 1), ``pad`` pads to a square first (stage 2, evaluation)."""

ASPECTS: tuple[str, ...] = get_args(Aspect)
