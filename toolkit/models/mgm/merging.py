"""Puts image embeddings where the image placeholders are.

::

    input_ids (B, T) with IMAGE_TOKEN_INDEX per image + features (I, N, h)  ─►  embeds (B, L, h), mask, labels (B, L)

L is the longest row after each placeholder has become N positions; shorter rows are padded on the side that the
attention mask already pads. :func:`lay_out` says where everything goes, from ids alone, so that a loader can do it and
the forward pass never has to wait for a GPU to tell it a shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.models.conversation import IGNORE_INDEX
from toolkit.models.mgm.names import IMAGE_TOKEN_INDEX


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
    """Where the words, images and labels of a batch go.

    Args:
        input_ids: (B, T) int64 with ``IMAGE_TOKEN_INDEX`` per image.
        attention_mask: (B, T), 1 = real; all ones when None. Left or right padding.
        labels: (B, T) with ``IGNORE_INDEX`` where no loss is taken.
        image_tokens: N, positions per image.
        multiple: L is rounded up to a multiple of it.

    Returns:
        ``mask`` (B, L) of 0/1; ``word_at`` (B, T) and ``image_at`` (I, N), positions in the flat (B·L), where B·L
        stands for nowhere. With labels also ``labels`` (B, L), and for each of the S positions whose next one has a
        label, in reading order: ``targets`` (S,), that label; ``labelled`` (S,), the position in the flat (B·L);
        ``label_row`` (S,), its row; and the same positions once more as ``label_at`` (B, M), columns per row padded
        with 0, in which they are ``label_slot`` (S,) of the flat (B·M).
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
    """Raise unless they are equal; a batch without placeholders may carry one zero image."""
    if placeholders != images and not (placeholders == 0 and images == 1):
        raise ValueError(f"{placeholders} image placeholders in input_ids but {images} images were given")


def place(layout: Mapping[str, Tensor], word_embeds: Tensor, image_embeds: Tensor) -> Tensor:
    """Put embeddings where a layout says.

    Args:
        layout: of :func:`lay_out`.
        word_embeds: (B, T, h); what stands at placeholders and padding is ignored.
        image_embeds: (I, N, h), images in reading order over the batch; I equals the number of placeholders, or is 1
            when there are none (then it only keeps the projector in the graph, with gradient 0, which data-parallel
            training needs).

    Returns:
        (B, L, h), zeros where there is padding.

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
    """:func:`lay_out` and :func:`place` in one."""
    layout = lay_out(input_ids, attention_mask, labels, image_tokens=image_embeds.shape[1])
    return Merged(place(layout, word_embeds, image_embeds), layout["mask"], layout.get("labels"))
