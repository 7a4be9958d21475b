"""What captioners of images and one question have in common. In: RGB images. Out: one text each.

All rows are asked the same, so their prompts have one length and nothing is padded. A decoder-only language model's
tokens are ``token_decoding``'s, all others those of transformers' ``generate``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bettersynth_assets.config.devices import model_path
from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.models.checkpoints import load_model, load_processor
from bettersynth_assets.models.gpu.token_decoding import TokenDecoder
from bettersynth_assets.models.sampling import generate_arguments, numbers_for


class GenerativeCaptioner:
    """A model that reads an image's features between the tokens of a question; a class of it says which."""

    loaded_by: str
    """Class of transformers."""
    names: re.Pattern[str]
    """Of hub ids and served models of this kind."""
    default_prompt = ""
    default_tokens = 30

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
        import transformers

        name = model_path(model, role="captioner")
        self.device = device
        self.dtype = getattr(torch, dtype)
        self.batch = BatchSize(batch)
        model_class = getattr(transformers, self.loaded_by)
        called = f"models.captioner = {model!r}"
        self._model = load_model(model_class, name, dtype=self.dtype, called=called).to(device)
        self._processor = load_processor(name)
        self.prepare, levels = resizing(self._processor.image_processor)
        self._levels = None if levels is None else levels.to(device)
        self._decode = self._decoder()

    def captions(
        self,
        images: Sequence[Any],
        *,
        prompt: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[str]:
        """Caption images.

        Args:
            images: RGB images, or what ``prepare`` made of them; length n.
            prompt: what is asked, or what the caption goes on from; None is ``default_prompt``.
            max_new_tokens: tokens after which a caption is cut off; None is ``default_tokens``.
            sampling: how tokens are drawn; None takes the likeliest.
            keys: n ids that decide, with the seed, what is drawn; needed with ``sampling``.

        Returns:
            n captions, stripped, without the prompt and special tokens.
        """
        import torch

        most = self.default_tokens if max_new_tokens is None else max_new_tokens
        numbers = numbers_for(sampling, keys, len(images), most)
        row = self._row(self.default_prompt if prompt is None else prompt).to(self.device)
        make = self._generated_tokens if self._decode is None else self._decoded_tokens

        def caption_batch(part: range) -> list[str]:
            at = slice(part.start, part.stop)
            pixels = as_pixels(images[at], self.prepare, self._levels, self.device, self.dtype)
            with torch.inference_mode(), threads_for(self._model.num_parameters()):
                own = None if numbers is None else torch.from_numpy(numbers[at]).to(self.device)
                return self._texts(make(pixels, row, most, sampling, own))

        return in_batches(range(len(images)), self.batch, caption_batch)  # type: ignore[arg-type]

    def _decoder(self) -> TokenDecoder | None:
        """Of the language model; None where that is no decoder alone."""
        return TokenDecoder(self._model)

    def _row(self, prompt: str) -> Any:
        """(L,) token ids that every row reads, with as many placeholders as an image has features."""
        raise NotImplementedError

    def _features(self, pixels: Any) -> Any:
        """(B, placeholders, h)"""
        raise NotImplementedError

    def _texts(self, tokens: Any) -> list[str]:
        texts = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _decoded_tokens(self, pixels: Any, row: Any, new_tokens: int, sampling: Sampling | None, numbers: Any) -> Any:
        text = self._model.get_input_embeddings()(row)  # (L, h)
        embeds = text.repeat(len(pixels), 1, 1)
        embeds[:, row == self._model.config.image_token_id] = self._features(pixels).to(text.dtype)
        assert self._decode is not None
        return self._decode(embeds, new_tokens=new_tokens, most=self.batch.size, sampling=sampling, numbers=numbers)

    def _generated_tokens(self, pixels: Any, row: Any, new_tokens: int, sampling: Sampling | None, numbers: Any) -> Any:
        import torch

        input_ids = row.expand(len(pixels), -1)
        return self._model.generate(
            pixel_values=pixels,
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=new_tokens,
            **generate_arguments(sampling, numbers),
        )
