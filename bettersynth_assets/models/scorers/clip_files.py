"""Scores and embeds image files with a CLIP-class model. In: paths and captions. Out: cosines, embeddings, errors.

Files are decoded, captions tokenised and results fetched in parallel with the model. A file that cannot be decoded does
not affect its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.images.decoding import Chunk, prefetched
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.scorers.clip_score import ClipScorer, Pairs
from toolkit.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of files, in order."""

    scores: NDArray[np.float32]
    """NaN if the image could not be decoded."""
    truncated: list[bool]
    """False if the image could not be decoded."""
    embeddings: NDArray[np.float32]
    """Normalised embeddings of the decoded images, in order: (good, D); (0, 0) without any."""
    errors: dict[int, ImageError]
    """Errors by position."""


def score_files(
    scorer: ClipScorer, paths: Sequence[Path], captions: Sequence[str], progress: Progress | None = None
) -> Scored:
    """Score image files against captions; a file that cannot be decoded does not affect its neighbours.

    Args:
        scorer: the model.
        paths: image files, length n.
        captions: plain text, length n.
        progress: advanced by each chunk's rows.
    """
    scores, truncated = np.full(len(paths), np.nan, np.float32), np.zeros(len(paths), bool)
    errors: dict[int, ImageError] = {}
    embeddings: list[NDArray[np.float32]] = []

    def take(chunk: Chunk, pairs: Pairs) -> None:
        scores[chunk.good], truncated[chunk.good] = pairs.scores, pairs.truncated
        errors.update(chunk.errors)
        embeddings.extend([pairs.embeddings] if chunk.good else [])
        if progress:
            progress.add(chunk.files)

    size = scorer.batch.requested
    texts = prefetched(scorer.tokens(captions[first : first + size]) for first in range(0, len(captions), size))
    pending: tuple[Chunk, Callable[[], Pairs]] | None = None
    for chunk, tokens in zip(scorer.chunks(paths), texts, strict=True):
        readable_tokens = tokens[[at - chunk.first for at in chunk.good]] if chunk.errors else tokens
        results = scorer.start(chunk.inputs[0], readable_tokens)
        if pending:  # fetch its results while the device computes this one
            take(pending[0], pending[1]())
        pending = chunk, results
    if pending:
        take(pending[0], pending[1]())
    stacked = np.concatenate(embeddings) if embeddings else np.zeros((0, 0), np.float32)
    return Scored(scores=scores, truncated=truncated.tolist(), embeddings=stacked, errors=errors)


def embed_files(scorer: ClipScorer, paths: Sequence[Path]) -> list[NDArray[np.float32] | ImageError]:
    """Embed image files, (D,) each; a file that cannot be decoded has its error in its place."""
    results: dict[int, NDArray[np.float32] | ImageError] = {}
    for chunk in scorer.chunks(paths):
        results.update(chunk.errors)
        results.update(zip(chunk.good, scorer.image_embeddings(chunk.inputs[0]), strict=True))
    return [results[position] for position in range(len(paths))]
