"""Preprocessing of MGM, stored next to the weights.

In: turns of text, and images. Out: token ids, labels and both pixel tensors; see ``language.conversation`` and
``vision.pixels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.data.conversation import EncodedRow, Turn
from toolkit.data.padding import padded_texts
from toolkit.images.aspect import Aspect
from toolkit.images.squares import grey_levels, squares
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.language.conversation import check_tokenizer, encode_answer, encode_prompt, encode_row
from toolkit.models.mgm.language.merging import lay_out
from toolkit.models.mgm.vision.pixels import Pixels, normalise
from toolkit.tokens import IMAGE_TOKEN


@dataclass(frozen=True, kw_only=True)
class MGMProcessor:
    """Tokenizer and image preprocessing of one MGM model.

    Args:
        tokenizer: a fast tokenizer with Gemma's turn marks, from a local folder or hub id.
        image_processor: CLIP's Pillow implementation, set to the high resolution S; torchvision's rounds differently.
        image_size: low resolution s.
        image_tokens: number of embeddings per image; they count towards ``max_length``.
        max_length: maximum length of a row with its image embeddings; 2048 in the kit.
    """

    tokenizer: PreTrainedTokenizerBase
    image_processor: CLIPImageProcessorPil
    image_size: int
    image_tokens: int
    max_length: int = 2048

    def __post_init__(self) -> None:
        check_tokenizer(self.tokenizer)
        if self.max_length <= self.image_tokens:
            raise ValueError(f"max_length {self.max_length} must be larger than the {self.image_tokens} image tokens")

    @classmethod
    def for_config(cls, config: MGMConfig, tokenizer: PreTrainedTokenizerBase) -> MGMProcessor:
        """Create the processor for a model's config: CLIP's mean and standard deviation, the config's two sizes."""
        side = config.image_size_aux
        return cls(
            tokenizer=tokenizer,
            image_processor=CLIPImageProcessorPil(
                size={"shortest_edge": side}, crop_size={"height": side, "width": side}
            ),
            image_size=config.image_size,
            image_tokens=config.image_tokens,
            max_length=min(2048, config.max_position_embeddings),
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> MGMProcessor:
        """Load from a checkpoint folder (``config.json``, tokenizer files, ``preprocessor_config.json``) or hub id.

        Args:
            folder: the folder or hub id.
            kwargs: ignored; ``AutoProcessor`` passes some.
        """
        config = MGMConfig.from_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)  # tokenizer.json without a model-specific class
        processor = cls.for_config(config, tokenizer)
        saved = CLIPImageProcessorPil.from_pretrained(folder)
        crop, edge = saved.crop_size, saved.size.get("shortest_edge")
        side = config.image_size_aux
        if not crop["height"] == crop["width"] == edge == side:
            raise ValueError(
                f"{folder}: preprocessor_config.json resizes to {edge} and crops to {crop['height']}, "
                f"config.json has {side}; all must be the same"
            )
        return cls(**{**vars(processor), "image_processor": saved})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer files and ``preprocessor_config.json`` next to the model's ``config.json``."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def encode_row(self, turns: Sequence[Turn], *, row_id: str) -> EncodedRow:
        """Encode a training row, truncated to ``max_length`` positions; see ``conversation.encode_row``."""
        images = sum(turn.text.count(IMAGE_TOKEN) > 0 for turn in turns)
        room = self.max_length - images * (self.image_tokens - 1)
        return encode_row(self.tokenizer, turns, row_id=row_id, room=room)

    def encode_prompt(self, question: str) -> list[int]:
        """Return the ids of a question up to the start of its answer."""
        return encode_prompt(self.tokenizer, question)

    def encode_answer(self, answer: str) -> list[int]:
        """Return the ids of an answer after a prompt, without its end mark; see ``conversation.encode_answer``."""
        return encode_answer(self.tokenizer, answer)

    def positions(self, input_ids: Sequence[int]) -> int:
        """Return the length of a row after image embeddings replace its placeholders."""
        return len(input_ids) + (self.image_tokens - 1) * sum(i == IMAGE_TOKEN_INDEX for i in input_ids)

    @cached_property
    def _levels(self) -> dict[torch.device, Tensor]:
        return {torch.device("cpu"): grey_levels(self.image_processor)}

    @property
    def side(self) -> int:
        """High resolution S in pixels."""
        return int(self.image_processor.crop_size["height"])

    def squares(self, images: Sequence[Image.Image], *, aspect: Aspect) -> Tensor:
        """Resize and crop images to (I, S, S, 3) uint8; see ``images.squares``."""
        return squares(images, side=self.side, resample=int(self.image_processor.resample), aspect=aspect)

    def normalise(self, images: Tensor) -> Pixels:
        """Compute both pixel tensors from :meth:`squares`, on their device; see ``vision.pixels``."""
        # Cached per device, because a host-to-device copy in every step would synchronize with the GPU.
        if images.device not in self._levels:
            self._levels[images.device] = self._levels[torch.device("cpu")].to(images.device)
        return normalise(images, self._levels[images.device], image_size=self.image_size)

    def pixel_inputs(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the model's inputs from :meth:`squares`, on their device."""
        return self.normalise(images)._asdict()

    def text_inputs(
        self, ids: Sequence[NDArray[np.int64]], labels: Sequence[NDArray[np.int64]], *, multiple: int
    ) -> dict[str, Any]:
        """Return ``input_ids``, ``labels``, ``attention_mask`` (B, T), and ``layout`` (see ``merging.lay_out``)."""
        padded = padded_texts(ids, labels, pad=self.tokenizer.pad_token_id or 0)
        layout = lay_out(
            padded["input_ids"], padded["attention_mask"], padded["labels"], image_tokens=self.image_tokens,
            multiple=multiple,
        )  # fmt: skip
        return {**padded, "layout": layout}

    def preprocess(self, images: Sequence[Image.Image], *, aspect: Aspect) -> Pixels:
        """Compute both pixel tensors of RGB images."""
        return self.normalise(self.squares(images, aspect=aspect))
