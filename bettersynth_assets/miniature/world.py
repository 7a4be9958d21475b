"""The miniature's scenes. In: a seeded ``random.Random``. Out: ``Scene``: 1 to 3 things on a 3x3 grid, up to 2 signs.

The other modules of this package render scenes, describe them or ask about them. A hash of the scene's content (not of
its look) assigns it to a split, so no evaluation scene is in the seed file, in the fine-tuning set or in the text and
images that the shipped models were trained on.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Set
from dataclasses import asdict, dataclass
from typing import Literal

COLORS = {
    "red": (220, 40, 40), "blue": (40, 70, 220), "green": (40, 170, 60), "yellow": (235, 210, 40),
    "purple": (140, 50, 180), "orange": (245, 140, 30), "black": (20, 20, 20), "pink": (250, 150, 190),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
SIZES = ("small", "large")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
WORDS = (
    "fox", "tea", "gym", "bus", "zoo", "pub", "jam", "ice", "car", "hat", "map", "box", "cup", "key", "dog", "egg",
)  # fmt: skip
NUMBERS = ("zero", "one", "two", "three")

Split = Literal["evaluation", "finetune", "seed", "weights"]
_SPLIT_ENDS: tuple[tuple[Split, float], ...] = (
    ("evaluation", 0.1), ("finetune", 0.2), ("seed", 0.5), ("weights", 1.0),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, order=True)
class Thing:
    """One coloured shape. ``row`` and ``column`` are 0 to 2 from the top left."""

    color: str
    shape: str
    size: str
    row: int
    column: int

    @property
    def place(self) -> str:
        """The thing's cell in words, e.g. ``top left``."""
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True, kw_only=True, order=True)
class Sign:
    """A coloured sign with one word, across row 0 or 2."""

    color: str
    word: str
    row: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Content of an image. Things differ pairwise in colour, shape and cell; signs in colour, word and row.

    ``look`` is the random seed of what captions leave out: background, jitter, exact shades.
    """

    things: tuple[Thing, ...]
    signs: tuple[Sign, ...]
    look: int

    def content(self) -> str:
        """Canonical text of the content; scenes with equal content differ in look only."""
        # Not asdict, which copies: about 100,000 scenes are drawn for one world.
        return json.dumps([[vars(t) for t in sorted(self.things)], [vars(s) for s in sorted(self.signs)]])

    def split(self) -> Split:
        """The split that this content belongs to."""
        share = int.from_bytes(hashlib.blake2b(self.content().encode(), digest_size=8).digest(), "big") / 2**64
        return next(name for name, end in _SPLIT_ENDS if share < end)

    def to_json(self) -> str:
        """Return compact JSON for :func:`scene_from_json`."""
        return json.dumps(asdict(self), separators=(",", ":"))


def scene_from_json(text: str) -> Scene:
    """Read a scene written by :meth:`Scene.to_json`."""
    raw = json.loads(text)
    return Scene(
        things=tuple(Thing(**t) for t in raw["things"]),
        signs=tuple(Sign(**s) for s in raw["signs"]),
        look=raw["look"],
    )


def draw_scene(rng: random.Random) -> Scene:
    """Draw a scene of any split."""
    sign_count = rng.choices((0, 1, 2), weights=(30, 40, 30))[0]
    # A full caption of three things and two signs would exceed the contest's limit of 24 words.
    thing_count = rng.randint(1, 2 if sign_count == 2 else 3)
    rows = rng.sample((0, 2), sign_count)
    signs = tuple(
        Sign(color=color, word=word, row=row)
        for color, word, row in zip(
            rng.sample(list(COLORS), sign_count), rng.sample(WORDS, sign_count), rows, strict=True
        )
    )
    cells = rng.sample([(r, c) for r in range(3) for c in range(3) if r not in rows], thing_count)
    colors, shapes = rng.sample(list(COLORS), thing_count), rng.sample(SHAPES, thing_count)
    things = tuple(
        Thing(color=color, shape=shape, size=rng.choice(SIZES), row=row, column=column)
        for color, shape, (row, column) in zip(colors, shapes, cells, strict=True)
    )
    return Scene(things=things, signs=signs, look=rng.randrange(1 << 30))


def make_scene(rng: random.Random, split: Split, without: Set[str] = frozenset()) -> Scene:
    """Draw scenes until one belongs to the given split and its content is not in ``without``."""
    while True:
        scene = draw_scene(rng)
        if scene.split() == split and scene.content() not in without:
            return scene
