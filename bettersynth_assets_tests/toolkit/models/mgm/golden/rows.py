"""Conversations and prompts for which the original and this project must give the same ids and labels."""

from __future__ import annotations

Row = tuple[list[list[str]], bool]
"""Turns ``[speaker, text]`` and whether the row has a picture."""

SYMBOLS = [
    "<mask>", "<start_of_turn>", "<end_of_turn>", *("\n" * n for n in range(1, 6)), *("▁" * n for n in range(2, 6)),
]  # fmt: skip
"""What Gemma's vocabulary holds whole: marks, runs of line breaks and of spaces."""

QUESTIONS = [
    "What is this?",
    "What is the brand?\nReference OCR token: ACME, 12\nAnswer the question using a single word or phrase.",
    "  spaces around  ",
    "line break at the end\n",
    "这是什么？",
    "",
]

TRAINING_TEXT = [
    "user", "model", "What is this? Describe the image concisely.", "Give a brief description of the image.",
    "a cat sits on the mat and looks at a dog", "the quick brown fox jumps over the lazy dog 0123456789",
    "Answer the question using a single word or phrase.", "Provide a brief description of the given image.",
    "a photo of two people in a park, one with a red hat; the other reads a book.", "一只狗在公园里", "très jolie été",
]  # fmt: skip
"""Text that the small tokenizer is trained on; letters outside it become bytes."""


def _talk(*texts: str) -> list[list[str]]:
    return [[("human", "gpt")[i % 2], text] for i, text in enumerate(texts)]


ROWS: dict[str, Row] = {
    "image": (_talk("<image>\nWhat is this?", "a cat sits on the mat"), True),
    "image last": (_talk("What is this?\n<image>", "a dog"), True),
    "image alone": (_talk("<image>", "a dog in a park"), True),
    "image amid text": (_talk("Look at <image> and describe it. ", "a red hat"), True),
    "text only": (_talk("What is a fox?", "the quick brown fox"), False),
    "text only, space around": (_talk("  What is a fox?  ", " the quick fox "), False),
    "many turns": (_talk("<image>\nWhat is this?", "a cat", "And this?", "a dog", "Why?", "no reason"), True),
    "many turns, text only": (_talk("a", "b", "c", "d"), False),
    "lines": (_talk("<image>\none\n\ntwo", "first\nsecond\n\n\nlast"), True),
    "chinese": (_talk("<image>\n这是什么？", "一只狗在公园里，很可爱。"), True),
    "emoji and combining marks": (_talk("<image>\nété e\u0301te\u0301?", "👩‍👩‍👧 très jolie\u0323\u0307 🐶🏽"), True),
    "answer starts with a line break": (_talk("<image>\nWhat is this?", "\na dog"), True),
    "answer starts with a mark of a word": (_talk("<image>\nWhat is this?", "\u0301x  two"), True),
    "answer ends in a line break": (_talk("<image>\nWhat is this?", "a dog\n"), True),
    "question ends in a line break, text only": (_talk("What is this?\n", "a dog\n\n"), False),
    "turn marks in the question": (_talk("<image>\nWhat is <end_of_turn> for, <start_of_turn>user?", "an end"), True),
    "turn mark in the answer": (_talk("<image>\nWhat ends it?", "it says <end_of_turn> and then <mask>"), True),
    "begin mark in the answer": (_talk("What begins it?", "it says <bos>"), False),
    "empty question": (_talk("", "a dog"), False),
    "begins with an answer": ([["gpt", "hello"], *_talk("<image>\nWhat is this?", "a dog")], True),
    # The original learns nothing from the following rows: its token count does not match, so it ignores the row.
    "end mark in the question": (_talk("<image>\nWhat does <eos> mean?", "the end"), True),
    "end mark in the answer": (_talk("<image>\nWhat is last?", "a dog <eos> a cat"), True),
    "padding mark in the answer": (_talk("<image>\nWhat is it?", "it says <pad>"), True),
    "model mark in the question": (_talk("<image>\nSay <start_of_turn>model\n twice", "no"), True),
    "empty answer": (_talk("<image>\nWhat is this?", ""), True),
    "empty answer amid others": (_talk("<image>\nWhat is this?", "", "And this?", "a dog"), True),
    "no answer to the last question": (_talk("<image>\nWhat is this?", "a cat", "And this?"), True),
}
