"""MME and POPE questions of the world are true, balanced and disjoint from training data."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from bettersynth_assets.config.world_paths import WorldPaths
from bettersynth_assets.miniature.world import NUMBERS, Scene
from bettersynth_assets.miniature.yes_no import (
    MME_TASKS,
    PER_ANSWER,
    POPE_SETS,
    mme_pairs,
    pope_rows,
)
from bettersynth_assets_tests.helpers.small_world import SIZES
from toolkit.evaluation.benchmarks.mme import MME_BENCHMARK
from toolkit.evaluation.benchmarks.pope import POPE_BENCHMARK
from toolkit.evaluation.benchmarks.protocol import Options

INSTRUCTION = "Answer the question using a single word or phrase."


def _is_true(question: str, scene: Scene) -> bool:
    """Whether the correct answer to a question is yes, derived from its words."""
    words = question.rstrip("?").split()
    things = {(thing.color, thing.shape): thing.place for thing in scene.things}
    if question.startswith("Is the number of objects"):
        return words[-1] == NUMBERS[len(scene.things)]
    if question.startswith("Is the word"):
        return any((sign.word, sign.color) == (words[3], words[-2]) for sign in scene.signs)
    if question.startswith("Is there a"):
        named = words[3 : words.index("in")]
        return named in ([list(key) for key in things] if len(named) == 2 else [[shape] for _, shape in things])
    return things[words[2], words[3]] == " ".join(words[6:])


def test_each_pair_has_one_true_question_and_one_that_differs_in_one_word() -> None:
    pairs = mme_pairs(60, 3)
    assert Counter(pair.task for pair in pairs) == dict.fromkeys(MME_TASKS, 60)
    for pair in pairs:
        assert pair.scene.split() == "evaluation"
        assert _is_true(pair.true, pair.scene) and not _is_true(pair.false, pair.scene)
        changed = [a for a, b in zip(pair.true.split(), pair.false.split(), strict=True) if a != b]
        assert len(changed) <= (2 if pair.task == "position" else 1)


@pytest.mark.parametrize("name", POPE_SETS)
def test_popes_labels_say_whether_the_object_is_in_the_image(name: str) -> None:
    sets, images = pope_rows(50, 3)
    scenes = dict(images)
    rows = sets[name]
    assert [row["question_id"] for row in rows] == list(range(1, 4 * 50 + 1))
    for row in rows:
        assert scenes[row["image"]].split() == "evaluation"
        assert _is_true(row["text"], scenes[row["image"]]) == (row["label"] == "yes")
    assert set(Counter((row["image"], row["label"]) for row in rows).values()) == {PER_ANSWER}
    assert len({(row["image"], row["text"]) for row in rows}) == len(rows)


def test_popular_and_adversarial_objects_are_more_frequent_ones() -> None:
    sets, images = pope_rows(80, 4)
    shown = [{thing.shape for thing in scene.things} for _, scene in images]
    frequent = Counter(shape for some in shown for shape in some)

    def absent(name: str) -> list[tuple[set[str], str]]:
        there = {image: some for (image, _), some in zip(images, shown, strict=True)}
        return [(there[r["image"]], r["text"].split()[3]) for r in sets[name] if r["label"] == "no"]

    def together(there: set[str], shape: str) -> int:
        return sum(len(there & some) for some in shown if shape in some)

    assert sum(frequent[s] for _, s in absent("popular")) > sum(frequent[s] for _, s in absent("random"))
    best = sum(together(*one) for one in absent("adversarial"))
    assert best >= sum(together(*one) for one in absent("popular")) > sum(together(*one) for one in absent("random"))


def test_the_benchmarks_read_the_worlds_files(small_world: WorldPaths) -> None:
    mme = MME_BENCHMARK.read({"root": small_world.split("tune").mme}, Options())
    assert mme.protocol.startswith("MME, 5 of 14 subtasks")
    assert len(mme.rows) == 2 * len(MME_TASKS) * SIZES.tune.mme
    pope = POPE_BENCHMARK.read(
        {"questions": small_world.split("tune").pope, "images": small_world.split("tune").pope_images}, Options()
    )
    assert len(pope.rows) == len(POPE_SETS) * 2 * PER_ANSWER * SIZES.tune.pope
    for rows in (mme.rows, pope.rows):
        assert all(Path(str(row.image)).is_file() and row.text.endswith(f"?\n{INSTRUCTION}") for row in rows)
        assert Counter(row.right for row in rows) == {"Yes": len(rows) // 2, "No": len(rows) // 2}


def test_bytes_of_the_older_sets_are_unchanged(small_world: WorldPaths) -> None:
    """Images are not compared, because their bytes depend on the JPEG library."""
    csv.field_size_limit(10**9)
    with small_world.split("tune").mmbench.open(newline="") as file:
        table = [
            [value for name, value in row.items() if name != "image"] for row in csv.DictReader(file, delimiter="\t")
        ]
    mme = sorted(small_world.split("tune").mme.rglob("*.txt"))
    texts = {
        "questions": small_world.split("tune").textvqa_questions.read_bytes(),
        "annotations": small_world.split("tune").textvqa_annotations.read_bytes(),
        "mmbench": json.dumps(table).encode(),
        "seed": small_world.seed_file.read_bytes(),
        "stage_1": small_world.questions.read_bytes(),
        "finetune": small_world.finetune_json.read_bytes(),
        "mme": b"".join(f"{p.parent.name}/{p.name}\n".encode() + p.read_bytes() for p in mme),
        "pope": b"".join(path.read_bytes() for path in sorted(small_world.split("tune").pope.glob("*.json"))),
    }
    assert {name: hashlib.sha256(data).hexdigest()[:16] for name, data in texts.items()} == GOLDEN


GOLDEN = {
    "questions": "70809bee29b146a9",
    "annotations": "79885731aab807e9",
    "mmbench": "929e4edc3f36907e",
    "seed": "bfb494d153808544",
    "stage_1": "9635cbe48f865d54",
    "finetune": "bc04f9a4589f7c4e",
    "mme": "ff023fea9f6a56a5",
    "pope": "2872fbfda3f73cfb",
}
"""Of rows=150, seed=3 and the sizes of ``conftest``: the first six from before MME and POPE, these from before GQA."""
