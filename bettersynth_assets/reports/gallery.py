"""A gallery of a stage's rows. In: kept rows and the image folder. Out: Markdown, at most ``GALLERY_BYTES``.

Captions and images come from the web. A caption is shown as a code span, where Markdown, HTML and links have no effect.
An image is a small JPEG in a ``data:`` URI, so the page requests nothing from other servers.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from toolkit.file_errors import EnvironmentFault

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 72
"""Longest side of a thumbnail in pixels."""
THUMBNAIL_BYTES = 2_000
CAPTION_CHARACTERS = 120
GALLERY_BYTES = 16_000
"""Limit for the whole Markdown text; images beyond it are omitted."""
NO_ROOM = "`no image: the gallery is full`"
Opener = Callable[[Path], "Image"]


def gallery(rows: pa.Table, *, image_root: Path, opener: Opener, limit: float | None = None, per_kind: int = 2) -> str:
    """Show the highest, lowest and borderline rows by ``clip_score``, or the first rows if there are no scores.

    Args:
        rows: kept rows with ``id``, ``image``, ``caption`` and optionally ``clip_score``.
        image_root: folder that the ``image`` paths are relative to.
        opener: reads an image as RGB; a ``ValueError``, ``OSError`` or ``EnvironmentFault`` is shown in its place.
        limit: score that separates kept from rejected rows; None for the median of these rows.
        per_kind: rows of each kind.
    """
    entries = []
    for title, indices in _choices(rows, limit, per_kind).items():
        for index in indices:
            row = {name: rows[name][index].as_py() for name in ("id", "image", "caption")}
            score = f"{rows['clip_score'][index].as_py():.4f} " if "clip_score" in rows.column_names else ""
            texts = [f"**{title}** {score}{code(row['id'])}", code(row["caption"])]
            if "original_caption" in rows.column_names:
                texts.append(f"was {code(rows['original_caption'][index].as_py())}")
            entries.append((texts, image_root / row["image"]))
    bytes_left = GALLERY_BYTES - sum(len(f"{line}\n\n{NO_ROOM}\n\n".encode()) for texts, _ in entries for line in texts)
    lines = []
    for (title, *texts), path in entries:
        image = thumbnail(path, opener)
        if len(image) > bytes_left:
            image = NO_ROOM
        else:
            bytes_left -= len(image)
        lines += [title, image, *texts]
    return "\n\n".join(lines) or "no rows"


def code(text: str) -> str:
    """Format ``text`` as a literal one-line Markdown code span of at most ``CAPTION_CHARACTERS`` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if len(line) > CAPTION_CHARACTERS:
        line = line[: CAPTION_CHARACTERS - 1] + "…"
    return f"`{line.replace('`', 'ˋ') or ' '}`"


def thumbnail(path: Path, opener: Opener) -> str:
    """Format an image as a Markdown image of at most ``THUMBNAIL_BYTES`` of JPEG, or state why there is none."""
    try:
        image = opener(path)
    except (ValueError, OSError, EnvironmentFault) as error:
        return code(f"no image: {type(error).__name__}")
    image.thumbnail((SIDE, SIDE))
    for quality in (60, 40, 20, 5):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= THUMBNAIL_BYTES:
            return f"![image](data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')})"
    return code("no image: too many bytes")


def _choices(rows: pa.Table, limit: float | None, per_kind: int) -> dict[str, Sequence[int]]:
    if "clip_score" not in rows.column_names:
        return {"first": range(min(per_kind, rows.num_rows))}
    order: list[int] = pc.sort_indices(rows, sort_keys=[("clip_score", "descending"), ("id", "ascending")]).to_pylist()
    edge = limit if limit is not None else rows["clip_score"][order[len(order) // 2]].as_py() if order else 0.0
    middle = order[per_kind : max(per_kind, len(order) - per_kind)]
    near = sorted(middle, key=lambda index: abs(rows["clip_score"][index].as_py() - edge))[:per_kind]
    return {"highest": order[:per_kind], "borderline": near, "lowest": order[per_kind:][-per_kind:]}
