"""LLaVA as a captioner. In: RGB images and one question. Out: one answer each, as the model wrote it.

For ``LlavaForConditionalGeneration`` checkpoints (LLaVA-1.5). A model that follows instructions writes more than
BLIP-2, and long captions hurt in the contest: the default question asks for one short sentence, and an answer that the
limit of tokens broke off is cut back to what is whole.
"""

from __future__ import annotations

import re
from typing import Any

from bettersynth_assets.models.captioners.generation import GenerativeCaptioner
from bettersynth_assets.models.captioners.sentences import whole

PROMPT = (
    "Name the main elements of this picture in one short, plain sentence of at most 20 words. Say only what can be "
    "seen, as briefly as you can: no mood, no guesses, nothing about the style. Keep to this form: "
    "A little girl in blue clothes sits on a swing in a park."
)
CHAT = "USER: <image>\n{prompt} ASSISTANT:"
"""LLaVA-1.5's form of a question, for checkpoints that bring no chat template."""


class LlavaCaptioner(GenerativeCaptioner):
    """LLaVA-1.5 and checkpoints of the same class."""

    loaded_by = "LlavaForConditionalGeneration"
    names = re.compile(r"llava", re.I)
    default_prompt = PROMPT
    default_tokens = 40

    def _row(self, prompt: str) -> Any:
        """The question in the checkpoint's chat template, or LLaVA-1.5's form."""
        from PIL import Image

        processor = self._processor
        if processor.chat_template:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            turn = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(turn, add_generation_prompt=True)
        else:
            text = CHAT.format(prompt=prompt)
        # Its own count of placeholders depends on the size that every image is brought to, so one image tells it.
        return processor(images=Image.new("RGB", (64, 64)), text=text, return_tensors="pt")["input_ids"][0]

    def _features(self, pixels: Any) -> Any:
        import torch

        return torch.stack(self._model.get_image_features(pixel_values=pixels).pooler_output)

    def _texts(self, tokens: Any) -> list[str]:
        """Answers that did not end within the limit of tokens end with their last whole sentence, or else word."""
        import torch

        ends = self._model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [] if ends is None else [ends], device=tokens.device)
        ended = torch.isin(tokens, ends).any(dim=1).tolist()
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() if done else whole(text) for text, done in zip(texts, ended, strict=True)]
