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
    """Everything between raw rows and the model's inputs, saved and loaded next to the weights."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer."""

    @property
    def image_tokens(self) -> int:
        """Positions that one image takes in a sequence."""

    @property
    def side(self) -> int:
        """Side S in pixels of an image in :meth:`squares`."""

    def encode_row(self, turns: Sequence[Turn], *, row_id: str) -> EncodedRow:
        """Ids and labels of a training row, one placeholder per image, cut to the longest row."""

    def encode_prompt(self, question: str) -> list[int]:
        """Ids of a question, up to where the answer begins; ``<image>`` in it becomes the placeholder."""

    def encode_answer(self, answer: str) -> list[int]:
        """Ids of an answer after a prompt, without what ends it.

        Raises:
            ValueError: a special token in the text.
        """

    def text_inputs(
        self, ids: Sequence[NDArray[np.int64]], labels: Sequence[NDArray[np.int64]], *, multiple: int
    ) -> dict[str, Any]:
        """A batch's inputs that follow from its texts, in a loader process: padded on the right, placeholders laid out.

        Args:
            ids, labels: (T,) of each row.
            multiple: the length after images are put in is rounded up to a multiple of it.
        """

    def squares(self, images: Sequence[Image.Image], *, aspect: Aspect) -> Tensor:
        """(I, S, S, 3) uint8: images resized and cropped, in a loader process."""

    def pixel_inputs(self, images: Tensor) -> dict[str, Tensor]:
        """The model's inputs of some :meth:`squares`, on their device."""

    def save_pretrained(self, folder: str | Path) -> Any:
        """Write tokenizer and preprocessing next to the model's ``config.json``."""


class FeatureCache(Protocol):
    """Features of the frozen towers on disk, by image."""

    def fill(self, wanted: Mapping[Path | bytes, str], *, rank: int = 0, world: int = 1) -> int:
        """Compute what is missing; each of ``world`` processes takes its part.

        Args:
            wanted: id of a sample, to be named in errors, by image.

        Returns:
            Number of images computed.
        """

    def inputs(self, images: Sequence[Path | bytes]) -> list[Tensor]:
        """Features of images as the model takes them, in order."""
