"""The record: what one row carries and what each stage adds to it. Every stage's tables are checked against this.

A row enters as a line of the seed and keeps its ``id`` to the end. Each stage writes three tables: ``kept`` (rows that
go on), ``rejects`` (a rule of the recipe said no) and ``quarantine`` (the row could not be worked), and
rows in = kept + rejects + quarantine. What the kept rows carry:

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
        # Relative to the image root, forward slashes: path as in the seed, or regenerated/... for one that was made.
        ("image", pa.string()),
        ("caption", pa.string()),  # special tokens taken off, stripped
        ("width", pa.int32()),  # pixels, after EXIF rotation, from the header
        ("height", pa.int32()),
        # Words between white space of the kit-format text, special tokens included: the contest's count (mean 10.79).
        # Data-Juicer 1.6.1's words_num_filter counts fewer: it takes words of digits or signs alone for none.
        ("words", pa.int32()),
        ("mode", pa.string()),  # Pillow mode of the file before the RGB rule: RGB, L, CMYK, P, I;16, ...
        ("format", pa.string()),  # JPEG, PNG, ...
        ("bytes", pa.int64()),  # size of the image file
        (
            "image_hash",
            pa.string(),
        ),  # of the image file's bytes (``records.images.content_hash``): stands for it in keys
        # exif_rotated, broken_exif, animated; of recaptioned_set also regenerated, regeneration_refused
        ("flags", pa.list_(pa.string())),
        # JSON object, keys sorted: the fields of the seed's row that neither format has; null where there are none.
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
        ("synthetic_caption", pa.string()),  # after cleaning; null where none was made
        ("raw_caption", pa.string()),  # what the captioner wrote; null where none was made
        ("original_score", pa.float32()),  # cosine, [-1, 1]
        ("synthetic_score", pa.float32()),  # cosine, [-1, 1]; null where none was made
        ("choice", pa.string()),  # original or synthetic; `caption` and `clip_score` hold the chosen one
        ("caption_flags", pa.list_(pa.string())),  # what was cut, or why it is degenerate: models.caption_cleaning
    ]
)
BUDGETED = RECAPTIONED.append(pa.field("exposures", pa.int32()))  # times the row occurs in the training order, >= 1

REJECTS = pa.schema(
    [
        ("id", pa.string()),
        ("line", pa.int64()),
        ("stage", pa.string()),
        ("operator", pa.string()),  # the recipe's operator that said no
        ("reason", pa.string()),  # e.g. "image_width 1024 > max_width 769"
        ("value", pa.float64()),  # null where the operator measures nothing numeric
        ("limit", pa.string()),  # the operator's limits as JSON
    ]
)
QUARANTINE = pa.schema(
    [
        ("id", pa.string()),  # null where the line holds none
        ("line", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),  # one word of faults: decode_error, missing_image, path_escape, ...
        ("detail", pa.string()),
    ]
)


DETAIL_CHARACTERS = 400
"""Longest detail of a quarantined row; what was found may be a whole image in the place of its name."""


def rows_table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    """Build a table of exactly this schema; a key that the schema lacks is a bug and raises.

    Long values of ``detail`` are cut, with their full length at the end.
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


def kit_text(caption: str) -> str:
    """A caption in the kit's format, the text that Data-Juicer's operators see."""
    return f"<__dj__image>\n{caption} <|__dj__eoc|>"
