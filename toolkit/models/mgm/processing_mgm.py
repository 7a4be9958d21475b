"""Everything between raw rows and the model's inputs, saved and loaded beside the weights.

In: turns of text and pictures. Out: token ids, labels, and both pixel tensors; see ``conversation`` and ``images``.
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

from toolkit.data.padding import padded_texts
from toolkit.models.conversation import EncodedRow, Turn
from toolkit.models.mgm.aspect import Aspect
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.conversation import check_tokenizer, encode_answer, encode_prompt, encode_row
from toolkit.models.mgm.images import Pixels, grey_levels, normalise, squares
from toolkit.models.mgm.merging import lay_out
from toolkit.models.mgm.names import IMAGE_TOKEN_INDEX


@dataclass(frozen=True, kw_only=True)
class MGMProcessor:
    """Tokenizer and image preprocessing of one MGM model.

    Args:
        tokenizer: a fast tokenizer with Gemma's turn marks; loaded from a local folder or hub id.
        image_processor: CLIP's on Pillow, set to the high resolution S. The one on torchvision rounds otherwise.
        image_size: low resolution s.
        image_tokens: embeddings that one image becomes; they count towards ``max_length``.
        max_length: longest row in positions after images are put in; the kit's 2048.
    """

    tokenizer: PreTrainedTokenizerBase
    image_processor: CLIPImageProcessorPil
    image_size: int
    image_tokens: int
    max_length: int = 2048

    def __post_init__(self) -> None:
        check_tokenizer(self.tokenizer)
        if self.max_length <= self.image_tokens:
            raise ValueError(f"max_length {self.max_length} leaves no room beside the {self.image_tokens} image tokens")

    @classmethod
    def for_config(cls, config: MGMConfig, tokenizer: PreTrainedTokenizerBase) -> MGMProcessor:
        """The processor that belongs to a model's config: CLIP's mean and deviation, the config's two sizes."""
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
            kwargs: what ``AutoProcessor`` adds; without effect.
        """
        config = MGMConfig.from_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)  # its tokenizer.json as it is
        made = cls.for_config(config, tokenizer)
        saved = CLIPImageProcessorPil.from_pretrained(folder)
        crop, edge = saved.crop_size, saved.size.get("shortest_edge")
        side = config.image_size_aux
        if not crop["height"] == crop["width"] == edge == side:
            raise ValueError(
                f"{folder}: preprocessor_config.json resizes to {edge} and crops to {crop['height']}, "
                f"config.json says {side}; all must be the same"
            )
        return cls(**{**vars(made), "image_processor": saved})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer files and ``preprocessor_config.json`` beside the model's ``config.json``."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def encode_row(self, turns: Sequence[Turn], *, row_id: str) -> EncodedRow:
        """Ids and labels of a training row, cut to ``max_length`` positions; see ``conversation.encode_row``."""
        images = sum(turn.text.count("<image>") > 0 for turn in turns)
        room = self.max_length - images * (self.image_tokens - 1)
        return encode_row(self.tokenizer, turns, row_id=row_id, room=room)

    def encode_prompt(self, question: str) -> list[int]:
        """Ids of a question, up to where the answer begins."""
        return encode_prompt(self.tokenizer, question)

    def encode_answer(self, answer: str) -> list[int]:
        """Ids of an answer after a prompt, without its end; see ``conversation.encode_answer``."""
        return encode_answer(self.tokenizer, answer)

    def positions(self, input_ids: Sequence[int]) -> int:
        """Length of a row after its placeholders have become image embeddings."""
        return len(input_ids) + (self.image_tokens - 1) * sum(i == IMAGE_TOKEN_INDEX for i in input_ids)

    @cached_property
    def _levels(self) -> dict[torch.device, Tensor]:
        return {torch.device("cpu"): grey_levels(self.image_processor)}

    @property
    def side(self) -> int:
        """High resolution S in pixels."""
        return int(self.image_processor.crop_size["height"])

    def squares(self, images: Sequence[Image.Image], *, aspect: Aspect) -> Tensor:
        """(I, S, S, 3) uint8: pictures resized and cropped; see ``images.squares``."""
        return squares(images, side=self.side, resample=int(self.image_processor.resample), aspect=aspect)

    def normalise(self, pictures: Tensor) -> Pixels:
        """Both pixel tensors of some :meth:`squares`, on their device; see ``images.normalise``."""
        # Kept on each device: a copy in every step would make the processor wait for all that the GPU has to do.
        if pictures.device not in self._levels:
            self._levels[pictures.device] = self._levels[torch.device("cpu")].to(pictures.device)
        return normalise(pictures, self._levels[pictures.device], image_size=self.image_size)

    def pixel_inputs(self, pictures: Tensor) -> dict[str, Tensor]:
        """The model's inputs of some :meth:`squares`, on their device."""
        return self.normalise(pictures)._asdict()

    def text_inputs(
        self, ids: Sequence[NDArray[np.int64]], labels: Sequence[NDArray[np.int64]], *, multiple: int
    ) -> dict[str, Any]:
        """``input_ids``, ``labels``, ``attention_mask`` (B, T), and ``layout``, see ``merging.lay_out``."""
        padded = padded_texts(ids, labels, pad=self.tokenizer.pad_token_id or 0)
        layout = lay_out(
            padded["input_ids"], padded["attention_mask"], padded["labels"], image_tokens=self.image_tokens,
            multiple=multiple,
        )  # fmt: skip
        return {**padded, "layout": layout}

    def preprocess(self, images: Sequence[Image.Image], *, aspect: Aspect) -> Pixels:
        """Both pixel tensors of some RGB pictures."""
        return self.normalise(self.squares(images, aspect=aspect))
