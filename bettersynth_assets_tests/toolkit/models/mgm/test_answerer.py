"""Answering with shared prefixes, compared with transformers' generation on one prompt at a time."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bettersynth_assets_tests.helpers.paths import ROOT
from toolkit.data.conversation import IGNORE_INDEX, Turn
from toolkit.images.reading import ImageError, read_image
from toolkit.models.mgm.answering.answerer import Answerer, by_image
from toolkit.models.mgm.answering.candidates import log_probabilities
from toolkit.models.mgm.answering.greedy import ROOM, Batch, answer
from toolkit.models.mgm.answering.prefixes import joined, read_prefixes
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.tiny import tiny_config, tiny_mgm
from toolkit.models.tiny_tokenizer import tiny_tokenizer
from toolkit.questions.answer_files import AnswerError
from toolkit.questions.prompts import Prompt

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
    """21 questions about 5 images, in mixed order."""
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


@pytest.mark.slow
@pytest.mark.parametrize("heads", [(2, 1), (4, 2)])
def test_answers_equal_those_of_transformers_on_single_prompts(
    processor: MGMProcessor, prompts: list[Prompt], heads: tuple[int, int]
) -> None:
    model = tiny_mgm(initializer_range=0.5, num_attention_heads=heads[0], num_key_value_heads=heads[1])
    stop = range(6, 26)  # some of the byte tokens, so that answers end at different lengths
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


def test_images_prepared_by_other_processes_give_the_same_answers(
    processor: MGMProcessor, prompts: list[Prompt]
) -> None:
    model = tiny_mgm(initializer_range=0.5)
    here, there = (Answerer(model=model, processor=processor, max_new_tokens=4, workers=workers) for workers in (0, 2))
    assert here(prompts) == there(prompts)
    missing = Prompt(id="q7", image=Path("nowhere.png"), text="x?")
    with pytest.raises(ImageError, match=r"^sample 'q7': image nowhere\.png cannot be read"):
        there([*prompts, missing])


def test_an_image_token_inside_a_prompt_is_refused_and_no_prompts_give_no_answers(
    processor: MGMProcessor, prompts: list[Prompt]
) -> None:
    answerer = Answerer(model=tiny_mgm(), processor=processor)
    second = Prompt(id="q8", image=prompts[0].image, text="What is <image> here?")
    with pytest.raises(AnswerError, match="prompt 'q8': contains <image>"):
        answerer([prompts[0], second])
    assert answerer([]) == []


def test_a_few_long_answers_are_deferred_and_the_others_are_unchanged(
    processor: MGMProcessor, prompts: list[Prompt]
) -> None:
    model = tiny_mgm(initializer_range=0.5)
    rows = [processor.encode_prompt(f"<image>\n{text}") for text in QUESTIONS]
    at = rows[0].index(IMAGE_TOKEN_INDEX)
    questions = [row[at + 1 :] for row in rows]
    pixels = processor.preprocess([read_image(prompts[0].image, sample_id="")], aspect="pad")
    prefix = read_prefixes(model, rows[0][:at], model.project_images(model.encode_images(*pixels)))
    alone, _ = answer(Batch(model, prefix, questions[:1]), stop=(), max_new_tokens=ROOM + 4)
    # One row may write its tokens; no other row begins with one of them, so the others end at once.
    ends = set(range(300)) - set(alone[0])
    short = next(q for q in questions if int(Batch(model, prefix, [q]).tokens()) in ends)
    asked, both = [questions[0], *[short] * 8], joined([prefix, prefix.pick([0] * 8)])
    answers, open_ = answer(Batch(model, both, asked), stop=ends, max_new_tokens=ROOM + 4, defer_stragglers=True)
    assert open_ == [0] and answers[1:] == [[]] * 8
    answers, open_ = answer(Batch(model, both, asked), stop=ends, max_new_tokens=ROOM + 4)
    assert open_ == [] and answers[0] == alone[0]


CANDIDATES = ("", "Q", "Yes", "A longer answer, of many bytes.", "No way")


def _alone(model: MGMGemmaForCausalLM, processor: MGMProcessor, prompt: Prompt, candidate: str) -> tuple[float, int]:
    """Return log-probability from one plain forward pass over prompt and candidate, and the number of tokens."""
    before = processor.encode_prompt(f"<image>\n{prompt.text}")
    after = processor.encode_answer(candidate)
    pixels = processor.preprocess([read_image(prompt.image, sample_id=prompt.id)], aspect="pad")
    with torch.inference_mode():
        logits = model(torch.tensor([before + after]), images=pixels.images, images_aux=pixels.images_aux).logits
    scores = logits[0, -len(after) - 1 : -1].log_softmax(-1) if after else logits[0, :0]
    return float(scores.gather(1, torch.tensor(after, dtype=torch.long).unsqueeze(1)).sum()), len(after)


@pytest.fixture(scope="module")
def scored(prompts: list[Prompt]) -> list[Prompt]:
    """The prompts with zero to four candidates each, of one or many tokens."""
    return [dataclasses.replace(prompt, candidates=CANDIDATES[i % 5 : i % 7]) for i, prompt in enumerate(prompts)]


@pytest.mark.slow
@pytest.mark.parametrize("heads", [(2, 1), (4, 2)])
def test_candidate_scores_equal_those_of_a_plain_forward_pass_on_each(
    processor: MGMProcessor, scored: list[Prompt], heads: tuple[int, int]
) -> None:
    model = tiny_mgm(initializer_range=0.1, num_attention_heads=heads[0], num_key_value_heads=heads[1])
    assert {len(prompt.candidates) for prompt in scored} >= {0, 1, 2, 4}
    wanted = [[_alone(model, processor, prompt, text) for text in prompt.candidates] for prompt in scored]
    sizes = {tokens for some in wanted for _, tokens in some}
    assert {0, 1} < sizes and max(sizes) > 20
    for batch_size in (1, 4, 64):
        answers = Answerer(model=model, processor=processor, batch_size=batch_size, max_new_tokens=3)(scored)
        for prompt, answer_, some in zip(scored, answers, wanted, strict=True):
            assert [(c.text, c.characters) for c in answer_.candidates] == [(t, len(t)) for t in prompt.candidates]
            assert [c.tokens for c in answer_.candidates] == [tokens for _, tokens in some]
            sums = [c.log_probability for c in answer_.candidates]
            assert sums == pytest.approx([value for value, _ in some], rel=1e-5, abs=1e-5)


def test_probabilities_of_all_first_tokens_sum_to_one(processor: MGMProcessor, prompts: list[Prompt]) -> None:
    row = processor.encode_prompt(f"<image>\n{QUESTIONS[0]}")
    at = row.index(IMAGE_TOKEN_INDEX)
    model = tiny_mgm(initializer_range=0.1)
    pixels = processor.preprocess([read_image(prompts[0].image, sample_id="")], aspect="pad")
    with torch.inference_mode():
        prefix = read_prefixes(model, row[:at], model.project_images(model.encode_images(*pixels)))
        batch = Batch(model, prefix, [row[at + 1 :]])
        [found] = log_probabilities(batch, [[[token] for token in range(model.config.vocab_size)]])
    assert sum(map(math.exp, found)) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_candidates_change_no_answer_and_are_scored_once_despite_low_memory_and_deferral(
    processor: MGMProcessor, scored: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_mgm(initializer_range=0.5)
    tokens = 2 * ROOM + 5
    counts: list[int] = []

    def counted(batch: Batch, candidates: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        if len(candidates) > 9:
            raise torch.OutOfMemoryError
        counts.append(sum(map(len, candidates)))
        return log_probabilities(batch, candidates)

    plain = Answerer(model=model, processor=processor, max_new_tokens=tokens, stop=frozenset(range(6, 60)))
    bare = plain([dataclasses.replace(prompt, candidates=()) for prompt in scored])
    deferred = []

    def answer_counted(*arguments: Any, **options: Any) -> Any:
        found = answer(*arguments, **options)
        deferred.extend(found[1])
        return found

    whole = plain(scored)
    monkeypatch.setattr("toolkit.models.mgm.answering.answerer.log_probabilities", counted)
    monkeypatch.setattr("toolkit.models.mgm.answering.answerer.answer", answer_counted)
    split = dataclasses.replace(plain, batch_size=32)(scored)
    assert [a.text for a in split] == [a.text for a in whole] == [a.text for a in bare]
    assert deferred, "no answer was deferred, so the test proves nothing"
    assert sum(counts) == sum(len(prompt.candidates) for prompt in scored)
    for one, other in zip(split, whole, strict=True):
        assert [c.log_probability for c in one.candidates] == pytest.approx(
            [c.log_probability for c in other.candidates], rel=1e-5, abs=1e-5
        )


def test_a_candidate_has_the_same_tokens_as_the_answer_of_a_training_row(processor: MGMProcessor) -> None:
    for text in ("Yes", "A", "two words", " led by a space", "ends.", "ünï", "line\nline"):
        row = processor.encode_row(
            [Turn(speaker="human", text="<image>\nHm?"), Turn(speaker="gpt", text=text)], row_id=""
        )
        labels = [label for label in row.labels if label != IGNORE_INDEX]
        ids = processor.encode_answer(text)
        assert labels[: len(ids)] == ids and processor.tokenizer.decode(labels[len(ids) :]) == "<end_of_turn>\n<eos>"
        assert processor.encode_prompt("<image>\nHm?") == row.input_ids[: len(row.input_ids) - len(labels)]


@pytest.mark.parametrize("candidate", ["a<image>", "<end_of_turn>", "x<eos>"])
def test_a_candidate_with_a_special_token_is_refused_with_the_prompts_id(
    processor: MGMProcessor, prompts: list[Prompt], candidate: str
) -> None:
    answerer = Answerer(model=tiny_mgm(), processor=processor)
    with pytest.raises(AnswerError, match=r"prompt 'q9': candidate answer .* (holds|contains) a special token"):
        answerer([Prompt(id="q9", image=prompts[0].image, text="x?", candidates=("Yes", candidate))])


def test_prompts_are_grouped_by_image_with_the_longest_first() -> None:
    images = dict(enumerate("abcab"))
    assert by_image(images, [3, 9, 5, 4, 1]) == {"b": [1, 4], "c": [2], "a": [0, 3]}
    assert list(by_image(images, [3, 9, 5, 4, 1])) == ["b", "c", "a"]


@pytest.mark.slow
def test_the_speed_test_gives_the_original_answers_and_prints_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "speed")
    arguments = ["--tiny", "--prompts", "6", "--original", "4", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["answers.py", *arguments])
    import_module("answers").main()
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (result["same_answers"], result["prompts"], result["pictures"]) == ("4 of 4", 6, 4)
    assert result["answers_per_s"] > 0 and result["ratio"] > 0
