"""The question that goes with each caption. In: settings. Out: human turns by id, as the kit restores them.

Original questions come from the profile's ``questions`` file, else from ``stage_1.json`` beside the seed, else from the
seed itself where it is in LLaVA format. An id without one gets one of the 11, drawn from the id (see toolkit).
"""

from __future__ import annotations

from pathlib import Path

from bettersynth_assets.config.profile import resolve
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.records.seed_file import SeedIndex, seed_index
from bettersynth_assets.records.seed_lines import RowError, read_line
from bettersynth_assets.records.seed_path import seed_path
from bettersynth_assets.records.seed_rows import parse_row
from toolkit.files import file_sha256

BESIDE = "stage_1.json"


def questions_file(settings: Settings) -> Path | None:
    """The file with the original questions, if there is one.

    Raises:
        ConfigError: the profile names one that is not there.
    """
    named = settings.profile.questions
    if named is None:
        beside = seed_path(settings).with_name(BESIDE)
        return beside if beside.is_file() else None
    path = Path(resolve(named)).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"questions = {named!r}: no such file ({path}); name a LLaVA JSON, or leave it out")
    return path


def questions_key(settings: Settings) -> str:
    """What the questions depend on, for a stage's key."""
    path = questions_file(settings)
    return file_sha256(path) if path else seed_index(settings).questions_digest()


def read_questions(settings: Settings) -> dict[str, str]:
    """Human turns by id, each with its image token.

    Raises:
        ConfigError: a questions file that is not LLaVA JSON.
    """
    path = questions_file(settings)
    if path is None:
        return _own_questions(seed_index(settings))
    from toolkit.preprocess.dj_to_llava import read_questions as read_file

    try:
        return read_file(path)
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"questions file {path} is not a LLaVA JSON array of id and conversations ({type(error).__name__}: "
            f"{error}): mend it, or leave it out to have the questions drawn"
        ) from None


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
