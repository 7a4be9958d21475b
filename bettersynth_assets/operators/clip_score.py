"""Image-text similarity by a CLIP-class model. In: images and captions. Out: one cosine per pair.

score        float32, cosine of the two normalised embeddings, [-1, 1]; Data-Juicer's ``image_text_similarity`` is the
             model's logit / 100, the same number wherever the model's logit scale is 100 (every public CLIP's is)
truncated    the caption has more tokens than the model's context (77 for public CLIPs); the rest of it is not seen

One class loads OpenCLIP checkpoints (a folder with ``open_clip_config.json``, or ``hf-hub:org/name``) and transformers
CLIP checkpoints (any other folder or hub id). Images are prepared by the checkpoint's own transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.config.devices import (
    HUB_PREFIX,
    limit_memory,
    model_fingerprint,
    model_path,
    resolve_devices,
)
from bettersynth_assets.config.profile import Gpu, Profile
from bettersynth_assets.operators.batching import BatchSize, Progress, in_batches, opened, threads_for
from bettersynth_assets.records.images import ImageError


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What a checkpoint gives, whichever library it comes from."""

    image: Callable[[Any], Any]
    """RGB image to float32 tensor (3, H, W)."""
    tokens: Callable[[Sequence[str]], tuple[dict[str, Any], list[bool]]]
    """Captions to (model inputs, truncated or not)."""
    image_features: Callable[[Any], Any]
    """(B, 3, H, W) to (B, D)."""
    text_features: Callable[[dict[str, Any]], Any]
    """Model inputs to (B, D)."""
    parameters: int


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
        is_open_clip = name.startswith(HUB_PREFIX) or (Path(name) / "open_clip_config.json").is_file()
        self._backend = (_open_clip if is_open_clip else _transformers_clip)(name, device, self.dtype)

    def prepare(self, image: Any) -> Any:
        """Resize and normalise one RGB image to the model's input, (3, H, W); safe to call from several threads."""
        return self._backend.image(image)

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> NDArray[np.float32]:
        """Score pairs.

        Args:
            images: RGB images, or what ``prepare`` made of them; length n.
            captions: plain text without special tokens; length n.

        Returns:
            Cosines, float32, shape (n,).
        """
        return self.scores_and_truncated(images, captions)[0]

    def scores_and_truncated(
        self, images: Sequence[Any], captions: Sequence[str]
    ) -> tuple[NDArray[np.float32], list[bool]]:
        """Score pairs as ``scores`` does, and say of each caption whether it is longer than the model's context."""
        pairs = in_batches(list(zip(images, captions, strict=True)), self.batch, self._score)
        return np.asarray([score for score, _ in pairs], np.float32), [truncated for _, truncated in pairs]

    def image_embeddings(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """Embed images, RGB or prepared: the same normalised embeddings that scores are made of, float32, (n, D)."""
        found = in_batches(images, self.batch, self._embed)
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    def _embed(self, images: Sequence[Any]) -> list[NDArray[np.float32]]:
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode(), threads_for(self._backend.parameters):
            pixels = [image if isinstance(image, torch.Tensor) else self.prepare(image) for image in images]
            stacked = torch.stack(pixels).to(self.device, self.dtype)
            return list(normalize(self._backend.image_features(stacked).float(), dim=-1).cpu().numpy())

    def _score(self, pairs: Sequence[tuple[Any, str]]) -> list[tuple[float, bool]]:
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode(), threads_for(self._backend.parameters):
            pixels = [image if isinstance(image, torch.Tensor) else self.prepare(image) for image, _ in pairs]
            stacked = torch.stack(pixels).to(self.device, self.dtype)
            inputs, truncated = self._backend.tokens([caption for _, caption in pairs])
            image = normalize(self._backend.image_features(stacked).float(), dim=-1)
            text = normalize(self._backend.text_features(inputs).float(), dim=-1)
            return list(zip((image * text).sum(-1).cpu().tolist(), truncated, strict=True))


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of files, in their order."""

    scores: NDArray[np.float32]
    """NaN where the image could not be decoded."""
    truncated: list[bool]
    """False where the image could not be decoded."""
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
    for first, items in opened(paths, scorer.batch.asked, scorer.prepare):
        good = [first + offset for offset, item in enumerate(items) if not isinstance(item, ImageError)]
        errors.update({first + at: item for at, item in enumerate(items) if isinstance(item, ImageError)})
        scores[good], truncated[good] = scorer.scores_and_truncated(
            [items[index - first] for index in good], [captions[index] for index in good]
        )
        if progress:
            progress.add(len(items))
    return Scored(scores=scores, truncated=truncated.tolist(), errors=errors)


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


def _open_clip(name: str, device: str, dtype: Any) -> Backend:
    import open_clip

    source = name if name.startswith(HUB_PREFIX) else f"local-dir:{name}"
    model, transform = open_clip.create_model_from_pretrained(source, device="cpu")
    model = model.eval().to(device, dtype)
    tokenizer = open_clip.get_tokenizer(source)
    context = int(model.context_length)
    # One position more than the model reads shows which captions go on.
    empty = tokenizer([""], context_length=context + 1)[0]
    pad, pads_with_end = int(empty[-1]), int(empty[0]) != int(empty[-1]) == int(empty[1])

    def tokens(captions: Sequence[str]) -> tuple[dict[str, Any], list[bool]]:
        longer = tokenizer(list(captions), context_length=context + 1)
        used = (longer != pad).int().flip(-1).argmax(-1)  # padding at the end
        lengths = longer.shape[-1] - used + (1 if pads_with_end else 0)
        truncated, text = (lengths > context).tolist(), longer[:, :context].clone()
        if any(truncated):
            cut = [caption for caption, is_longer in zip(captions, truncated, strict=True) if is_longer]
            text[truncated] = tokenizer(cut, context_length=context)
        return {"text": text.to(device)}, truncated

    return Backend(
        image=transform,
        tokens=tokens,
        image_features=model.encode_image,
        text_features=lambda inputs: model.encode_text(**inputs),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )


def _transformers_clip(name: str, device: str, dtype: Any) -> Backend:
    from transformers import AutoProcessor, CLIPModel

    model = CLIPModel.from_pretrained(name, dtype=dtype).eval().to(device)
    processor = AutoProcessor.from_pretrained(name)
    context = model.config.text_config.max_position_embeddings

    def image(rgb: Any) -> Any:
        return processor.image_processor(images=rgb, return_tensors="pt")["pixel_values"][0]

    def tokens(captions: Sequence[str]) -> tuple[dict[str, Any], list[bool]]:
        lengths = [len(ids) for ids in processor.tokenizer(list(captions), verbose=False)["input_ids"]]
        inputs = processor.tokenizer(
            list(captions), return_tensors="pt", padding=True, truncation=True, max_length=context
        )
        return dict(inputs.to(device)), [length > context for length in lengths]

    return Backend(
        image=image,
        tokens=tokens,
        image_features=lambda pixels: model.get_image_features(pixel_values=pixels),
        text_features=lambda inputs: model.get_text_features(**inputs),
        parameters=model.num_parameters(),
    )
