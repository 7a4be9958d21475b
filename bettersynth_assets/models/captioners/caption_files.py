"""Captions image files. In: paths, a captioner, a scorer. Out: one ``Synthetic`` per file: cleaned and scored.

Each file is decoded once for both models. A file that cannot be decoded does not affect its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.captioners.caption_cleaning import clean, validate
from bettersynth_assets.models.captioners.captioner import Captioner
from bettersynth_assets.models.captioners.synthetic import FAILED, Synthetic, check_failed
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.records.reserved import CaptionError
from toolkit.progress import Progress


def caption_files(
    paths: Sequence[Path],
    ids: Sequence[str],
    captioner: Captioner,
    scorer: ClipScorer,
    section: CaptionSection,
    progress: Progress,
    max_failed: int | None = None,
) -> list[Synthetic | ImageError]:
    """Caption, clean and score image files.

    Args:
        paths: image files.
        ids: ids of their rows; they select the random numbers if ``section.sampling`` is set.
        captioner: the profile's captioner.
        scorer: the profile's scorer of cosines.
        section: the recipe's ``caption`` section.
        progress: advanced by each chunk.
        max_failed: rows for which the captioner may fail; None for any number.

    Returns:
        One entry per path, in order; an ``ImageError`` for a file that cannot be decoded.

    Raises:
        EnvironmentFault: the captioner failed for more rows.
    """
    prompt = section.prompt or captioner.default_prompt
    results: dict[int, Synthetic | ImageError] = {}
    preparations = [captioner.prepare, scorer.prepare]
    for chunk in chunks(paths, captioner.batch.requested, preparations, decode=scorer.decode, device=scorer.device):
        for_captioner, for_scorer = chunk.inputs
        answers = captioner.captions(
            for_captioner,
            prompt=prompt,
            max_new_tokens=section.max_new_tokens,
            sampling=section.sampling,
            keys=[ids[at] for at in chunk.good],
        )
        captions = [_cleaned(answer, prompt, cleans=section.clean) for answer in answers]
        usable = [index for index, caption in enumerate(captions) if caption.text]
        scores = scorer.scores(for_scorer[usable], [captions[index].text for index in usable]).tolist()
        for index, score in zip(usable, scores, strict=True):
            captions[index] = replace(captions[index], score=score)
        results.update(chunk.errors)
        results.update(zip(chunk.good, captions, strict=True))
        if max_failed is not None:
            check_failed({ids[at]: result for at, result in results.items()}, len(paths), max_failed)
        progress.add(chunk.files)
    return [results[at] for at in range(len(paths))]


def _cleaned(answer: str | CaptionError, prompt: str, *, cleans: bool) -> Synthetic:
    """Convert a captioner's answer to a caption without a score."""
    if isinstance(answer, CaptionError):
        return Synthetic(raw=None, text="", flags=(FAILED,), detail=answer.detail)
    text, flags = clean(answer, prompt) if cleans else validate(answer)
    raw = answer.encode("utf-8", "backslashreplace").decode()  # tables cannot hold lone surrogates
    return Synthetic(raw=raw, text=text, flags=flags)
