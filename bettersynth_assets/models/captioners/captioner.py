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

from bettersynth_assets.config.address import address, is_address
from bettersynth_assets.config.devices import first_device, model_fingerprint, model_path
from bettersynth_assets.config.profile import Gpu, Profile
from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.batch_size import Asked, fit_batch, fixed
from bettersynth_assets.models.batching import BatchSize
from bettersynth_assets.models.captioners import CAPTIONERS
from bettersynth_assets.models.captioners.served import ServedCaptioner
from bettersynth_assets.models.model_type import model_type
from bettersynth_assets.records.reserved import CaptionError

PROBED_TOKENS = 64
"""Length of the captions for which a fitting batch size is found."""


class Captioner(Protocol):
    """Images in, captions out."""

    device: str
    batch: BatchSize
    default_prompt: str
    """Prompt that is used if the recipe sets no ``caption.prompt``."""

    prepare: Callable[[Any], Any]
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


def load_captioner(model: str, gpu: Gpu) -> Captioner:
    """Load the profile's captioner to its first device, once per process for all shards."""
    if is_address(model):
        return _reach(model, fixed(gpu.caption_batch, 128))
    name = model_path(model, role="captioner")
    fingerprint = model_fingerprint(model, role="captioner")
    return _load(name, fingerprint, first_device(gpu), gpu.dtype, gpu.caption_batch, gpu.batch_sizes)


@lru_cache(maxsize=1)
def _load(model: str, fingerprint: str, device: str, dtype: str, batch: Asked, kept: str | None) -> Captioner:
    captioner: Captioner = captioner_class(model)(model, device=device, dtype=dtype, batch=fixed(batch, 32))
    if batch == "auto":
        grey, prompt = Image.new("RGB", (336, 336)), captioner.default_prompt

        def caption(rows: int) -> object:
            return captioner.captions([grey] * rows, prompt=prompt, max_new_tokens=PROBED_TOKENS)

        fit_batch(captioner, caption, name=f"{fingerprint} {dtype}", kept=kept)
    return captioner


@lru_cache(maxsize=1)
def _reach(model: str, batch: int) -> Captioner:
    return ServedCaptioner(model, batch=batch)


def captioner_class(model: str) -> Callable[..., Captioner]:
    """Return the class that loads a checkpoint, or connects to a served model.

    Raises:
        ConfigError: there is no ``config.json``, or its model is not a known captioner.
    """
    if is_address(model):
        return ServedCaptioner
    found, says = model_type(model)
    if found is None or found not in CAPTIONERS.names():
        raise ConfigError(
            f"models.captioner = {model!r}: {says}, but captioners are of type {' or '.join(CAPTIONERS.names())}: use "
            "a BLIP-2 or LLaVA-1.5 checkpoint as written by save_pretrained, or a hub id that can be reached"
        )
    loader: Callable[..., Captioner] = CAPTIONERS.get(found)
    return loader


def captioner_key(profile: Profile) -> dict[str, Any]:
    """Return what captions depend on besides rows and recipe: the model and, if it is loaded here, how it runs."""
    if is_address(profile.models.captioner):
        return {"captioner": address(profile.models.captioner).key}
    return {
        "captioner": model_fingerprint(profile.models.captioner, role="captioner"),
        "gpu": profile.gpu.key("captioner"),
        **CAPTIONERS.code_key(
            "captioner_code", lambda: model_type(model_path(profile.models.captioner, role="captioner"))[0]
        ),
    }
