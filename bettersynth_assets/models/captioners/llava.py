"""LLaVA as a captioner. In: RGB images and one question. Out: one answer each, as generated.

For ``LlavaForConditionalGeneration`` checkpoints (LLaVA-1.5). An instruction-tuned model writes more than BLIP-2, and
long captions hurt in the contest. The default question therefore asks for one short sentence, and an answer that the
token limit cut off is shortened to its last complete part.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bettersynth_assets.models.captioners.generation import GenerativeCaptioner
from bettersynth_assets.models.captioners.sentences import trim_incomplete
from toolkit.tokens import IMAGE_TOKEN

if TYPE_CHECKING:
    from torch import Tensor

PROMPT = (
    "Name the main elements of this picture in one short, plain sentence of at most 20 words. Say only what can be "
    "seen, as briefly as you can: no mood, no guesses, nothing about the style. Keep to this form: "
    "A little girl in blue clothes sits on a swing in a park."
)
CHAT = f"USER: {IMAGE_TOKEN}\n{{prompt}} ASSISTANT:"
"""LLaVA-1.5's format of a question, for checkpoints without a chat template."""


class LlavaCaptioner(GenerativeCaptioner):
    """LLaVA-1.5 and other checkpoints of its class."""

    loaded_by = "LlavaForConditionalGeneration"
    names = re.compile(r"llava", re.I)
    default_prompt = PROMPT
    default_tokens = 40

    def _row(self, prompt: str) -> Tensor:
        """Tokenise the question with the checkpoint's chat template, or in LLaVA-1.5's format."""
        from PIL import Image

        processor = self._processor
        if processor.chat_template:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            turn = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(turn, add_generation_prompt=True)
        else:
            text = CHAT.format(prompt=prompt)
        # The number of placeholders depends on the model's image size only, so one image determines it.
        return processor(images=Image.new("RGB", (64, 64)), text=text, return_tensors="pt")["input_ids"][0]

    def _features(self, pixels: Tensor) -> Tensor:
        import torch

        return torch.stack(self._model.get_image_features(pixel_values=pixels).pooler_output)

    def _texts(self, tokens: Tensor) -> list[str]:
        """Decode answers; those cut off by the token limit end with their last complete sentence, or else word."""
        import torch

        end_tokens = self._model.generation_config.eos_token_id
        end_tokens = torch.tensor(
            end_tokens if isinstance(end_tokens, list) else [] if end_tokens is None else [end_tokens],
            device=tokens.device,
        )
        complete = torch.isin(tokens, end_tokens).any(dim=1).tolist()
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            text.strip() if is_complete else trim_incomplete(text)
            for text, is_complete in zip(texts, complete, strict=True)
        ]
