"""What the parts of MGM are called in the public weights."""

from __future__ import annotations

TRAINED_IN_STAGE_1 = (
    "model.mm_projector.",
    "model.vlm_uni_query_projector.",
    "model.vlm_uni_aux_projector.",
    "model.vlm_uni_val_projector.",
)
"""Projector and mining projections."""

TOWERS = ("model.vision_tower.", "model.vision_tower_aux.")
"""The two image towers, frozen in both stages."""
