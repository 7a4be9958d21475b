"""Synthetic captions on the way to their rows. In: what ``recaption.synthesise`` made. Out: a table of it, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from bettersynth_assets.images.opening import ImageError
from toolkit.file_errors import EnvironmentFault

FAILED = "caption_failed"


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A new caption of one row."""

    raw: str | None
    """None where the captioner gave none: flag ``caption_failed``."""
    text: str
    """After cleaning; "" where degenerate."""
    flags: tuple[str, ...]
    score: float | None
    """Cosine; None where degenerate."""
    detail: str | None = None
    """Why the captioner failed."""

    @property
    def has_failed(self) -> bool:
        return FAILED in self.flags


def check_failed(made: Mapping[str, Synthetic | ImageError], asked: int, most: int) -> None:
    """Refuse a shard for too many rows of which the captioner failed.

    Args:
        made: by the row's id; what was made until now.
        asked: rows that are captioned in all.
        most: rows that may fail.

    Raises:
        EnvironmentFault: more did; names the first. The shard fails, and the others go on.
    """
    bad = [(row, found.detail) for row, found in made.items() if isinstance(found, Synthetic) and found.has_failed]
    if len(bad) > most:
        row, detail = bad[0]
        raise EnvironmentFault(
            f"the captioner failed for {len(bad)} of {asked} rows, and limits.max_failed_captions_share of the profile "
            f"allows {most}; the first, row {row!r}: {detail}: look at the server, or raise the limit"
        )


SYNTHETIC = pa.schema(
    [
        ("raw", pa.string()),
        ("text", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("score", pa.float32()),
        ("reason", pa.string()),  # of an image that failed to decode; the columns before are null then
        ("detail", pa.string()),  # of that image, or of a captioner that failed
    ]
)


def synthetic_table(made: Sequence[Synthetic | ImageError]) -> pa.Table:
    """What ``synthesise`` gave, as a table of schema ``SYNTHETIC``."""
    rows = [
        {"reason": item.reason, "detail": item.detail} if isinstance(item, ImageError) else asdict(item)
        for item in made
    ]
    return pa.Table.from_pylist(rows, schema=SYNTHETIC)


def synthetic_rows(table: pa.Table) -> list[Synthetic | ImageError]:
    """The reverse of ``synthetic_table``."""
    return [
        ImageError(row["reason"], row["detail"])
        if row["reason"]
        else Synthetic(**{name: row[name] for name in ("raw", "text", "score", "detail")}, flags=tuple(row["flags"]))
        for row in table.to_pylist()
    ]
