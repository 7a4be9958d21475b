"""Compares stages with the miniature's ground truth. In: a stage's Arrow tables and ``truth.parquet``.

Out: numbers for reports: AUC of matched against mismatched captions, precision and recall of each filter, and the share
of captions that name the right thing in the right colour. Rows are joined by ``id``. An id that is missing from the
ground truth raises an error, because the tables then belong to another world.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bettersynth_assets.miniature.world import COLORS, SHAPES, scene_from_json

Truth = dict[str, dict[str, Any]]

TARGETS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "image_shape_filter": lambda row: bool(row["odd_size"]),
    "image_watermark_filter": lambda row: bool(row["watermark"]),
    "words_num_filter": lambda row: row["degenerate"] in ("short", "long"),
    "word_repetition_filter": lambda row: row["degenerate"] == "loop",
    "clip_score_filter": lambda row: bool(row["mismatch"] or row["degenerate"]),
    "image_text_similarity_filter": lambda row: bool(row["mismatch"] or row["degenerate"]),
}
"""Which truth rows each operator should reject."""

_PAIR = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")
_WORD = re.compile(r"\bsaying (\w+)")


@dataclass(frozen=True, kw_only=True)
class FilterQuality:
    """Result of one operator. ``precision``, ``recall``: None if nothing was rejected, or nothing had the fault."""

    operator: str
    rejected: int
    faulty: int
    """Rows with the fault among those that entered the stage."""
    correct: int
    """Rejected rows that have the fault."""

    @property
    def precision(self) -> float | None:
        return self.correct / self.rejected if self.rejected else None

    @property
    def recall(self) -> float | None:
        return self.correct / self.faulty if self.faulty else None


def truth_by_id(truth: pa.Table) -> Truth:
    """Index the rows of ``truth.parquet`` by id."""
    return {row["id"]: row for row in truth.to_pylist()}


def _rows(ids: Sequence[str], truth: Truth) -> list[dict[str, Any]]:
    unknown = [row_id for row_id in ids if row_id not in truth]
    if unknown:
        raise ValueError(
            f"{len(unknown)} ids are not in the ground truth, e.g. {unknown[0]!r}: "
            "the table belongs to another world; pass the truth.parquet of its world"
        )
    return [truth[row_id] for row_id in ids]


def auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Probability that a positive value exceeds a negative one, ties half (Mann-Whitney); None if a side is empty."""
    if not len(positive) or not len(negative):
        return None
    high, low = np.asarray(positive, dtype=np.float64), np.sort(np.asarray(negative, dtype=np.float64))
    below, below_or_equal = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + below_or_equal).mean() / (2 * len(low)))


def score_quality(scores: pa.Table, truth: Truth) -> dict[str, float | None]:
    """Compute the AUC of clean captions against each kind of bad caption.

    Args:
        scores: columns ``id`` and ``clip_score`` (cosine, [-1, 1]) of the captions in the seed file.
        truth: from :func:`truth_by_id`.

    Returns:
        ``auc_mismatch``, ``auc_easy``, ``auc_hard``, ``auc_degenerate``.
    """
    rows = _rows(scores["id"].to_pylist(), truth)
    values = scores["clip_score"].to_pylist()

    def chosen(test: Callable[[dict[str, Any]], bool]) -> list[float]:
        return [value for value, row in zip(values, rows, strict=True) if test(row)]

    sound = chosen(lambda row: not row["mismatch"] and not row["degenerate"])
    return {
        "auc_mismatch": auc(sound, chosen(lambda row: bool(row["mismatch"]))),
        "auc_easy": auc(sound, chosen(lambda row: row["mismatch"] == "easy")),
        "auc_hard": auc(sound, chosen(lambda row: row["mismatch"] == "hard")),
        "auc_degenerate": auc(sound, chosen(lambda row: bool(row["degenerate"]))),
    }


def filter_quality(rejects: pa.Table, entered: Collection[str], truth: Truth) -> list[FilterQuality]:
    """Compute precision and recall of each operator with a known target, in the order of ``TARGETS``.

    A reject counts for the operator that rejected it, so a later operator misses what an earlier one removed.

    Args:
        rejects: columns ``id`` and ``operator`` of one stage.
        entered: ids of all rows that entered the stage.
        truth: from :func:`truth_by_id`.
    """
    all_rows = _rows(list(entered), truth)
    ids, operators = rejects["id"].to_pylist(), rejects["operator"].to_pylist()
    measured = []
    for operator, is_target in TARGETS.items():
        rejected_rows = _rows([i for i, name in zip(ids, operators, strict=True) if name == operator], truth)
        if rejected_rows:
            faulty, correct = sum(map(is_target, all_rows)), sum(map(is_target, rejected_rows))
            measured.append(
                FilterQuality(operator=operator, rejected=len(rejected_rows), faulty=faulty, correct=correct)
            )
    return measured


def caption_quality(captions: pa.Table, truth: Truth) -> dict[str, float | None]:
    """Measure how much of each image its caption names, and how much of the caption is true.

    Args:
        captions: columns ``id`` and ``caption``.
        truth: from :func:`truth_by_id`.

    Returns:
        Shares, None if there is nothing to count. ``names_a_thing``: captions that name a thing of the image in its
        colour. ``things_named``: things of the images that captions name. ``things_true``: coloured things in captions
        that are in the image. ``words_read``: signs whose word is in the caption. ``words_true``: sign words in
        captions that are in the image.
    """
    rows = _rows(captions["id"].to_pylist(), truth)
    captions_with_match = shown = correct = named = signs = words_read = claimed_total = 0
    for caption, row in zip(captions["caption"].to_pylist(), rows, strict=True):
        scene = scene_from_json(row["scene"])
        things = {(thing.color, thing.shape) for thing in scene.things}
        pairs = set(_PAIR.findall(caption or ""))
        sign_words, claimed = {sign.word for sign in scene.signs}, set(_WORD.findall(caption or ""))
        captions_with_match += bool(things & pairs)
        shown, correct, named = shown + len(things), correct + len(things & pairs), named + len(pairs)
        signs, words_read, claimed_total = (
            signs + len(sign_words),
            words_read + len(sign_words & claimed),
            claimed_total + len(claimed),
        )
    return {
        "names_a_thing": captions_with_match / len(rows) if rows else None,
        "things_named": correct / shown if shown else None,
        "things_true": correct / named if named else None,
        "words_read": words_read / signs if signs else None,
        "words_true": words_read / claimed_total if claimed_total else None,
    }
