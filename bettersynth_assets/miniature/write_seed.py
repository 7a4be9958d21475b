"""Writes the seed files. In: planned ``PlannedRow``s. Out: the kit's JSONL, LLaVA JSON, ``truth.parquet``."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.miniature.seed_rows import PlannedRow
from bettersynth_assets.miniature.write_images import ImageJob
from toolkit.preprocess.dj_to_llava import QUESTIONS
from toolkit.tokens import kit_text, with_image

TRUTH = pa.schema(
    [
        ("id", pa.string()),
        ("line", pa.int64()),  # 1-based line of the seed file
        ("caption", pa.string()),  # as written; "" if the caption is empty
        ("scene", pa.string()),  # JSON, see world.scene_from_json
        ("faults", pa.list_(pa.string())),  # names, see PlannedRow.faults
        ("mismatch", pa.string()),  # "", easy, hard
        ("degenerate", pa.string()),  # "" or its kind
        ("watermark", pa.bool_()),
        ("odd_size", pa.bool_()),
        ("variant", pa.string()),  # "" or exif_rotated, grey, progressive
        ("broken", pa.string()),  # "" or its kind; such a row must be quarantined
        ("duplicate_of", pa.string()),  # "" or the id of the original row
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def seed_job(row: PlannedRow, root: Path) -> ImageJob | None:
    """Return the image file of a row, or None if its fault is a missing image."""
    if row.broken == "missing_image":
        return None
    return ImageJob(
        path=root / row.image, scene=row.scene, width=row.width, height=row.height, watermark=row.watermark,
        variant=row.variant, truncate=row.broken == "truncated_image",
    )  # fmt: skip


def seed_line(row: PlannedRow) -> str:
    """Return one line of the kit's JSONL, with the faults that affect the line."""
    image = f"images/../../{row.id}.jpg" if row.broken == "path_escape" else row.image
    line = json.dumps({"id": row.id, "text": kit_text(row.caption), "images": [image]})
    return line[:-12] if row.broken == "bad_json" else line


def write_seed_files(rows: list[PlannedRow], *, random_seed: int, jsonl: Path, questions: Path, truth: Path) -> None:
    """Write the seed file, its LLaVA copy and the truth table; ``random_seed`` draws each id's question."""
    jsonl.parent.mkdir(parents=True, exist_ok=True)
    jsonl.write_text("".join(seed_line(row) + "\n" for row in rows))
    rng = random.Random(random_seed + 4)
    questions.write_text(json.dumps([_llava_row(row, rng.choice(QUESTIONS)) for row in rows], indent=1))
    records = [
        {
            "id": row.id, "line": line, "caption": row.caption, "scene": row.scene.to_json(), "faults": row.faults,
            "mismatch": row.mismatch, "degenerate": row.degenerate, "watermark": row.watermark,
            "odd_size": row.odd_size, "variant": row.variant, "broken": row.broken, "duplicate_of": row.duplicate_of,
            "width": row.width, "height": row.height,
        }
        for line, row in enumerate(rows, start=1)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(records, schema=TRUTH), truth)


def _llava_row(row: PlannedRow, question: str) -> dict[str, object]:
    turns = [{"from": "human", "value": with_image(question)}, {"from": "gpt", "value": row.caption}]
    return {"id": row.id, "image": row.image, "conversations": turns}
