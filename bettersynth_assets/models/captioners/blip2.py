"""BLIP-2 as a captioner. In: RGB images. Out: one caption each, as generated.

For ``Blip2ForConditionalGeneration`` checkpoints with a decoder-only (OPT) or encoder-decoder (Flan-T5) language model.
Equal images in equal batches give equal text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bettersynth_assets.models.captioners.generation import GenerativeCaptioner
from bettersynth_assets.models.gpu.token_decoding import TokenDecoder

if TYPE_CHECKING:
    from torch import Tensor


class Blip2Captioner(GenerativeCaptioner):
    """BLIP-2; without a prompt unless the recipe sets one."""

    loaded_by = "Blip2ForConditionalGeneration"
    names = re.compile(r"blip-?2", re.I)

    def _decoder(self) -> TokenDecoder | None:
        only_decodes = self._model.config.use_decoder_only_language_model
        return TokenDecoder(self._model.language_model) if only_decodes else None

    def _row(self, prompt: str) -> Tensor:
        """Return one placeholder per query of the Q-Former, followed by the text's tokens."""
        import torch

        config = self._model.config
        placeholders = [config.image_token_id] * config.num_query_tokens
        return torch.tensor(placeholders + self._processor.tokenizer(prompt)["input_ids"])

    def _features(self, pixels: Tensor) -> Tensor:
        return self._model.get_image_features(pixels).pooler_output
