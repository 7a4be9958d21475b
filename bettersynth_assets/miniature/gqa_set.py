"""Questions about things in GQA's format. In: a number of rows and a random seed. Out: rows and their scenes.

The questions are open and have no OCR line; they ask for a thing's colour, shape, size or position, or for the number
of things. Scenes come from the split ``evaluation``, or from ``finetune`` for the fine-tuning set. The rows have the
keys that GQA's ``eval.py`` reads.
"""

from __future__ import annotations

import random
from collections.abc import Set
from typing import Any

from bettersynth_assets.miniature.questions import SHORT_SUFFIX, THING_KINDS, Question, ask
from bettersynth_assets.miniature.world import Scene, Split, make_scene
from toolkit.tokens import with_image

SEMANTIC = {"color": "attr", "shape": "attr", "size": "attr", "position": "rel", "count": "global"}


def _draw_questions(
    count: int, split: Split, random_seed: int, without: Set[str] = frozenset()
) -> list[tuple[Scene, Question]]:
    """Draw scenes and questions, cycling through the kinds."""
    rng = random.Random(random_seed)
    drawn = []
    for number in range(count):
        scene = make_scene(rng, split, without)
        drawn.append((scene, ask(scene, rng, THING_KINDS[number % len(THING_KINDS)])))
    return drawn


def gqa_rows(
    count: int, random_seed: int, without: Set[str] = frozenset()
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, Scene]]]:
    """Return the questions by id, and each image's name with its scene; contents in ``without`` are not drawn."""
    questions: dict[str, dict[str, Any]] = {}
    images = []
    for number, (scene, question) in enumerate(_draw_questions(count, "evaluation", random_seed, without)):
        id_, image_id = f"{number:08d}", f"n{number:06d}"
        types = {"structural": "query", "semantic": SEMANTIC[question.kind], "detailed": question.kind}
        questions[id_] = {
            "imageId": image_id, "question": question.text, "answer": question.answer,
            "fullAnswer": f"{question.answer.capitalize()}.", "isBalanced": True, "types": types,
            "groups": {"global": question.kind, "local": None}, "semantic": [], "entailed": [], "equivalent": [id_],
        }  # fmt: skip
        images.append((f"{image_id}.jpg", scene))
    return questions, images


def gqa_finetune_rows(count: int, random_seed: int) -> list[tuple[dict[str, Any], Scene]]:
    """Return LLaVA rows with GQA-style questions in LLaVA's wording, about scenes of the split ``finetune``."""
    rows: list[tuple[dict[str, Any], Scene]] = []
    for number, (scene, question) in enumerate(_draw_questions(count, "finetune", random_seed)):
        turns = [
            {"from": "human", "value": with_image(f"{question.text}\n{SHORT_SUFFIX}")},
            {"from": "gpt", "value": question.answer},
        ]
        name = f"gq{number:06d}"
        rows.append(({"id": name, "image": f"{name}.jpg", "conversations": turns}, scene))
    return rows
