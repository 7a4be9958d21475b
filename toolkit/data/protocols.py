"""Interfaces that the data code requires of an architecture: a processor and, optionally, a feature cache.

::

    LLaVA rows ─► Processor.encode_row ─► ids, labels ─┐  (loader processes)
    images     ─► Processor.squares ───► uint8 squares ┴─► Processor.text_inputs, pixel_inputs ─► the model
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.data.conversation import EncodedRow, Turn
from toolkit.images.aspect import Aspect

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class Processor(Protocol):
    """Converts raw rows to model inputs; saved and loaded next to the weights."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer."""

    @property
    def image_tokens(self) -> int:
        """Number of positions of one image in a sequence."""

    @property
    def side(self) -> int:
        """Side S of the images from :meth:`squares`, in pixels."""

    def encode_row(self, turns: Sequence[Turn], *, row_id: str) -> EncodedRow:
        """Return ids and labels of a training row, with one placeholder per image, truncated to the maximum length."""

    def encode_prompt(self, question: str) -> list[int]:
        """Return the ids of a question up to the start of its answer; ``<image>`` becomes the placeholder."""

    def encode_answer(self, answer: str) -> list[int]:
        """Return the ids of an answer after a prompt, without its end mark.

        Raises:
            ValueError: the text contains a special token.
        """

    def text_inputs(
        self, ids: Sequence[NDArray[np.int64]], labels: Sequence[NDArray[np.int64]], *, multiple: int
    ) -> dict[str, Any]:
        """Return a batch's text inputs, padded on the right; called in a loader process.

        Args:
            ids, labels: (T,) of each row.
            multiple: the length, including image positions, is rounded up to a multiple of this number.
        """

    def squares(self, images: Sequence[Image.Image], *, aspect: Aspect) -> Tensor:
        """Resize and crop images to (I, S, S, 3) uint8; called in a loader process."""

    def pixel_inputs(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the model's inputs from :meth:`squares`, on their device."""

    def save_pretrained(self, folder: str | Path) -> Any:
        """Write tokenizer and preprocessing next to the model's ``config.json``."""


class FeatureCache(Protocol):
    """Features of the frozen towers on disk, by image."""

    def fill(self, wanted: Mapping[Path | bytes, str], *, rank: int = 0, world: int = 1) -> int:
        """Compute missing features; each of ``world`` processes computes its share.

        Args:
            wanted: by image, the id of a sample that errors name.

        Returns:
            Number of images computed.
        """

    def inputs(self, images: Sequence[Path | bytes]) -> list[Tensor]:
        """Return the model's inputs for images, in order."""
