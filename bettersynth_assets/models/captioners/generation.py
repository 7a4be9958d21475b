"""Common code of captioners that are asked one question per image. In: RGB images. Out: one text each.

All rows have the same question, so their prompts have equal length and need no padding. Tokens of a decoder-only
language model come from ``token_decoding``, those of other models from transformers' ``generate``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.models.checkpoints import load_model, load_processor
from bettersynth_assets.models.gpu.token_decoding import TokenDecoder
from bettersynth_assets.models.sampling import generate_arguments, uniforms_for

if TYPE_CHECKING:
    from torch import Tensor

    from bettersynth_assets.images.pixels import ImageBatch


class GenerativeCaptioner:
    """A model that reads an image's features between the tokens of a question; subclasses define the model."""

    loaded_by: str
    """Name of the transformers class."""
    names: re.Pattern[str]
    """Pattern of hub ids and served names of such models."""
    default_prompt = ""
    default_tokens = 30

    def __init__(self, model: str, *, device: str = "cpu", dtype: str = "float32", batch: int = 32) -> None:
        """Load a checkpoint.

        Args:
            model: an existing folder or a hub id.
            device: torch device.
            dtype: ``float32`` or ``bfloat16``.
            batch: images per model call.

        Raises:
            ConfigError: the folder holds no such checkpoint.
        """
        import torch
        import transformers

        self.device = device
        self.dtype = getattr(torch, dtype)
        self.batch = BatchSize(batch)
        model_class = getattr(transformers, self.loaded_by)
        label = f"models.captioner = {model!r}"
        self._model = load_model(model_class, model, dtype=self.dtype, label=label).to(device)
        self._processor = load_processor(model)
        self.prepare, levels = resizing(self._processor.image_processor)
        self._levels = None if levels is None else levels.to(device)
        self._decode = self._decoder()

    def captions(
        self,
        images: ImageBatch,
        *,
        prompt: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[str]:
        """Caption images.

        Args:
            images: RGB images or outputs of ``prepare``; length n.
            prompt: the question, or the text that the caption continues; None for ``default_prompt``.
            max_new_tokens: maximum number of tokens; None for ``default_tokens``.
            sampling: how tokens are drawn; None for greedy decoding.
            keys: n ids that, with the seed, determine what is drawn; required with ``sampling``.

        Returns:
            n captions, stripped, without the prompt and special tokens.
        """
        import torch

        limit = self.default_tokens if max_new_tokens is None else max_new_tokens
        uniforms = uniforms_for(sampling, keys, len(images), limit)
        row = self._row(self.default_prompt if prompt is None else prompt).to(self.device)
        make = self._generated_tokens if self._decode is None else self._decoded_tokens

        def caption_batch(rows: range) -> list[str]:
            selected = slice(rows.start, rows.stop)
            pixels = as_pixels(images[selected], self.prepare, self._levels, self.device, self.dtype)
            with torch.inference_mode(), threads_for(self._model.num_parameters()):
                batch_uniforms = None if uniforms is None else torch.from_numpy(uniforms[selected]).to(self.device)
                return self._texts(make(pixels, row, limit, sampling, batch_uniforms))

        return in_batches(range(len(images)), self.batch, caption_batch)

    def _decoder(self) -> TokenDecoder | None:
        """Return a decoder for the language model; None if it is not decoder-only."""
        return TokenDecoder(self._model)

    def _row(self, prompt: str) -> Tensor:
        """Return the (L,) token ids of every row, with one placeholder per feature of an image."""
        raise NotImplementedError

    def _features(self, pixels: Tensor) -> Tensor:
        """Return the image features, (B, placeholders, h)."""
        raise NotImplementedError

    def _texts(self, tokens: Tensor) -> list[str]:
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _decoded_tokens(
        self, pixels: Tensor, row: Tensor, new_tokens: int, sampling: Sampling | None, uniforms: Tensor | None
    ) -> Tensor:
        text: Tensor = self._model.get_input_embeddings()(row)  # (L, h)
        embeds = text.repeat(len(pixels), 1, 1)
        embeds[:, row == self._model.config.image_token_id] = self._features(pixels).to(text.dtype)
        assert self._decode is not None
        return self._decode(
            embeds, new_tokens=new_tokens, full_batch=self.batch.size, sampling=sampling, uniforms=uniforms
        )

    def _generated_tokens(
        self, pixels: Tensor, row: Tensor, new_tokens: int, sampling: Sampling | None, uniforms: Tensor | None
    ) -> Tensor:
        import torch

        input_ids = row.expand(len(pixels), -1)
        tokens: Tensor = self._model.generate(
            pixel_values=pixels,
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=new_tokens,
            **generate_arguments(sampling, uniforms),
        )
        return tokens
