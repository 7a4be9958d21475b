"""Reading, hashing and atomic writing of small files."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from toolkit.file_errors import LASTING, environment_fault


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Replace a file atomically: readers see either the old content or the complete new content.

    Args:
        path: the file; its folder is created.
        durable: flush the new file to disk before the rename; False for a symbolic link.

    Yields:
        A temporary path in the same folder. It is renamed to ``path`` if the block succeeds, and removed if it raises.
        Create the file as usual, so that the umask determines its permissions.

    Raises:
        EnvironmentFault: the disk is full or read-only; names ``path``.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if durable:
            flush(partial)
        partial.replace(path)
    except OSError as error:
        if error.errno in LASTING and (fault := environment_fault(error, path)):
            raise fault from error
        raise
    finally:
        with suppress(OSError):  # its folder may be gone; do not hide the exception being raised
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write ``content`` to a file atomically (see ``replacing``); text is encoded as UTF-8."""
    with replacing(path, durable=durable) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with sorted keys, atomically."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their 1-based numbers.

    Lines end at line feeds only: text may contain other characters at which ``str.splitlines`` splits.
    """
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            yield number, line


def read_json_lines(path: Path, fault: Callable[[str, ValueError], Exception]) -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON Lines file, each with its location (``path, line number``).

    Args:
        path: the file.
        fault: builds the exception for an invalid line from the line's location and the parser's error.
    """
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise fault(where, error) from error
        yield where, value


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path, state: os.stat_result | None = None) -> str:
    """Return the SHA-256 of a file's bytes, cached in this process by the file's state.

    The state is device, inode, size, mtime and ctime. A change that leaves all five unchanged is not noticed until the
    next process.

    Args:
        path: the file.
        state: the result of ``path.stat()``, if the caller has it already.
    """
    status = state or path.stat()
    return _sha256_of_state(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=1 << 16)
def _sha256_of_state(path: Path, *state: int) -> str:
    return file_sha256(path)


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hex; independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of(*parts: object) -> str:
    """Return the SHA-256 of the canonical JSON of ``parts``, in hex; equal values give the same digest everywhere."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
