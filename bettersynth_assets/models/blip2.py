"""BLIP-2 as a captioner. In: RGB images. Out: one caption each, as the model wrote it.

For ``Blip2ForConditionalGeneration`` checkpoints. The same images in the same batches give the same text. Captions of a
decoder-only language model are ``token_decoding``'s, all others those of transformers' ``generate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bettersynth_assets.config.devices import model_path
from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.models.sampling import generate_arguments, numbers_for
from bettersynth_assets.models.token_decoding import TokenDecoder


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
        self.prepare, levels = resizing(self._processor.image_processor)
        self._levels = None if levels is None else levels.to(device)
        only_decodes = self._model.config.use_decoder_only_language_model
        self._decode = TokenDecoder(self._model.language_model) if only_decodes else None

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
        import torch

        numbers = numbers_for(sampling, keys, len(images), max_new_tokens)

        def caption_batch(part: range) -> list[str]:
            at = slice(part.start, part.stop)
            pixels = as_pixels(images[at], self.prepare, self._levels, self.device, self.dtype)
            with torch.inference_mode(), threads_for(self._model.num_parameters()):
                own = None if numbers is None else torch.from_numpy(numbers[at]).to(self.device)
                make = self._generated_tokens if self._decode is None else self._decoded_tokens
                return self._texts(make(pixels, prompt, max_new_tokens, sampling, own))

        return in_batches(range(len(images)), self.batch, caption_batch)  # type: ignore[arg-type]

    def _row(self, prompt: str) -> list[int]:
        """What every row reads: as many placeholders as the Q-Former has queries, then the text."""
        config = self._model.config
        return [config.image_token_index] * config.num_query_tokens + self._processor.tokenizer(prompt)["input_ids"]

    def _decoded_tokens(
        self, pixels: Any, prompt: str, max_new_tokens: int, sampling: Sampling | None, numbers: Any
    ) -> Any:
        import torch

        row = torch.tensor(self._row(prompt), device=self.device)
        text = self._model.get_input_embeddings()(row)  # (P, h)
        embeds = text.repeat(len(pixels), 1, 1)
        embeds[:, row == self._model.config.image_token_index] = self._model.get_image_features(pixels).to(text.dtype)
        assert self._decode is not None
        most = self.batch.size
        return self._decode(embeds, new_tokens=max_new_tokens, most=most, sampling=sampling, numbers=numbers)

    def _generated_tokens(
        self, pixels: Any, prompt: str, max_new_tokens: int, sampling: Sampling | None, numbers: Any
    ) -> Any:
        import torch

        input_ids = torch.tensor([self._row(prompt)] * len(pixels), device=self.device)
        return self._model.generate(
            pixel_values=pixels,
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=max_new_tokens,
            **generate_arguments(sampling, numbers),
        )

    def _texts(self, tokens: Any) -> list[str]:
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]
