"""BLIP-2 as a captioner. In: RGB images. Out: one caption each, as the model wrote it.

For ``Blip2ForConditionalGeneration`` checkpoints. The same images in the same batches give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bettersynth_assets.config.devices import model_path
from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.operators.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.operators.pixels import as_pixels, resizing
from bettersynth_assets.operators.sampling import generate_arguments, numbers_for


class Blip2Captioner:
    """BLIP-2 with a decoder-only (OPT) or encoder-decoder (Flan-T5) language model."""

    default_prompt = ""

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
        from transformers import AutoProcessor, Blip2ForConditionalGeneration

        name = model_path(model, role="captioner")
        self.device = device
        self.dtype = getattr(torch, dtype)
        self.batch = BatchSize(batch)
        self._model = Blip2ForConditionalGeneration.from_pretrained(name, dtype=self.dtype).eval().to(device)
        self._processor = AutoProcessor.from_pretrained(name)
        self._resize, levels = resizing(self._processor.image_processor)
        self._levels = None if levels is None else levels.to(device)

    def prepare(self, image: Any) -> Any:
        """Resize one RGB image to the model's size (see ``pixels``); safe to call from several threads."""
        return self._resize(image)

    def captions(
        self,
        images: Sequence[Any],
        *,
        prompt: str = "",
        max_new_tokens: int = 30,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[str]:
        """Caption images.

        Args:
            images: RGB images, or what ``prepare`` made of them; length n.
            prompt: text that the caption goes on from; "" for none.
            max_new_tokens: tokens after which a caption is cut off.
            sampling: how tokens are drawn; None takes the likeliest.
            keys: n ids that decide, with the seed, what is drawn; needed with ``sampling``.

        Returns:
            n captions, stripped, without the prompt and special tokens.
        """
        numbers = numbers_for(sampling, keys, len(images), max_new_tokens)

        def caption_batch(part: range) -> list[str]:
            at = slice(part.start, part.stop)
            arguments = generate_arguments(sampling, None if numbers is None else numbers[at], self.device)
            return self._caption(images[at], prompt, max_new_tokens, arguments)

        return in_batches(range(len(images)), self.batch, caption_batch)  # type: ignore[arg-type]

    def _caption(self, images: Sequence[Any], prompt: str, max_new_tokens: int, arguments: dict[str, Any]) -> list[str]:
        import torch

        tokenizer, config = self._processor.tokenizer, self._model.config
        pixels = as_pixels(images, self.prepare, self._levels, self.device, self.dtype)
        # The image's place is taken by as many placeholders as the Q-Former has queries, before the text.
        text = tokenizer(prompt)["input_ids"]
        row = [config.image_token_index] * config.num_query_tokens + list(text)
        input_ids = torch.tensor([row] * len(pixels), device=self.device)
        with torch.inference_mode(), threads_for(self._model.num_parameters()):
            output = self._model.generate(
                pixel_values=pixels,
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=max_new_tokens,
                **arguments,
            )
        if config.use_decoder_only_language_model:
            output = output[:, len(row) :]
        return [caption.strip() for caption in tokenizer.batch_decode(output, skip_special_tokens=True)]
