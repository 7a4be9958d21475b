"""Between raw rows and the inputs of ``LlavaForConditionalGeneration``.

::

    turns    ─► ids, one <image> per image ─► N of them per image ─► input_ids, attention_mask (B, T), targets (B, K)
    images   ─► squares (I, S, S, 3) uint8 ─► pixel_values (I, 3, S, S)

K columns of the batch hold a label in some row; logits are computed there alone.
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
from transformers import LlavaConfig, LlavaProcessor, PreTrainedTokenizerBase

from toolkit.data.conversation import IGNORE_INDEX, EncodedRow, Turn
from toolkit.data.padding import padded_texts
from toolkit.images.aspect import Aspect
from toolkit.images.squares import as_floats, squares
from toolkit.models.chat import ChatTemplate
from toolkit.tokens import IMAGE_TOKEN


@dataclass(frozen=True, kw_only=True)
class LlavaRows:
    """A ``LlavaProcessor`` as the trainer and the evaluation use it.

    Args:
        processor: the library's own; its chat template, else its tokenizer's, else LLaVA-1.5's lays out conversations.
        image_tokens: positions of one image.
        max_length: longest row in positions.
    """

    processor: LlavaProcessor
    image_tokens: int
    max_length: int = 2048

    def __post_init__(self) -> None:
        if self.max_length <= self.image_tokens:
            raise ValueError(f"max_length {self.max_length} leaves no room beside the {self.image_tokens} image tokens")

    @classmethod
    def of(cls, processor: LlavaProcessor, config: LlavaConfig) -> LlavaRows:
        """The processor of a checkpoint with its config.

        Raises:
            ValueError: images are not made square, or processor and config name different image tokens.
        """
        vision: Any = config.vision_config
        side = _side(processor.image_processor)
        if side != vision.image_size:
            raise ValueError(f"images are made {side} px wide, but the vision tower reads {vision.image_size} px")
        tokens = (vision.image_size // vision.patch_size) ** 2
        # CLIP's towers put a class token in front, which the strategy "default" drops.
        if config.vision_feature_select_strategy != "default":
            tokens += int(processor.num_additional_image_tokens)
        longest = min(2048, int(getattr(config.get_text_config(), "max_position_embeddings", 2048)))
        rows = cls(processor=processor, image_tokens=tokens, max_length=longest)
        if rows.template.image_token_id != config.image_token_id:
            raise ValueError(
                f"{processor.image_token!r} is token {rows.template.image_token_id} of the tokenizer, but config.json "
                f"says image_token_id {config.image_token_id}"
            )
        return rows

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer."""
        tokenizer: PreTrainedTokenizerBase = self.processor.tokenizer
        return tokenizer

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template: the processor's own, else the tokenizer's, else LLaVA-1.5's."""
        template = getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        return ChatTemplate(self.tokenizer, template, self.processor.image_token)

    @property
    def side(self) -> int:
        """Side S of an image in pixels."""
        return _side(self.processor.image_processor)

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        eos = self.tokenizer.eos_token_id
        return sorted({self.template.end, *([] if eos is None else [int(eos)])})

    @property
    def pad(self) -> int:
        """Id of padding."""
        pad = self.tokenizer.pad_token_id
        return self.ends[0] if pad is None else int(pad)

    def encode_row(self, turns: Sequence[Turn], *, row_id: str) -> EncodedRow:
        """Ids and labels of a training row, one image token per image, cut to ``max_length`` positions."""
        images = sum(IMAGE_TOKEN in turn.text for turn in turns)
        room = self.max_length - images * (self.image_tokens - 1)
        return self.template.encode(turns, row_id=row_id, room=room)

    def encode_prompt(self, question: str) -> list[int]:
        """Ids of a question, up to where the answer begins."""
        return self.template.encode_prompt(question)

    def encode_answer(self, answer: str) -> list[int]:
        """Ids of an answer after a prompt, without what ends it."""
        return self.template.encode_answer(answer)

    def text_inputs(
        self, ids: Sequence[NDArray[np.int64]], labels: Sequence[NDArray[np.int64]], *, multiple: int
    ) -> dict[str, Any]:
        """``input_ids``, ``attention_mask`` (B, T), ``logits_to_keep`` (K,), ``targets`` (B, K), ``image_count``
        (int)."""
        spans = [self._spans(row) for row in ids]
        longer = [[np.repeat(row, span) for row, span in zip(rows, spans, strict=True)] for rows in (ids, labels)]
        batch: dict[str, Any] = dict(padded_texts(*longer, pad=self.pad, multiple=multiple))
        targets = batch.pop("labels")
        columns = (targets[:, 1:] != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)
        image_count = sum(int((row == self.template.image_token_id).sum()) for row in ids)
        return {**batch, "logits_to_keep": columns, "targets": targets[:, columns + 1], "image_count": image_count}

    def prompt_inputs(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``position_ids`` (B, T) of prompts, padded on the left."""
        longer = [np.repeat(np.array(row, dtype=np.int64), self._spans(np.array(row))) for row in rows]
        flipped = padded_texts([row[::-1].copy() for row in longer], [row[::-1].copy() for row in longer], pad=self.pad)
        ids, mask = (flipped[name].flip(1) for name in ("input_ids", "attention_mask"))
        return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}

    def _spans(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(ids == self.template.image_token_id, self.image_tokens, 1)

    def squares(self, images: Sequence[Image.Image], *, aspect: Aspect) -> Tensor:
        """(I, S, S, 3) uint8: images resized and cropped, or squashed where the checkpoint's preprocessing does."""
        image_processor = self.processor.image_processor
        mean = tuple(int(255 * value) for value in image_processor.image_mean)
        return squares(
            images,
            side=self.side,
            resample=int(image_processor.resample),
            aspect=aspect,
            fill=mean,
            squash="height" in image_processor.size,
        )

    def pixel_inputs(self, images: Tensor) -> dict[str, Tensor]:
        """``pixel_values`` (I, 3, S, S) float32 of some :meth:`squares`, on their device."""
        if images.device not in self._levels:
            self._levels[images.device] = self._levels[torch.device("cpu")].to(images.device)
        return {"pixel_values": as_floats(images, self._levels[images.device])}

    @cached_property
    def _levels(self) -> dict[torch.device, Tensor]:
        """(3, 256): what each grey level becomes in each channel, by device."""
        image_processor = self.processor.image_processor
        ramp = torch.arange(256, dtype=torch.float32).expand(3, 256)
        levels = ramp * image_processor.rescale_factor if image_processor.do_rescale else ramp
        if image_processor.do_normalize:
            mean, deviation = (
                torch.tensor(values).view(3, 1) for values in (image_processor.image_mean, image_processor.image_std)
            )
            levels = (levels - mean) / deviation
        return {torch.device("cpu"): levels.contiguous()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer, chat template and preprocessing next to the model's ``config.json``."""
        self.processor.save_pretrained(folder)


def _side(image_processor: Any) -> int:
    """Side of the squares that an image processor makes.

    Raises:
        ValueError: they are not square.
    """
    crops = bool(getattr(image_processor, "do_center_crop", False))
    shape = image_processor.crop_size if crops else image_processor.size
    height, width = shape.get("height"), shape.get("width")
    if height is None or height != width:
        raise ValueError(f"the image processor makes images of {dict(shape)}; one square size is needed")
    return int(height)
