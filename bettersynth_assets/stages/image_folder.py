"""Hash of all images of a fine-tuning set or a benchmark. In: names and a folder. Out: a hash of names and contents.

Hashing all images takes as long as reading them. Each image's hash is therefore stored with the file's size and times,
and only files whose size or times have changed are read again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.engine.store import write_table
from bettersynth_assets.images.opening import file_hash_at
from toolkit.file_errors import EnvironmentFault, patiently
from toolkit.files import digest_of

READERS = 8
HASHES = pa.schema(
    [
        ("name", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("ctime_ns", pa.int64()),
        ("hash", pa.string()),
    ]
)
State = tuple[int, int, int]
"""Size in bytes; times of content and metadata change in ns."""


def finetune_images_hash(data: Path, images: Path, memo: Path) -> str:
    """Hash the names and contents of the images that a LLaVA file names.

    Args:
        data: the LLaVA file; if it is unreadable, no images are hashed, and the training reports the error.
        images: folder that the names are relative to.
        memo: Parquet file that stores the hashes; if it is not writable, each process computes them.

    Raises:
        EnvironmentFault: an image exists but cannot be read.
    """
    with suppress(OSError):
        state = data.stat()
        return _hash(data, (state.st_size, state.st_mtime_ns, state.st_ctime_ns), images, memo)
    return ""


@lru_cache(maxsize=4)
def _hash(data: Path, state: State, images: Path, memo: Path) -> str:
    """Compute the hash once per process and version of the file."""
    return images_hash(images, _names(data), memo)


def images_hash(folder: Path, names: Iterable[str], memo: Path) -> str:
    """Hash the names and contents of images; a missing image has the hash ""."""
    stored = _stored_hashes(memo)
    states = {name: _state(folder / name) for name in sorted({*names})}
    changed = [name for name, state in states.items() if state is not None and stored.get(name, (None,))[0] != state]
    with ThreadPoolExecutor(READERS) as pool:
        new_hashes = dict(zip(changed, pool.map(lambda name: file_hash_at(folder / name), changed), strict=True))
    hashes = {
        name: (state, new_hashes.get(name) or stored[name][1]) for name, state in states.items() if state is not None
    }
    if changed:
        rows = [(name, *state, content) for name, (state, content) in hashes.items()]
        columns = [
            pa.array(list(column), field.type) for column, field in zip(zip(*rows, strict=True), HASHES, strict=True)
        ]
        with suppress(OSError, EnvironmentFault):  # a read-only data root
            write_table(memo, pa.Table.from_arrays(columns, schema=HASHES))
    return digest_of([[name, hashes[name][1] if name in hashes else ""] for name in states])


def _names(data: Path) -> list[str]:
    try:
        rows = json.loads(data.read_bytes())
    except ValueError:
        return []
    names = [row.get("image") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [name for name in names if isinstance(name, str) and name and "\0" not in name]


def _stored_hashes(memo: Path) -> dict[str, tuple[State, str]]:
    if not memo.is_file():
        return {}
    try:
        table = pq.read_table(memo, schema=HASHES)
    except pa.ArrowException:
        return {}
    return {row["name"]: ((row["size"], row["mtime_ns"], row["ctime_ns"]), row["hash"]) for row in table.to_pylist()}


def _state(path: Path) -> State | None:
    try:
        status = patiently(lambda: os.stat(path), path, seen=False)  # noqa: PTH116
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
