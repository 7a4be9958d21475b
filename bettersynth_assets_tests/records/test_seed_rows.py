"""The fields of one row, in the kit's and in LLaVA's format."""

from __future__ import annotations

from typing import Any

import pytest

from bettersynth_assets.records.seed_rows import SeedRow, parse_row
from toolkit.preprocess.row_lines import RowError

GOOD = SeedRow(id="7", image="images/7.jpg", caption="a red boat")


def kit(text: str, images: Any = ("images/7.jpg",)) -> dict[str, Any]:
    return {"id": "7", "text": text, "images": list(images) if isinstance(images, tuple) else images}


def llava(prompt: str, answer: str, **changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
    return {"id": "7", "image": "images/7.jpg", "conversations": turns, **changes}


@pytest.mark.parametrize(
    "values",
    [
        kit("<__dj__image>\na red boat <|__dj__eoc|>"),
        kit("<image>\na red boat"),
        kit("  <image> a red boat<|__dj__eoc|>\n", "images/7.jpg"),
        kit("a red boat\n<image>"),
        {"id": "7", "text": "<image>\na red boat", "image": "images/7.jpg"},
    ],
)
def test_both_image_tokens_and_a_string_or_list_of_images_are_equivalent(values: dict[str, Any]) -> None:
    assert parse_row(values) == GOOD


def test_a_llava_rows_answer_becomes_the_caption_and_its_question_is_kept() -> None:
    row = parse_row(llava("<image>\nWhat is this?", " a red boat "))
    assert row == SeedRow(id="7", image="images/7.jpg", caption="a red boat", question="What is this?")
    assert parse_row(llava("What is this?\n<image>", "a red boat")) == row


def reason(values: dict[str, Any]) -> str:
    with pytest.raises(RowError) as error:
        parse_row(values)
    return error.value.reason


@pytest.mark.parametrize(
    "values",
    [
        kit("a red boat"),
        kit("<image>\n<image>\na red boat"),
        kit("<image><__dj__image> a red boat"),
        kit("<image>\na red boat", ("a.jpg", "b.jpg")),
        kit("<image>\na red boat", ()),
        llava("What is this?", "a red boat"),
    ],
)
def test_different_numbers_of_image_tokens_and_images_are_a_mismatch(values: dict[str, Any]) -> None:
    assert reason(values) == "image_token_mismatch"


@pytest.mark.parametrize(
    "inside", ["<image>", "<__dj__image>", "<|__dj__eoc|>", "<start_of_turn>", "<end_of_turn>", "<eos>", "<bos>"]
)
def test_a_reserved_token_inside_a_caption_is_refused(inside: str) -> None:
    assert reason(kit(f"<image>\na red {inside} boat")) == "reserved_token"
    assert reason(llava("<image>\nWhat?", f"a red {inside} boat")) == "reserved_token"
    assert reason(llava(f"<image>\nWhat {inside} is?", "a red boat")) == "reserved_token"


@pytest.mark.parametrize("values", [kit("<image>\n <|__dj__eoc|>"), kit("<image>"), llava("<image>\nWhat?", " \n")])
def test_an_empty_caption_is_refused(values: dict[str, Any]) -> None:
    assert reason(values) == "empty_text"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (kit("a red boat", ()), "missing_image"),
        (kit("<image>\n<image>\na red boat", ("a.jpg", "b.jpg")), "several_images"),
        ({"id": "7", "text": "<image>\na red boat"}, "missing_field"),
        (kit("<image>\na", (7,)), "missing_field"),
        ({"id": "7", "images": ["a.jpg"]}, "missing_field"),
        ({"id": "7", "images": ["a.jpg"], "text": ["<image>"]}, "missing_field"),
        (llava("<image>\nWhat?", "a", conversations="none"), "missing_field"),
        (llava("<image>\nWhat?", "a", conversations=[{"from": "human", "value": "<image>"}]), "missing_field"),
        (llava("<image>\nWhat?", "a", conversations=[{"from": "human", "value": 1}] * 2), "missing_field"),
    ],
)
def test_a_row_without_one_image_and_one_text_is_refused(values: dict[str, Any], expected: str) -> None:
    assert reason(values) == expected
