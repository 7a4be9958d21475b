from __future__ import annotations

import pytest

from bettersynth_assets.models.captioners.caption_cleaning import DEGENERATE, clean, validate

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
def test_an_echo_of_the_prompt_is_removed(raw, text, flags):
    assert clean(raw, PROMPT) == (text, flags)


def test_cleaning_twice_changes_nothing():
    once, _ = clean("a man in a suit - stock photo, image # 12345")
    assert clean(once) == (once, ())


@pytest.mark.parametrize(
    ("raw", "text", "flags"),
    [
        ("<think>It is brown, so a dog.</think>A dog.", "A dog.", ("reasoning_cut",)),
        ("<think>\n\n</think>\n\nA dog.", "A dog.", ("reasoning_cut",)),
        ("It is brown. </think> A dog.", "A dog.", ("reasoning_cut",)),
        ("<THINK>a</THINK> <thinking>b</thinking> A dog.", "A dog.", ("reasoning_cut",)),
        ("◁think▷brown◁/think▷A dog.", "A dog.", ("reasoning_cut",)),
        ("<think>brown</think><answer>A dog.</answer>", "A dog.", ("reasoning_cut",)),
        ("A dog. <think>brown</think>", "A dog.", ("reasoning_cut",)),
        ("<think>brown</think>", "", ("empty", "reasoning_cut")),
        ("<think>The picture shows a dog. It", "", ("reasoning",)),
        ("A dog. <think>Is it", "", ("reasoning",)),
        ("<think>a</think>I'm sorry, but I can't help.", "", ("reasoning_cut", "refusal")),
    ],
)
def test_closed_reasoning_is_removed_and_unclosed_reasoning_is_flagged(raw, text, flags):
    assert clean(raw) == (text, flags)


@pytest.mark.parametrize(
    "raw",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist with that request.",
        "I am very sorry. It is too dark.",
        "Sorry, I cannot describe this image.",
        "I cannot assist",
        "I can't help",
        "I'm unable to see the image.",
        "Unfortunately, I am not able to identify people.",
        "As an AI language model, I do not see.",
        "As an AI, I see a dog.",
        "I'm just a language model.",
        "I do not see any image attached.",
        "There is no image provided.",
        "No image was provided",
        "Please upload the picture again.",
        "Could you please share the photo?",
        "A man in a suit. I cannot identify who this is.",
        '"I apologize, but I won\'t describe it."',
        "抱歉，我无法识别这张图片。",
        "Lo siento, pero no puedo ayudar.",
    ],
)
def test_a_refusal_is_not_a_caption(raw):
    text, flags = clean(raw)
    assert not text and {*flags} - {"quotes_cut"} == {"refusal"}


@pytest.mark.parametrize(
    "raw",
    [
        '{"caption": "a dog"}',
        '{"caption": "a dog',
        '[{"label": "dog", "box": [1, 2]}]',
        "[1, 2, 3]",
        '```json\n{"caption": "a dog"}\n```',
        "```\na dog\n```",
        'Here is the JSON: {"caption": "a dog"}',
        "<p>A dog on a beach.</p>",
        "<caption>a dog</caption>",
        "## Caption\nA dog.",
        "**A dog** on a beach",
        "- a dog\n- a cat",
        "1. a dog\n2. a cat",
        "| a | b |\n|---|---|",
        "![a dog](https://example.com/a.png)",
    ],
)
def test_markup_is_not_a_caption(raw):
    assert clean(raw) == ("", ("markup",))


@pytest.mark.parametrize(
    "raw",
    [
        "1,000,000,000 dollars",
        "1 000 000 000 dollars",
        "a bill of 1.000.000.000 rupiah",
        "a sign that reads no no no",
        "a sign that says no no no no",
        'a poster with the words "ha ha ha"',
        "a licence plate with 777 777 777",
        "a clock showing 11:11:11 on 11/11/11",
        "a slot machine with 7 7 7",
        "2 dogs 2 cats 2 birds 2 fish",
        "a very very very big dog on a hill",
        "a box on a box on a box",
        "i can't help falling in love with you poster",
        "sorry we're closed sign on a door",
        "a card that says i'm sorry for your loss",
        "a woman with her assistant, as a nurse",
        "a dog's collar & a cat [on the left]",
        "2 < 3 and 5 > 4",
        "a table in the kitchen",
        "妈妈和爸爸天天看看书",
        "他哈哈哈地笑着走进了房间",
    ],
)
def test_numbers_short_quoted_repeats_and_plain_sentences_are_kept(raw):
    assert clean(raw) == (raw, ())


@pytest.mark.parametrize(
    "raw",
    [
        "a sign that reads no no no no no no no no",
        "a man on a hill with a dog and a tree the the the",
        "a wall painting of john lennon lennon lennon in the style of the beatles",
        "红色红色红色的花",
        "a dog and a cat and a cat and a cat and a cat",
        "a stove, a sink, a stove, a sink, a stove, a sink in a big room with two people and a dog at the window",
        "1 1 1 1 1 1 1 1",
        "a price of 1,000,000,000,000,000,000,000,000,000,000",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "hahahahahahahahahahahahahaha",
        "一只猫一只猫一只猫一只猫",
        "A dog runs on the green grass. A dog runs on the green grass. A dog runs on the green grass.",
    ],
)
def test_a_decoder_in_a_loop_is_detected(raw):
    assert clean(raw) == ("", ("loop",))


@pytest.mark.parametrize(
    ("raw", "text", "flags"),
    [
        ("Caption: a dog", "a dog", ("lead_cut",)),
        ("Image caption: a dog", "a dog", ("lead_cut",)),
        ("Sure! Here's a short caption for the image: A dog.", "A dog.", ("lead_cut",)),
        ('Here is a caption: "A dog."', "A dog.", ("lead_cut", "quotes_cut")),
        ("“A dog on a beach.”", "A dog on a beach.", ("quotes_cut",)),
        ('"stop" and "go"', '"stop" and "go"', ()),
        ("ASSISTANT: a dog", "a dog", ("lead_cut",)),
    ],
)
def test_text_that_a_chat_model_puts_around_a_caption_is_removed(raw, text, flags):
    assert clean(raw) == (text, flags)


@pytest.mark.parametrize(
    "token",
    ["<image>", "<__dj__image>", "<|__dj__eoc|>", "<start_of_turn>", "<end_of_turn>", "<|im_end|>", "<eos>", "[/INST]"],
)
def test_a_reserved_token_makes_a_caption_degenerate_with_or_without_cleaning(token):
    for raw in (f"a dog {token}", f"{token} a dog", f"a {token} dog", token):
        assert clean(raw) == validate(raw) == ("", ("reserved_token",))


@pytest.mark.parametrize("raw", ["a\x00dog", "a dog \ud83d", "a dog \ufffd"])
def test_broken_characters_make_a_caption_degenerate_with_or_without_cleaning(raw):
    assert clean(raw) == validate(raw) == ("", ("broken_text",))


def test_a_caption_that_is_not_cleaned_is_only_validated():
    assert validate("a  dog stock photo ") == ("a dog stock photo", ())
    assert validate(" . ") == ("", ("empty",))
    assert {"reserved_token", "broken_text", "empty"} <= DEGENERATE
