"""Text that the miniature's Gemma learns from. In: a seeded ``random.Random``. Out: contexts, prompts and answers.

No pixel is involved. A context stands where the image will be: 36 slots, each a bag of tokens whose mean embedding the
model sees. Hard contexts hold a caption, one token a slot. Soft contexts lay the scene's words over a 6x6 grid, several
words to a slot: that is what a projected image can come to look like, so that nothing but stage 1 is missing for sight.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bettersynth_assets.miniature.captions import poor_caption, rich_caption
from bettersynth_assets.miniature.questions import (
    SIGN_KINDS,
    ask,
    choice_prompt,
    ocr_tokens,
    short_prompt,
    with_options,
)
from bettersynth_assets.miniature.world import COLUMNS, ROWS, Scene, make_scene
from toolkit.preprocess.dj_to_llava import QUESTIONS

SIDE = 6
SLOTS = SIDE * SIDE
BAG = 6
"""Most words in one slot."""

SOFT_SHARE = 0.7
CAPTION_SHARE = 0.3

Slots = list[list[str]]
"""Words per slot, each with the space in front that it has inside a text; an empty bag is a blank slot."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One training text: what stands in the image's place, the user's prompt, the model's answer."""

    slots: Slots | None
    caption: str
    prompt: str
    answer: str


def soft_slots(scene: Scene, rng: random.Random) -> Slots:
    """Lay a scene's words over the grid: things over 1 to 4 slots of their cell, signs over theirs."""
    grid: Slots = [[] for _ in range(SLOTS)]
    for thing in scene.things:
        words = [thing.size, thing.color, thing.shape, ROWS[thing.row], COLUMNS[thing.column]]
        cells = [(2 * thing.row + a) * SIDE + 2 * thing.column + b for a in (0, 1) for b in (0, 1)]
        _spread(grid, words, rng.sample(cells, rng.randint(1, 4)), rng)
    for sign in scene.signs:
        cells = [(2 * sign.row + a) * SIDE + column for a in (0, 1) for column in range(1, 5)]
        _spread(grid, [sign.color, "sign", sign.word], rng.sample(cells, rng.randint(2, 6)), rng)
    return grid


def _spread(grid: Slots, words: list[str], cells: list[int], rng: random.Random) -> None:
    """The first cell gets all words, the others lose some, as image tokens know only part of a thing."""
    for number, cell in enumerate(cells):
        kept = [word for word in words if number == 0 or rng.random() < 0.75] or words
        grid[cell] = [f" {word}" for word in kept]


def draw_lesson(rng: random.Random) -> Lesson:
    """One text about a scene of the split ``weights``."""
    scene = make_scene(rng, "weights")
    slots = soft_slots(scene, rng) if rng.random() < SOFT_SHARE else None
    fate = rng.random()
    if fate < CAPTION_SHARE:
        told = rich_caption(scene) if rng.random() < 0.5 else poor_caption(scene, rng)
        prompt, answer = rng.choice(QUESTIONS), told
    else:
        question = ask(scene, rng, rng.choice(SIGN_KINDS) if scene.signs and rng.random() < 0.35 else None)
        if rng.random() < 0.5:
            prompt, answer = short_prompt(question, ocr_tokens(scene, rng)), question.answer
        else:
            choice = with_options(question, rng)
            prompt, answer = choice_prompt(choice), choice.letter
    return Lesson(slots=slots, caption=rich_caption(scene, rng), prompt=prompt, answer=answer)


def before_image() -> str:
    """What the ``gemma`` conversation template puts between ``<bos>`` and the image."""
    return "<start_of_turn>user\n"


def after_image(prompt: str) -> str:
    """From the image to where the answer begins."""
    return f"\n{prompt}<end_of_turn>\n<start_of_turn>model\n"


def full_answer(answer: str) -> str:
    """The part of the template that carries loss."""
    return f"{answer}<end_of_turn>\n<eos>"
