"""Questions about scenes. In: a ``Scene`` and a seeded ``random.Random``. Out: a ``Question`` and its prompts.

The prompts have the exact wording of the two benchmarks: MMBench's option lines and "Answer with the option's letter
…", TextVQA's "Reference OCR token: …" line and "Answer the question using a single word or phrase.".
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from bettersynth_assets.miniature.world import COLORS, COLUMNS, NUMBERS, ROWS, SHAPES, SIZES, WORDS, Scene

LETTERS = "ABCD"
CHOICE_SUFFIX = "Answer with the option's letter from the given choices directly."
SHORT_SUFFIX = "Answer the question using a single word or phrase."

THING_KINDS = ("color", "shape", "size", "position", "count")
SIGN_KINDS = ("word", "sign_color")
L2_CATEGORY = {
    "color": "attribute", "shape": "attribute", "size": "attribute", "position": "relation", "count": "coarse",
    "word": "reading", "sign_color": "reading",
}  # fmt: skip
_PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its correct answer and all answers of its kind."""

    kind: str
    text: str
    answer: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with 2 to 4 ordered options."""

    question: Question
    options: tuple[str, ...]

    @property
    def letter(self) -> str:
        """Letter of the correct option."""
        return LETTERS[self.options.index(self.question.answer)]

    def rotations(self) -> list[Choice]:
        """Return all cyclic orders of the options, this one first; CircularEval asks each of them."""
        return [replace(self, options=self.options[k:] + self.options[:k]) for k in range(len(self.options))]


def ask(scene: Scene, rng: random.Random, kind: str | None = None) -> Question:
    """Draw one question.

    Args:
        scene: the scene that the question is about.
        rng: random number generator.
        kind: one of ``THING_KINDS`` or, if the scene has a sign, ``SIGN_KINDS``; None draws one.

    Raises:
        ValueError: the kind is unknown, or asks for a sign in a scene without one.
    """
    if kind is None:
        kind = rng.choice(THING_KINDS + (SIGN_KINDS if scene.signs else ()))
    thing = rng.choice(scene.things)
    if kind == "color":
        return Question(kind=kind, text=f"What color is the {thing.shape}?", answer=thing.color, answers=tuple(COLORS))
    if kind == "shape":
        return Question(kind=kind, text=f"What shape is the {thing.color} object?", answer=thing.shape, answers=SHAPES)
    if kind == "size":
        return Question(
            kind=kind, text=f"What size is the {thing.color} {thing.shape}?", answer=thing.size, answers=SIZES
        )
    if kind == "position":
        return Question(
            kind=kind, text=f"Where is the {thing.color} {thing.shape}?", answer=thing.place, answers=_PLACES
        )
    if kind == "count":
        answer = NUMBERS[len(scene.things)]
        return Question(kind=kind, text="How many objects are there?", answer=answer, answers=NUMBERS[1:])
    if kind not in SIGN_KINDS or not scene.signs:
        raise ValueError(
            f"question kind {kind!r} does not fit a scene with {len(scene.signs)} signs; use one of {THING_KINDS} or, "
            f"for scenes with a sign, of {SIGN_KINDS}"
        )
    sign = rng.choice(scene.signs)
    if kind == "word":
        return Question(kind=kind, text=f"What word is on the {sign.color} sign?", answer=sign.word, answers=WORDS)
    return Question(
        kind=kind, text=f"What color is the sign saying {sign.word}?", answer=sign.color, answers=tuple(COLORS)
    )


def with_options(question: Question, rng: random.Random) -> Choice:
    """Add up to three wrong options and shuffle."""
    wrong = [answer for answer in question.answers if answer != question.answer]
    options = [question.answer, *rng.sample(wrong, min(3, len(wrong)))]
    rng.shuffle(options)
    return Choice(question=question, options=tuple(options))


def ocr_tokens(scene: Scene, rng: random.Random, *, wrong: float = 0.5) -> list[str]:
    """Simulate an imperfect OCR: the signs' words, each missed with chance 0.1, plus one word with chance ``wrong``."""
    tokens = [sign.word for sign in scene.signs if rng.random() >= 0.1]
    if scene.signs and rng.random() < wrong:
        tokens.append(rng.choice([w for w in WORDS if w not in {s.word for s in scene.signs}]))
    rng.shuffle(tokens)
    return tokens


def short_prompt(question: Question, tokens: list[str]) -> str:
    """Return the TextVQA prompt without the image token."""
    return f"{question.text}\nReference OCR token: {', '.join(tokens)}\n{SHORT_SUFFIX}"


def choice_prompt(choice: Choice) -> str:
    """Return the MMBench prompt without the image token."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, choice.options, strict=False)]
    return "\n".join([choice.question.text, *lines, CHOICE_SUFFIX])
