"""Image-text similarity by a CLIP-class model. In: images and captions. Out: one cosine per pair.

score        float32, cosine of the two normalised embeddings, [-1, 1], in every family: SigLIP's logit is that times
             its scale plus its bias. Data-Juicer's ``image_text_similarity`` is CLIP's logit / 100, the same number
             if the model's logit scale is 100, as in every public CLIP
truncated    the caption has more tokens than the checkpoint's tokenizer permits (77 for public CLIPs, 64 for SigLIP);
             the rest is ignored

``scorers`` loads checkpoints by family; images are prepared by the checkpoint's transform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.config.resolved_model import ResolvedModel
from bettersynth_assets.images.decoding import Chunk
from bettersynth_assets.images.pixels import as_pixels, stacked
from bettersynth_assets.models.batch_size import RequestedBatch, fit_batch, initial_batch
from bettersynth_assets.models.batching import BatchSize, batches, threads_for
from bettersynth_assets.models.gpu.cuda_graph import CudaGraph
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.models.scorers import SCORERS, load_backend, scorer_kind
from bettersynth_assets.models.scorers.backend import Tokens, as_product
from bettersynth_assets.scheduler.devices import first_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bettersynth_assets.images.pixels import ImageBatch


@dataclass(frozen=True)
class Pairs:
    """Results of n image-text pairs."""

    scores: NDArray[np.float32]
    """(n,), cosines."""
    truncated: NDArray[np.bool_]
    """(n,)"""
    embeddings: NDArray[np.float32]
    """(n, D) normalised embeddings of the images; (0, 0) without any."""


class ClipScorer:
    """A loaded CLIP-class model."""

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch: int = 64,
        decode: str = "pillow",
        compiled: bool = False,
    ) -> None:
        """Load a checkpoint.

        Args:
            model: an existing folder or a hub id.
            device: torch device.
            dtype: ``float32`` or ``bfloat16``; the cosine itself is always computed in float32.
            batch: pairs per model call.
            decode: decoder of image files, see ``image_chunks.chunks``.
            compiled: compile the image tower's layers, make patches by a matrix product, and use CUDA graphs.

        Raises:
            ConfigError: the folder has no scoring model, or a weight is missing.
        """
        import torch

        self.device = device
        self.dtype = getattr(torch, dtype)
        self.batch = BatchSize(batch)
        self.decode = decode
        self._backend = load_backend(model, device, self.dtype)
        self.prepare = self._backend.image
        """Preprocessing of an RGB image on the host; thread-safe. If the checkpoint's transform ends in plain
        arithmetic, the device does that part, and a quarter of the bytes are copied."""
        if compiled:
            for layer in self._backend.image_layers:
                layer.compile(dynamic=False)
            if self._backend.patches is not None:
                as_product(self._backend.patches)
        self._graphs: dict[int, CudaGraph] | None = {} if compiled and self._backend.can_record else None

    def tokens(self, captions: Sequence[str]) -> Tokens:
        """Tokenise captions: plain text without special tokens."""
        return self._backend.tokens(captions)

    def chunks(self, paths: Sequence[Path]) -> Iterator[Chunk]:
        """Yield image files as model inputs, decoded ahead of the model."""
        return chunks(paths, self.batch.requested, [self.prepare], decode=self.decode, device=self.device)

    def scores(self, images: ImageBatch, captions: Sequence[str]) -> NDArray[np.float32]:
        """Score pairs.

        Args:
            images: RGB images, outputs of ``prepare``, or these stacked in one tensor; length n.
            captions: plain text without special tokens; length n.

        Returns:
            Cosines, float32, shape (n,).
        """
        return self.start(images, self.tokens(captions))().scores

    def start(self, images: ImageBatch, tokens: Tokens) -> Callable[[], Pairs]:
        """Start to score pairs; the returned function waits for the results."""

        def score(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
            selected = slice(rows[0], rows[-1] + 1)
            return self._score(images[selected], tokens[selected])

        batch_results = list(batches(range(len(tokens)), self.batch, score))
        finished = self._event()

        def pairs() -> Pairs:
            if finished is not None:
                finished.synchronize()
            scores, embeddings = zip(*batch_results, strict=True) if batch_results else ((), ())
            return Pairs(_concatenate(scores, (0,)), tokens.truncated, _concatenate(embeddings, (0, 0)))

        return pairs

    def image_embeddings(self, images: ImageBatch) -> NDArray[np.float32]:
        """Embed images, as in ``scores``: normalised float32 embeddings, (n, D)."""
        batch_results = list(batches(images, self.batch, self._embed))
        return _concatenate([embeddings.cpu() for embeddings in batch_results], (0, 0))

    def _embed(self, images: ImageBatch) -> Tensor:
        import torch
        from torch.nn.functional import normalize

        def run(prepared: ImageBatch) -> Tensor:
            pixels = as_pixels(prepared, self.prepare, self._backend.levels, self.device, self.dtype)
            return normalize(self._backend.image_features(pixels).float(), dim=-1)

        with torch.inference_mode(), threads_for(self._backend.parameters):
            if self._graphs is None:
                return run(images)
            size = self.batch.size
            graph = self._graphs.setdefault(size, CudaGraph(run, size))
            return graph(stacked(images, self.prepare).to(self.device, non_blocking=True))

    def _score(self, images: ImageBatch, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return scores (B,) and embeddings (B, D), being copied to the CPU."""
        import torch
        from torch.nn.functional import normalize

        image = self._embed(images)
        with torch.inference_mode(), threads_for(self._backend.parameters):
            inputs = {name: values.to(self.device, non_blocking=True) for name, values in tokens.inputs.items()}
            text = normalize(self._backend.text_features(inputs).float(), dim=-1)
            return (image * text).sum(-1).to("cpu", non_blocking=True), image.to("cpu", non_blocking=True)

    def _event(self) -> torch.cuda.Event | None:
        """Return an event after all work submitted to the device so far; None on the CPU."""
        import torch

        return torch.cuda.current_stream(self.device).record_event() if self.device.startswith("cuda") else None


def _concatenate(tensors: Sequence[Tensor], empty: tuple[int, ...]) -> NDArray[np.float32]:
    return np.concatenate([tensor.numpy() for tensor in tensors]) if tensors else np.zeros(empty, np.float32)


def load_scorer(model: ResolvedModel, gpu: Gpu) -> ClipScorer:
    """Load a profile's scorer to its first device, once per process for all shards."""
    return _load(model, first_device(gpu), gpu.dtype, gpu.decode, gpu.compiled, gpu.clip_batch, gpu.batch_sizes)


@lru_cache(maxsize=2)
def _load(
    model: ResolvedModel,
    device: str,
    dtype: str,
    decode: str,
    compiled: bool,
    batch: RequestedBatch,
    sizes_file: str | None,
) -> ClipScorer:
    scorer = ClipScorer(
        model.name, device=device, dtype=dtype, batch=initial_batch(batch, 64), decode=decode, compiled=compiled
    )
    if batch == "auto":
        grey, name = Image.new("RGB", (336, 336)), f"{model.fingerprint} {dtype}"
        fit_batch(scorer, lambda rows: scorer.scores([grey] * rows, ["a"] * rows), name=name, sizes_file=sizes_file)
    return scorer


def scorer_key(model: ResolvedModel, gpu: Gpu) -> dict[str, Any]:
    """Return what scores depend on besides rows: weights and how they run (dtype and batch size affect last bits)."""
    return {
        "clip": model.fingerprint,
        "gpu": gpu.key("clip"),
        **SCORERS.code_key("scorer", lambda: scorer_kind(model.name)),
    }
