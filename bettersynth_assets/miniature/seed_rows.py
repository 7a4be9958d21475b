"""Plans the miniature's seed file. In: number of rows, random seed. Out: a ``PlannedRow`` with known faults per line.

Writes nothing: ``generate.py`` turns each row into a line, an image and a row of ``truth.parquet``. Faults occur at
known rates (``RATES``, ``BROKEN_RATES``), so the precision and recall of every filter can be measured.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from bettersynth_assets.miniature.captions import DEGENERATE_KINDS, degenerate_caption, poor_caption, swap_attribute
from bettersynth_assets.miniature.world import Scene, make_scene
from toolkit.tokens import IMAGE_TOKEN

RATES = {
    "mismatch": 0.15,  # the caption of another scene, or one attribute swapped
    "degenerate": 0.08,  # one of captions.DEGENERATE_KINDS
    "watermark": 0.10,
    "odd_size": 0.05,  # a side below 335 or above 769 pixels
    "duplicate": 0.01,  # image and caption of an earlier row under a new id
}
HARD_SHARE = 1 / 3
"""Share of the mismatches with only one wrong colour, shape or word."""

VARIANT_RATES = {"exif_rotated": 0.01, "grey": 0.005, "progressive": 0.01}
"""Unusual but valid files."""

BROKEN_RATES = {
    "truncated_image": 0.002,
    "missing_image": 0.001,
    "empty_caption": 0.001,
    "reserved_token": 0.001,
    "path_escape": 0.0005,
    "bad_json": 0.001,
}
"""Rows that must be quarantined; at least one row of each kind."""


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """One line of the seed file and its faults.

    ``mismatch``: "", "easy" (caption of another scene), "hard" (one attribute swapped). ``degenerate``: "" or its kind.
    ``variant``: "" or a key of ``VARIANT_RATES``. ``broken``: "" or a key of ``BROKEN_RATES``. ``duplicate_of``: "" or
    the id of the row whose image and caption it repeats.
    """

    id: str
    scene: Scene
    caption: str
    width: int
    height: int
    watermark: bool = False
    mismatch: str = ""
    degenerate: str = ""
    variant: str = ""
    broken: str = ""
    duplicate_of: str = ""

    @property
    def image(self) -> str:
        """Path in the kit's layout: the folder is the id's first five digits."""
        return f"images/{self.id[:5]}/{self.id}.jpg"

    @property
    def odd_size(self) -> bool:
        return min(self.width, self.height) < 335 or max(self.width, self.height) > 769

    @property
    def faults(self) -> list[str]:
        """Names of all faults, for the truth table."""
        named = {"mismatch": self.mismatch, "degenerate": self.degenerate, "watermark": self.watermark,
                 "odd_size": self.odd_size, "duplicate": self.duplicate_of}  # fmt: skip
        return [name for name, present in named.items() if present] + ([self.broken] if self.broken else [])


def plan_rows(rows: int, random_seed: int) -> list[PlannedRow]:
    """Plan the rows of the seed file.

    Args:
        rows: lines of the seed file, at least 50, so that each broken kind occurs.
        seed: random seed of all rows.

    Returns:
        The rows in file order, with unique ids.

    Raises:
        ValueError: fewer than 50 rows.
    """
    if rows < 50:
        raise ValueError(f"rows = {rows}: the miniature's seed file needs at least 50, so that each known fault occurs")
    rng = random.Random(random_seed)
    ids = [f"{number:09d}" for number in rng.sample(range(6_000_000), rows)]
    planned: list[PlannedRow] = []
    for row_id in ids:
        if planned and rng.random() < RATES["duplicate"]:
            # Never a duplicate of a duplicate, which would leave open which row to keep.
            original = rng.choice([row for row in planned if not row.duplicate_of])
            planned.append(replace(original, id=row_id, duplicate_of=original.id))
        else:
            planned.append(_plan_row(row_id, rng))
    return _apply_faults(planned, rng)


def _plan_row(row_id: str, rng: random.Random) -> PlannedRow:
    scene = make_scene(rng, "seed")
    caption, mismatch, degenerate = poor_caption(scene, rng), "", ""
    draw = rng.random()
    if draw < RATES["mismatch"]:
        swapped = swap_attribute(caption, scene, rng) if rng.random() < HARD_SHARE else None
        mismatch = "hard" if swapped else "easy"
        caption = swapped or _caption_of_other_scene(scene, rng)
    elif draw < RATES["mismatch"] + RATES["degenerate"]:
        degenerate = rng.choice(DEGENERATE_KINDS)
        caption = degenerate_caption(degenerate, caption, rng)
    width, height = _draw_size(rng)
    variant, at = "", rng.random()
    for name, rate in VARIANT_RATES.items():
        if 0 <= at < rate:
            variant = name
        at -= rate
    return PlannedRow(
        id=row_id, scene=scene, caption=caption, width=width, height=height, mismatch=mismatch, degenerate=degenerate,
        variant=variant, watermark=rng.random() < RATES["watermark"],
    )  # fmt: skip


def _caption_of_other_scene(scene: Scene, rng: random.Random) -> str:
    """Return a caption that names at least one colour, shape or word which the scene does not show."""
    shown = {word for t in scene.things for word in (t.color, t.shape)} | {
        word for s in scene.signs for word in (s.color, s.word)
    }
    while True:
        other_scene = make_scene(rng, "seed")
        named = {w for t in other_scene.things for w in (t.color, t.shape)} | {s.word for s in other_scene.signs}
        caption = poor_caption(other_scene, rng)
        if (named - shown) & set(caption.split()):
            return caption


def _draw_size(rng: random.Random) -> tuple[int, int]:
    """Draw width and height like those of the real seed file: mostly one side of exactly 336, few outliers."""
    draw = rng.random()
    if draw < RATES["odd_size"] / 2:
        short, long = rng.randint(120, 330), rng.randint(120, 330)
    elif draw < RATES["odd_size"]:
        short, long = rng.randint(336, 600), rng.randint(780, 960)
    elif draw < 0.6:
        short, long = 336, 336
    elif draw < 0.97:
        short, long = 336, rng.randint(337, 504)
    else:
        short, long = rng.randint(500, 640), rng.randint(641, 768)
    return (short, long) if rng.random() < 0.4 else (long, short)


def _apply_faults(planned: list[PlannedRow], rng: random.Random) -> list[PlannedRow]:
    """Apply ``BROKEN_RATES``; rows that have duplicates stay intact."""
    originals = {row.duplicate_of for row in planned}
    free = [k for k, row in enumerate(planned) if not row.duplicate_of and row.id not in originals]
    broken = list(planned)
    for kind, rate in BROKEN_RATES.items():
        for _ in range(max(1, round(rate * len(planned)))):
            index = free.pop(rng.randrange(len(free)))
            caption = {"empty_caption": "", "reserved_token": f"{planned[index].caption} {IMAGE_TOKEN}"}.get(
                kind, planned[index].caption
            )
            broken[index] = replace(planned[index], broken=kind, caption=caption)
    return broken
