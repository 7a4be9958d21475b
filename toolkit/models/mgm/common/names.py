"""Names of MGM's modules in the public weights, and the image placeholder. Imports nothing."""

from __future__ import annotations

IMAGE_TOKEN_INDEX = -200
"""Placeholder for one image in ``input_ids``, outside the vocabulary; N image embeddings replace it."""

PROJECTOR = (
    "model.mm_projector.",
    "model.vlm_uni_query_projector.",
    "model.vlm_uni_aux_projector.",
    "model.vlm_uni_val_projector.",
)
"""Projector and mining projections: all that ``pretrain`` trains."""

TOWERS = ("model.vision_tower.", "model.vision_tower_aux.")
"""The two vision towers, frozen in both phases of training."""

CLIP = "model.vision_tower.vision_tower."
"""The CLIP tower. Its parameter names continue with ``vision_model.``, which transformers 5 omits in its own names."""
