"""Training text for the miniature's Gemma. In: a seeded ``random.Random``. Out: contexts, prompts and answers.

No pixels are involved. A context takes the place of the image: 36 slots, each a bag of tokens whose mean embedding is
the model's input. Hard contexts hold a caption, one token per slot. Soft contexts spread the scene's words over a 6x6
grid, several words per slot. Projected images can come to look like soft contexts, so the model only lacks the
projector, which pre-training trains.
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
from toolkit.tokens import END_OF_TURN, START_OF_TURN

SIDE = 6
SLOTS = SIDE * SIDE
BAG = 6
"""Maximum number of words in a slot."""

SOFT_SHARE = 0.7
CAPTION_SHARE = 0.3

Slots = list[list[str]]
"""Words per slot, each with its leading space as inside a text; an empty bag is a blank slot."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One training text: the context in place of the image, the user's prompt and the model's answer."""

    slots: Slots | None
    caption: str
    prompt: str
    answer: str


def soft_slots(scene: Scene, rng: random.Random) -> Slots:
    """Spread a scene's words over the grid: a thing over 1 to 4 slots of its cell, a sign over 2 to 6 of its slots."""
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
    """Write all words to the first cell and a random part of them to the others, like tokens of real images."""
    for number, cell in enumerate(cells):
        written = [word for word in words if number == 0 or rng.random() < 0.75] or words
        grid[cell] = [f" {word}" for word in written]


def draw_lesson(rng: random.Random) -> Lesson:
    """Draw one text about a scene of the split ``weights``."""
    scene = make_scene(rng, "weights")
    slots = soft_slots(scene, rng) if rng.random() < SOFT_SHARE else None
    draw = rng.random()
    if draw < CAPTION_SHARE:
        answer = rich_caption(scene) if rng.random() < 0.5 else poor_caption(scene, rng)
        prompt = rng.choice(QUESTIONS)
    else:
        question = ask(scene, rng, rng.choice(SIGN_KINDS) if scene.signs and rng.random() < 0.35 else None)
        if rng.random() < 0.5:
            prompt, answer = short_prompt(question, ocr_tokens(scene, rng)), question.answer
        else:
            choice = with_options(question, rng)
            prompt, answer = choice_prompt(choice), choice.letter
    return Lesson(slots=slots, caption=rich_caption(scene, rng), prompt=prompt, answer=answer)


def before_image() -> str:
    """Return the part of the ``gemma`` template between ``<bos>`` and the image."""
    return f"{START_OF_TURN}user\n"


def after_image(prompt: str) -> str:
    """Return the part of the template from the image to the start of the answer."""
    return f"\n{prompt}{END_OF_TURN}\n{START_OF_TURN}model\n"


def full_answer(answer: str) -> str:
    """Return the part of the template that carries loss."""
    return f"{answer}{END_OF_TURN}\n<eos>"
