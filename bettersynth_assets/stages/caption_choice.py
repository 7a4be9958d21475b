"""Which rows are recaptioned, and which caption a row gets. In: rows, synthetic captions. Out: rows with both captions.

policy           recaptioned rows                     the synthetic caption is chosen
replace          all                                  always
best_of          all                                  if it scores higher than the original; a tie keeps the original
low_score_only   original scores below ``low_score``  always

A degenerate caption (see ``caption_cleaning``) is never chosen: the original stays, with the flags. ``caption`` and
``clip_score`` hold the chosen pair; the row keeps both pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.captioners.caption_cleaning import DEGENERATE
from bettersynth_assets.models.captioners.synthetic import Synthetic
from bettersynth_assets.records.schema import QUARANTINE, RECAPTIONED, rows_table


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


def choose_captions(
    rows: Sequence[dict[str, Any]],
    captions: Mapping[int, Synthetic | ImageError],
    section: CaptionSection | None,
    *,
    stage: str,
) -> tuple[pa.Table, pa.Table]:
    """Choose a caption for each row.

    Args:
        rows: rows of schema ``FILTERED``.
        captions: results of ``caption_files`` by the row's position; rows that are not recaptioned have none.
        section: the recipe's ``caption`` section; None for a baseline.
        stage: name for the quarantine.

    Returns:
        Rows of schema ``RECAPTIONED``; rows whose image cannot be decoded, of schema ``QUARANTINE``.
    """
    kept, quarantine = [], []
    for position, row in enumerate(rows):
        caption = captions.get(position)
        if isinstance(caption, ImageError):
            about = {"id": row["id"], "line": row["line"], "stage": stage}
            quarantine.append({**about, "reason": caption.reason, "detail": caption.detail})
        else:
            kept.append(choose_caption(row, caption, section))
    return recaptioned_table(kept), rows_table(quarantine, QUARANTINE)


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
    """Convert rows from ``choose_caption`` to a table of schema ``RECAPTIONED``."""
    return pa.Table.from_pylist(list(rows), schema=RECAPTIONED)


def choice_stats(table: pa.Table) -> dict[str, Any]:
    """Return counts and means over all rows, before ``refilter``."""
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
