"""Image-text similarity by a CLIP-class model. In: images and captions. Out: one cosine per pair.

score        float32, cosine of the two normalised embeddings, [-1, 1]; Data-Juicer's ``image_text_similarity`` is the
             model's logit / 100, the same number wherever the model's logit scale is 100 (every public CLIP's is)
truncated    the caption has more tokens than the model's context (77 for public CLIPs); the rest of it is not seen

``clip_model`` loads OpenCLIP and transformers checkpoints; images are prepared by the checkpoint's own transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.config.devices import limit_memory, model_fingerprint, model_path, resolve_devices
from bettersynth_assets.config.profile import Gpu, Profile
from bettersynth_assets.operators.batching import BatchSize, Progress, in_batches, opened, threads_for
from bettersynth_assets.operators.clip_model import load_backend
from bettersynth_assets.operators.pixels import as_pixels
from bettersynth_assets.records.images import ImageError


class Pair(NamedTuple):
    """What is known of an image-text pair: its cosine, whether the caption is cut, the image's embedding (D,)."""

    score: float
    truncated: bool
    embedding: NDArray[np.float32]


class ClipScorer:
    """A loaded CLIP-class model."""

    def __init__(self, model: str, *, device: str = "cpu", dtype: str = "float32", batch: int = 64) -> None:
        """Load a checkpoint.

        Args:
            model: a local folder or a hub id.
            device: torch device.
            dtype: ``float32`` or ``bfloat16``; the cosine itself is always taken in float32.
            batch: pairs per model call.

        Raises:
            ConfigError: the folder does not exist.
        """
        import torch

        name = model_path(model, role="clip")
        self.device = device
        self.dtype = getattr(torch, dtype)
        self.batch = BatchSize(batch)
        self._backend = load_backend(name, device, self.dtype)

    def prepare(self, image: Any) -> Any:
        """Resize one RGB image to the model's size; safe to call from several threads.

        Where the checkpoint's transform ends in plain arithmetic, that is left to the device: a quarter of the bytes
        go there, and the threads have less to do.
        """
        return self._backend.image(image)

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> NDArray[np.float32]:
        """Score pairs.

        Args:
            images: RGB images, or what ``prepare`` made of them; length n.
            captions: plain text without special tokens; length n.

        Returns:
            Cosines, float32, shape (n,).
        """
        return np.asarray([pair.score for pair in self.pairs(images, captions)], np.float32)

    def pairs(self, images: Sequence[Any], captions: Sequence[str]) -> list[Pair]:
        """Score pairs as ``scores`` does, with what else a pass over them shows."""
        return in_batches(list(zip(images, captions, strict=True)), self.batch, self._score)

    def image_embeddings(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Embed images, RGB or prepared: the same normalised embeddings that scores are made of, float32, (n, D)."""
        found = in_batches(images, self.batch, self._embed)
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    def _embed(self, images: Sequence[Any]) -> list[NDArray[np.float32]]:
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode(), threads_for(self._backend.parameters):
            features = self._backend.image_features(self._pixels(images))
            return list(normalize(features.float(), dim=-1).cpu().numpy())

    def _pixels(self, images: Sequence[Any]) -> Any:
        """RGB or prepared images as the model reads them, (B, 3, H, W)."""
        return as_pixels(images, self.prepare, self._backend.levels, self.device, self.dtype)

    def _score(self, pairs: Sequence[tuple[Any, str]]) -> list[Pair]:
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode(), threads_for(self._backend.parameters):
            pixels = self._pixels([image for image, _ in pairs])
            inputs, truncated = self._backend.tokens([caption for _, caption in pairs])
            image = normalize(self._backend.image_features(pixels).float(), dim=-1)
            text = normalize(self._backend.text_features(inputs).float(), dim=-1)
            scores = (image * text).sum(-1).cpu().tolist()
            return [Pair(*pair) for pair in zip(scores, truncated, image.cpu().numpy(), strict=True)]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of files, in their order."""

    scores: NDArray[np.float32]
    """NaN where the image could not be decoded."""
    truncated: list[bool]
    """False where the image could not be decoded."""
    embeddings: NDArray[np.float32]
    """Of the images that could be decoded, normalised, in their order: (good, D); (0, 0) without any."""
    errors: dict[int, ImageError]
    """By position."""


def score_files(
    scorer: ClipScorer, paths: Sequence[Path], captions: Sequence[str], progress: Progress | None = None
) -> Scored:
    """Score image files against captions; a file that fails to decode leaves its neighbours as they are.

    Args:
        scorer: the model.
        paths: image files, length n.
        captions: plain text, length n.
        progress: told of each chunk's rows.
    """
    scores, truncated = np.full(len(paths), np.nan, np.float32), np.zeros(len(paths), bool)
    errors: dict[int, ImageError] = {}
    embeddings: list[NDArray[np.float32]] = []
    for first, items in opened(paths, scorer.batch.asked, scorer.prepare):
        good = [first + offset for offset, item in enumerate(items) if not isinstance(item, ImageError)]
        errors.update({first + at: item for at, item in enumerate(items) if isinstance(item, ImageError)})
        pairs = scorer.pairs([items[index - first] for index in good], [captions[index] for index in good])
        for index, pair in zip(good, pairs, strict=True):
            scores[index], truncated[index] = pair.score, pair.truncated
        embeddings += [pair.embedding for pair in pairs]
        if progress:
            progress.add(len(items))
    stacked = np.stack(embeddings) if embeddings else np.zeros((0, 0), np.float32)
    return Scored(scores=scores, truncated=truncated.tolist(), embeddings=stacked, errors=errors)


def embed_files(scorer: ClipScorer, paths: Sequence[Path]) -> list[NDArray[np.float32] | ImageError]:
    """Embed image files, (D,) each; a file that fails to decode gives its error in its place."""
    found: list[NDArray[np.float32] | ImageError] = []
    for _, items in opened(paths, scorer.batch.asked, scorer.prepare):
        embeddings = iter(scorer.image_embeddings([item for item in items if not isinstance(item, ImageError)]))
        found.extend(item if isinstance(item, ImageError) else next(embeddings) for item in items)
    return found


def load_scorer(model: str, gpu: Gpu) -> ClipScorer:
    """The profile's scorer on its first device; loaded once per process for all shards."""
    device = resolve_devices(gpu)[0]
    limit_memory(device, gpu.memory_limit_gib)
    return _load(model_path(model, role="clip"), model_fingerprint(model), device, gpu.dtype, gpu.clip_batch)


@lru_cache(maxsize=2)
def _load(model: str, fingerprint: str, device: str, dtype: str, batch: int) -> ClipScorer:
    return ClipScorer(model, device=device, dtype=dtype, batch=batch)


def scorer_key(profile: Profile) -> dict[str, Any]:
    """What scores depend on besides rows: weights, dtype and batch size (both move the last bits)."""
    gpu = profile.gpu
    return {"clip": model_fingerprint(profile.models.clip), "dtype": gpu.dtype, "batch": gpu.clip_batch}
