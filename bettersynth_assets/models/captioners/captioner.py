"""Makes captions. In: RGB images. Out: one caption each, as the model wrote it.

``Captioner`` is the interface that any captioning model follows. Which class a checkpoint is loaded by, its own
configuration says: see ``captioners``; an address in the place of one is ``served``'s. Greedy decoding by default,
drawn tokens where the recipe asks for them; both give the same text for the same images in the same batches.
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
"""Length of the captions for which a batch is found that fits."""


class Captioner(Protocol):
    """Images in, captions out."""

    device: str
    batch: BatchSize
    default_prompt: str
    """What it is asked where the recipe's ``caption.prompt`` says nothing."""

    prepare: Callable[[Any], Any]
    """Brings one RGB image to what the model is given; safe to call from several threads."""

    def captions(
        self,
        images: Sequence[Any],
        *,
        prompt: str,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        keys: Sequence[str] | None = None,
    ) -> Sequence[str | CaptionError]:
        """Caption images, RGB or prepared; the prompt is not part of what comes back.

        An image that gets no caption, which only happens with a served model, has an error in its place.
        With ``sampling``, ``keys`` holds one id per image, on which alone depends what is drawn for it.
        """


def load_captioner(model: str, gpu: Gpu) -> Captioner:
    """The profile's captioner on its first device; loaded once per process for all shards."""
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
    """The class that loads a checkpoint, or reaches a served one.

    Raises:
        ConfigError: no ``config.json`` there, or one of a model that is no captioner here.
    """
    if is_address(model):
        return ServedCaptioner
    found, says = model_type(model)
    if found is None or found not in CAPTIONERS.names():
        raise ConfigError(
            f"models.captioner = {model!r}: {says}, and captions are made by {' or '.join(CAPTIONERS.names())}: name a "
            "BLIP-2 or a LLaVA-1.5 checkpoint as save_pretrained leaves it, or a hub id that can be reached"
        )
    loader: Callable[..., Captioner] = CAPTIONERS.get(found)
    return loader


def captioner_key(profile: Profile) -> dict[str, Any]:
    """What captions depend on besides rows and the recipe: the model and, if loaded here, how it is used."""
    if is_address(profile.models.captioner):
        return {"captioner": address(profile.models.captioner).key}
    return {
        "captioner": model_fingerprint(profile.models.captioner, role="captioner"),
        "gpu": profile.gpu.key("captioner"),
        **CAPTIONERS.code_key(
            "captioner_code", lambda: model_type(model_path(profile.models.captioner, role="captioner"))[0]
        ),
    }
