"""Schemas of all tables: the columns of a row, and those that each stage adds. Every stage's tables are checked.

A row enters as a line of the seed file and keeps its ``id`` to the end. Each stage writes three tables: ``kept`` (rows
that go on to the next stage), ``rejects`` (rows that an operator of the recipe rejected) and ``quarantine`` (rows that
could not be processed), and rows in = kept + rejects + quarantine. Columns of the kept rows:

seed_dataset      id, line, image, caption, width, height, words, mode, extra, ...
clip_scores       + clip_score
filtered_set      + stats
recaptioned_set   + original_caption, synthetic_caption, original_score, synthetic_score, choice, ...
budgeted_set      + exposures
"""

from __future__ import annotations

import pyarrow as pa

SEED = pa.schema(
    [
        ("id", pa.string()),  # the seed's own id
        ("line", pa.int64()),  # 1-based line (JSONL) or position (JSON array) in the seed file
        # Relative to the image root, forward slashes: path as in the seed, or regenerated/... for a regenerated image.
        ("image", pa.string()),
        ("caption", pa.string()),  # without special tokens, stripped
        ("width", pa.int32()),  # pixels, after EXIF rotation, from the header
        ("height", pa.int32()),
        # Whitespace-separated words of the kit-format text with special tokens: the contest's count (mean 10.79).
        # Data-Juicer 1.6.1's words_num_filter counts fewer: it ignores words of digits or punctuation only.
        ("words", pa.int32()),
        ("mode", pa.string()),  # Pillow mode of the file before conversion to RGB: RGB, L, CMYK, P, I;16, ...
        ("format", pa.string()),  # JPEG, PNG, ...
        ("bytes", pa.int64()),  # size of the image file
        ("image_hash", pa.string()),  # of the image file's bytes (``images.opening.content_hash``), used in keys
        # exif_rotated, broken_exif, animated; of recaptioned_set also regenerated, regeneration_refused
        ("flags", pa.list_(pa.string())),
        # JSON object with sorted keys: the row's fields that neither seed format defines; null if there are none.
        ("extra", pa.string()),
    ]
)
SCORED = SEED.append(pa.field("clip_score", pa.float32())).append(  # cosine, [-1, 1]
    pa.field("text_truncated", pa.bool_())  # caption was longer than the model's context
)
FILTERED = SCORED.append(pa.field("stats", pa.string()))  # JSON: Data-Juicer's stats of the recipe's operators
RECAPTIONED = pa.schema(
    [
        *FILTERED,
        ("original_caption", pa.string()),
        ("synthetic_caption", pa.string()),  # after cleaning; null if there is none
        ("raw_caption", pa.string()),  # output of the captioner; null if there is none
        ("original_score", pa.float32()),  # cosine, [-1, 1]
        ("synthetic_score", pa.float32()),  # cosine, [-1, 1]; null if there is none
        ("choice", pa.string()),  # original or synthetic; `caption` and `clip_score` hold the chosen one
        ("caption_flags", pa.list_(pa.string())),  # what was cut, or why the caption is degenerate
    ]
)
BUDGETED = RECAPTIONED.append(pa.field("exposures", pa.int32()))  # times the row occurs in the training order, >= 1

REJECTS = pa.schema(
    [
        ("id", pa.string()),
        ("line", pa.int64()),
        ("stage", pa.string()),
        ("operator", pa.string()),  # the operator of the recipe that rejected the row
        ("reason", pa.string()),  # e.g. "image_width 1024 > max_width 769"
        ("value", pa.float64()),  # null if the operator computes no number
        ("limit", pa.string()),  # the operator's limits as JSON
    ]
)
QUARANTINE = pa.schema(
    [
        ("id", pa.string()),  # null if the line has none
        ("line", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),  # a word of docs/faults.md: decode_error, missing_image, path_escape, ...
        ("detail", pa.string()),
    ]
)


DETAIL_CHARACTERS = 400
"""Longest detail of a quarantined row; the quoted value may be a whole image instead of its name."""


def rows_table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    """Build a table with exactly this schema; a key that the schema lacks is a bug and raises.

    Cuts long values of ``detail`` and appends their full length.
    """
    for row in rows:
        assert row.keys() <= set(schema.names), sorted(row.keys() - set(schema.names))
    if "detail" in schema.names:
        rows = [{**row, "detail": _cut(row.get("detail"))} for row in rows]
    return pa.Table.from_pylist(rows, schema=schema)


def _cut(detail: object) -> object:
    if not isinstance(detail, str) or len(detail) <= DETAIL_CHARACTERS:
        return detail
    return f"{detail[:DETAIL_CHARACTERS]}… ({len(detail)} characters)"
