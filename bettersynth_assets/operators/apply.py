"""One row as Data-Juicer sees it, and the calls that an operator gets. In: rows and an operator. Out: what it raised.

Filters put their measurements into a row's stats, mappers change its text. An operator that raises leaves the row as it
was, and its batch is repeated row by row, so that one row never takes its neighbours with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.batching import Done, untold
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.data_juicer import BuiltOperator
from bettersynth_assets.operators.guarded import attempt
from bettersynth_assets.operators.sample import META, SIMILARITY, STATS
from bettersynth_assets.records.reserved import END_OF_CHUNK, IMAGE_TOKENS, CaptionError, check_caption
from bettersynth_assets.records.schema import kit_text
from bettersynth_assets.records.seed_rows import OUR_NAMES
from toolkit.file_errors import EnvironmentFault, environment_fault, patiently

T = TypeVar("T")

KIT_IMAGE = IMAGE_TOKENS[0]
BROKEN_TOKEN = re.compile(r"__dj__|dj_*image|dj_*eoc", re.IGNORECASE)
"""What is left of the kit's tokens when a mapper changes characters of them."""


@dataclass
class Row:
    """One row on its way through the operators."""

    sample: dict[str, Any]
    """As Data-Juicer sees it."""
    values: dict[str, Any]
    """As in the table."""
    edits: list[dict[str, str]] = field(default_factory=list)
    """Captions that mappers changed: operator and what stood there before."""
    measured: set[str] = field(default_factory=set)
    """Fields of the sample that a whole-set operator has just added for itself."""
    pixels: dict[BuiltOperator, Any] = field(default_factory=dict)
    """The image as operators read it that will come yet."""


def make_row(values: dict[str, Any], image_root: Path, *, with_score: bool, extra: Collection[str] = ()) -> Row:
    """A row of schema ``SCORED`` with what is known of it in its stats.

    Args:
        values: the row.
        image_root: folder that its image is relative to.
        with_score: whether its similarity is that of the operators' model.
        extra: names that every sample has, as null where the row has no such field.

    Returns:
        The row. Its sample holds the extra fields of the seed under their names; none of them replaces one of ours.
    """
    stats: dict[str, Any] = {"image_width": [values["width"]], "image_height": [values["height"]]}
    if with_score:
        stats[SIMILARITY] = [values["clip_score"]]
    found = dict.fromkeys(extra) | json.loads(values.get("extra") or "{}")
    found = {name: value for name, value in found.items() if not OUR_NAMES.match(name)}
    sample = {
        **found,
        "id": values["id"],
        "text": kit_text(values["caption"]),
        "images": [f"{image_root}/{values['image']}"],
        STATS: stats,
        META: {},
    }
    return Row(sample=sample, values=values)


def work_rows(built: BuiltOperator, rows: list[Row], done: Done = untold) -> dict[int, BaseException]:
    """Let an operator compute its stats or map the texts, in its batches; rows of a batch that fails go one by one.

    ``done`` is told of each batch.

    Returns:
        What the operator raised, by the row's position.
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
            failed.update({index: found for index, found in errors.items() if found is not None})
        elif error is not None:
            failed[first] = error
        done(len(indices))
    return failed


def retried(call: Callable[[], T], images: Sequence[str]) -> T:
    """Call an operator, and again while the environment keeps its images from it.

    Args:
        call: must be safe to repeat.
        images: paths of the rows' images, which earlier steps have read.

    Raises:
        EnvironmentFault: it keeps failing; whatever else the operator raises comes as it is.
    """

    def one_try() -> T:
        try:
            return call()
        except Exception as error:
            if fault := _environmental(error, images):
                raise fault from error
            raise

    return patiently(one_try, images[0] if images else "", seen=False)


def _environmental(error: BaseException, images: Sequence[str]) -> EnvironmentFault | None:
    """The environment's fault behind what an operator raised, also where the operator wrapped it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError):
            # A file that the row does not name, e.g. a model's, may be missing because of the recipe.
            path = str(found.filename or (images[0] if images else ""))
            if fault := environment_fault(found, path, seen=str(found.filename) in images):
                return fault
        found = found.__cause__
    return None


def _call(built: BuiltOperator, rows: list[Row]) -> BaseException | None:
    """Call an operator on some rows; what it raises comes back as a value and leaves the rows as they were."""
    import torch

    rank = {} if built.rank is None else {"rank": built.rank}

    def call() -> Any:
        method = built.operator.compute_stats if built.is_filter else built.operator.process
        with torch.no_grad():
            result = method(columns(rows), **rank)
        if built.is_filter:
            stats = [dict(found) for found in result[STATS]]
            if len(stats) != len(rows):
                raise ValueError(f"it gave back stats of {len(stats)} rows for {len(rows)}")
            return stats
        return list(result["text"]), [list(paths) for paths in result["images"]]

    images = [path for row in rows for path in row.sample["images"]]
    made, error = attempt(lambda: retried(call, images))
    if error is not None:
        return error
    assert made is not None
    if built.is_filter:
        for row, stats in zip(rows, made, strict=True):
            row.sample[STATS] = stats
        return None
    return _take_text(built, rows[0], *made)


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Rows as Data-Juicer's batch, a dict of lists; what a failing operator did to it does not reach the rows."""
    names = dict.fromkeys(name for row in rows for name in row.sample)  # rows need not have the same extra fields
    batch: dict[str, list[Any]] = {name: [row.sample.get(name) for row in rows] for name in names}
    return batch | {name: [dict(value) for value in batch[name]] for name in (STATS, META)}


def _take_text(built: BuiltOperator, row: Row, texts: list[Any], images: list[list[Any]]) -> CaptionError | None:
    """Take over what a mapper made of a row's text; a caption that no row may hold comes back as an error."""
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ConfigError(
            f"operator {built.name!r} made {len(texts)} rows ({type(texts[0]).__name__ if texts else 'none'}) of row "
            f"{row.values['id']!r}; a mapper has to give back one row with a text: take it out of the recipe"
        )
    if images != [row.sample["images"]]:
        raise ConfigError(f"operator {built.name!r} changes images, which a recipe cannot record: take it out")
    caption = texts[0].strip().removeprefix(KIT_IMAGE).removesuffix(END_OF_CHUNK).strip()
    rest = caption.replace(KIT_IMAGE, "").replace(END_OF_CHUNK, "")
    if BROKEN_TOKEN.search(rest) and not BROKEN_TOKEN.search(row.values["caption"]):
        raise ConfigError(
            f"operator {built.name!r} with {built.limits} changes the kit's own tokens, not only the caption: row "
            f"{row.values['id']!r} became {texts[0]!r}; narrow what it replaces, or take it out"
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
