"""Batched greedy answers of any model with ``generate``. In: prompts with their images. Out: answers, in their order.

::

    prompts, the longest first ─► batches, padded on the left ─► model.generate            ─► answers
    prompt + candidate's tokens but the last ────────────────► one forward pass per batch ─► log-probabilities

Candidates of one token share the pass over their prompt. An image is read once for each of its questions; MGM's
answerer reads it once for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.gpu_memory import halve_until_it_fits
from toolkit.models.answering.image_loading import loaded, padded_squares, workers_for
from toolkit.questions.answer_files import AnswerError
from toolkit.questions.prompts import Answer, CandidateScore, Prompt

if TYPE_CHECKING:
    from toolkit.models.llava.processing import LlavaRows
from toolkit.tokens import with_image

_Ids = list[int]


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    ids: _Ids
    candidates: list[_Ids]


@dataclass(frozen=True, kw_only=True)
class GenericAnswerer:
    """A model that answers.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same checkpoint; see ``toolkit.models.llava.processing.LlavaRows``.
        batch_size: prompts at a time; halved, to 1 if need be, when the GPU's memory is too small.
        max_new_tokens: longest answer.
        workers: processes that prepare images; None is one per core up to 16 beside a GPU, and none on the CPU.
    """

    model: Any
    processor: LlavaRows
    batch_size: int = 32
    max_new_tokens: int = 128
    workers: int | None = None

    def __call__(self, prompts: Sequence[Prompt], on_batch: Callable[[int], None] = lambda done: None) -> list[Answer]:
        """Answer all prompts and score their candidates; ``on_batch`` is called with the number that is done.

        Raises:
            AnswerError: a prompt or candidate with a special token; the message names the prompt.
            ImageError: an image that cannot be read; the message names the prompt.
            torch.OutOfMemoryError: not even one prompt fits.
        """
        encoded = [self._encode(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda number: -len(encoded[number].ids))
        batches = [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        device = self.model.device
        workers = workers_for(device, len(os.sched_getaffinity(0))) if self.workers is None else self.workers
        groups = [[(prompts[number].image, prompts[number].id) for number in batch] for batch in batches]
        prepare = partial(padded_squares, self.processor)
        batches_of_squares = loaded(groups, prepare, workers=workers, pin=device.type == "cuda")
        answers: dict[int, Answer] = {}
        size = self.batch_size
        for batch, squares in zip(batches, batches_of_squares, strict=True):
            encoded_batch = [encoded[number] for number in batch]
            texts, size = halve_until_it_fits(partial(self._texts, encoded_batch, squares), size)
            scores, size = halve_until_it_fits(partial(self._scores, encoded_batch, squares), size)
            for number, text, sums in zip(batch, texts, scores, strict=True):
                scored = zip(prompts[number].candidates, sums, encoded[number].candidates, strict=True)
                candidates = tuple(CandidateScore(t, value, len(ids), len(t.strip())) for t, value, ids in scored)
                answers[number] = Answer(text, candidates)
            on_batch(len(answers))
        return [answers[number] for number in range(len(prompts))]

    def _encode(self, prompt: Prompt) -> _Encoded:
        try:
            ids = self.processor.encode_prompt(with_image(prompt.text))
            candidates = [self.processor.encode_answer(text.strip()) for text in prompt.candidates]
        except ValueError as error:
            raise AnswerError(f"prompt {prompt.id!r}: {error}") from None
        return _Encoded(ids=ids, candidates=candidates)

    @torch.inference_mode()
    def _texts(self, encoded: Sequence[_Encoded], squares: Tensor, size: int) -> list[str]:
        """Greedy answers, ``size`` prompts at a time."""
        texts: list[str] = []
        for at in range(0, len(encoded), size):
            inputs = self._inputs([one.ids for one in encoded[at : at + size]], squares[at : at + size])
            del inputs["position_ids"]  # ``generate`` makes its own
            written = self.model.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens,
                eos_token_id=self.processor.ends, pad_token_id=self.processor.pad,
            )  # fmt: skip
            new = written[:, inputs["input_ids"].shape[1] :]
            texts += self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.inference_mode()
    def _scores(self, encoded: Sequence[_Encoded], squares: Tensor, size: int) -> list[list[float]]:
        """Log-probability of each candidate, in nats: a sum over its tokens of a float32 log-softmax."""
        owners: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for number, one in enumerate(encoded):
            for place, ids in enumerate(one.candidates):
                if ids:
                    owners.setdefault((number, tuple(ids[:-1])), []).append(place)
        rows = list(owners.items())
        sums = [[0.0] * len(one.candidates) for one in encoded]
        for chunk in (rows[at : at + size] for at in range(0, len(rows), size)):
            images = squares[[number for (number, _), _ in chunk]]
            inputs = self._inputs([[*encoded[number].ids, *fed] for (number, fed), _ in chunk], images)
            longest = max(len(fed) for (_, fed), _ in chunk) + 1
            last = self.model(**inputs, logits_to_keep=longest, use_cache=False).logits.float().log_softmax(dim=-1)
            for row, ((number, _), places) in zip(last, chunk, strict=True):
                for place in places:
                    ids = encoded[number].candidates[place]
                    found = row[-len(ids) :].gather(1, torch.tensor(ids, device=row.device).unsqueeze(1))
                    sums[number][place] = float(found.double().sum())
        return sums

    def _inputs(self, rows: Sequence[_Ids], squares: Tensor) -> dict[str, Tensor]:
        device = self.model.device
        inputs = {name: tensor.to(device) for name, tensor in self.processor.prompt_inputs(rows).items()}
        return inputs | self.processor.pixel_inputs(squares.to(device, non_blocking=True))
