"""Looks for the image files of a data set before anything is computed from them.

In: paths. Out: those that are not there. One ``stat`` per distinct file, many at once, because a network file system
answers each only after a while.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolkit.data.llava import DataError, Sample
from toolkit.file_errors import patiently

_THREADS = 32
_CHUNK = 1024
_SHOWN = 5


def missing_files(paths: Iterable[str]) -> list[str]:
    """Those of ``paths``, in order and each once, where there is no file, or an empty one.

    Raises:
        EnvironmentFault: the file system does not answer, or does not let this user look.
    """
    distinct = list(dict.fromkeys(paths))
    chunks = [distinct[at : at + _CHUNK] for at in range(0, len(distinct), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [path for missing in pool.map(_missing, chunks) for path in missing]


def _missing(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not _is_there(path)]


def _is_there(path: str) -> bool:
    try:
        status = os.stat(path)  # noqa: PTH116 (400,000 Path objects take longer than their stats)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        try:
            status = patiently(lambda: Path(path).stat(), path, seen=False)
        except OSError:
            return False  # a name that no file can have
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def check_images(samples: Sequence[Sample], data: Path, images: Path) -> None:
    """Refuse a training set whose image files are not all there.

    Args:
        samples: rows of ``data``.
        images: the folder that their paths are relative to, named in the error.

    Raises:
        DataError: image files are missing; says how many, and names the first ones with their rows.
        EnvironmentFault: the file system does not answer, or does not let this user look.
    """
    rows: dict[str, Sample] = {}
    for sample in samples:
        if sample.image is not None:
            rows.setdefault(str(sample.image), sample)
    missing = missing_files(rows)
    if not missing:
        return
    first = [
        f"{os.path.relpath(path, images)!r} (row {rows[path].number}, id {rows[path].id!r})"
        for path in missing[:_SHOWN]
    ]
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    raise DataError(
        f"{data}: {len(missing)} of {len(rows)} image files are missing or empty in {str(images)!r}: "
        f"{', '.join(first)}{more}; put them there, or name the folder that the paths are relative to"
    )
