"""Runs a recipe's operators over a shard. In: rows and built operators. Out: kept rows + stats, rejects, quarantine.

Every operator sees a row as Data-Juicer expects it: ``text`` in the kit's format, ``images`` with one absolute path,
and in its stats what is known already (width, height, similarity), so that nothing is decoded or scored twice. Rows go
through the operators in the recipe's order; the first that says no rejects the row, and later ones do not see it. An
operator that fails on one row quarantines that row alone; one that fails on every row is an error of the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.errors import ConfigError, UserError
from bettersynth_assets.operators.batching import DECODERS
from bettersynth_assets.operators.data_juicer import BuiltOperator
from bettersynth_assets.operators.guard import undisturbed
from bettersynth_assets.records.images import ImageError, open_rgb
from bettersynth_assets.records.schema import QUARANTINE, REJECTS, kit_text, rows_table

STATS, META = "__dj__stats__", "__dj__meta__"
IMAGE_TOKEN, END_TOKEN = "<__dj__image>", "<|__dj__eoc|>"
SIMILARITY = "image_text_similarity"
# They read the image alone, through a model without a tokenizer, so that several threads may call them.
IMAGE_CLASSIFIERS = ("image_watermark_filter", "image_nsfw_filter", "image_aesthetics_filter")
# What operators raise about a row. MemoryError, KeyboardInterrupt and the like are not among them.
ROW_ERRORS = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, SyntaxError, AttributeError)

Rescore = Callable[[Sequence[Path], Sequence[str]], Sequence[float]]


@dataclass
class _Row:
    """One row on its way through the operators."""

    sample: dict[str, Any]
    """As Data-Juicer sees it."""
    values: dict[str, Any]
    """As in the table."""
    edits: list[dict[str, str]] = field(default_factory=list)
    """Captions that mappers changed: operator and what stood there before."""


@dataclass(frozen=True, kw_only=True)
class Processed:
    """Rows of one shard after a recipe's operators; kept + rejects + quarantine = rows in."""

    kept: pa.Table
    """The input's columns, with ``stats``."""
    rejects: pa.Table
    quarantine: pa.Table


def run_process(
    table: pa.Table,
    operators: Sequence[BuiltOperator],
    *,
    stage: str,
    image_root: Path,
    rescore: Rescore | None,
) -> Processed:
    """Run operators over rows.

    Args:
        table: rows of schema ``SCORED``, or more columns.
        operators: in the recipe's order.
        stage: for the ledgers.
        image_root: folder that the rows' images are relative to.
        rescore: gives the similarity of a caption that a mapper changed; None where the operators score for
            themselves, with another model than clip_scores.

    Raises:
        ConfigError: a mapper that does not give back one row with a text for each row.
        UserError: an operator that fails on every row.
    """
    rows = [_row(values, image_root, with_score=rescore is not None) for values in table.to_pylist()]
    rejects: list[dict[str, object]] = []
    quarantine: list[dict[str, object]] = []
    for built in operators:
        with undisturbed():
            failed = _work(built, rows)
        if rows and len(failed) == len(rows):
            _raise_if_not_images(built, rows, failed)
        quarantine.extend(_quarantined(rows[index], stage, built, error) for index, error in failed.items())
        rows = [row for index, row in enumerate(rows) if index not in failed]
        if built.is_filter:
            said_no = {index: reason for index, row in enumerate(rows) if (reason := _refusal(built, row)) is not None}
        else:
            said_no = {index: (None, "no caption left") for index, row in enumerate(rows) if not row.values["caption"]}
            _score_edited(built, rows, rescore)
        rejects.extend(_rejected(rows[index], stage, built, *reason) for index, reason in said_no.items())
        rows = [row for index, row in enumerate(rows) if index not in said_no]
    return Processed(
        kept=_kept_table(table, rows),
        rejects=rows_table(rejects, REJECTS),
        quarantine=rows_table(quarantine, QUARANTINE),
    )


def _row(values: dict[str, Any], image_root: Path, *, with_score: bool) -> _Row:
    stats: dict[str, Any] = {"image_width": [values["width"]], "image_height": [values["height"]]}
    if with_score:
        stats[SIMILARITY] = [values["clip_score"]]
    sample = {
        "id": values["id"],
        "text": kit_text(values["caption"]),
        "images": [str(image_root / values["image"])],
        STATS: stats,
        META: {},
    }
    return _Row(sample=sample, values=values)


