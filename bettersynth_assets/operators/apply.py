"""Applies an operator to rows in Data-Juicer's format. In: rows and an operator. Out: the errors that it raised.

Filters write their measurements to a row's stats, mappers change its text. If an operator raises, its rows stay
unchanged and its batch is repeated row by row, so one bad row does not affect its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.batching import ProgressCallback, no_progress
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.data_juicer import BuiltOperator
from bettersynth_assets.operators.operator_calls import attempt
from bettersynth_assets.operators.sample import META, SIMILARITY, STATS
from bettersynth_assets.records.reserved import CaptionError, check_caption
from bettersynth_assets.records.seed_rows import OUR_NAMES
from toolkit.file_errors import EnvironmentFault, environment_fault, patiently
from toolkit.tokens import KIT_END, KIT_IMAGE_TOKEN, kit_text

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

BROKEN_TOKEN = re.compile(r"__dj__|dj_*image|dj_*eoc", re.IGNORECASE)
"""Remains of the kit's tokens after a mapper has changed some of their characters."""


@dataclass
class Row:
    """One row while operators are applied to it."""

    sample: dict[str, Any]
    """The row in Data-Juicer's format."""
    values: dict[str, Any]
    """The row as in the table."""
    edits: list[dict[str, str]] = field(default_factory=list)
    """Captions changed by mappers: the operator and the previous caption."""
    measured: set[str] = field(default_factory=set)
    """Fields of the sample that the current whole-dataset operator has added."""
    pixels: dict[BuiltOperator, Tensor] = field(default_factory=dict)
    """The image preprocessed for operators that run later."""


def make_row(values: dict[str, Any], image_root: Path, *, with_score: bool, extra: Collection[str] = ()) -> Row:
    """Build a ``Row`` from a row of schema ``SCORED``, with the known values in its stats.

    Args:
        values: the row.
        image_root: folder that its image path is relative to.
        with_score: whether its similarity comes from the model that the operators use.
        extra: names that every sample has, null if the row has no such field.

    Returns:
        The row. Its sample also holds the extra fields of the seed file, which never replace fields of ours.
    """
    stats: dict[str, Any] = {"image_width": [values["width"]], "image_height": [values["height"]]}
    if with_score:
        stats[SIMILARITY] = [values["clip_score"]]
    extra_fields = dict.fromkeys(extra) | json.loads(values.get("extra") or "{}")
    extra_fields = {name: value for name, value in extra_fields.items() if not OUR_NAMES.match(name)}
    sample = {
        **extra_fields,
        "id": values["id"],
        "text": kit_text(values["caption"]),
        "images": [f"{image_root}/{values['image']}"],
        STATS: stats,
        META: {},
    }
    return Row(sample=sample, values=values)


def apply_to_rows(
    built: BuiltOperator, rows: list[Row], on_batch: ProgressCallback = no_progress
) -> dict[int, BaseException]:
    """Compute an operator's stats or map the texts in its batches; rows of a failed batch are retried one by one.

    ``on_batch`` is called after each batch.

    Returns:
        The errors, by the row's position.
    """
    if header_stats := spec_of(built.name).header_stats:
        for row in rows:
            row.sample[STATS].update(header_stats(row.values))
        return {}
    step = built.step
    failed: dict[int, BaseException] = {}
    for first in range(0, len(rows), step):
        indices = range(first, min(first + step, len(rows)))
        error = _call(built, [rows[index] for index in indices])
        if error is not None and step > 1:
            errors = {index: _call(built, [rows[index]]) for index in indices}
            failed.update({index: row_error for index, row_error in errors.items() if row_error is not None})
        elif error is not None:
            failed[first] = error
        on_batch(len(indices))
    return failed


def retried(call: Callable[[], T], images: Sequence[str]) -> T:
    """Call an operator, and retry while an environment fault keeps it from reading its images.

    Args:
        call: a function that is safe to repeat.
        images: paths of the rows' images, which earlier steps have read.

    Raises:
        EnvironmentFault: the fault persists. Other exceptions of the operator pass unchanged.
    """

    def try_once() -> T:
        try:
            return call()
        except Exception as error:
            if fault := _environmental(error, images):
                raise fault from error
            raise

    return patiently(try_once, images[0] if images else "", seen=False)


def _environmental(error: BaseException, images: Sequence[str]) -> EnvironmentFault | None:
    """Return the environment fault behind an operator's exception, also if the operator has wrapped it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            # A file that the row does not name, e.g. a model's, may be missing because of the recipe.
            path = str(cause.filename or (images[0] if images else ""))
            if fault := environment_fault(cause, path, seen=str(cause.filename) in images):
                return fault
        cause = cause.__cause__
    return None


def _call(built: BuiltOperator, rows: list[Row]) -> BaseException | None:
    """Call an operator on some rows; return what it raises and leave the rows unchanged in that case."""
    import torch

    rank = {} if built.rank is None else {"rank": built.rank}

    def call() -> Any:
        method = built.operator.compute_stats if built.is_filter else built.operator.process
        with torch.no_grad():
            output = method(columns(rows), **rank)
        if built.is_filter:
            stats = [dict(row_stats) for row_stats in output[STATS]]
            if len(stats) != len(rows):
                raise ValueError(f"it gave back stats of {len(stats)} rows for {len(rows)}")
            return stats
        return list(output["text"]), [list(paths) for paths in output["images"]]

    images = [path for row in rows for path in row.sample["images"]]
    result, error = attempt(lambda: retried(call, images))
    if error is not None:
        return error
    assert result is not None
    if built.is_filter:
        for row, stats in zip(rows, result, strict=True):
            row.sample[STATS] = stats
        return None
    return _take_text(built, rows[0], *result)


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Copy rows to Data-Juicer's batch, a dict of lists, so that a failing operator cannot change the rows."""
    names = dict.fromkeys(name for row in rows for name in row.sample)  # rows may have different extra fields
    batch: dict[str, list[Any]] = {name: [row.sample.get(name) for row in rows] for name in names}
    return batch | {name: [dict(value) for value in batch[name]] for name in (STATS, META)}


def _take_text(built: BuiltOperator, row: Row, texts: list[Any], images: list[list[Any]]) -> CaptionError | None:
    """Apply a mapper's change of a row's text; return an error for captions that no row may hold."""
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ConfigError(
            f"operator {built.name!r} returned {len(texts)} rows ({type(texts[0]).__name__ if texts else 'none'}) for "
            f"row {row.values['id']!r}; a mapper must return one row with a text: remove it from the recipe"
        )
    if images != [row.sample["images"]]:
        raise ConfigError(f"operator {built.name!r} changes images, which a recipe cannot record: remove it")
    caption = texts[0].strip().removeprefix(KIT_IMAGE_TOKEN).removesuffix(KIT_END).strip()
    text = caption.replace(KIT_IMAGE_TOKEN, "").replace(KIT_END, "")
    if BROKEN_TOKEN.search(text) and not BROKEN_TOKEN.search(row.values["caption"]):
        raise ConfigError(
            f"operator {built.name!r} with {built.limits} changes the kit's tokens, not only the caption: row "
            f"{row.values['id']!r} became {texts[0]!r}; restrict what it replaces, or remove it"
        )
    try:
        check_caption(caption)
    except CaptionError as error:
        return error
    if caption != row.values["caption"]:
        row.edits.append({"operator": built.name, "before": row.values["caption"]})
        row.values["caption"] = caption
        row.sample["text"] = kit_text(caption)
        row.sample[STATS].pop(SIMILARITY, None)
    return None
