"""Answering with shared prefixes, held against transformers' own generation on one prompt at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.evaluate.answer_files import AnswerError
from toolkit.evaluate.generate import Answerer, by_picture, fitting
from toolkit.evaluate.greedy import ROOM, Batch, answer
from toolkit.evaluate.prefixes import joined, read_prefixes
from toolkit.evaluate.prompts import Prompt
from toolkit.mgm.images import ImageError, read_image
from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.mgm.names import IMAGE_TOKEN_INDEX
from toolkit.mgm.processing_mgm import MGMProcessor
from toolkit.mgm.tiny import tiny_config, tiny_mgm, tiny_tokenizer

QUESTIONS = [
    "Hm?",
    "A much longer question than that?",
    "Why?",
    "B",
    "So what is to be seen here at all?",
    "x?",
    "Who?",
]


@pytest.fixture(scope="module")
def processor() -> MGMProcessor:
    return MGMProcessor.for_config(tiny_config(), tiny_tokenizer())


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """21 questions about 5 pictures, in no order."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(5):
        values = np.random.default_rng(number).integers(0, 256, (40, 40 + 9 * number, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return [
        Prompt(id=str(i), image=folder / f"{3 * i % 5}.png", text=QUESTIONS[i % 7] + "!" * (i // 7)) for i in range(21)
    ]


def _by_transformers(
    model: MGMGemmaForCausalLM, processor: MGMProcessor, prompts: Sequence[Prompt], tokens: int, stop: Sequence[int]
) -> list[list[int]]:
    found = []
    for prompt in prompts:
        ids = torch.tensor([processor.encode_prompt(f"<image>\n{prompt.text}")])
        pixels = processor.preprocess([read_image(prompt.image, sample_id=prompt.id)], aspect="pad")
        new = model.generate(
            ids, images=pixels.images, images_aux=pixels.images_aux, do_sample=False, max_new_tokens=tokens,
            eos_token_id=list(stop), pad_token_id=0,
        )  # fmt: skip
        found.append([token for token in new[0].tolist() if token not in stop])
    return found


@pytest.mark.parametrize("heads", [(2, 1), (4, 2)])
def test_answers_are_those_of_transformers_on_single_prompts(
    processor: MGMProcessor, prompts: list[Prompt], heads: tuple[int, int]
) -> None:
    model = tiny_mgm(initializer_range=0.5, num_attention_heads=heads[0], num_key_value_heads=heads[1])
    stop = range(6, 26)  # some of the bytes, so that answers end, at different lengths
    tokens = 2 * ROOM + 5
    written = _by_transformers(model, processor, prompts, tokens, stop)
    lengths = set(map(len, written))
    assert len(lengths) > 5 and min(lengths) < 5 and max(lengths) == tokens
    wanted = [text.strip() for text in processor.tokenizer.batch_decode(written, skip_special_tokens=True)]
    for batch_size in (1, 4, 64):
        ours = Answerer(
            model=model, processor=processor, batch_size=batch_size, max_new_tokens=tokens, stop=frozenset(stop)
        )
        assert [answer.text for answer in ours(prompts)] == wanted


def test_pictures_prepared_by_other_processes_give_the_same_answers(
    processor: MGMProcessor, prompts: list[Prompt]
) -> None:
    model = tiny_mgm(initializer_range=0.5)
    here, there = (Answerer(model=model, processor=processor, max_new_tokens=4, workers=workers) for workers in (0, 2))
    assert here(prompts) == there(prompts)
    missing = Prompt(id="q7", image=Path("nowhere.png"), text="x?")
    with pytest.raises(ImageError, match=r"^sample 'q7': image nowhere\.png cannot be read"):
        there([*prompts, missing])


def test_an_image_token_inside_a_prompt_is_refused_and_no_prompts_have_no_answers(
    processor: MGMProcessor, prompts: list[Prompt]
) -> None:
    answerer = Answerer(model=tiny_mgm(), processor=processor)
    second = Prompt(id="q8", image=prompts[0].image, text="What is <image> here?")
    with pytest.raises(AnswerError, match="prompt 'q8': holds an <image> of its own"):
        answerer([prompts[0], second])
    assert answerer([]) == []


def test_a_few_long_answers_are_put_off_and_the_others_kept(processor: MGMProcessor, prompts: list[Prompt]) -> None:
    model = tiny_mgm(initializer_range=0.5)
    rows = [processor.encode_prompt(f"<image>\n{text}") for text in QUESTIONS]
    at = rows[0].index(IMAGE_TOKEN_INDEX)
    questions = [row[at + 1 :] for row in rows]
    pixels = processor.preprocess([read_image(prompts[0].image, sample_id="")], aspect="pad")
    prefix = read_prefixes(model, rows[0][:at], model.project_images(model.encode_images(*pixels)))
    alone, _ = answer(Batch(model, prefix, questions[:1]), stop=(), max_new_tokens=ROOM + 4)
    # One row may write what it writes alone; the other rows' first token is none of that, and ends them at once.
    ends = set(range(300)) - set(alone[0])
    short = next(q for q in questions if int(Batch(model, prefix, [q]).tokens()) in ends)
    asked, both = [questions[0], *[short] * 8], joined([prefix, prefix.pick([0] * 8)])
    answers, open_ = answer(Batch(model, both, asked), stop=ends, max_new_tokens=ROOM + 4, put_off=True)
    assert open_ == [0] and answers[1:] == [[]] * 8
    answers, open_ = answer(Batch(model, both, asked), stop=ends, max_new_tokens=ROOM + 4)
    assert open_ == [] and answers[0] == alone[0]


def test_all_prompts_of_a_picture_come_together_the_longest_first() -> None:
    pictures = dict(enumerate("abcab"))
    assert by_picture(pictures, [3, 9, 5, 4, 1]) == {"b": [1, 4], "c": [2], "a": [0, 3]}
    assert list(by_picture(pictures, [3, 9, 5, 4, 1])) == ["b", "c", "a"]


def test_too_little_memory_halves_the_size_and_is_raised_when_one_does_not_fit() -> None:
    tried: list[int] = []

    def work(size: int, room: int) -> int:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError
        return size

    assert fitting(lambda size: work(size, 3), 20) == (2, 2)
    assert tried == [20, 10, 5, 2]
    with pytest.raises(torch.OutOfMemoryError):
        fitting(lambda size: work(size, 0), 4)


def test_benchmark_answers_as_the_original_does_and_prints_one_line() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "benchmarks/answers.py", "--tiny", "--prompts", "6", "--original", "4"]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["same_answers"], result["prompts"], result["pictures"]) == ("4 of 4", 6, 4)
    assert result["answers_per_s"] > 0 and result["ratio"] > 0
