"""Names of MGM's parts in the public weights, and its placeholder of a picture. Nothing is imported here."""

from __future__ import annotations

IMAGE_TOKEN_INDEX = -200
"""Stands for one whole image in ``input_ids``; replaced by N image embeddings, so it is no index of the vocabulary."""

TRAINED_IN_STAGE_1 = (
    "model.mm_projector.",
    "model.vlm_uni_query_projector.",
    "model.vlm_uni_aux_projector.",
    "model.vlm_uni_val_projector.",
)
"""Projector and mining projections."""

TOWERS = ("model.vision_tower.", "model.vision_tower_aux.")
"""The two image towers, frozen in both stages."""

CLIP = "model.vision_tower.vision_tower."
"""The first tower; its parameters go on with ``vision_model.``, which transformers 5 leaves out of its own names."""
