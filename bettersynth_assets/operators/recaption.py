"""Recaptions rows and chooses captions. In: filtered rows, captioner, scorer. Out: both captions, scores, the choice.

policy           recaptioned rows                     the synthetic caption is chosen
replace          all                                  always
best_of          all                                  if it scores higher than the original; a tie keeps the original
low_score_only   original scores below ``low_score``  always

A degenerate caption (see ``caption_cleaning``) is never chosen: the original stays, with the flags. ``caption`` and
``clip_score`` hold the chosen pair; the row keeps both pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.captioners.caption_cleaning import DEGENERATE, clean, validate
from bettersynth_assets.models.captioners.captioner import Captioner
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.operators.synthetic import FAILED, Synthetic, check_failed
from bettersynth_assets.records.reserved import CaptionError
from bettersynth_assets.records.schema import RECAPTIONED
from toolkit.progress import Progress


def positions_to_recaption(scores: Sequence[float], section: CaptionSection, low_score: float) -> list[int]:
    """Return the positions of the rows that a policy recaptions.

    Args:
        scores: cosines of the original captions.
        section: the recipe's ``caption`` section.
        low_score: threshold of ``low_score_only``.
    """
    if section.policy != "low_score_only":
        return list(range(len(scores)))
    return [index for index, score in enumerate(scores) if score < low_score]


def synthesise(
    paths: Sequence[Path],
    ids: Sequence[str],
    captioner: Captioner,
    scorer: ClipScorer,
    section: CaptionSection,
    progress: Progress,
    max_failed: int | None = None,
) -> list[Synthetic | ImageError]:
    """Caption, clean and score images; each file is decoded once for both models.

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
        raw = captioner.captions(
            for_captioner,
            prompt=prompt,
            max_new_tokens=section.max_new_tokens,
            sampling=section.sampling,
            keys=[ids[at] for at in chunk.good],
        )
        cleaned = [_cleaned(caption, prompt, section) for caption in raw]
        scored = [index for index, (text, _) in enumerate(cleaned) if text]
        scores = scorer.scores(for_scorer[scored], [cleaned[index][0] for index in scored]).tolist()
        score_at = dict(zip(scored, scores, strict=True))
        results.update(chunk.errors)
        results.update(
            (chunk.good[index], _synthetic(caption, text, flags, score_at.get(index)))
            for index, (caption, (text, flags)) in enumerate(zip(raw, cleaned, strict=True))
        )
        if max_failed is not None:
            check_failed({ids[at]: result for at, result in results.items()}, len(paths), max_failed)
        progress.add(chunk.files)
    return [results[at] for at in range(len(paths))]


def _cleaned(caption: str | CaptionError, prompt: str, section: CaptionSection) -> tuple[str, tuple[str, ...]]:
    if isinstance(caption, CaptionError):
        return "", (FAILED,)
    return clean(caption, prompt) if section.clean else validate(caption)


def _synthetic(caption: str | CaptionError, text: str, flags: tuple[str, ...], score: float | None) -> Synthetic:
    if isinstance(caption, CaptionError):
        return Synthetic(raw=None, text=text, flags=flags, score=score, detail=caption.detail)
    raw = caption.encode("utf-8", "backslashreplace").decode()  # tables cannot hold lone surrogates
    return Synthetic(raw=raw, text=text, flags=flags, score=score)


def choose_caption(row: dict[str, Any], synthetic: Synthetic | None, section: CaptionSection | None) -> dict[str, Any]:
    """Store both captions in a row and choose one.

    Args:
        row: a row of schema ``FILTERED``.
        synthetic: its synthetic caption; None if none was generated.
        section: the recipe's ``caption`` section; None for a baseline.

    Returns:
        A row of schema ``RECAPTIONED``.
    """
    usable = synthetic is not None and not DEGENERATE & set(synthetic.flags) and bool(synthetic.text)
    is_better = usable and (
        section is None or section.policy != "best_of" or float(synthetic.score or 0.0) > float(row["clip_score"])  # type: ignore[union-attr]
    )
    result = {
        **row,
        "original_caption": row["caption"],
        "synthetic_caption": synthetic.text if synthetic and not synthetic.has_failed else None,
        "raw_caption": synthetic.raw if synthetic else None,
        "original_score": row["clip_score"],
        "synthetic_score": synthetic.score if synthetic else None,
        "choice": "synthetic" if is_better else "original",
        "caption_flags": list(synthetic.flags) if synthetic else [],
    }
    if is_better and synthetic is not None:
        result |= {"caption": synthetic.text, "clip_score": synthetic.score}
    return result


def recaptioned_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Convert rows from ``chosen`` to a table of schema ``RECAPTIONED``."""
    return pa.Table.from_pylist(list(rows), schema=RECAPTIONED)


def summary(table: pa.Table) -> dict[str, Any]:
    """Counts and means over all processed rows, before any second filtering."""
    rows = table.num_rows
    flags = Counter(flag for row_flags in table.column("caption_flags").to_pylist() for flag in row_flags)
    mean = lambda name: float(table.column(name).to_numpy().mean(dtype="float64")) if rows else None  # noqa: E731
    return {
        "captioned": rows - table.column("synthetic_caption").null_count,
        "choices": dict(sorted(Counter(table.column("choice").to_pylist()).items())),
        "flags": dict(sorted(flags.items())),
        "score_mean_original": mean("original_score"),
        "score_mean_chosen": mean("clip_score"),
    }
