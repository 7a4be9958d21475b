"""Merging of word and image embeddings: image embeddings replace the image placeholders.

::

    input_ids (B, T) with IMAGE_TOKEN_INDEX per image + features (I, N, h)  ─►  embeds (B, L, h), mask, labels (B, L)

L is the length of the longest row after each placeholder is expanded to N positions. Shorter rows are padded on the
side on which the attention mask pads. :func:`lay_out` computes all positions from the ids alone, so that a loader
process can call it and the forward pass needs no GPU synchronization to determine shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.data.conversation import IGNORE_INDEX
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX


class Merged(NamedTuple):
    """``embeds`` (B, L, h); ``attention_mask`` (B, L) of 0/1; ``labels`` (B, L) or None."""

    embeds: Tensor
    attention_mask: Tensor
    labels: Tensor | None


def lay_out(
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    image_tokens: int,
    multiple: int = 1,
) -> dict[str, Tensor]:
    """Compute the positions of the words, images and labels of a batch.

    Args:
        input_ids: (B, T) int64 with one ``IMAGE_TOKEN_INDEX`` per image.
        attention_mask: (B, T), 1 = real token, padded on the left or on the right; None means all ones.
        labels: (B, T) with ``IGNORE_INDEX`` at positions without loss.
        image_tokens: N, positions per image.
        multiple: L is rounded up to a multiple of this number.

    Returns:
        ::

            mask        (B, L)  0/1
            word_at     (B, T)  position of each id in the flat (B·L); B·L for placeholders and padding
            image_at    (I, N)  position of each image embedding in the flat (B·L)

        With labels also the following, where S is the number of positions whose next position has a label, in reading
        order, and M is the largest number of them in a row::

            labels      (B, L)
            targets     (S,)    the label
            labelled    (S,)    the position in the flat (B·L)
            label_row   (S,)    the row
            label_at    (B, M)  columns of these positions per row, padded with 0
            label_slot  (S,)    index of the position in the flat (B·M) ``label_at``
    """
    is_image = input_ids == IMAGE_TOKEN_INDEX
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids.dtype)
    span = torch.where(is_image, image_tokens, 1) * mask
    length = span.sum(dim=1, keepdim=True)
    longest = -(-int(length.max()) // multiple) * multiple
    start = span.cumsum(dim=1) - span
    left = bool((mask[:, 0] == 0).any())
    if left:
        start = start + longest - length
    rows, device = len(input_ids), input_ids.device
    nowhere = rows * longest
    flat = start + longest * torch.arange(rows, device=device).unsqueeze(1)
    columns = torch.arange(longest, device=device)
    real = columns >= longest - length if left else columns < length
    layout = {
        "mask": real.to(mask.dtype),
        "word_at": torch.where(is_image | (mask == 0), nowhere, flat),
        "image_at": flat[is_image].unsqueeze(1) + torch.arange(image_tokens, device=device),
    }
    if labels is not None:
        spread = labels.new_full((nowhere + 1,), IGNORE_INDEX)
        spread = spread.index_copy(0, layout["word_at"].flatten(), labels.flatten())
        layout |= _labelled(spread[:-1].view(rows, longest))
    return layout


def _labelled(labels: Tensor) -> dict[str, Tensor]:
    rows, longest = labels.shape
    has_label = labels[:, 1:] != IGNORE_INDEX
    row, column = has_label.nonzero(as_tuple=True)
    most = max(1, int(has_label.sum(dim=1).max()))
    slot = (has_label.cumsum(dim=1) - 1)[row, column] + most * row
    label_at = labels.new_zeros(rows * most).index_copy(0, slot, column)
    return {
        "labels": labels,
        "targets": labels[row, column + 1],
        "labelled": row * longest + column,
        "label_row": row,
        "label_at": label_at.view(rows, most),
        "label_slot": slot,
    }


def check_image_count(placeholders: int, images: int) -> None:
    """Raise ``ValueError`` unless the numbers are equal; a batch without placeholders may have one zero image."""
    if placeholders != images and not (placeholders == 0 and images == 1):
        raise ValueError(f"{placeholders} image placeholders in input_ids but {images} images were given")


def place(layout: Mapping[str, Tensor], word_embeds: Tensor, image_embeds: Tensor) -> Tensor:
    """Place embeddings at the positions of a layout.

    Args:
        layout: from :func:`lay_out`.
        word_embeds: (B, T, h); values at placeholders and padding are ignored.
        image_embeds: (I, N, h), images in reading order of the batch. I equals the number of placeholders. It may be 1
            without placeholders: the image then only keeps the projector in the autograd graph with gradient 0, which
            data-parallel training requires.

    Returns:
        (B, L, h), zeros at padding.

    Raises:
        ValueError: placeholders and images do not match.
    """
    rows, longest = layout["mask"].shape
    check_image_count(len(layout["image_at"]), len(image_embeds))
    flat = word_embeds.new_zeros(rows * longest + 1, word_embeds.shape[-1])
    flat = flat.index_copy(0, layout["word_at"].flatten(), word_embeds.flatten(0, 1))
    if len(layout["image_at"]):
        image_embeds = image_embeds.to(word_embeds.dtype)
        flat = flat.index_copy(0, layout["image_at"].flatten(), image_embeds.flatten(0, 1))
    else:
        flat = flat + 0 * image_embeds.sum()
    return flat[:-1].view(rows, longest, -1)


def merge(
    input_ids: Tensor,
    word_embeds: Tensor,
    image_embeds: Tensor,
    *,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
) -> Merged:
    """Call :func:`lay_out` and :func:`place`."""
    layout = lay_out(input_ids, attention_mask, labels, image_tokens=image_embeds.shape[1])
    return Merged(place(layout, word_embeds, image_embeds), layout["mask"], layout.get("labels"))
