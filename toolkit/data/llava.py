"""LLaVA JSON to samples.

In: ``[{"id", "image"?: "path", "conversations": [{"from": "human"|"gpt", "value"}, …]}, …]``, images relative to a
folder. Out: :class:`Sample` rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.mgm.conversation import IMAGE_TOKEN, Turn


class DataError(ValueError):
    """Training data that cannot be used; names file, row and fix."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row: ``image`` is a path or None for text only."""

    id: str
    image: Path | None
    turns: tuple[Turn, ...]

    @property
    def words(self) -> int:
        """Words of all turns; the length that batches are grouped by."""
        return sum(len(turn.text.split()) for turn in self.turns)


def read_llava(path: Path, images: Path) -> list[Sample]:
    """Read and validate a LLaVA JSON file.

    Raises:
        DataError: no list, no rows, or a row that breaks the format; the message names the row.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: needs a list of at least one row")
    return [_sample(row, number, path, images) for number, row in enumerate(rows)]


def _sample(row: Any, number: int, path: Path, images: Path) -> Sample:
    where = f"{path}, row {number}"
    if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
        raise DataError(f"{where}: needs an object with an 'id'")
    where += f" (id {row['id']!r})"
    try:
        turns = tuple(Turn(speaker=t["from"], text=t["value"]) for t in row["conversations"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: 'conversations' must be a list of {{from, value}} ({error!r})") from error
    image = row.get("image")
    tokens = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if tokens != (0 if image is None else 1):
        raise DataError(f"{where}: {tokens} {IMAGE_TOKEN} in its turns but image is {image!r}")
    if image is not None and (Path(image).is_absolute() or ".." in Path(image).parts):
        raise DataError(f"{where}: image {image!r} must be relative and stay inside the image folder")
    return Sample(id=str(row["id"]), image=None if image is None else images / image, turns=turns)
