"""Small files: written so that a reader sees the old content or the new one, never half of it; read line by line."""

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
    """Write a file so that readers see the old one or the new one whole, never a part.

    Args:
        path: the file; its folder is made.
        durable: flush the file to disk before it takes its place.

    Yields:
        A path in the same folder to write to, which takes ``path``'s place when the block ends without an error, and
        is removed when it does not. Create the file as usual, so that the umask sets its permissions.

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
        with suppress(OSError):  # its folder may be gone; the error in flight says more
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Replace a file by ``content`` in one step (see ``replacing``); text is written as UTF-8."""
    with replacing(path, durable=durable) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def flush(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, atomically."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1.

    Lines end at line feeds only: text may hold other characters that ``str.splitlines`` would break at.
    """
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            yield number, line


def read_json_lines(path: Path, fault: Callable[[str, ValueError], Exception]) -> Iterator[tuple[str, Any]]:
    """Values of a file of JSON lines, each with where it stands.

    Args:
        fault: makes what is raised for a line that is no JSON, from where that line stands and the parser's error.
    """
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise fault(where, error) from error
        yield where, value


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path, state: os.stat_result | None = None) -> str:
    """Hex digest of a file's bytes, computed once per process for each state of the file.

    A state is device, inode, size and the times of the last change of content and of metadata. A change that leaves all
    five as they were is only seen by the next process.

    Args:
        path: the file.
        state: its ``stat``, if the caller has it already.
    """
    found = state or path.stat()
    return _sha256_of_state(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=1 << 16)
def _sha256_of_state(path: Path, *state: int) -> str:
    return file_sha256(path)


def json_sha256(value: Any) -> str:
    """Hex digest of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of(*parts: object) -> str:
    """sha256 over the canonical JSON of ``parts``; the same values give the same hash in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
