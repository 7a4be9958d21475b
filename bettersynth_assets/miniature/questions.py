"""Questions about scenes. In: a ``Scene`` and a seeded ``random.Random``. Out: a ``Question`` and its prompts.

Prompts carry exactly the two benchmarks' wording: MMBench's option lines and "Answer with the option's letter …", and
TextVQA's "Reference OCR token: …" line and "Answer the question using a single word or phrase.".
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
    """One question with its true answer and every answer that would fit its kind."""

    kind: str
    text: str
    answer: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with 2 to 4 options in their order."""

    question: Question
    options: tuple[str, ...]

    @property
    def letter(self) -> str:
        """Letter of the true option."""
        return LETTERS[self.options.index(self.question.answer)]

    def rotations(self) -> list[Choice]:
        """All cyclic orders of the options, this one first (CircularEval asks every one)."""
        return [replace(self, options=self.options[k:] + self.options[:k]) for k in range(len(self.options))]


def ask(scene: Scene, rng: random.Random, kind: str | None = None) -> Question:
    """Ask one question.

    Args:
        scene: what is asked about.
        rng: source of choices.
        kind: one of ``THING_KINDS`` or, where the scene has a sign, ``SIGN_KINDS``; None draws one.

    Raises:
        ValueError: unknown kind, or a sign question about a scene without a sign.
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
        raise ValueError(f"question kind {kind!r} does not fit a scene with {len(scene.signs)} signs")
    sign = rng.choice(scene.signs)
    if kind == "word":
        return Question(kind=kind, text=f"What word is on the {sign.color} sign?", answer=sign.word, answers=WORDS)
    return Question(
        kind=kind, text=f"What color is the sign saying {sign.word}?", answer=sign.color, answers=tuple(COLORS)
    )


def with_options(question: Question, rng: random.Random) -> Choice:
    """Draw up to three wrong options and shuffle."""
    wrong = [answer for answer in question.answers if answer != question.answer]
    options = [question.answer, *rng.sample(wrong, min(3, len(wrong)))]
    rng.shuffle(options)
    return Choice(question=question, options=tuple(options))


def ocr_tokens(scene: Scene, rng: random.Random, *, wrong: float = 0.5) -> list[str]:
    """What an imperfect reader found: the signs' words (one in ten is missed), and with chance ``wrong`` one more."""
    found = [sign.word for sign in scene.signs if rng.random() >= 0.1]
    if scene.signs and rng.random() < wrong:
        found.append(rng.choice([w for w in WORDS if w not in {s.word for s in scene.signs}]))
    rng.shuffle(found)
    return found


def short_prompt(question: Question, tokens: list[str]) -> str:
    """The TextVQA prompt without the image token."""
    return f"{question.text}\nReference OCR token: {', '.join(tokens)}\n{SHORT_SUFFIX}"


def choice_prompt(choice: Choice) -> str:
    """The MMBench prompt without the image token."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, choice.options, strict=False)]
    return "\n".join([choice.question.text, *lines, CHOICE_SUFFIX])
