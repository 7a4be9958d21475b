"""GQA questions of the world are true and disjoint from training data; their fine-tuning rows are additional."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bettersynth_assets.config.world_paths import WorldPaths
from bettersynth_assets.miniature.generate import generate_world
from bettersynth_assets.miniature.gqa_set import gqa_finetune_rows, gqa_rows
from bettersynth_assets.miniature.questions import THING_KINDS
from bettersynth_assets.miniature.world import NUMBERS, Scene
from bettersynth_assets_tests.helpers.small_world import ROWS, SIZES
from toolkit.evaluation.benchmarks.gqa import GQA_BENCHMARK, INSTRUCTION
from toolkit.evaluation.benchmarks.protocol import Options


def _right(question: str, scene: Scene) -> str:
    """Return the answer to a question, derived from its words."""
    words = question.removesuffix("?").split()
    if question == "How many objects are there?":
        return NUMBERS[len(scene.things)]
    (thing,) = [t for t in scene.things if {t.color, t.shape} & set(words)]
    if words[0] == "Where":
        return thing.place
    return {"color": thing.color, "shape": thing.shape, "size": thing.size}[words[1]]


def test_correct_answers_are_true_and_kinds_and_ids_are_as_requested() -> None:
    questions, images = gqa_rows(100, 3)
    scenes = dict(images)
    assert Counter(row["types"]["detailed"] for row in questions.values()) == dict.fromkeys(THING_KINDS, 20)
    assert len({row["imageId"] for row in questions.values()}) == len(scenes) == 100
    for row in questions.values():
        scene = scenes[f"{row['imageId']}.jpg"]
        assert row["answer"] == _right(row["question"], scene) == row["answer"].lower()
        assert scene.split() == "evaluation"


@pytest.mark.slow
def test_the_benchmark_reads_the_worlds_files(small_world: WorldPaths) -> None:
    files = {"questions": small_world.split("tune").gqa_questions, "images": small_world.split("tune").gqa_images}
    questions = GQA_BENCHMARK.read(files, Options())
    assert questions.protocol == "GQA testdev_balanced, single word or phrase"
    assert len(questions.rows) == SIZES.tune.gqa
    assert all(Path(str(row.image)).is_file() and row.text.endswith(f"?\n{INSTRUCTION}") for row in questions.rows)
    assert {row.fields["structural"] for row in questions.rows} == {"query"}
    scored = GQA_BENCHMARK.score(questions, [row.right.capitalize() + "." for row in questions.rows])
    assert {metric.name: metric.value for metric in scored.metrics} == dict.fromkeys(
        ("accuracy", "accuracy/open", "accuracy/query"), 100
    )


def test_fine_tuning_rows_are_true_and_use_separate_scenes() -> None:
    evaluation = {scene.content() for _, scene in gqa_rows(300, 3)[1]}
    for row, scene in gqa_finetune_rows(300, 3):
        human, gpt = row["conversations"]
        image, question, suffix = human["value"].split("\n")
        assert (image, suffix) == ("<image>", INSTRUCTION)
        assert gpt["value"] == _right(question, scene)
        assert scene.split() == "finetune" and scene.content() not in evaluation


@pytest.mark.slow
def test_fine_tuning_rows_are_written_after_the_others(small_world: WorldPaths, tmp_path: Path) -> None:
    sizes = replace(SIZES, finetune_gqa=4)
    more = generate_world(tmp_path / "world", rows=ROWS, random_seed=3, sizes=sizes, workers=1)
    older, rows = (json.loads(paths.finetune_json.read_text()) for paths in (small_world, more))
    assert rows[: SIZES.finetune] == older
    assert [row["id"] for row in rows[SIZES.finetune :]] == [f"gq{number:06d}" for number in range(4)]
    assert all((more.finetune_images / row["image"]).is_file() for row in rows)
    old_pictures = {path.name: path.read_bytes() for path in small_world.finetune_images.iterdir()}
    assert old_pictures.items() <= {path.name: path.read_bytes() for path in more.finetune_images.iterdir()}.items()
    assert more.split("tune").gqa_questions.read_bytes() == small_world.split("tune").gqa_questions.read_bytes()
