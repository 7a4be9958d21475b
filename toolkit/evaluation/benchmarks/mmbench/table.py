"""MMBench's tables. In: the official TSV, or the workbook or TSV of an upload. Out: checked rows, prompts, images.

::

    index  question  hint  A  B  C  D  answer  category  image  source  l2-category  comment  split

``hint``, ``C`` and ``D`` may be empty; ``image`` holds base64, with or without ``data:image/png;base64,`` before it, or
the index of the row that holds the image. A question's rotations are separate rows with the same ``index % 1000000``.
"""

from __future__ import annotations

import base64
import binascii
import csv
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.evaluation.benchmarks.mmbench.letters import LETTERS
from toolkit.questions.answer_files import AnswerError
from toolkit.questions.prompt_text import clean_prompt

if TYPE_CHECKING:
    import pandas as pd

GROUP = 1_000_000
MOST_CHARACTERS = 1 << 30
"""Maximum length of one cell, an image in base64."""
_EMPTY = {"", "nan", "none"}
_TEXTS = ("question", "hint", *LETTERS)
_MORE_LETTERS = "EFGHIJ"


def read_table(path: Path) -> pd.DataFrame:
    """Read a benchmark or prediction table (``.tsv`` or ``.xlsx``); every cell is text, an empty one is ``""``.

    Raises:
        AnswerError: not a table, a truncated row, a duplicate column or index, or no column ``index`` of whole
            numbers; names file and row.
    """
    import pandas as pd  # takes a third of a second, and every profile loads this module

    names, *rows = _read_cells(path) or [[]]
    names = [name.strip() for name in names]
    twice = sorted(name for name, count in Counter(filter(None, names)).items() if count > 1)
    if twice:
        raise AnswerError(f"{path}: column {twice[0]!r} comes twice")
    if "index" not in names or not rows:
        found = f"it has {', '.join(names)[:200] or 'no column'} and {len(rows)} rows"
        raise AnswerError(f"{path}: needs rows with a column 'index' of whole numbers; {found}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise AnswerError(f"{path}, row {number}: {len(row)} cells for {len(names)} columns; was the file cut off?")
    table = pd.DataFrame(rows, columns=names, dtype=str)
    table["index"] = _indices(path, list(table["index"]))
    return table


def _indices(path: Path, cells: Sequence[str]) -> list[str]:
    """Normalise indices to the form ``7``; a spreadsheet may have turned it into ``7.0``."""
    seen: dict[str, int] = {}
    for number, cell in enumerate(cells, start=1):
        match = re.fullmatch(r"([0-9]{1,18})(?:\.0+)?", cell.strip())
        if match is None:
            raise AnswerError(
                f"{path}, row {number}: needs rows with a column 'index' of whole numbers; found {cell[:60]!r}"
            )
        index = str(int(match[1]))
        if index in seen:
            raise AnswerError(f"{path}, row {number}: index {index} is that of row {seen[index]} too")
        seen[index] = number
    return list(seen)


def _read_cells(path: Path) -> list[list[str]]:
    """All rows, the header first, with cells as text; rows without any text are skipped."""
    import pandas as pd

    try:
        if path.suffix.lower() == ".xlsx":
            table = pd.read_excel(path, dtype=str, header=None, keep_default_na=False)
            rows = [["" if pd.isna(cell) else cell for cell in row] for row in table.itertuples(index=False)]
        else:
            rows = _read_tsv(path)
    except UnicodeDecodeError as error:
        raise AnswerError(f"{path}: no UTF-8 ({error.reason} at byte {error.start}); give a .tsv in UTF-8") from None
    except (ValueError, KeyError, csv.Error, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise AnswerError(f"{path}: cannot be read as a table ({reason}); was the file cut off?") from None
    return [row for row in rows if any(row)]


def _read_tsv(path: Path) -> list[list[str]]:
    csv.field_size_limit(MOST_CHARACTERS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return list(csv.reader(file, delimiter="\t", strict=True))
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise
            file.seek(0)  # strict parsing refuses a quotation mark inside a cell, which is text
            return list(csv.reader(file, delimiter="\t"))


def check_answers(questions: pd.DataFrame) -> None:
    """Refuse a benchmark without right answers, such as a test split.

    Raises:
        AnswerError: no column ``answer``, a cell that is not a letter, or a letter whose option is empty.
    """
    if "answer" not in questions:
        raise AnswerError(f"column 'answer' is missing; it has {', '.join(questions.columns)}. Give a dev file")
    wrong = questions[~questions["answer"].isin(list(LETTERS))]
    if len(wrong):
        raise AnswerError(f"{len(wrong)} rows have no right answer (first: index {wrong['index'].iloc[0]})")
    for row in questions.drop(columns="image", errors="ignore").to_dict("records"):
        filled = [letter for letter in LETTERS if not is_empty(row.get(letter, ""))]
        if row["answer"] not in filled:
            raise AnswerError(f"question {row['index']}: the right answer is {row['answer']}, and that option is empty")
        if filled != list(LETTERS[: len(filled)]):
            gap = next(letter for letter in LETTERS if letter not in filled)
            raise AnswerError(f"question {row['index']}: option {gap} is empty and {filled[-1]} is not")
        more = [letter for letter in _MORE_LETTERS if not is_empty(row.get(letter, ""))]
        if more:
            raise AnswerError(f"question {row['index']}: has an option {more[0]}; at most {len(LETTERS)} are supported")


def clean_questions(questions: pd.DataFrame) -> pd.DataFrame:
    """Remove image tokens from question, hint and options.

    Raises:
        AnswerError: no column ``question`` or ``image``, an empty question, or a text with a chat marker; names the
            question.
    """
    for column in ("question", "image"):
        if column not in questions:
            raise AnswerError(f"column {column!r} is missing; it has {', '.join(questions.columns)}")
    empty = questions[questions["question"].str.strip() == ""]
    if len(empty):
        raise AnswerError(f"question {empty['index'].iloc[0]}: its text is empty")
    cleaned = {
        column: [
            clean_prompt(text, where=f"question {index}, {column}")
            for index, text in zip(questions["index"], questions[column], strict=True)
        ]
        for column in _TEXTS
        if column in questions
    }
    return questions.assign(**cleaned)


def read_images(table: pd.DataFrame) -> dict[str, bytes]:
    """Bytes of each row's image by index; a cell may hold another row's index instead of base64.

    Raises:
        AnswerError: no column ``image``, a cell that is not base64, or a reference to a row without an image.
    """
    if "image" not in table:
        raise AnswerError(f"column 'image' is missing; it has {', '.join(table.columns)}")
    cells: dict[str, str] = dict(zip(table["index"], table["image"].str.strip(), strict=True))
    decoded: dict[str, bytes] = {}  # a question's rotations repeat its image
    found = {}
    for index, cell in cells.items():
        cell = cells.get(cell, cell)
        if cell not in decoded:
            decoded[cell] = _decode_image(index, cell)
        found[index] = decoded[cell]
    return found


def _decode_image(index: str, cell: str) -> bytes:
    if cell[:5].lower() == "data:":
        head, comma, cell = cell.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise AnswerError(f"row {index}: its image is a data: URI without ';base64,'")
    elif "://" in cell[:20]:
        raise AnswerError(f"row {index}: its image is an address, {cell[:60]!r}; nothing is downloaded, give base64")
    try:
        data = base64.b64decode("".join(cell.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise AnswerError(f"row {index}: its image is no base64 ({error})") from None
    if not data:
        raise AnswerError(f"row {index}: has no image")
    return data


def is_empty(cell: str) -> bool:
    """True for an empty cell of the official files: nothing, ``nan`` or ``None``."""
    return cell.strip().lower() in _EMPTY


def options_of(row: Mapping[Any, str]) -> list[str]:
    """Texts of the options, A first, up to the first empty one."""
    options: list[str] = []
    for letter in LETTERS:
        text = row.get(letter, "")
        if is_empty(text):
            break
        options.append(text)
    return options


def prompt(row: Mapping[Any, str]) -> str:
    """Hint if there is one, question, and a line per option: the ``prompt`` of an answers file."""
    hint = row.get("hint", "")
    lines = [] if is_empty(hint) else [hint]
    lines.append(row["question"])
    lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, options_of(row), strict=False)]
    return "\n".join(lines)
