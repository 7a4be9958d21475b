"""The question that goes with each caption. In: settings. Out: human turns by id, as the kit restores them.

Original questions come from the profile's ``questions`` file, else from ``stage_1.json`` beside the seed, else from the
seed itself where it is in LLaVA format. An id without one gets one of the 11, drawn from the id (see toolkit). A
questions file is read by the same reader as the seed, and checked when the seed is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from bettersynth_assets.config.profile import resolve
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.records.reserved import find_reserved
from bettersynth_assets.records.seed_file import DECODED, SeedIndex, remove_older, seed_index, version_name
from bettersynth_assets.records.seed_path import seed_path
from bettersynth_assets.records.seed_rows import parse_row
from toolkit.files import sha256_once, write_atomically
from toolkit.preprocess.row_lines import RowError, read_line

BESIDE = "stage_1.json"
FIX = "fix it, or leave it out to have the questions drawn"
CHECKED = ".checked-1"
"""Suffix of a note that a questions file was checked; its number is that of the rules."""


def questions_file(settings: Settings) -> Path | None:
    """The file with the original questions, if there is one.

    Raises:
        ConfigError: the profile names one that is not there.
    """
    path = questions_place(settings)
    if path.is_file():
        return path
    named = settings.profile.questions
    if named is not None:
        raise ConfigError(f"questions = {named!r}: no such file ({path}); name a LLaVA JSON, or leave it out")
    return None


def questions_place(settings: Settings) -> Path:
    """Where the questions file is, if there is one."""
    named = settings.profile.questions
    return seed_path(settings).with_name(BESIDE) if named is None else Path(resolve(named)).expanduser().absolute()


def questions_key(settings: Settings) -> str:
    """What the questions depend on, for a stage's key."""
    path = questions_file(settings)
    return sha256_once(path) if path else seed_index(settings).questions_digest()


def check_questions(settings: Settings) -> None:
    """Read the questions file once for each version of it, before anything is computed from the seed.

    Raises:
        ConfigError: a questions file that cannot be used.
    """
    path = questions_file(settings)
    if path is not None:
        index = seed_index(settings)
        name = f"{version_name(path)}-{version_name(index.path)}{CHECKED}"
        _check(path, settings.shared_root / DECODED / name, lambda: _ids(index))


_checked: set[Path] = set()


def _check(path: Path, note: Path, seed_ids: Callable[[], set[str]]) -> None:
    """Read a file unless a note says that another process has done so: 400,000 questions take seconds."""
    if note in _checked or note.is_file():
        return
    text_only = {row_id for row_id, question in _read(path) if question is None}
    if both := sorted(text_only & seed_ids()) if text_only else []:
        raise ConfigError(
            f"questions file {path}, id {both[0]!r}: 0 <image> in its question, and the seed's row has an image: {FIX}"
        )
    _checked.add(note)
    with suppress(OSError):  # a data root that cannot be written: every process checks for itself
        write_atomically(note, f"{path}\n")
        remove_older(note)


def read_questions(settings: Settings) -> dict[str, str]:
    """Human turns by id, each with its image token.

    Raises:
        ConfigError: a questions file that cannot be used.
    """
    path = questions_file(settings)
    if path is None:
        return _own_questions(seed_index(settings))
    return {row_id: question for row_id, question in _read(path) if question is not None}


def _ids(index: SeedIndex) -> set[str]:
    """Ids of all rows that can be read."""
    found = set()
    for line in index.lines(0, 1):
        with suppress(RowError):  # in quarantine
            found.add(read_line(line.raw)["id"])
    return found


def _read(path: Path) -> Iterator[tuple[str, str | None]]:
    """Ids and human turns of a questions file, held to the same rules as the seed's rows; None for text only."""
    from toolkit.preprocess.dj_to_llava import IMAGE_TOKEN, ConversionError, iterate_questions

    try:
        for row_id, question in iterate_questions(path):
            if question and (token := find_reserved(question.replace(IMAGE_TOKEN, ""))):
                raise ConfigError(f"questions file {path}, id {row_id!r}: {token} inside the question: {FIX}")
            yield row_id, question
    except ConversionError as error:
        raise ConfigError(f"questions file {error}: it must be LLaVA JSON of id and conversations: {FIX}") from None


def _own_questions(index: SeedIndex) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in index.conversations():
        try:
            row = parse_row(read_line(line.raw))
        except RowError:  # in quarantine since seed_dataset
            continue
        if row.question:
            found.setdefault(row.id, f"<image>\n{row.question}")
    return found
