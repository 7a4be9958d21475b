"""Loads captioners. In: RGB images. Out: one caption each, as generated.

``Captioner`` is the interface of all captioning models. A checkpoint's configuration determines its class (see
``captioners``); an address instead of a checkpoint is handled by ``served``. Decoding is greedy by default, or draws
tokens if the recipe asks for it; both give equal text for equal images in equal batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from PIL import Image

from bettersynth_assets.config.model_type import model_type
from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.config.resolved_model import ResolvedModel
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.decoding import Prepare
from bettersynth_assets.models.batch_size import RequestedBatch, fit_batch, initial_batch
from bettersynth_assets.models.batching import BatchSize
from bettersynth_assets.models.captioners import CAPTIONERS
from bettersynth_assets.models.captioners.served import ServedCaptioner
from bettersynth_assets.records.reserved import CaptionError
from bettersynth_assets.scheduler.devices import first_device

PROBED_TOKENS = 64
"""Length of the captions for which a fitting batch size is found."""


class Captioner(Protocol):
    """Images in, captions out."""

    device: str
    batch: BatchSize
    default_prompt: str
    """Prompt that is used if the recipe sets no ``caption.prompt``."""

    prepare: Prepare
    """Converts one RGB image to the model's input; thread-safe."""

    def captions(
        self,
        images: Sequence[Any],
        *,
        prompt: str,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> Sequence[str | CaptionError]:
        """Caption images, RGB or prepared; the prompt is not part of the captions.

        An image without a caption, which only happens with a served model, has an error in its place. With
        ``sampling``, ``keys`` holds one id per image, which alone determines its random numbers.
        """


def load_captioner(model: ResolvedModel, gpu: Gpu) -> Captioner:
    """Load a profile's captioner to its first device, once per process for all shards."""
    if model.is_served:
        return _connect(model.name, initial_batch(gpu.caption_batch, 128))
    return _load(model, first_device(gpu), gpu.dtype, gpu.caption_batch, gpu.batch_sizes)


@lru_cache(maxsize=1)
def _load(model: ResolvedModel, device: str, dtype: str, batch: RequestedBatch, sizes_file: str | None) -> Captioner:
    captioner: Captioner = captioner_class(model)(
        model.name, device=device, dtype=dtype, batch=initial_batch(batch, 32)
    )
    if batch == "auto":
        grey, prompt = Image.new("RGB", (336, 336)), captioner.default_prompt

        def caption(rows: int) -> object:
            return captioner.captions([grey] * rows, prompt=prompt, max_new_tokens=PROBED_TOKENS)

        fit_batch(captioner, caption, name=f"{model.fingerprint} {dtype}", sizes_file=sizes_file)
    return captioner


@lru_cache(maxsize=1)
def _connect(model: str, batch: int) -> Captioner:
    return ServedCaptioner(model, batch=batch)


def captioner_class(model: ResolvedModel) -> Callable[..., Captioner]:
    """Return the class that loads a checkpoint, or connects to a served model.

    Raises:
        ConfigError: there is no ``config.json``, or its model is not a known captioner.
    """
    if model.is_served:
        return ServedCaptioner
    kind, description = model_type(model.name)
    if kind is None or kind not in CAPTIONERS.names():
        known = " or ".join(CAPTIONERS.names())
        raise ConfigError(
            f"models.captioner = {model.name!r}: {description}, but captioners are of type {known}: use a "
            "BLIP-2 or LLaVA-1.5 checkpoint as written by save_pretrained, or a hub id that can be reached"
        )
    loader: Callable[..., Captioner] = CAPTIONERS.get(kind)
    return loader


def captioner_key(model: ResolvedModel, gpu: Gpu) -> dict[str, Any]:
    """Return what captions depend on besides rows and recipe: the model and, if it is loaded here, how it runs."""
    if model.is_served:
        return {"captioner": model.fingerprint}
    return {
        "captioner": model.fingerprint,
        "gpu": gpu.key("captioner"),
        **CAPTIONERS.code_key("captioner_code", lambda: model.type),
    }
