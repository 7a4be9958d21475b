"""The record as the UI shows it. In: a schema of ``records.schema``. Out: Dagster's column table, with units."""

from __future__ import annotations

import dagster as dg
import pyarrow as pa

NOTES = {
    "id": "the seed's own id",
    "line": "1-based line, or place in a JSON array, of the seed file",
    "image": "relative to the folder of the seed file; regenerated/… is an image that the recipe made",
    "caption": "the caption that goes on, special tokens taken off",
    "width": "pixels, after EXIF rotation, from the header",
    "height": "pixels, after EXIF rotation, from the header",
    "words": "whitespace words of the kit's text, special tokens included, as the recipe's limits count them",
    "mode": "colour mode of the file before it is made RGB: RGB, L, CMYK, P, I;16, …",
    "format": "JPEG, PNG, …",
    "bytes": "size of the image file",
    "image_hash": "XXH3 hash (128 bits) of the image file, from which every later result is keyed",
    "flags": "exif_rotated, broken_exif, animated; regenerated, regeneration_refused",
    "extra": "JSON object of the other fields of the row in the seed file; null where there are none",
    "clip_score": "cosine similarity of image and caption, -1 to 1",
    "text_truncated": "the caption is longer than the similarity model's context",
    "stats": "JSON: what Data-Juicer's operators measured",
    "original_caption": "the seed's caption",
    "synthetic_caption": "the captioner's caption after cleaning; null where none was made",
    "raw_caption": "what the captioner wrote; null where none was made",
    "original_score": "cosine similarity of the original caption, -1 to 1",
    "synthetic_score": "cosine similarity of the synthetic caption, -1 to 1; null where none was made",
    "choice": "original or synthetic: which caption goes on",
    "caption_flags": "what was cut (tail_cut, ...), or why the original stays (loop, refusal, reserved_token, ...)",
    "exposures": "times that the row occurs in the training order, at least 1",
}


def column_schema(columns: pa.Schema) -> dg.TableSchema:
    """Columns with types and notes; every column of the record has a note."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=field.name, type=str(field.type), description=NOTES[field.name]) for field in columns
        ]
    )
