"""Filters and mappers of Data-Juicer, called for some rows at a time. In: rows. Out: stats or captions, refused rows.

If an operator raises, its rows stay unchanged and its batch is repeated row by row, so one bad row does not affect its
neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.batching import ProgressCallback, no_progress
from bettersynth_assets.operators.built import BuiltOperator, Errors, Refusals
from bettersynth_assets.operators.operator_calls import attempt, retried
from bettersynth_assets.operators.refusals import refusal
from bettersynth_assets.operators.rows import Row, columns
from bettersynth_assets.operators.sample import SIMILARITY, STATS
from bettersynth_assets.records.reserved import CaptionError, check_caption
from toolkit.tokens import KIT_END, KIT_IMAGE_TOKEN, kit_text

BROKEN_TOKEN = re.compile(r"__dj__|dj_*image|dj_*eoc", re.IGNORECASE)
"""Remains of the kit's tokens after a mapper has changed some of their characters."""


@dataclass(frozen=True, kw_only=True)
class BuiltFilter(BuiltOperator):
    """Writes stats to rows, and refuses rows by them."""

    is_filter: ClassVar[bool] = True
    step: int = 1
    """Rows per call."""
    header_stats: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """See ``OperatorSpec``."""

    def measure(
        self, rows: list[Row], later: Sequence[BuiltOperator] = (), on_batch: ProgressCallback = no_progress
    ) -> Errors:
        """Write the operator's stats; rows of a failed batch are retried one by one."""
        if self.header_stats:
            for row in rows:
                row.sample[STATS].update(self.header_stats(row.values))
            return {}
        failed: Errors = {}
        for first in range(0, len(rows), self.step):
            indices = range(first, min(first + self.step, len(rows)))
            error = self._write_stats([rows[index] for index in indices])
            if error is not None and self.step > 1:
                errors = {index: self._write_stats([rows[index]]) for index in indices}
                failed.update({index: row_error for index, row_error in errors.items() if row_error is not None})
            elif error is not None:
                failed[first] = error
            on_batch(len(indices))
        return failed

    def _write_stats(self, rows: list[Row]) -> BaseException | None:
        """Measure some rows; return what the operator raises and leave the rows unchanged in that case."""

        def call() -> list[dict[str, Any]]:
            import torch

            with torch.no_grad():
                output = self.operator.compute_stats(columns(rows), **self.on_rank)
            stats = [dict(row_stats) for row_stats in output[STATS]]
            if len(stats) != len(rows):
                raise ValueError(f"it gave back stats of {len(stats)} rows for {len(rows)}")
            return stats

        result, error = attempt(lambda: retried(call, [path for row in rows for path in row.sample["images"]]))
        if result is None:
            return error
        for row, stats in zip(rows, result, strict=True):
            row.sample[STATS] = stats
        return None

    def refused(self, rows: list[Row]) -> tuple[Refusals, Errors]:
        """Let the operator judge each row alone."""
        refusals: Refusals = {}
        failed: Errors = {}
        for index, row in enumerate(rows):
            reason, error = attempt(lambda row=row: self._refusal(row))  # type: ignore[misc]
            if error is not None:
                failed[index] = error
            elif reason is not None:
                refusals[index] = reason
        return refusals, failed

    def _refusal(self, row: Row) -> tuple[float | None, str] | None:
        return retried(lambda: refusal(self, row), row.sample["images"])


@dataclass(frozen=True, kw_only=True)
class BuiltMapper(BuiltOperator):
    """Changes captions."""

    def measure(
        self, rows: list[Row], later: Sequence[BuiltOperator] = (), on_batch: ProgressCallback = no_progress
    ) -> Errors:
        """Change captions row by row, because only then it is visible if the operator makes several rows of one."""
        failed: Errors = {}
        for index, row in enumerate(rows):
            if (error := self._change(row)) is not None:
                failed[index] = error
            on_batch(1)
        return failed

    def _change(self, row: Row) -> BaseException | None:
        def call() -> tuple[list[Any], list[list[Any]]]:
            import torch

            with torch.no_grad():
                output = self.operator.process(columns([row]), **self.on_rank)
            return list(output["text"]), [list(paths) for paths in output["images"]]

        result, error = attempt(lambda: retried(call, row.sample["images"]))
        return _take_text(self, row, *result) if result is not None else error

    def refused(self, rows: list[Row]) -> tuple[Refusals, Errors]:
        """Refuse the rows whose caption it has emptied."""
        return {index: (None, "no caption left") for index, row in enumerate(rows) if not row.values["caption"]}, {}


def _take_text(built: BuiltMapper, row: Row, texts: list[Any], images: list[list[Any]]) -> CaptionError | None:
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
