"""Fine-tuning and evaluation sets. In: a number of rows and a random seed. Out: rows in LLaVA's, TextVQA's and
MMBench's formats.

Half of the short questions ask for words on signs, half for things. All have the TextVQA prompt with its OCR line. The
line holds one word too many, so picking any of its words answers only about 0.4 of the word questions. Half of the
fine-tuning set is short questions, half is multiple choice. Scenes come from the splits ``finetune`` and
``evaluation``.
"""

from __future__ import annotations

import base64
import csv
import random
from collections.abc import Set
from pathlib import Path
from typing import Any

from bettersynth_assets.miniature.questions import (
    L2_CATEGORY,
    LETTERS,
    SIGN_KINDS,
    THING_KINDS,
    Choice,
    Question,
    ask,
    choice_prompt,
    ocr_tokens,
    short_prompt,
    with_options,
)
from bettersynth_assets.miniature.world import Scene, Split, make_scene
from toolkit.tokens import with_image

MMBENCH_COLUMNS = (
    "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category", "comment",
    "split",
)  # fmt: skip
CIRCULAR_STEP = 1_000_000
"""Rotations of one question share ``index % CIRCULAR_STEP``, as in the official file."""


def _short_question(split: Split, rng: random.Random, without: Set[str] = frozenset()) -> tuple[Scene, Question]:
    """Draw a question; half ask for sign words, half for things."""
    wants_word = rng.random() < 0.5
    while True:
        scene = make_scene(rng, split, without)
        if scene.signs or not wants_word:
            return scene, ask(scene, rng, "word" if wants_word else rng.choice(THING_KINDS))


def finetune_rows(count: int, random_seed: int) -> list[tuple[dict[str, Any], Scene]]:
    """Return LLaVA rows (``id, image, conversations``) and their scenes."""
    rng = random.Random(random_seed)
    rows: list[tuple[dict[str, Any], Scene]] = []
    for index in range(count):
        if rng.random() < 0.5:
            scene, question = _short_question("finetune", rng)
            prompt, answer = short_prompt(question, ocr_tokens(scene, rng, wrong=1.0)), question.answer
        else:
            scene = make_scene(rng, "finetune")
            choice = with_options(ask(scene, rng), rng)
            prompt, answer = choice_prompt(choice), choice.letter
        turns = [{"from": "human", "value": with_image(prompt)}, {"from": "gpt", "value": answer}]
        rows.append(({"id": f"ft{index:06d}", "image": f"ft{index:06d}.jpg", "conversations": turns}, scene))
    return rows


def textvqa_rows(
    count: int, random_seed: int, without: Set[str] = frozenset()
) -> list[tuple[dict[str, Any], Scene, Question]]:
    """Return rows ``question_id, image, text, category`` with their scene and question.

    Args:
        count: rows.
        random_seed: of the scenes and questions.
        without: contents of scenes that are not drawn.
    """
    rng = random.Random(random_seed)
    rows: list[tuple[dict[str, Any], Scene, Question]] = []
    for _ in range(count):
        scene, question = _short_question("evaluation", rng, without)
        image_id = f"{rng.getrandbits(64):016x}"
        text = short_prompt(question, ocr_tokens(scene, rng, wrong=1.0))
        row = {"question_id": image_id, "image": f"{image_id}.jpg", "text": text, "category": "default"}
        rows.append((row, scene, question))
    return rows


def textvqa_annotations(rows: list[tuple[dict[str, Any], Scene, Question]]) -> dict[str, Any]:
    """Return the official annotation file's structure; all ten human answers agree."""
    data = [
        {"question_id": number, "image_id": row["question_id"], "question": question.text,
         "answers": [question.answer] * 10, "set_name": "val"}
        for number, (row, _, question) in enumerate(rows)
    ]  # fmt: skip
    return {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": data}


def mmbench_rows(count: int, random_seed: int, without: Set[str] = frozenset()) -> list[tuple[Choice, Scene]]:
    """Return multiple-choice questions before rotation, cycling through the kinds; see ``textvqa_rows``."""
    rng = random.Random(random_seed)
    rows: list[tuple[Choice, Scene]] = []
    kinds = (*THING_KINDS, *SIGN_KINDS)
    while len(rows) < count:
        kind = kinds[len(rows) % len(kinds)]
        scene = make_scene(rng, "evaluation", without)
        if scene.signs or kind not in SIGN_KINDS:
            rows.append((with_options(ask(scene, rng, kind), rng), scene))
    return rows


def write_mmbench(rows: list[tuple[Choice, Scene]], drawn: Path, target: Path) -> None:
    """Write the official TSV, one row with its base64 image per rotation.

    Args:
        rows: the output of :func:`mmbench_rows`.
        drawn: folder with the image ``<number>.jpg`` of each question.
        target: the TSV file.
    """
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, MMBENCH_COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        turned = [(number, choice.rotations()) for number, (choice, _) in enumerate(rows)]
        images = [base64.b64encode((drawn / f"{n}.jpg").read_bytes()).decode() for n, _ in turned]
        for turn in range(len(LETTERS)):
            for number, rotations in turned:
                if turn < len(rotations):
                    writer.writerow(_mmbench_record(number, turn, rotations[turn], images[number]))


def _mmbench_record(number: int, turn: int, choice: Choice, image: str) -> dict[str, Any]:
    kind = choice.question.kind
    return {
        "index": turn * CIRCULAR_STEP + number, "question": choice.question.text, "hint": "", "answer": choice.letter,
        "category": kind, "image": image, "source": "miniature", "l2-category": L2_CATEGORY[kind], "comment": "",
        "split": "dev", **dict(zip(LETTERS, (*choice.options, "", "", ""), strict=False)),
    }  # fmt: skip
