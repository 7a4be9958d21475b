"""LLaVA as a captioner. In: RGB images and one question. Out: one answer each, as the model wrote it.

For ``LlavaForConditionalGeneration`` checkpoints (LLaVA-1.5). All rows of a batch are asked the same, so their prompts
have one length and nothing is padded. A model that follows instructions writes more than BLIP-2, and long captions hurt
in the contest: the default question asks for one short sentence, and an answer that the limit of tokens broke off is
cut back to what is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bettersynth_assets.config.devices import model_path
from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.models.caption_cleaning import whole
from bettersynth_assets.models.sampling import numbers_for
from bettersynth_assets.models.token_decoding import TokenDecoder

PROMPT = (
    "Name the main elements of this picture in one short, plain sentence of at most 20 words. Say only what can be "
    "seen, as briefly as you can: no mood, no guesses, nothing about the style. Keep to this form: "
    "A little girl in blue clothes sits on a swing in a park."
)
CHAT = "USER: <image>\n{prompt} ASSISTANT:"
"""LLaVA-1.5's form of a question, for checkpoints that bring no chat template."""


class LlavaCaptioner:
    """LLaVA-1.5 and checkpoints of the same class."""

    default_prompt = PROMPT

    def __init__(self, model: str, *, device: str = "cpu", dtype: str = "float32", batch: int = 32) -> None:
        """Load a checkpoint.

        Args:
            model: a local folder or a hub id.
            device: torch device.
            dtype: ``float32`` or ``bfloat16``.
            batch: images per model call.

        Raises:
            ConfigError: the folder does not exist.
        """
        import torch
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        name = model_path(model, role="captioner")
        self.device = device
        self.dtype = getattr(torch, dtype)
        self.batch = BatchSize(batch)
        self._model = LlavaForConditionalGeneration.from_pretrained(name, dtype=self.dtype).eval().to(device)
        self._processor = AutoProcessor.from_pretrained(name)
        self.prepare, levels = resizing(self._processor.image_processor)
        self._levels = None if levels is None else levels.to(device)
        self._decode = TokenDecoder(self._model)

    def captions(
        self,
        images: Sequence[Any],
        *,
        prompt: str = PROMPT,
        max_new_tokens: int = 40,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[str]:
        """Ask for each image's caption; arguments as ``Blip2Captioner.captions``.

        Returns:
            n answers, stripped, without the question; those that did not end within ``max_new_tokens`` end with their
            last whole sentence, or else word.
        """
        import torch

        numbers = numbers_for(sampling, keys, len(images), max_new_tokens)
        question = self._question(prompt)

        def caption_batch(part: range) -> list[str]:
            at = slice(part.start, part.stop)
            pixels = as_pixels(images[at], self.prepare, self._levels, self.device, self.dtype)
            with torch.inference_mode(), threads_for(self._model.num_parameters()):
                own = None if numbers is None else torch.from_numpy(numbers[at]).to(self.device)
                return self._texts(self._tokens(pixels, question, max_new_tokens, sampling, own))

        return in_batches(range(len(images)), self.batch, caption_batch)  # type: ignore[arg-type]

    def _question(self, prompt: str) -> Any:
        """(1, L) token ids of the question, with as many placeholders as an image has features."""
        from PIL import Image

        processor = self._processor
        if processor.chat_template:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            turn = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(turn, add_generation_prompt=True)
        else:
            text = CHAT.format(prompt=prompt)
        # Its own count of placeholders depends on the size that every image is brought to, so one image tells it.
        return processor(images=Image.new("RGB", (64, 64)), text=text, return_tensors="pt")["input_ids"]

    def _tokens(self, pixels: Any, question: Any, max_new_tokens: int, sampling: Sampling | None, numbers: Any) -> Any:
        import torch

        row = question[0].to(self.device)
        text = self._model.get_input_embeddings()(row)  # (L, h)
        embeds = text.repeat(len(pixels), 1, 1)
        features = torch.stack(list(self._model.get_image_features(pixel_values=pixels)))  # (B, image tokens, h)
        embeds[:, row == self._model.config.image_token_index] = features.to(text.dtype)
        most = self.batch.size
        return self._decode(embeds, new_tokens=max_new_tokens, most=most, sampling=sampling, numbers=numbers)

    def _texts(self, tokens: Any) -> list[str]:
        import torch

        ends = self._model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [] if ends is None else [ends], device=tokens.device)
        ended = torch.isin(tokens, ends).any(dim=1).tolist()
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() if done else whole(text) for text, done in zip(texts, ended, strict=True)]
