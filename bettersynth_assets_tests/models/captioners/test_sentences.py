"""Captions truncated by the token limit end with a complete sentence or word."""

from __future__ import annotations

import pytest

from bettersynth_assets.models.captioners.sentences import trim_incomplete


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        ("A view of Mt. Fuji in the", "A view of Mt. Fuji in"),
        ("A view of Mt.", "A view of"),
        ("Dr. King gives a speech. He sta", "Dr. King gives a speech."),
        ("A statue of Dr. King and Mrs. King wit", "A statue of Dr. King and Mrs. King"),
        ("Signs of St. Peter vs. Main St. on a", "Signs of St. Peter vs. Main St. on"),
        ("Bus No. 5 in the", "Bus No. 5 in"),
        ("The sign says no. A man sta", "The sign says no."),
        ("A U.S. Navy ship in", "A U.S. Navy ship"),
        ("A clock at 5 p.m. on a", "A clock at 5 p.m. on"),
        ("A clock at 5 p.m. The dog sle", "A clock at 5 p.m."),
        ("J. K. Rowling signs a boo", "J. K. Rowling signs a"),
        ("J. K. Rowling signs. She smi", "J. K. Rowling signs."),
        ("It costs 3.5 dollars in", "It costs 3.5 dollars"),
        ("It costs 3.", "It costs"),
        ("Made in 2019. The car is", "Made in 2019."),
        ("1. A dog and a ca", "1. A dog and a"),
        ("Fruit, e.g. apples, on a tab", "Fruit, e.g. apples, on a"),
        ("Dogs, cats, etc. They pla", "Dogs, cats, etc."),
        ("A dog ... and a ca", "A dog ... and a"),
        ("A dog waits… The cat is", "A dog waits…"),
        ("A dog and a...", "A dog and"),
        ("A Yahoo! logo on a", "A Yahoo! logo on"),
        ('He says "Stop." The dog doe', 'He says "Stop."'),
        ("(A dog runs.) The cat", "(A dog runs.)"),
        ("Is it a dog? It may", "Is it a dog?"),
        ("一只猫坐在沙发上。旁边有一", "一只猫坐在沙发上。"),
        ("他说：“你好！”然后走", "他说：“你好！”"),
        ("一只猫坐在沙发上，旁边有一", "一只猫坐在沙发上"),
        ("一只猫坐在沙发上", "一只猫坐在沙发上"),
        ("猫が座っている。その隣に", "猫が座っている。"),
        ("एक कुत्ता दौड़ता है। उसके पा", "एक कुत्ता दौड़ता है।"),
        ("كلب يجري؟ ثم", "كلب يجري؟"),
        ("A dog runs. \ufffd", "A dog runs."),
        ("<think>Brown. So a dog.</think>A dog on a bea", "<think>Brown. So a dog.</think>A dog on a"),
        ("<think>Brown. So a dog.</think>A dog. It ru", "<think>Brown. So a dog.</think>A dog."),
        ("", ""),
    ],
)
def test_a_caption_is_cut_to_its_last_complete_sentence_or_word(cut, left):
    assert trim_incomplete(cut) == left
    assert trim_incomplete(f"  {cut} ") == left
