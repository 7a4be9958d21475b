"""Template, label masking and image preprocessing of MGM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.data.conversation import IGNORE_INDEX, LabelError, Turn
from toolkit.images.squares import pad_to_square
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.models.mgm.language.conversation import encode_prompt, encode_row
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.tiny import save_tiny, tiny_config
from toolkit.models.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def _row(*texts: str, room: int | None = None) -> tuple[str, str]:
    """Return the whole text and the part with loss, decoded from the ids ('#' is an image)."""
    turns = [Turn(speaker=("human", "gpt")[i % 2], text=t) for i, t in enumerate(texts)]
    row = encode_row(TOKENIZER, turns, row_id="r1", room=room)
    assert len(row.input_ids) == len(row.labels)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    hash_sign = TOKENIZER("#", add_special_tokens=False).input_ids[0]
    shown = [hash_sign if i == IMAGE_TOKEN_INDEX else i for i in row.input_ids]
    return TOKENIZER.decode(shown), TOKENIZER.decode([i for i in row.labels if i != IGNORE_INDEX])


@pytest.mark.parametrize(
    ("question", "answer", "shown"),
    [
        ("<image>\nWhat is this?", "A dog.", "#\nWhat is this?"),
        ("What is this?\n<image>", "A dog.", "#\nWhat is this?"),
        ("no picture", "one\ntwo\n\nthree", "no picture"),
        ("<image>\n这是什么？", "一只狗 – très jolie 🐶", "#\n这是什么？"),
    ],
)
def test_one_exchange_has_the_template_and_loss_on_its_answer(question: str, answer: str, shown: str) -> None:
    whole, learned = _row(question, answer)
    assert whole == (
        f"<bos><start_of_turn>user\n{shown}<end_of_turn>\n<start_of_turn>model\n{answer}<end_of_turn>\n<eos>"
    )
    assert learned == f"{answer}<end_of_turn>\n<eos>"


def test_every_answer_of_a_long_conversation_has_loss() -> None:
    whole, learned = _row("<image>\na", "b", "c", "d")
    assert whole.count("<bos>") == 1 and whole.count("<eos>") == 2
    assert learned == "b<end_of_turn>\n<eos>d<end_of_turn>\n<eos>"


def test_a_prompt_equals_the_training_text_up_to_the_answer() -> None:
    turns = [Turn(speaker="human", text="<image>\nWho?"), Turn(speaker="gpt", text="Me")]
    row = encode_row(TOKENIZER, turns, row_id="r")
    prompt = encode_prompt(TOKENIZER, "<image>\nWho?")
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[len(prompt)] == row.input_ids[len(prompt)] != IGNORE_INDEX
    assert set(row.labels[: len(prompt)]) == {IGNORE_INDEX}


def test_a_row_without_loss_is_named() -> None:
    with pytest.raises(LabelError, match=r"'r1'.*10 ids"):
        _row("a long question", "answer", room=10)
    with pytest.raises(LabelError, match=r"'r1'.*no answer"):
        _row("only a question")
    with pytest.raises(LabelError, match=r"'r1'.*<eos>.*remove the mark"):
        _row("a question", "all of <eos> it")
    twice = [Turn(speaker=speaker, text="a") for speaker in ("human", "human", "gpt")]
    with pytest.raises(ValueError, match=r"'r1'.*alternate"):
        encode_row(TOKENIZER, twice, row_id="r1")


def test_a_tokenizer_without_the_turn_marks_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", bos_token="<b>", eos_token="<e>")
    with pytest.raises(ValueError, match="start_of_turn"):
        MGMProcessor.for_config(tiny_config(), tokenizer)


def _photo(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("size", [(90, 70), (70, 90), (64, 64), (31, 97), (1000, 65), (5, 4)])
def test_high_resolution_equals_clips_preprocessing_and_low_resolution_is_downsampled_from_it(
    size: tuple[int, int],
) -> None:
    processor = MGMProcessor.for_config(tiny_config(), tiny_tokenizer())
    photo = _photo(size)
    for aspect, shown in (("square", photo), ("pad", pad_to_square(photo))):
        pixels = processor.preprocess([photo, photo], aspect=aspect)  # type: ignore[arg-type]
        expected = processor.image_processor(shown, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels.images_aux[1:], expected)
        low = torch.nn.functional.interpolate(expected, size=(28, 28), mode="bilinear", align_corners=False)
        assert torch.equal(pixels.images[1:], low)


def test_the_processor_can_be_loaded_from_a_checkpoint(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    processor = MGMProcessor.from_pretrained(tmp_path)
    assert (processor.image_size, processor.image_tokens, processor.max_length) == (28, 4, 512)
    assert processor.image_processor.crop_size == {"height": 64, "width": 64}
    prompt = processor.encode_prompt("<image>\nhi")
    assert prompt == encode_prompt(TOKENIZER, "<image>\nhi")
    assert processor.positions(prompt) == len(prompt) + 3
