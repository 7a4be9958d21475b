"""LLaVA JSON to samples.

In: ``[{"id", "image"?: "path", "conversations": [{"from": "human"|"gpt", "value"}, …]}, …]``, images relative to a
folder. Out: :class:`Sample` rows.

A key whose value is null counts as absent. Every other fault of a row is an error that names file, row (from 0) and id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.data.conversation import Turn, is_blank
from toolkit.tokens import IMAGE_TOKEN


class DataError(ValueError):
    """Training data that cannot be used; names file, row and fix."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row: ``image`` is a path or None for text only; ``source`` and ``number`` say where the row is."""

    id: str
    image: Path | None
    turns: tuple[Turn, ...]
    source: Path
    number: int

    @property
    def where(self) -> str:
        """File, row and id, for errors."""
        return _where(self.source, self.number, self.id)

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
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); give a LLaVA JSON file") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: needs a list of at least one row")
    return [_sample(row, number, path, images) for number, row in enumerate(rows)]


def _where(path: Path, number: int, row_id: object) -> str:
    return f"{path}, row {number} (id {row_id!r})"


def _sample(row: Any, number: int, path: Path, images: Path) -> Sample:
    if not isinstance(row, dict):
        raise DataError(f"{path}, row {number}: needs an object with an 'id', not {_short(row)}")
    present = {key: value for key, value in row.items() if value is not None}
    row_id = present.get("id")
    if not isinstance(row_id, str | int) or isinstance(row_id, bool):
        raise DataError(f"{path}, row {number}: needs an 'id' that is a string or a whole number, not {_short(row_id)}")
    where = _where(path, number, row_id)
    turns = _turns(present.get("conversations"), where)
    image = present.get("image")
    if image is not None and (not isinstance(image, str) or not image or "\0" in image):
        raise DataError(f"{where}: 'image' must be one path as a string, or null for text only, not {_short(image)}")
    tokens = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if tokens != (0 if image is None else 1):
        raise DataError(f"{where}: {tokens} {IMAGE_TOKEN} in its turns but image is {image!r}")
    if image is not None and (Path(image).is_absolute() or ".." in Path(image).parts):
        raise DataError(f"{where}: image {image!r} must be relative and stay inside the image folder")
    _check_exchanges(turns, where)
    _check_unicode(where, str(row_id), image or "", *(turn.text for turn in turns))
    image_path = None if image is None else images / image
    return Sample(id=str(row_id), image=image_path, turns=turns, source=path, number=number)


def _turns(conversations: Any, where: str) -> tuple[Turn, ...]:
    """The turns of one row, each with a speaker and text."""
    if not isinstance(conversations, list) or not conversations:
        raise DataError(f"{where}: 'conversations' must be a list of {{from, value}}, not {_short(conversations)}")
    turns = []
    for at, turn in enumerate(conversations):
        if not isinstance(turn, dict):
            raise DataError(f"{where}: conversations[{at}] must be an object {{from, value}}, not {_short(turn)}")
        speaker, text = turn.get("from"), turn.get("value")
        if speaker not in ("human", "gpt"):
            raise DataError(f"{where}: conversations[{at}]: 'from' must be human or gpt, not {_short(speaker)}")
        if not isinstance(text, str):
            raise DataError(f"{where}: conversations[{at}]: 'value' must be text, not {_short(text)}")
        turns.append(Turn(speaker=speaker, text=text))
    return tuple(turns)


def _check_exchanges(turns: tuple[Turn, ...], where: str) -> None:
    """Refuse turns that are not questions, each with an answer that says something."""
    # The kit leaves out an answer before the first question; see ``toolkit.models.mgm.language.conversation``.
    exchanges = turns[1:] if turns[0].speaker == "gpt" else turns
    speakers = [turn.speaker for turn in exchanges]
    if speakers != ["human", "gpt"] * (len(speakers) // 2) or not speakers:
        raise DataError(
            f"{where}: its turns must be pairs of human and gpt, not {', '.join(speakers) or 'one answer alone'}; "
            "complete or remove the row"
        )
    if any(is_blank(turn.text) for turn in exchanges[1::2]):
        raise DataError(f"{where}: a question has an empty answer; complete or remove the row")


def _check_unicode(where: str, *texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = f"its text holds half a surrogate pair ({error.reason}); remove the row"
            raise DataError(f"{where}: {message}") from error


def _short(value: Any) -> str:
    """A value for an error message."""
    if value is None:
        return "null"
    shown = json.dumps(value, ensure_ascii=True)
    return shown if len(shown) <= 60 else shown[:57] + "..."
