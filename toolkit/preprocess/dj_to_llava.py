"""Conversion between kit JSONL and LLaVA JSON.

::

    {"id", "text": "<__dj__image>\\ncaption <|__dj__eoc|>", "images": ["images/00609/….jpg"]}
        ─►  {"id", "image": "images/00609/….jpg", "conversations": [{"from": "human", …}, {"from": "gpt", …}]}

The human turn is the original question of the same id (``stage_1.json``). For an id without one, a hash of the id
selects one of the 11 original questions, so that a row always gets the same question.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.file_errors import EnvironmentFault
from toolkit.files import write_atomically
from toolkit.preprocess.row_files import RowFileError, read_rows
from toolkit.preprocess.row_ids import caption_of, row_id
from toolkit.tokens import IMAGE_TOKEN, KIT_IMAGE_TOKEN, kit_text, with_image

Row = dict[str, Any]

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
    """A row that cannot be converted; the message names its id."""


def question_for(row_id: str, questions: Mapping[str, str] | None = None) -> str:
    """Return the human turn of a row: its original one, else the one of ``QUESTIONS`` that its id selects."""
    if questions is not None and row_id in questions:
        return questions[row_id]
    return with_image(QUESTIONS[zlib.crc32(row_id.encode()) % len(QUESTIONS)])


def to_llava(rows: Iterable[Row], questions: Mapping[str, str] | None = None) -> list[Row]:
    """Convert kit rows to LLaVA rows, in order.

    Args:
        rows: rows with ``text`` and ``images`` (a list of one path, or the path); a missing ``id`` is derived.
        questions: original human turn by id, with its image token; see :func:`read_questions`.

    Raises:
        ConversionError: a row without id or text, or without exactly one image.
    """
    return [_to_llava(row, questions) for row in rows]


def _to_llava(row: Row, questions: Mapping[str, str] | None) -> Row:
    row_key = row_id(row)
    if row_key is None or not isinstance(row.get("text"), str):
        raise ConversionError(f"row {row.get('id')!r}: 'id' and 'text' must be strings")
    images = row.get("images") or row.get("image", row.get("images"))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], str):
        raise ConversionError(f"row {row_key!r}: needs exactly one image, has {images!r}")
    question = question_for(row_key, questions)
    if question.count(IMAGE_TOKEN) != 1:
        raise ConversionError(
            f"row {row_key!r}: its question has {question.count(IMAGE_TOKEN)} {IMAGE_TOKEN} tokens, needs exactly one"
        )
    turns = [
        {"from": "human", "value": question},
        {"from": "gpt", "value": caption_of(row["text"])},
    ]
    return {"id": row_key, "image": images[0], "conversations": turns}


def to_kit(rows: Iterable[Row]) -> list[Row]:
    """Convert LLaVA rows (one exchange, one image) to kit rows, in order.

    Raises:
        ConversionError: a row without image, or with more than one exchange.
    """
    kit = []
    for row in rows:
        turns, image, found = row.get("conversations") or [], row.get("image"), row_id(row)
        image = image[0] if isinstance(image, list) and len(image) == 1 else image
        answer = turns[1].get("value") if len(turns) == 2 and isinstance(turns[1], dict) else None
        if found is None or not isinstance(answer, str) or not isinstance(image, str):
            raise ConversionError(f"row {row.get('id')!r}: needs one image, one question and one answer")
        kit.append({"id": found, "text": kit_text(caption_of(answer)), "images": [image]})
    return kit


def read_questions(path: Path) -> dict[str, str]:
    """Read the human turn of each id from the kit's ``stage_1.json`` (LLaVA JSON).

    Returns:
        Human turn by id; an empty string for a text-only row, whose turn must not be used for a row with an image.

    Raises:
        ConversionError: see :func:`iterate_questions`.
    """
    return {row_id: question or "" for row_id, question in iterate_questions(path)}


def iterate_questions(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield each id with its human turn, in which ``<image>`` replaces the kit's image token.

    A text-only row, with neither an image nor an image token, yields None in place of the turn. It is not an error,
    because the row may not belong to this data set.

    Raises:
        ConversionError: a file or row that cannot be read, a row without a human turn, a turn without exactly one image
            token, or an id with two different questions; the message names the row.
    """
    seen: dict[str, tuple[int, int]] = {}
    rows = 0
    for where, row in _rows(path):
        rows += 1
        row_id, where = row["id"], f"{where} (id {row['id']!r})"
        try:
            turn = row["conversations"][0]
            speaker, question = turn["from"], turn["value"]
        except (KeyError, IndexError, TypeError):
            speaker, question = None, None
        if speaker != "human" or not isinstance(question, str):
            raise ConversionError(f"{where}: needs an 'id' and 'conversations' that start with a human turn")
        question = question.replace(KIT_IMAGE_TOKEN, IMAGE_TOKEN)
        tokens = question.count(IMAGE_TOKEN)
        if tokens == 0 and not row.get("image"):
            yield row_id, None
            continue
        if tokens != 1:
            raise ConversionError(f"{where}: its question has {tokens} {IMAGE_TOKEN} tokens, needs exactly one")
        first, digest = seen.setdefault(row_id, (rows, hash(question)))
        if digest != hash(question):
            raise ConversionError(f"{where}: row {first} has the same id but a different question")
        yield row_id, question
    if not rows:
        raise ConversionError(f"{path}: holds no rows; give a LLaVA JSON file")


def read_list(path: Path) -> list[Row]:
    """Read the rows of a file: JSON Lines or one JSON array, optionally compressed, or Parquet.

    Raises:
        ConversionError: a row is not a JSON object; the message names it.
    """
    return [row for _, row in _rows(path)]


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        yield from read_rows(path)
    except RowFileError as error:
        raise ConversionError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: convert a file, print the counts as one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.preprocess.dj_to_llava", description="Convert kit JSONL to LLaVA JSON."
    )
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--questions", type=Path, help="stage_1.json with the original question of each id")
    parser.add_argument("--back", action="store_true", help="convert LLaVA JSON to kit JSONL instead")
    options = parser.parse_args(arguments)
    try:
        if options.back:
            rows = to_kit(read_list(options.input))
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            report = {"rows": len(rows)}
        else:
            questions = read_questions(options.questions) if options.questions else {}
            rows = to_llava(read_list(options.input), questions)
            text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
            report = {"rows": len(rows), "questions_drawn": sum(row["id"] not in questions for row in rows)}
    except (ConversionError, EnvironmentFault, OSError) as error:
        parser.exit(2, f"error: {options.input} to {options.output}: {error}\n")
    write_atomically(options.output, text)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
