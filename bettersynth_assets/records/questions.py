"""The question that precedes each caption. In: a ``SeedSource``. Out: human turns by id, as the kit restores them.

Original questions come from the profile's ``questions`` file, else from ``stage_1.json`` next to the seed file, else
from the seed itself if it is in LLaVA format. An id without a question gets one of 11 default questions, chosen by the
id (``toolkit.preprocess.dj_to_llava``). The seed file's reader also reads and checks the questions file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.records.reserved import find_reserved
from bettersynth_assets.records.seed_file import SeedIndex, remove_older_versions, seed_index, version_name
from bettersynth_assets.records.seed_rows import parse_row
from bettersynth_assets.records.seed_source import SeedSource
from toolkit.files import sha256_once, write_atomically
from toolkit.preprocess.row_lines import RowError, read_line
from toolkit.tokens import IMAGE_TOKEN, with_image

FIX = "fix the file, or remove it to use the default questions"
CHECKED = ".checked-1"
"""Suffix of the marker that a questions file was checked; the number is the version of the rules."""


def questions_file(seed: SeedSource) -> Path | None:
    """Return the file with the original questions, or None if there is none.

    Raises:
        ConfigError: the profile names a file that does not exist.
    """
    if seed.questions.is_file():
        return seed.questions
    if seed.questions_named is not None:
        raise ConfigError(
            f"questions = {seed.questions_named!r}: {seed.questions} does not exist: name a LLaVA JSON file, or remove "
            "`questions`"
        )
    return None


def questions_key(seed: SeedSource) -> str:
    """Return a hash of everything that the questions depend on, for a stage's key."""
    path = questions_file(seed)
    return sha256_once(path) if path else seed_index(seed).questions_digest()


def check_questions(seed: SeedSource) -> None:
    """Check the questions file, once per version, before anything is computed from the seed.

    Raises:
        ConfigError: the questions file cannot be used.
    """
    path = questions_file(seed)
    if path is not None:
        index = seed_index(seed)
        name = f"{version_name(path)}-{version_name(index.path)}{CHECKED}"
        _check(path, seed.decoded / name, lambda: _ids(index))


_checked: set[Path] = set()


def _check(path: Path, marker: Path, seed_ids: Callable[[], set[str]]) -> None:
    """Check a questions file unless a process has done so before: reading 400,000 questions takes seconds."""
    if marker in _checked or marker.is_file():
        return
    text_only = {row_id for row_id, question in _read_rows(path) if question is None}
    if conflicting := sorted(text_only & seed_ids()) if text_only else []:
        raise ConfigError(
            f"questions file {path}, id {conflicting[0]!r}: no <image> in the question, but the seed's row has an "
            f"image: {FIX}"
        )
    _checked.add(marker)
    with suppress(OSError):  # with a read-only data root, every process checks the file
        write_atomically(marker, f"{path}\n")
        remove_older_versions(marker)


def read_questions(seed: SeedSource) -> dict[str, str]:
    """Read the human turns by id, each with its image token.

    Raises:
        ConfigError: the questions file cannot be used.
    """
    path = questions_file(seed)
    if path is None:
        return _questions_of_seed(seed_index(seed))
    return {row_id: question for row_id, question in _read_rows(path) if question is not None}


def _ids(index: SeedIndex) -> set[str]:
    """Return the ids of all readable rows."""
    ids = set()
    for line in index.lines(0, 1):
        with suppress(RowError):  # quarantined by seed_dataset
            ids.add(read_line(line.raw)["id"])
    return ids


def _read_rows(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield ids and human turns of a questions file, checked by the rules for seed rows; None for text-only rows."""
    from toolkit.preprocess.dj_to_llava import ConversionError, iterate_questions

    try:
        for row_id, question in iterate_questions(path):
            if question and (token := find_reserved(question.replace(IMAGE_TOKEN, ""))):
                raise ConfigError(f"questions file {path}, id {row_id!r}: token {token} inside the question: {FIX}")
            yield row_id, question
    except ConversionError as error:
        raise ConfigError(f"questions file {error}: expected LLaVA JSON with id and conversations: {FIX}") from None


def _questions_of_seed(index: SeedIndex) -> dict[str, str]:
    questions: dict[str, str] = {}
    for line in index.conversations():
        try:
            row = parse_row(read_line(line.raw))
        except RowError:  # quarantined by seed_dataset
            continue
        if row.question:
            questions.setdefault(row.id, with_image(row.question))
    return questions
