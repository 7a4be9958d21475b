"""Makes captions. In: RGB images. Out: one caption each, as the model wrote it.

``Captioner`` is the interface that any captioning model follows; ``Blip2Captioner`` is the one for
``Blip2ForConditionalGeneration`` checkpoints. Greedy decoding: the same images in the same batches give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from bettersynth_assets.config.devices import limit_memory, model_fingerprint, model_path, resolve_devices
from bettersynth_assets.config.profile import Gpu, Profile
from bettersynth_assets.operators.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.operators.pixels import as_pixels, resizing


class Captioner(Protocol):
    """Images in, captions out."""

    batch: BatchSize

    def prepare(self, image: Any) -> Any:
        """Bring one RGB image to the model's input; safe to call from several threads."""

    def captions(self, images: Sequence[Any], *, prompt: str, max_new_tokens: int) -> list[str]:
        """Caption images, RGB or prepared; the prompt is not part of what comes back."""


class Blip2Captioner:
    """BLIP-2 with a decoder-only (OPT) or encoder-decoder (Flan-T5) language model."""

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

    def captions(self, images: Sequence[Any], *, prompt: str = "", max_new_tokens: int = 30) -> list[str]:
        """Caption images greedily.

        Args:
            images: RGB images, or what ``prepare`` made of them; length n.
            prompt: text that the caption goes on from; "" for none.
            max_new_tokens: tokens after which a caption is cut off.

        Returns:
            n captions, stripped, without the prompt and special tokens.
        """

        def caption_batch(part: Sequence[Any]) -> list[str]:
            return self._caption(part, prompt, max_new_tokens)

        return in_batches(images, self.batch, caption_batch)

    def _caption(self, images: Sequence[Any], prompt: str, max_new_tokens: int) -> list[str]:
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
                do_sample=False,
                num_beams=1,
            )
        if config.use_decoder_only_language_model:
            output = output[:, len(row) :]
        return [caption.strip() for caption in tokenizer.batch_decode(output, skip_special_tokens=True)]


def load_captioner(model: str, gpu: Gpu) -> Captioner:
    """The profile's captioner on its first device; loaded once per process for all shards."""
    device = resolve_devices(gpu)[0]
    limit_memory(device, gpu.memory_limit_gib)
    return _load(model_path(model, role="captioner"), model_fingerprint(model), device, gpu.dtype, gpu.caption_batch)


@lru_cache(maxsize=1)
def _load(model: str, fingerprint: str, device: str, dtype: str, batch: int) -> Captioner:
    return Blip2Captioner(model, device=device, dtype=dtype, batch=batch)


def captioner_key(profile: Profile) -> dict[str, Any]:
    """What captions depend on besides rows and the recipe: weights, dtype and batch size."""
    gpu = profile.gpu
    return {
        "captioner": model_fingerprint(profile.models.captioner),
        "dtype": gpu.dtype,
        "batch": gpu.caption_batch,
    }
