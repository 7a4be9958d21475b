"""Reserved tokens are found anywhere in a text; ordinary text contains none."""

from __future__ import annotations

import json

import pytest

from bettersynth_assets.records.reserved import find_reserved
from bettersynth_assets.records.seed_rows import parse_row
from bettersynth_assets_tests.helpers.seeds import REAL_SEED
from toolkit.preprocess.row_lines import RowError


@pytest.mark.parametrize(
    "token",
    [
        "<image>", "<video>", "<__dj__image>", "<__dj__video>", "<__dj__audio>", "<|__dj__eoc|>",
        "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>",
        "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|vision_start|>",
        "<｜end▁of▁sentence｜>", "<im_start>", "<im_patch>", "<image_soft_token>", "<unused7>", "<s>", "</s>",
        "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<Image>", "< image >", "<EOS>", "</S>",
    ],
)  # fmt: skip
def test_a_reserved_token_is_found_anywhere_in_a_text(token):
    for text in (token, f"{token} a boat", f"a boat {token}", f"a{token}boat", f"a boat\n{token}\n"):
        assert find_reserved(text) == token


@pytest.mark.parametrize(
    "text",
    [
        "", "a boat", "an image of a boat", "2 < 3 and 4 > 3", "<3 this", "I <b>like</b> it", "<span>s</span>",
        "a <- b -> c", "|image|", "image>", "<images>", "<imagery>", "[instagram]", "an <|", "eos", "<a|b|c>",
        "<start>", "<strong>",
    ],
)  # fmt: skip
def test_ordinary_text_contains_no_reserved_token(text):
    assert find_reserved(text) is None


def test_the_first_of_several_reserved_tokens_is_named():
    assert find_reserved("a <eos> b <image>") == "<eos>"


def test_a_seed_row_with_a_chat_marker_is_refused_by_the_same_rule():
    row = {"id": "7", "text": "<image>\na red boat <|im_end|> at sea", "images": ["a.jpg"]}
    with pytest.raises(RowError, match=r"<\|im_end\|> inside the text") as error:
        parse_row(row)
    assert error.value.reason == "reserved_token"


@pytest.mark.skipif(not REAL_SEED.is_file(), reason="shared/better-synth-seed-800 is not there")
def test_captions_of_the_real_seed_file_contain_no_reserved_token():
    rows = [json.loads(line) for line in REAL_SEED.read_bytes().split(b"\n") if line]
    assert len(rows) == 800
    assert [find_reserved(parse_row(row).caption) for row in rows] == [None] * 800
