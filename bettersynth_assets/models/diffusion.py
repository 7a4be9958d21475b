"""Generates images from captions. In: captions and one key per row. Out: images, or None if refused at every try.

Supports any text-to-image pipeline of ``diffusers`` (Stable Diffusion 1, 2, XL, 3). A row's noise depends on its key
and the recipe's seed and is drawn on the CPU, so it is the same next to any neighbours, in any batch and on any device;
the image may differ in its last bits between batch sizes and devices. If the checkpoint's safety checker refuses an
image, the row is retried with other noise, up to ``tries`` times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.config.recipe import RegenerateSection
from bettersynth_assets.config.resolved_model import ResolvedModel
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.batching import BatchSize, batches, threads_for
from bettersynth_assets.scheduler.devices import limit_memory, resolve_devices
from toolkit.files import replacing
from toolkit.progress import Progress

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

PACKAGE = "diffusers"
QUALITY = 95
"""Quality of the JPEG files, whose colours are not subsampled."""


def check_package() -> None:
    """Check that ``diffusers`` is installed, before any row is processed.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            f"the recipe's `regenerate` section needs the package {PACKAGE!r}: "
            "pip install 'bettersynth-assets[operators]', or remove the section"
        )


class ImageMaker:
    """A text-to-image pipeline."""

    def __init__(self, model: str, *, device: str = "cpu", dtype: str = "float32", batch: int = 8) -> None:
        """Load a pipeline.

        Args:
            model: an existing folder or a hub id.
            device: torch device.
            dtype: ``float32`` or ``bfloat16``.
            batch: images per call.

        Raises:
            ConfigError: the folder has no text-to-image pipeline.
        """
        import torch
        from diffusers import AutoPipelineForText2Image
        from diffusers.utils import logging

        self.batch = BatchSize(batch)
        logging.disable_progress_bar()  # one bar per component on the step's stderr
        try:
            pipeline = AutoPipelineForText2Image.from_pretrained(model, torch_dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"models.diffusion = {model!r}: diffusers cannot load it as a text-to-image pipeline: use a folder of "
                f"save_pretrained or an accessible hub id ({str(error).splitlines()[0]})"
            ) from error
        self._pipeline = pipeline.to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        self._parameters = sum(
            weight.numel()
            for component in self._pipeline.components.values()
            if isinstance(component, torch.nn.Module)
            for weight in component.parameters()
        )

    def images(
        self, captions: Sequence[str], keys: Sequence[str], section: RegenerateSection
    ) -> Iterator[tuple[int, Image | None]]:
        """Generate one image per caption.

        Args:
            captions: length n.
            keys: n ids that, with the seed, determine each image's noise.
            section: the recipe's section with steps, guidance, side, seed and tries.

        Yields:
            (position, RGB image) as soon as it is generated, and finally (position, None) for each caption that was
            refused ``tries`` times.
        """
        pending = list(range(len(captions)))
        for attempt in range(section.tries):

            def make_images(positions: Sequence[int], attempt: int = attempt) -> list[tuple[int, Image | None]]:
                noise = [_generator(section.seed, attempt, keys[index]) for index in positions]
                return list(
                    zip(positions, self._make([captions[index] for index in positions], noise, section), strict=True)
                )

            refused = []
            for results in batches(pending, self.batch, make_images):
                refused += [index for index, image in results if image is None]
                yield from ((index, image) for index, image in results if image is not None)
            pending = refused
        yield from ((index, None) for index in pending)

    def _make(
        self, captions: list[str], noise: list[torch.Generator], section: RegenerateSection
    ) -> list[Image | None]:
        with threads_for(self._parameters):
            output = self._pipeline(
                captions,
                generator=noise,
                num_inference_steps=section.steps,
                guidance_scale=section.guidance,
                height=section.side,
                width=section.side,
            )
        refused = getattr(output, "nsfw_content_detected", None) or [False] * len(captions)
        return [None if is_refused else image for image, is_refused in zip(output.images, refused, strict=True)]


def save_image(image: Image, path: Path) -> None:
    """Write an image as a JPEG file atomically; equal images give equal bytes."""
    with replacing(path) as partial:
        image.convert("RGB").save(partial, "JPEG", quality=QUALITY, subsampling=0)


def image_files(
    maker: ImageMaker,
    captions: Sequence[str],
    keys: Sequence[str],
    paths: Sequence[Path],
    section: RegenerateSection,
    progress: Progress,
) -> list[Path | None]:
    """Generate one image file per caption, each written as soon as it is generated.

    Args:
        maker: the profile's pipeline.
        captions: length n.
        keys: see ``ImageMaker.images``.
        paths: n files to write.
        section: the recipe's ``regenerate`` section.
        progress: advanced by each caption.

    Returns:
        ``paths``, with None for each caption that was refused at every try.
    """
    written: list[Path | None] = list(paths)
    for position, image in maker.images(captions, keys, section):
        if image is None:
            written[position] = None
        else:
            save_image(image, paths[position])
        progress.add(1)
    return written


def _generator(random_seed: int, attempt: int, key: str) -> torch.Generator:
    import torch

    digest = hashlib.sha256(f"{random_seed} {attempt} {key}".encode("utf-8", "surrogatepass")).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def load_image_maker(model: ResolvedModel, gpu: Gpu) -> ImageMaker:
    """Load a profile's pipeline to its first device, once per process for all shards."""
    device = resolve_devices(gpu)[0]
    limit_memory(device, gpu.memory_limit_gib)
    return _load(model, device, gpu.dtype, gpu.diffusion_batch)


@lru_cache(maxsize=1)
def _load(model: ResolvedModel, device: str, dtype: str, batch: int) -> ImageMaker:
    return ImageMaker(model.name, device=device, dtype=dtype, batch=batch)
