"""Kit JSONL to LLaVA JSON and back.

::

    {"id", "text": "<__dj__image>\\ncaption <|__dj__eoc|>", "images": ["images/00609/….jpg"]}
        ─►  {"id", "image": "images/00609/….jpg", "conversations": [{"from": "human", …}, {"from": "gpt", …}]}

The human turn is the original question of the same id (``stage_1.json``). Where an id has none, one of the 11 original
questions is drawn from the id alone, so that the same row always gets the same one.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.files import read_json_lines, write_atomically

Row = dict[str, Any]

IMAGE_TOKEN = "<image>"
KIT_IMAGE_TOKEN = "<__dj__image>"
KIT_END = "<|__dj__eoc|>"

QUESTIONS = (
    "What is this?",
    "What is in the photo?",
    "Describe the image concisely.",
    "Give a brief description of the image.",
    "Provide a brief description of the given image.",
    "Summarize the visual content of the image.",
    "Share a concise interpretation of the image provided.",
    "Write a terse but informative summary of the picture.",
    "Render a clear and concise summary of the photo.",
    "Present a compact description of the photo's key features.",
    "Give a short and clear explanation of the subsequent image.",
)


class ConversionError(ValueError):
    """A row that has no counterpart in the other format; the message names its id."""


def caption_of(text: str) -> str:
    """The caption alone: without image tokens of either kind, without the end mark, stripped."""
    text = text.strip().removesuffix(KIT_END)
    return text.replace(KIT_IMAGE_TOKEN, "").replace(IMAGE_TOKEN, "").strip()


def question_for(row_id: str, questions: Mapping[str, str] | None = None) -> str:
    """The human turn of a row: its original one, else one of ``QUESTIONS`` drawn from the id."""
    if questions is not None and row_id in questions:
        return questions[row_id]
    return f"{IMAGE_TOKEN}\n{QUESTIONS[zlib.crc32(row_id.encode()) % len(QUESTIONS)]}"


def to_llava(rows: Iterable[Row], questions: Mapping[str, str] | None = None) -> list[Row]:
    """Convert kit rows to LLaVA rows, in order.

    Args:
        rows: with ``id``, ``text`` and ``images`` (a list of one path, or the path).
        questions: original human turn by id, with its image token; see :func:`read_questions`.

    Raises:
        ConversionError: a row without id or text, or not with exactly one image.
    """
    return [_to_llava(row, questions) for row in rows]


def _to_llava(row: Row, questions: Mapping[str, str] | None) -> Row:
    if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
        raise ConversionError(f"row {row.get('id')!r}: 'id' and 'text' must be strings")
    images = row.get("images")
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or len(images) != 1:
        raise ConversionError(f"row {row['id']!r}: needs exactly one image, has {images!r}")
    turns = [
        {"from": "human", "value": question_for(row["id"], questions)},
        {"from": "gpt", "value": caption_of(row["text"])},
    ]
    return {"id": row["id"], "image": images[0], "conversations": turns}


def to_kit(rows: Iterable[Row]) -> list[Row]:
    """Convert LLaVA rows (one exchange, one image) to kit rows, in order.

    Raises:
        ConversionError: a row without image, or with more than one exchange.
    """
    kit = []
    for row in rows:
        turns = row.get("conversations") or []
        if len(turns) != 2 or not isinstance(row.get("image"), str):
            raise ConversionError(f"row {row.get('id')!r}: needs one image and one question with its answer")
        text = f"{KIT_IMAGE_TOKEN}\n{caption_of(turns[1]['value'])} {KIT_END}"
        kit.append({"id": row["id"], "text": text, "images": [row["image"]]})
    return kit


def read_questions(path: Path) -> dict[str, str]:
    """Human turn by id, out of the kit's ``stage_1.json`` (LLaVA JSON).

    Raises:
        ConversionError: no JSON list, or a row without id and first turn.
    """
    questions = {}
    for number, row in enumerate(read_list(path)):
        try:
            questions[row["id"]] = row["conversations"][0]["value"]
        except (KeyError, IndexError, TypeError) as error:
            raise ConversionError(f"{path}, row {number}: needs an 'id' and 'conversations' ({error!r})") from error
    return questions


def read_list(path: Path) -> list[Row]:
    """Rows of a LLaVA JSON file.

    Raises:
        ConversionError: no JSON list.
    """
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConversionError(f"{path}: cannot be read as JSON ({error}); give a LLaVA JSON file") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConversionError(f"{path}: is no JSON list of objects; give a LLaVA JSON file")
    return rows


def read_jsonl(path: Path) -> list[Row]:
    """Rows of a JSONL file; lines end at ``\\n`` only.

    Raises:
        ConversionError: names the line that is no JSON object.
    """

    def fault(where: str, error: ValueError) -> ConversionError:
        return ConversionError(f"{where}: cannot be read as JSON ({error}); give JSONL")

    rows = []
    for where, row in read_json_lines(path, fault):
        if not isinstance(row, dict):
            raise ConversionError(f"{where}: is no JSON object; give one row a line")
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Command: convert a file, print one JSON line of counts."""
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.preprocess.dj_to_llava", description="Kit JSONL to LLaVA JSON."
    )
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--questions", type=Path, help="stage_1.json with the original question of each id")
    parser.add_argument("--back", action="store_true", help="LLaVA JSON to kit JSONL")
    given = parser.parse_args(arguments)
    try:
        if given.back:
            rows = to_kit(read_list(given.input))
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            report = {"rows": len(rows)}
        else:
            questions = read_questions(given.questions) if given.questions else {}
            rows = to_llava(read_jsonl(given.input), questions)
            text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
            report = {"rows": len(rows), "questions_drawn": sum(row["id"] not in questions for row in rows)}
    except (ConversionError, OSError) as error:
        parser.exit(2, f"error: {given.input} to {given.output}: {error}\n")
    write_atomically(given.output, text)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
