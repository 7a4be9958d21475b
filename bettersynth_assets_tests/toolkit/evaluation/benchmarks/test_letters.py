"""Answers that contain one letter, several letters, or none."""

from __future__ import annotations

import pytest

from toolkit.evaluation.benchmarks.mmbench.letters import parse_letter


@pytest.mark.parametrize(
    "text",
    [
        "A", " A ", "A.", "A)", "(A)", "A:", "A,", "A;", "A\n", "A\r\n", "A\nbecause it is red", "A.\nA red car",
        "A。", "A、", "A；", "A：红色", "（A）", "（A）红色", "Ａ", "Ａ．", "[A]", "**A**", "**A**.", "**A.** red",
        "**A. red**", "*A*", "__A__", "`A`", "'A'", '"A."', "“A”", "$A$", "A</s>", "A <end_of_turn>\n<eos>",
        "<s> A</s>", "A<|im_end|>", "A<br>because", "\ufeffA", "A. A red car", "A: yes", "A, A",
        "A\n\nThe cat is black.", "A. Vitamin C helps here", "A. I think so",
        "A. B cells", "A, because a cat is there", "(A)red", "【A】", "A!", "A！",
        "A - red", "A — red",
        "<think>B. or C. perhaps</think>\nA",
    ],
)  # fmt: skip
def test_a_marked_letter_is_read_as_the_answer(text: str) -> None:
    assert parse_letter(text, options=3) == "A"
    assert parse_letter(text, options=["red", "blue", "green"]) == "A"


@pytest.mark.parametrize(
    "text",
    [
        "A, B", "A,B", "A,B,C,D", "A, D", "A. or B.", "A or B", "A and B", "A/B", "A B", "A & B", "A;B", "A；B", "A、B",
        "A或B", "A\nB", "A,\nB", "(A) (B)", "(A), (B)", "(A)(B)", "（A）（B）", "Ａ，Ｂ", "A. B", "A. B.", "A) B)",
        "A|B", "A+B", "A.B", "A:B", "A, A, B", "A, B and C", "A, B are right", "A, or B looks right", "A. red or B",
        "(A) red and (B) blue", "A. red\nB. blue", "A. red B. blue", "**A** and **B**", "**A**, **B**", "A</s>B",
        "B, A", "B; A.", "B\nA", "A. B. C.", "A - B", "A – B", "A和B",
    ],
)  # fmt: skip
def test_several_letters_are_not_an_answer(text: str) -> None:
    assert parse_letter(text, options=["red", "blue", "green"]) is None


@pytest.mark.parametrize(
    "text",
    ["", "  ", "a", "AB", "A cat", "A red car", "A's car", "A-shaped", "I think A", "The answer is B", "Both A and B",
     "none", "red", "D", "E", "А"],  # the last one is Cyrillic
)  # fmt: skip
def test_a_text_that_does_not_begin_with_a_marked_letter_is_not_an_answer(text: str) -> None:
    assert parse_letter(text, options=3) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [("D. both A,B, and C", "D"), ("D. Both A, B and C.", "D"), ("B. A", "B"), ("A. Solution B", "A"),
     ("A. Solution B or D", None)],
)  # fmt: skip
def test_letters_inside_the_text_of_an_option_are_ignored(text: str, letter: str | None) -> None:
    assert parse_letter(text, options=["Solution B", "A", "neither", "both A, B, and C"]) == letter
