"""Captions of scenes. In: a ``Scene`` and a seeded ``random.Random``. Out: a caption, as people or models write it.

``rich_caption`` names everything in the scene; the miniature's BLIP-2 is trained on it. ``poor_caption`` resembles alt
texts on the web (one object, missing attributes, filler words), so that recaptioning can improve on it. The other
functions produce the known faults of the seed file.
"""

from __future__ import annotations

import random
import re

from bettersynth_assets.miniature.world import COLORS, SHAPES, WORDS, Scene, Sign, Thing

STOCK_TAIL = "stock photo"
"""Phrase that the miniature's BLIP-2 appends on watermarked images, as the third-place team saw with the real one."""

TAILS = ("stock photo", "free download", "hd wallpaper", "royalty free image")
SPAM = (
    "free download hd wallpaper", "buy now best price", "click here new image", "untitled image file",
    "a nice picture", "royalty free vector clip art", "best price wall decor buy now",
)  # fmt: skip
_FILLERS = (
    "", "", "vector illustration", "clip art", "on plain background", "wall decor", "print for kids", "nice picture",
)  # fmt: skip
DEGENERATE_KINDS = ("short", "long", "loop", "tail", "spam")
_CONTENT = {**dict.fromkeys(COLORS, tuple(COLORS)), **dict.fromkeys(SHAPES, SHAPES), **dict.fromkeys(WORDS, WORDS)}


def _describe_thing(thing: Thing) -> str:
    return f"{thing.size} {thing.color} {thing.shape} {thing.place}"


def _describe_sign(sign: Sign) -> str:
    return f"{sign.color} sign saying {sign.word}"


def rich_caption(scene: Scene, rng: random.Random | None = None) -> str:
    """Name everything in the scene in at most 20 words: things by cell, then signs top-down; ``rng`` shuffles them."""
    descriptions = [_describe_thing(t) for t in sorted(scene.things, key=lambda t: (t.row, t.column))]
    descriptions += [_describe_sign(s) for s in sorted(scene.signs, key=lambda s: s.row)]
    if rng is not None:
        rng.shuffle(descriptions)
    return descriptions[0] if len(descriptions) == 1 else ", ".join(descriptions[:-1]) + " and " + descriptions[-1]


def poor_caption(scene: Scene, rng: random.Random) -> str:
    """Return a web-like caption: true, but about one or two things and without most attributes."""
    one, *others = rng.sample(scene.things, len(scene.things))
    options = [f"a {one.color} {one.shape}", f"a picture of a {one.color} {one.shape}", f"{one.color} {one.shape}",
               f"picture of a {one.shape}", f"a {one.size} {one.color} {one.shape}",
               f"a {one.color} {one.shape} in the {one.place}"]  # fmt: skip
    if others:
        other = others[0]
        options += [f"a {one.color} {one.shape} and a {other.shape}", f"a {one.shape} and a {other.shape}",
                    f"{one.color} {one.shape} with {other.color} {other.shape}"]  # fmt: skip
    if scene.signs:
        sign = rng.choice(scene.signs)
        options += [f"a sign that says {sign.word}", f"a {sign.color} sign", f"the word {sign.word} with a {one.shape}",
                    f"a {sign.color} sign saying {sign.word} and a {one.shape}"]  # fmt: skip
    filler = rng.choice(_FILLERS)
    return f"{rng.choice(options)} {filler}".strip()


def swap_attribute(caption: str, scene: Scene, rng: random.Random) -> str | None:
    """Replace one colour, shape or sign word with another that the scene does not show (a hard mismatch).

    Returns:
        The changed caption, or None if it holds no such word.
    """
    shown = set(re.findall(r"\w+", scene.content()))
    words = caption.split()
    positions = [k for k, word in enumerate(words) if word in _CONTENT]
    if not positions:
        return None
    position = rng.choice(positions)
    words[position] = rng.choice([w for w in _CONTENT[words[position]] if w not in shown])
    return " ".join(words)


def degenerate_caption(kind: str, caption: str, rng: random.Random) -> str:
    """Degrade a caption in one of the ``DEGENERATE_KINDS``.

    ``short``: one word, below the recipe's limit. ``long``: above its limit of 24 words. ``loop``: repeats two or three
    words within the length limits. ``tail``: ends with a seller's phrase. ``spam``: unrelated to the image.
    """
    if kind == "short":
        return rng.choice(("image", "picture", "photo", "untitled"))
    if kind == "long":
        return " ".join(rng.choice(SPAM) for _ in range(8))
    if kind == "loop":
        unit = rng.sample(caption.split(), min(len(caption.split()), rng.randint(2, 3)))
        return " ".join((unit * 20)[:20])
    if kind == "tail":
        return f"{caption} {rng.choice(TAILS)}"
    if kind == "spam":
        return rng.choice(SPAM)
    raise ValueError(f"unknown degenerate caption kind {kind!r}; use one of {DEGENERATE_KINDS}")
