"""Scenes, captions and questions are consistent with each other."""

from __future__ import annotations

import random

import pytest

from bettersynth_assets.miniature.captions import (
    DEGENERATE_KINDS,
    degenerate_caption,
    poor_caption,
    rich_caption,
    swap_attribute,
)
from bettersynth_assets.miniature.questions import (
    LETTERS,
    SIGN_KINDS,
    THING_KINDS,
    ask,
    choice_prompt,
    short_prompt,
    with_options,
)
from bettersynth_assets.miniature.render import render
from bettersynth_assets.miniature.world import Scene, Split, draw_scene, make_scene, scene_from_json


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [draw_scene(rng) for _ in range(count)]


def test_a_scene_can_be_restored_from_its_json() -> None:
    assert all(scene_from_json(scene.to_json()) == scene for scene in scenes(50))


def test_the_appearance_of_a_scene_does_not_change_its_split() -> None:
    for scene in scenes(50):
        twin = Scene(things=scene.things[::-1], signs=scene.signs[::-1], look=scene.look + 1)
        assert twin.split() == scene.split()


def test_scenes_of_every_split_belong_to_it() -> None:
    rng = random.Random(1)
    splits: tuple[Split, ...] = ("evaluation", "finetune", "seed", "weights")
    for split in splits:
        assert {make_scene(rng, split).split() for _ in range(20)} == {split}


def test_a_full_caption_names_everything_within_the_contests_word_limit() -> None:
    for scene in scenes(300):
        caption = rich_caption(scene)
        # The recipe counts two special tokens as words too: 24 - 2.
        assert len(caption.split()) <= 22
        for thing in scene.things:
            assert f"{thing.size} {thing.color} {thing.shape} {thing.place}" in caption
        for sign in scene.signs:
            assert f"{sign.color} sign saying {sign.word}" in caption


def test_a_hard_mismatch_differs_in_one_word_that_the_scene_lacks() -> None:
    rng = random.Random(2)
    swaps = 0
    for scene in scenes(200):
        caption = poor_caption(scene, rng)
        swapped = swap_attribute(caption, scene, rng)
        if swapped is None:
            continue
        swaps += 1
        changed = [b for a, b in zip(caption.split(), swapped.split(), strict=True) if a != b]
        assert len(changed) == 1
        assert changed[0] not in scene.content()
    assert swaps > 100


def test_degenerate_captions_violate_the_rule_in_their_name() -> None:
    rng = random.Random(3)
    made = {kind: degenerate_caption(kind, "a red circle", rng).split() for kind in DEGENERATE_KINDS}
    assert len(made["short"]) == 1
    assert len(made["long"]) > 22
    assert len(made["loop"]) == 20 and len(set(made["loop"])) <= 3
    with pytest.raises(ValueError, match="unknown degenerate caption kind 'odd'"):
        degenerate_caption("odd", "a red circle", rng)


def test_prompts_have_the_benchmarks_wording_and_one_correct_letter() -> None:
    rng = random.Random(4)
    scene = next(s for s in scenes(50) if s.signs)
    for kind in THING_KINDS + SIGN_KINDS:
        question = ask(scene, rng, kind)
        choice = with_options(question, rng)
        assert choice.options.count(question.answer) == 1
        lines = choice_prompt(choice).split("\n")
        assert lines[0] == question.text
        assert lines[-1] == "Answer with the option's letter from the given choices directly."
        assert lines[1 + LETTERS.index(choice.letter)] == f"{choice.letter}. {question.answer}"
        assert [turn.question.answer for turn in choice.rotations()] == [question.answer] * len(choice.options)
        assert {turn.letter for turn in choice.rotations()} == set(LETTERS[: len(choice.options)])
    assert short_prompt(question, ["fox", "tea"]).split("\n") == [
        question.text, "Reference OCR token: fox, tea", "Answer the question using a single word or phrase.",
    ]  # fmt: skip


def test_sign_questions_need_a_sign() -> None:
    scene = next(s for s in scenes(50) if not s.signs)
    with pytest.raises(ValueError, match="0 signs"):
        ask(scene, random.Random(0), "word")


def test_drawing_is_a_pure_function_and_a_watermark_shows() -> None:
    scene = scenes(1)[0]
    first = render(scene, width=360, height=336)
    assert first.size == (360, 336)
    assert first.tobytes() == render(scene, width=360, height=336).tobytes()
    assert first.tobytes() != render(scene, width=360, height=336, watermark=True).tobytes()