def _work(built: BuiltOperator, rows: list[_Row]) -> dict[int, BaseException]:
    """Let an operator compute its stats or map the texts, in its batches; rows of a batch that fails go one by one.

    Returns:
        What the operator raised, by the row's position.
    """
    if built.name in IMAGE_CLASSIFIERS and len(rows) > 1:
        return _work_in_threads(built, rows)
    step = built.operator.batch_size if built.operator.is_batched_op() else 1
    failed: dict[int, BaseException] = {}
    for first in range(0, len(rows), step):
        indices = range(first, min(first + step, len(rows)))
        error = _call(built, [rows[index] for index in indices])
        if error is not None and step > 1:
            errors = {index: _call(built, [rows[index]]) for index in indices}
            failed.update({index: found for index, found in errors.items() if found is not None})
        elif error is not None:
            failed[first] = error
    return failed


def _work_in_threads(built: BuiltOperator, rows: list[_Row]) -> dict[int, BaseException]:
    """Work rows at the same time, each on one core: such an operator gives its model a single image at a time."""
    import torch

    errors = [_call(built, rows[:1])]  # alone, because it loads the model
    with ThreadPoolExecutor(DECODERS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        errors.extend(pool.map(lambda row: _call(built, [row]), rows[1:]))
    return {index: error for index, error in enumerate(errors) if error is not None}


def _call(built: BuiltOperator, rows: list[_Row]) -> BaseException | None:
    """Call an operator on some rows; what it raises comes back as a value and leaves the rows as they were."""
    import torch

    # A mapper may change the number of rows, which only shows row by row.
    if not built.is_filter and len(rows) > 1:
        return next((error for row in rows if (error := _call(built, [row])) is not None), None)
    samples = _columns(rows)
    rank = {} if built.rank is None else {"rank": built.rank}
    method = built.operator.compute_stats if built.is_filter else built.operator.process
    try:
        with torch.no_grad():
            result = method(samples, **rank)
    except UserError:
        raise
    except ROW_ERRORS as error:
        return error
    if built.is_filter:
        for row, stats in zip(rows, result[STATS], strict=True):
            row.sample[STATS] = dict(stats)
    else:
        _take_text(built, rows[0], result)
    return None


def _columns(rows: list[_Row]) -> dict[str, list[Any]]:
    """Rows as Data-Juicer's batch, a dict of lists; what a failing operator did to it does not reach the rows."""
    columns = {name: [row.sample[name] for row in rows] for name in rows[0].sample}
    return columns | {name: [dict(value) for value in columns[name]] for name in (STATS, META)}


def _take_text(built: BuiltOperator, row: _Row, result: dict[str, Any]) -> None:
    """Take over what a mapper made of a row's text."""
    texts, images = list(result["text"]), [list(paths) for paths in result["images"]]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise ConfigError(
            f"operator {built.name!r} made {len(texts)} rows ({type(texts[0]).__name__ if texts else 'none'}) of row "
            f"{row.values['id']!r}; a mapper has to give back one row with a text: take it out of the recipe"
        )
    if images != [row.sample["images"]]:
        raise ConfigError(f"operator {built.name!r} changes images, which a recipe cannot record: take it out")
    caption = texts[0].replace(IMAGE_TOKEN, "").replace(END_TOKEN, "").strip()
    if caption != row.values["caption"]:
        row.edits.append({"operator": built.name, "before": row.values["caption"]})
        row.values["caption"] = caption
        row.sample["text"] = kit_text(caption)
        row.sample[STATS].pop(SIMILARITY, None)


def _score_edited(built: BuiltOperator, rows: list[_Row], rescore: Rescore | None) -> None:
    """Score the captions that a mapper has just changed."""
    if rescore is None:
        return
    edited = [row for row in rows if SIMILARITY not in row.sample[STATS] and row.values["caption"]]
    scores = rescore([Path(row.sample["images"][0]) for row in edited], [row.values["caption"] for row in edited])
    for row, score in zip(edited, scores, strict=True):
        row.values["clip_score"] = score
        row.sample[STATS][SIMILARITY] = [score]


@contextmanager
def _recorded(operator: Any) -> Iterator[list[tuple[Any, Any, Any]]]:
    """Note the (value, low, high) of each comparison in which an operator of Data-Juicer says no."""
    refused: list[tuple[Any, Any, Any]] = []
    original = type(operator).get_keep_boolean

    def noting(value: Any, min_val: Any = None, max_val: Any = None) -> bool:
        keeps = original(operator, value, min_val, max_val)
        if not keeps:
            refused.append((value, min_val, max_val))
        return keeps

    operator.get_keep_boolean = noting
    try:
        yield refused
    finally:
        del operator.get_keep_boolean


def _refusal(built: BuiltOperator, row: _Row) -> tuple[float | None, str] | None:
    """Ask a filter whether it keeps a row.

    Returns:
        None if it does, else (the value that it refused, the reason in words).
    """
    with _recorded(built.operator) as refused:
        if bool(next(iter(built.operator.process(_columns([row]))))):
            return None
    if not refused:
        return None, f"refused by {built.name}"
    value, low, high = refused[-1]
    is_low = low is not None and not value >= low
    limit = low if is_low or high is None else high
    stat, argument = _names(built, row, value, limit)
    number = float(value) if isinstance(value, int | float) or hasattr(value, "__float__") else None
    sign = "<" if is_low else ">" if high is not None and value > high else "beside"
    return number, f"{stat} {value:.6g} {sign} {argument} {limit:.6g}"


def _names(built: BuiltOperator, row: _Row, value: Any, limit: Any) -> tuple[str, str]:
    """Find the stat that holds a value and the argument that holds a limit: width goes with max_width."""
    stats = [name for name, found in row.sample[STATS].items() if value == _scalar(found)] or ["value"]
    arguments = [name for name, found in vars(built.operator).items() if found is limit or found == limit] or ["limit"]
    pairs = [(stat, name) for stat in stats for name in arguments]
    return next((pair for pair in pairs if pair[1].split("_")[-1] in pair[0].split("_")), pairs[-1])


def _scalar(value: Any) -> Any:
    """Data-Juicer keeps a list with one number per image; a row has one image."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _raise_if_not_images(built: BuiltOperator, rows: list[_Row], failed: dict[int, BaseException]) -> None:
    """An operator that fails on every row is not the rows' fault, unless every image is broken."""
    if all(_image_error(row) is not None for row in rows):
        return
    first = failed[min(failed)]
    raise UserError(
        f"operator {built.name!r} with {built.limits} failed on all {len(rows)} rows: {type(first).__name__}: {first}"
    ) from first


def _image_error(row: _Row) -> ImageError | None:
    try:
        open_rgb(Path(row.sample["images"][0]))
    except ImageError as error:
        return error
    return None


def _quarantined(row: _Row, stage: str, built: BuiltOperator, error: BaseException) -> dict[str, object]:
    broken = _image_error(row)
    detail = broken.detail if broken else f"{built.name}: {type(error).__name__}: {error}"
    reason = broken.reason if broken else "operator_error"
    return {"id": row.values["id"], "line": row.values["line"], "stage": stage, "reason": reason, "detail": detail}


def _rejected(row: _Row, stage: str, built: BuiltOperator, value: float | None, reason: str) -> dict[str, object]:
    return {
        "id": row.values["id"], "line": row.values["line"], "stage": stage, "operator": built.name, "reason": reason,
        "value": value, "limit": built.limits,
    }  # fmt: skip


def _kept_table(table: pa.Table, rows: list[_Row]) -> pa.Table:
    for row in rows:
        stats = {name: _scalar(value) for name, value in row.sample[STATS].items()}
        if row.edits:
            stats["edits"] = row.edits
            row.values["flags"] = sorted({*(row.values["flags"] or []), "caption_edited"})
        before = json.loads(row.values.get("stats") or "{}")
        row.values["stats"] = json.dumps({**before, **stats}, sort_keys=True, ensure_ascii=False, default=str)
    schema = table.schema if "stats" in table.schema.names else table.schema.append(pa.field("stats", pa.string()))
    return pa.Table.from_pylist([row.values for row in rows], schema=schema)
