"""Index of the seed file. In: a ``SeedSource``. Out: a ``SeedIndex``: position and shard of each row, bad rows.

The file is read once per process, as a stream; only three numbers and an image path per row stay in memory. A
compressed or Parquet file is first decoded into plain lines under the data root, once per version of the file. Row
``n`` (1-based line, or position in a JSON array) belongs to shard ``(n - 1) % shards``, so that editing or appending a
row affects one shard only.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.errors import SeedError
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.images.paths import LONGEST, image_path
from bettersynth_assets.records.seed_rows import field_names, image_field
from bettersynth_assets.records.seed_source import SeedSource
from toolkit.file_errors import EnvironmentFault, patiently
from toolkit.preprocess.row_files import RowFileError, plain_file
from toolkit.preprocess.row_lines import RowError, read_line, spans

SHOWN_LINES = 5
MAX_FIELDS = 1000
CONVERSATION = b'"conversations"'
Signature = tuple[int, int, int]
"""Size in bytes, modification time in ns, and inode; these change when a file is replaced."""


class SeedLine(NamedTuple):
    """One unparsed row of the file."""

    number: int
    """1-based line, or position in a JSON array."""
    raw: bytes
    first: int
    """Number of the first row with the same id; 0 if there is no earlier one."""


@dataclass(frozen=True, kw_only=True)
class SeedIndex:
    """Positions of the rows of a seed file."""

    path: Path
    plain: Path
    """The file that rows are read from: ``path`` itself, or the lines decoded from it."""
    signature: Signature
    """Signature of ``path``."""
    numbers: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    images: list[str] = field(default_factory=list)
    """The image field of each row; ``""`` if the row cannot be parsed."""
    repeats: dict[int, int] = field(default_factory=dict)
    """For a row with a duplicate id, by number: the number of the first row with that id."""
    bad: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of bad rows by reason."""
    fields: set[str] = field(default_factory=set)
    """Names of extra fields (see ``field_names``), at most ``MAX_FIELDS``."""

    def __len__(self) -> int:
        return len(self.numbers)

    def lines(self, shard: int, shards: int) -> Iterator[SeedLine]:
        """Yield the rows of one shard in file order."""
        with self._opened() as file:
            for position in self._positions(shard, shards):
                number = self.numbers[position]
                yield SeedLine(number, self._raw(file, position), self.repeats.get(number, 0))

    def digest(self, shard: int, shards: int) -> str:
        """Return a sha256 over a shard's lines, their numbers, and the size and times of their images.

        Replacing an image on disk changes its shard's digest; no image is read to detect it. The digest covers the
        modification time, which ``cp -p`` and ``rsync -a`` preserve, and the inode's change time, which they cannot
        preserve. A copied seed is therefore ingested again; if its images have the same hashes, later stages stay up
        to date.

        Raises:
            EnvironmentFault: an image may exist, but its state cannot be read.
        """
        digest = hashlib.sha256()
        root = str(self.path.parent)
        with self._opened() as file:
            for position in self._positions(shard, shards):
                number, raw = self.numbers[position], self._raw(file, position)
                state = _image_state(root, self.images[position])
                digest.update(b"%d %d %d %s\n" % (number, self.repeats.get(number, 0), len(raw), state))
                digest.update(raw)
        return digest.hexdigest()

    def conversations(self) -> Iterator[SeedLine]:
        """Yield the rows that contain a conversation, and thus a question."""
        return (line for line in self.lines(0, 1) if CONVERSATION in line.raw)

    def questions_digest(self) -> str:
        """Return a sha256 over the rows that contain a question; for a kit file, that of no bytes."""
        digest = hashlib.sha256()
        for line in self.conversations():
            digest.update(line.raw)
        return digest.hexdigest()

    def check_share(self, limits: Limits) -> None:
        """Refuse a file with too many bad lines, before anything is computed from it.

        Raises:
            SeedError: the file has no rows, or too many bad ones; the message has shares and line numbers by reason.
        """
        if not len(self):
            raise SeedError(f"seed file {self.path} holds no rows: name a file with one JSON object per line")
        bad_rows = sum(len(numbers) for numbers in self.bad.values())
        if bad_rows / len(self) <= limits.max_bad_line_share:
            return
        shares = [f"{reason} {_share(numbers, len(self))}" for reason, numbers in sorted(self.bad.items())]
        raise SeedError(
            f"seed file {self.path}: {bad_rows} of {len(self)} lines ({bad_rows / len(self):.1%}) cannot be used, over "
            f"max_bad_line_share = {limits.max_bad_line_share:.1%}: {'; '.join(shares)}. Fix these lines, or raise "
            "`limits: {max_bad_line_share: …}` in the profile to quarantine them and continue with the rest"
        )

    def _positions(self, shard: int, shards: int) -> list[int]:
        import numpy as np

        numbers = np.frombuffer(self.numbers, dtype=np.int64)
        positions: list[int] = np.flatnonzero((numbers - 1) % shards == shard).tolist()
        return positions

    def _raw(self, file: int, position: int) -> bytes:
        # No memory map: reading a map of a file that has been truncated kills the process.
        start = self.starts[position]
        return os.pread(file, self.ends[position] - start, start)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file that rows are read from; check before and after that it has not changed."""
        with self.plain.open("rb") as file:
            self.refuse_changed()
            yield file.fileno()
            self.refuse_changed()

    def refuse_changed(self) -> None:
        """Check that the seed file is still the version that was indexed.

        Raises:
            SeedError: the file has changed.
        """
        if not self.path.is_file() or signature_of(self.path) != self.signature:
            raise SeedError(f"seed file {self.path} has changed while it was read: run again")


def seed_index(seed: SeedSource) -> SeedIndex:
    """Return the index of the seed file; built once per process and version of the file.

    Raises:
        SeedError: the file is missing or empty, or has more bad lines than the limits allow.
    """
    path = seed.checked_file()
    signature = signature_of(path)
    index = _scan(path, signature, _plain(path, signature, seed.decoded))
    index.check_share(seed.limits)
    return index


def seed_fields(seed: SeedSource) -> frozenset[str] | None:
    """Return the names of the seed's extra fields; fields of nested objects with dots (``meta.score``).

    Returns:
        None if there are more than ``MAX_FIELDS``; then a name can be neither confirmed nor refused.
    """
    fields = seed_index(seed).fields
    return frozenset(fields) if len(fields) < MAX_FIELDS else None


def plain_rows(path: Path, folder: Path) -> Path:
    """Return the plain lines of a row file; decode a compressed or Parquet file into ``folder``, once per version.

    Raises:
        SeedError: the file is of another kind, or damaged.
    """
    decoded = folder / f"{version_name(path)}.jsonl"
    try:
        plain = plain_file(path, decoded)
    except RowFileError as error:
        raise SeedError(str(error)) from None
    if plain == decoded:
        remove_older_versions(decoded)
    return plain


def version_name(path: Path) -> str:
    """Return a file name for one version of a file, derived from its path and signature."""
    name = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return "-".join(map(str, (name, *signature_of(path))))


def remove_older_versions(newest: Path) -> None:
    """Remove the files that belong to older versions of the same source file."""
    for file in newest.parent.glob(f"{newest.name.partition('-')[0]}-*{newest.suffix}"):
        if file != newest:
            file.unlink(missing_ok=True)


def _plain(path: Path, signature: Signature, decoded: Path) -> Path:
    if not signature[0]:
        raise SeedError(f"seed file {path} is empty and holds no rows: name a file with one JSON object per line")
    try:
        return plain_rows(path, decoded)
    except SeedError as error:
        raise SeedError(f"seed file {error}") from None


@lru_cache(maxsize=2)
def _scan(path: Path, signature: Signature, plain: Path) -> SeedIndex:
    index = SeedIndex(path=path, plain=plain, signature=signature)
    size = plain.stat().st_size
    if not size:
        return index
    first_rows: dict[str, int] = {}
    index.refuse_changed()
    with plain.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for number, start, end in spans(data, size):
                index.numbers.append(number)
                index.starts.append(start)
                index.ends.append(end)
                index.images.append(_add_row(index, first_rows, number, data[start:end]))
        except RowError as error:
            index.refuse_changed()
            raise SeedError(f"seed file {path}: {error.detail}: fix the file's end or its brackets") from None
    index.refuse_changed()
    return index


def _add_row(index: SeedIndex, first_rows: dict[str, int], number: int, raw: bytes) -> str:
    """Record one row's id, faults and extra fields in the index; return its image field."""
    try:
        values = read_line(raw)
    except RowError as error:
        index.bad.setdefault(error.reason, []).append(number)
        return ""
    first = first_rows.setdefault(values["id"], number)
    if first != number:
        index.repeats[number] = first
        index.bad.setdefault("duplicate_id", []).append(number)
    if len(values) > 3 and len(index.fields) < MAX_FIELDS:
        index.fields.update(field_names(values))
    return _image_field(values)


def _image_field(values: dict[str, Any]) -> str:
    value = image_field(values)
    image = value[0] if isinstance(value, list) and value else value
    return image if isinstance(image, str) and len(image) <= LONGEST else ""


def _image_state(root: str, image: str) -> bytes:
    """Return size and times of an image file, or ``-``; ``image_path`` decides later whether the row is valid."""
    if not image:
        return b"-"
    path = f"{root}/{image}"
    try:
        try:
            status = os.stat(path)  # noqa: PTH116 - faster; runs for every row
        except OSError:
            status = patiently(lambda: os.stat(path), path, seen=False)  # noqa: PTH116
    except (OSError, ValueError):
        return b"-"
    except EnvironmentFault:
        try:
            image_path(root, image)
        except ImageError:  # refused regardless of the file system
            return b"-"
        raise
    return b"%d %d %d" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def signature_of(path: Path) -> Signature:
    """Return values that identify a version of a file without reading it."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _share(numbers: list[int], rows: int) -> str:
    shown = ", ".join(str(number) for number in numbers[:SHOWN_LINES])
    suffix = ", …" if len(numbers) > SHOWN_LINES else ""
    return f"{len(numbers) / rows:.1%} (lines {shown}{suffix})"
