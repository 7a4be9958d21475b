"""Synthetic captions before they join their rows. In: results of ``caption_files``. Out: a table, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from bettersynth_assets.images.opening import ImageError
from toolkit.file_errors import EnvironmentFault

FAILED = "caption_failed"


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A generated caption of one row."""

    raw: str | None
    """Raw output; None if the captioner failed (flag ``caption_failed``)."""
    text: str
    """Caption after cleaning; "" if degenerate."""
    flags: tuple[str, ...]
    score: float | None = None
    """Cosine; None if degenerate, or before scoring."""
    detail: str | None = None
    """Why the captioner failed."""

    @property
    def has_failed(self) -> bool:
        return FAILED in self.flags


def has_failed(result: Synthetic | ImageError) -> bool:
    """Whether the captioner failed; False if the image cannot be decoded."""
    return isinstance(result, Synthetic) and result.has_failed


def check_failed(results: Mapping[str, Synthetic | ImageError], total: int, limit: int) -> None:
    """Refuse a shard if the captioner failed for too many rows.

    Args:
        results: results so far, by the row's id.
        total: number of rows to caption.
        limit: rows that may fail.

    Raises:
        EnvironmentFault: more rows failed; names the first. This shard fails, the others continue.
    """
    failed = [(row, result.detail) for row, result in results.items() if has_failed(result)]
    if len(failed) > limit:
        row, detail = failed[0]
        raise EnvironmentFault(
            f"the captioner failed for {len(failed)} of {total} rows, and limits.max_failed_captions_share of the "
            f"profile allows {limit}; the first, row {row!r}: {detail}: check the server, or raise the limit"
        )


SYNTHETIC = pa.schema(
    [
        ("raw", pa.string()),
        ("text", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("score", pa.float32()),
        ("reason", pa.string()),  # for an image that cannot be decoded; the columns above are null then
        ("detail", pa.string()),  # for that image, or for a failed captioner
    ]
)


def synthetic_table(results: Sequence[Synthetic | ImageError]) -> pa.Table:
    """Convert results of ``caption_files`` to a table of schema ``SYNTHETIC``."""
    rows = [
        {"reason": result.reason, "detail": result.detail} if isinstance(result, ImageError) else asdict(result)
        for result in results
    ]
    return pa.Table.from_pylist(rows, schema=SYNTHETIC)


def synthetic_rows(table: pa.Table) -> list[Synthetic | ImageError]:
    """Convert a table of schema ``SYNTHETIC`` back to results."""
    return [
        ImageError(row["reason"], row["detail"])
        if row["reason"]
        else Synthetic(**{name: row[name] for name in ("raw", "text", "score", "detail")}, flags=tuple(row["flags"]))
        for row in table.to_pylist()
    ]


def completed(
    stored: pa.Table | None, rows: int, generate: Callable[[list[int]], Sequence[Synthetic | ImageError]]
) -> pa.Table:
    """Generate the captions that a stored table lacks, or whose captioner failed.

    Args:
        stored: a table of schema ``SYNTHETIC``; None if there is none.
        rows: number of rows of the result.
        generate: returns results for the positions of some rows.

    Returns:
        ``stored`` itself if it is complete.
    """
    captions = {} if stored is None else dict(enumerate(synthetic_rows(stored)))
    missing = [at for at in range(rows) if at not in captions or has_failed(captions[at])]
    if stored is not None and not missing:
        return stored
    captions.update(zip(missing, generate(missing), strict=True))
    return synthetic_table([captions[at] for at in range(rows)])
