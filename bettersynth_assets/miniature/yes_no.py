"""Yes/no questions in the formats of MME and POPE. In: sizes and a random seed. Out: rows and files.

The world supports five of MME's 14 subtasks: existence, count, position, color and OCR. Each image has two questions
that differ in one word, one true and one false, so a model that ignores the image gets half of them right.

POPE asks for as many absent as present objects. Its three sets differ in how the absent ones are chosen: at random, the
most frequent ones of the whole set, or those that most often occur together with the objects in the image. Objects are
the six shapes. The world draws them independently, so the three sets differ less than COCO's do. Scenes come from the
split ``evaluation``.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bettersynth_assets.miniature.world import COLORS, COLUMNS, NUMBERS, ROWS, SHAPES, WORDS, Scene, make_scene

MME_TASKS = ("existence", "count", "position", "color", "OCR")
MME_SUFFIX = "Please answer yes or no."
POPE_SETS = ("random", "popular", "adversarial")
PER_ANSWER = 2
"""POPE questions per image, set and answer; the official three would need scenes with more objects."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two questions about one scene that differ in one word, one true and one false."""

    task: str
    scene: Scene
    true: str
    false: str


def ask_pair(task: str, rng: random.Random, without: Set[str] = frozenset()) -> Pair:
    """Draw a scene, whose content is not in ``without``, and a pair of questions of a task in ``MME_TASKS``."""
    scene = make_scene(rng, "evaluation", without)
    while task == "OCR" and not scene.signs:
        scene = make_scene(rng, "evaluation", without)
    thing = rng.choice(scene.things)
    if task == "existence":
        absent = [shape for shape in SHAPES if shape not in {other_thing.shape for other_thing in scene.things}]
        template_and_answers = "Is there a {} in this image?", thing.shape, rng.choice(absent)
    elif task == "count":
        number = NUMBERS[len(scene.things)]
        template_and_answers = (
            "Is the number of objects in this image {}?",
            number,
            rng.choice([n for n in NUMBERS[1:] if n != number]),
        )
    elif task == "position":
        positions = [f"{row} {column}" for row in ROWS for column in COLUMNS]
        template = f"Is the {thing.color} {thing.shape} in the {{}}?"
        template_and_answers = (
            template,
            thing.place,
            rng.choice([position for position in positions if position != thing.place]),
        )
    elif task == "color":
        template = f"Is there a {{}} {thing.shape} in this image?"
        template_and_answers = template, thing.color, rng.choice([color for color in COLORS if color != thing.color])
    else:
        sign = rng.choice(scene.signs)
        template = f"Is the word {{}} on the {sign.color} sign?"
        template_and_answers = template, sign.word, rng.choice([word for word in WORDS if word != sign.word])
    template, true_answer, false_answer = template_and_answers
    return Pair(task=task, scene=scene, true=template.format(true_answer), false=template.format(false_answer))


def mme_pairs(count: int, random_seed: int, without: Set[str] = frozenset()) -> list[Pair]:
    """Draw ``count`` images for each of the five subtasks; contents in ``without`` are not drawn."""
    rng = random.Random(random_seed)
    return [ask_pair(task, rng, without) for task in MME_TASKS for _ in range(count)]


def write_mme(pairs: Sequence[Pair], root: Path) -> list[tuple[Path, Scene]]:
    """Write MME's layout: ``<subtask>/<name>.txt`` with two lines of question, tab and answer.

    Returns:
        The images to draw next to the text files.
    """
    images = []
    for number, pair in enumerate(pairs):
        folder = root / pair.task
        folder.mkdir(parents=True, exist_ok=True)
        lines = ((pair.true, "Yes"), (pair.false, "No"))
        text = "".join(f"{question} {MME_SUFFIX}\t{answer}\n" for question, answer in lines)
        (folder / f"{number:04d}.txt").write_text(text)
        images.append((folder / f"{number:04d}.jpg", pair.scene))
    return images


def pope_rows(
    count: int, random_seed: int, without: Set[str] = frozenset()
) -> tuple[dict[str, list[dict[str, Any]]], list[tuple[str, Scene]]]:
    """Return rows ``question_id, image, text, label`` per set, and the images, which the sets share.

    Contents in ``without`` are not drawn.
    """
    rng = random.Random(random_seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = make_scene(rng, "evaluation", without)
        if len(scene.things) >= PER_ANSWER:
            scenes.append(scene)
    names = [f"pope_{number:04d}.jpg" for number in range(count)]
    shown = [[thing.shape for thing in scene.things] for scene in scenes]
    frequent = Counter(itertools.chain.from_iterable(shown))
    pair_counts = Counter(itertools.chain.from_iterable(itertools.permutations(shapes, 2) for shapes in shown))
    sets: dict[str, list[dict[str, Any]]] = {name: [] for name in POPE_SETS}
    for image, present in zip(names, shown, strict=True):
        present_sample = rng.sample(present, PER_ANSWER)
        absent = rng.sample([shape for shape in SHAPES if shape not in present], len(SHAPES) - len(present))
        chosen = {
            "random": absent,
            "popular": sorted(absent, key=lambda name: -frequent[name]),
            "adversarial": sorted(
                absent,
                key=lambda name, present=present: -sum(pair_counts[name, other] for other in present),  # type: ignore[misc]
            ),
        }
        for name, rows in sets.items():
            for yes, no in zip(present_sample, chosen[name][:PER_ANSWER], strict=True):
                for asked, label in ((yes, "yes"), (no, "no")):
                    text = f"Is there a {asked} in the image?"
                    rows.append({"question_id": len(rows) + 1, "image": image, "text": text, "label": label})
    return sets, list(zip(names, scenes, strict=True))


def write_pope(sets: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Write ``coco_pope_<set>.json`` (JSON lines), named like the official files."""
    for name, rows in sets.items():
        (folder / f"coco_pope_{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
