"""Puts image embeddings where the image placeholders are.

::

    input_ids (B, T) with IMAGE_TOKEN_INDEX per image + features (I, N, h)  ─►  embeds (B, L, h), mask, labels (B, L)

L is the longest row after each placeholder has become N positions; shorter rows are padded on the side that the
attention mask already pads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.mgm.configuration_mgm import IGNORE_INDEX, IMAGE_TOKEN_INDEX


class Merged(NamedTuple):
    """``embeds`` (B, L, h); ``attention_mask`` (B, L) of 0/1; ``labels`` (B, L) or None."""

    embeds: Tensor
    attention_mask: Tensor
    labels: Tensor | None


def check_image_count(input_ids: Tensor, images: int) -> int:
    """Number of placeholders, which must equal the number of images (a batch without any may carry one zero image)."""
    placeholders = int((input_ids == IMAGE_TOKEN_INDEX).sum())
    if placeholders != images and not (placeholders == 0 and images == 1):
        raise ValueError(f"{placeholders} image placeholders in input_ids but {images} images were given")
    return placeholders


def merge(
    input_ids: Tensor,
    word_embeds: Tensor,
    image_embeds: Tensor,
    *,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
) -> Merged:
    """Replace each placeholder by its image's N embeddings, images in reading order over the batch.

    Args:
        input_ids: (B, T) int64.
        word_embeds: (B, T, h); what stands at placeholders is ignored.
        image_embeds: (I, N, h); I equals the number of placeholders, or is 1 when there are none (then it only keeps
            the projector in the graph, with gradient 0, which data-parallel training needs).
        attention_mask: (B, T), 1 = real; all ones when None. Left or right padding.
        labels: (B, T) with ``IGNORE_INDEX`` where no loss is taken.

    Raises:
        ValueError: placeholders and images do not match.
    """
    is_image = input_ids == IMAGE_TOKEN_INDEX
    placeholders = check_image_count(input_ids, len(image_embeds))
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids.dtype)
    if placeholders == 0:
        return Merged(word_embeds + 0 * image_embeds.sum(), mask, labels)
    per_image = image_embeds.shape[1]
    span = torch.where(is_image, per_image, 1)
    length = span.sum(dim=1, keepdim=True)
    longest = int(length.max())
    start = span.cumsum(dim=1) - span
    if bool((mask[:, 0] == 0).any()):
        start = start + (longest - length)
    rows = torch.arange(len(input_ids), device=input_ids.device).unsqueeze(1).expand_as(input_ids)
    word_at = (rows[~is_image], start[~is_image])
    offsets = torch.arange(per_image, device=input_ids.device)
    image_at = (rows[is_image].unsqueeze(1), start[is_image].unsqueeze(1) + offsets)

    shape = (len(input_ids), longest)
    embeds = word_embeds.new_zeros(*shape, word_embeds.shape[-1])
    embeds = embeds.index_put(word_at, word_embeds[~is_image])
    embeds = embeds.index_put(image_at, image_embeds.to(word_embeds.dtype))
    merged_mask = mask.new_zeros(shape).index_put(word_at, mask[~is_image])
    merged_mask = merged_mask.index_put(image_at, mask.new_ones(()))
    merged_labels = None
    if labels is not None:
        merged_labels = labels.new_full(shape, IGNORE_INDEX).index_put(word_at, labels[~is_image])
    return Merged(embeds, merged_mask, merged_labels)
