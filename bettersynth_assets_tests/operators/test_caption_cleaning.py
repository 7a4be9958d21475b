from __future__ import annotations

import pytest

from bettersynth_assets.models.caption_cleaning import clean

PROMPT = "Question: what is in the picture? Answer:"


@pytest.mark.parametrize(
    ("raw", "text", "flags"),
    [
        ("a dog on a beach", "a dog on a beach", ()),
        ("  a  dog\n on a beach ", "a dog on a beach", ()),
        ("a dog on a beach stock photo", "a dog on a beach", ("tail_cut",)),
        ("a dog on a beach - Stock Photo", "a dog on a beach", ("tail_cut",)),
        ("a man in a suit - stock photo, image # 12345", "a man in a suit", ("tail_cut",)),
        ("a man in a suit - image #4711", "a man in a suit", ("tail_cut",)),
        ("a dog, royalty free stock image", "a dog", ("tail_cut",)),
        ("abstract background royalty - free stock photo", "abstract background", ("tail_cut",)),
        ("dog stock photos & vectors", "dog", ("tail_cut",)),
        ("illustration of a dog stock vector", "illustration of a dog", ("tail_cut",)),
        ("a dog on shutterstock", "a dog", ("tail_cut",)),
        ("stock photo", "", ("empty", "tail_cut")),
        ("Image may contain: 2 people, tree", "2 people, tree", ("lead_cut",)),
        ("an image may contain", "", ("empty", "lead_cut")),
        ("this picture shows a dog stock photo", "a dog", ("lead_cut", "tail_cut")),
        ("the picture shows", "", ("empty", "lead_cut")),
        ("a picture of what the box contains", "a picture of what the box contains", ()),
        ("a man holding a stock certificate", "a man holding a stock certificate", ()),
        ("a livestock photo", "a livestock photo", ()),
        ("a woman taking a picture", "a woman taking a picture", ()),
        ("a photo of a red square", "a photo of a red square", ()),
        ("a cat a cat a cat a cat", "", ("loop",)),
        ("the the the end", "", ("loop",)),
        ("a tree and a tree by a tree with a tree on a hill", "a tree and a tree by a tree with a tree on a hill", ()),
        ("dog cat dog bird dog fish dog cow", "", ("loop",)),
        ("two dogs and two cats and two birds", "two dogs and two cats and two birds", ()),
        ("", "", ("empty",)),
        ("  ...  ", "", ("empty",)),
    ],
)
def test_captions_are_cleaned_and_flagged(raw, text, flags):
    assert clean(raw) == (text, flags)


@pytest.mark.parametrize(
    ("raw", "text", "flags"),
    [
        (f"{PROMPT} a dog", "a dog", ("prompt_echo",)),
        ("question: what is in the picture? answer: a dog stock photo", "a dog", ("prompt_echo", "tail_cut")),
        (PROMPT, "", ("empty", "prompt_echo")),
        ("a dog", "a dog", ()),
    ],
)
def test_an_echo_of_the_prompt_is_cut(raw, text, flags):
    assert clean(raw, PROMPT) == (text, flags)


def test_cleaning_twice_changes_nothing():
    once, _ = clean("a man in a suit - stock photo, image # 12345")
    assert clean(once) == (once, ())
