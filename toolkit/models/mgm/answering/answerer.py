"""Batched greedy answers and log-probabilities of candidates. In: prompts. Out: an ``Answer`` each, in their order.

::

    images, those with long questions first ─► squares, prefetched ─► towers, projector ─► prefixes, GROUP_SIZE at once
    questions whose prefix is computed      ─► their candidates' scores, then answers, batch_size at a time

The prefix up to and including an image is computed once for all its questions, and a question once for its candidates
and its answer; see ``greedy`` and ``candidates``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.gpu_memory import halve_until_it_fits
from toolkit.models.answering.image_loading import ImageGroup, loaded, padded_squares, workers_for
from toolkit.models.mgm.answering.candidates import log_probabilities
from toolkit.models.mgm.answering.greedy import Batch, answer
from toolkit.models.mgm.answering.prefixes import Prefix, joined, read_prefixes
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.models.mgm.language.conversation import END
from toolkit.models.mgm.vision.feature_cache import FeatureCache
from toolkit.models.mgm.vision.towers import TowerFeatures
from toolkit.questions.answer_files import AnswerError
from toolkit.questions.prompts import Answer, CandidateScore, Prompt
from toolkit.tokens import with_image

if TYPE_CHECKING:
    from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
    from toolkit.models.mgm.processing_mgm import MGMProcessor

GROUP_SIZE = 16
"""Images per forward pass of the towers."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Encoded(NamedTuple):
    """Token ids of a prompt and of its candidates."""

    ids: list[int]
    candidates: list[list[int]]


class _Question(NamedTuple):
    """A prompt whose prefix is computed: its number, its ids, and the place of its prefix in ``prefixes``.

    ``candidates`` is empty once they are scored.
    """

    number: int
    ids: list[int]
    candidates: list[list[int]]
    prefixes: Prefix
    place: int


class _Found(NamedTuple):
    """Results of one batch by prompt number: tokens of the answers, except deferred ones; scores of the candidates."""

    tokens: dict[int, list[int]]
    scores: dict[int, list[float]]


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """Answers prompts with an MGM checkpoint.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same checkpoint.
        batch_size: prompts per batch; halved, down to 1, when the GPU runs out of memory.
        max_new_tokens: maximum tokens of an answer; 128 in the kit.
        cache: features of the frozen towers, shared by checkpoints with the same towers; None runs them here.
        workers: processes that prepare images; None is one per core up to 16 with a GPU, and none on the CPU.
        stop: tokens that end an answer; None means end of turn and end of text.
    """

    model: MGMGemmaForCausalLM
    processor: MGMProcessor
    batch_size: int = 32
    max_new_tokens: int = 128
    cache: FeatureCache | None = None
    workers: int | None = None
    stop: frozenset[int] | None = None

    def __call__(self, prompts: Sequence[Prompt], on_batch: Callable[[int], None] = lambda done: None) -> list[Answer]:
        """Answer all prompts and score their candidates; ``on_batch`` is called with the number done so far.

        Raises:
            AnswerError: a prompt with an image token of its own, or a candidate with a special token; the message
                names the prompt.
            ImageError: an image that cannot be read; the message names the prompt.
            torch.OutOfMemoryError: even a single prompt does not fit.
        """
        if self.cache is not None:
            self.cache.fill({prompt.image: prompt.id for prompt in prompts})
        encoded = [self._encode(prompt) for prompt in prompts]
        tokens: dict[int, list[int]] = {}
        scores: dict[int, list[float]] = {}
        defer_stragglers = True
        while len(tokens) < len(prompts):
            wanted = {i: prompt for i, prompt in enumerate(prompts) if i not in tokens}
            asked = [one if i not in scores else one._replace(candidates=[]) for i, one in enumerate(encoded)]
            for results in self._answer_all(wanted, asked, defer_stragglers=defer_stragglers):
                tokens |= results.tokens
                scores |= {number: sums for number, sums in results.scores.items() if number not in scores}
                on_batch(len(tokens))
            defer_stragglers = False
        texts = self.processor.tokenizer.batch_decode(
            [tokens[i] for i in range(len(prompts))], skip_special_tokens=True
        )
        return [
            Answer(text.strip(), tuple(map(_candidate_score, prompt.candidates, scores[i], encoded[i].candidates)))
            for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]

    def _encode(self, prompt: Prompt) -> _Encoded:
        """Token ids of a prompt, with exactly one image placeholder."""
        ids = self.processor.encode_prompt(with_image(prompt.text))
        if ids.count(IMAGE_TOKEN_INDEX) != 1:
            raise AnswerError(f"prompt {prompt.id!r}: contains <image>; remove it: the image is put first")
        try:
            return _Encoded(ids, [self.processor.encode_answer(text.strip()) for text in prompt.candidates])
        except ValueError as error:
            raise AnswerError(f"prompt {prompt.id!r}: candidate {error}") from None

    def _answer_all(
        self, prompts: Mapping[int, Prompt], encoded: Sequence[_Encoded], *, defer_stragglers: bool
    ) -> Iterator[_Found]:
        """Yield the results batch by batch."""
        lengths = [len(one.ids) for one in encoded]
        numbers = by_image({i: prompt.image for i, prompt in prompts.items()}, lengths)
        images = [(image, prompts[rows[0]].id) for image, rows in numbers.items()]
        groups = [images[at : at + GROUP_SIZE] for at in range(0, len(images), GROUP_SIZE)]
        first = encoded[0].ids
        at = first.index(IMAGE_TOKEN_INDEX)  # the template puts the image first, so this is the same in all prompts
        device = self.model.device
        workers = workers_for(device, len(os.sched_getaffinity(0))) if self.workers is None else self.workers
        prepare: Callable[[ImageGroup], Tensor | TowerFeatures] = (
            partial(padded_squares, self.processor) if self.cache is None else partial(_features, self.cache)
        )
        prepared_groups = loaded(groups, prepare, workers=workers, pin=device.type == "cuda")
        at_once, batch = GROUP_SIZE, self.batch_size
        waiting: list[_Question] = []
        for group, prepared in zip(groups, prepared_groups, strict=True):
            prefixes, at_once = halve_until_it_fits(partial(self._read, prepared, first[:at]), at_once)
            for place, (image, _) in enumerate(group):
                for row in numbers[image]:
                    ids, candidates = encoded[row]
                    waiting.append(_Question(row, ids[at + 1 :], candidates, prefixes, place))
            while len(waiting) >= batch or (waiting and group is groups[-1]):
                results, batch = halve_until_it_fits(partial(self._answer, waiting, defer_stragglers), batch)
                waiting = waiting[batch:]
                yield results

    @torch.inference_mode()
    def _read(self, prepared: Tensor | TowerFeatures, before: Sequence[int], at_once: int) -> Prefix:
        """Prefixes of a group's images, ``at_once`` of them at a time."""
        tensors = (prepared,) if isinstance(prepared, Tensor) else (prepared.low, *prepared.maps)
        prefixes = [
            read_prefixes(self.model, before, self._embeds(pieces, at_once))
            for pieces in zip(*(tensor.split(at_once) for tensor in tensors), strict=True)
        ]
        return prefixes[0] if len(prefixes) == 1 else joined(prefixes)

    def _embeds(self, pieces: Sequence[Tensor], at_once: int) -> Tensor:
        """Image embeddings (P, N, h), from squares or from the five tensors of the cache."""
        model, count = self.model, len(pieces[0])
        tensors = [piece.to(model.device, non_blocking=True) for piece in pieces]
        if model.speed.compiled and count < at_once:
            # Compiled code is recompiled, which takes seconds, for each new number of images.
            tensors = [F.pad(piece, (0, 0) * (piece.dim() - 1) + (0, at_once - count)) for piece in tensors]
        if len(tensors) == 1:
            features = model.encode_images(*self.processor.normalise(tensors[0]))
        else:
            low, *maps = (piece.to(model.dtype) for piece in tensors)
            features = TowerFeatures(low, tuple(maps))
        return model.project_images(features)[:count]

    @torch.inference_mode()
    def _answer(self, waiting: Sequence[_Question], defer_stragglers: bool, size: int) -> _Found:
        """Answer and score the first ``size`` questions."""
        questions = waiting[:size]
        groups = [list(group) for _, group in groupby(questions, key=lambda question: id(question.prefixes))]
        prefix = joined([group[0].prefixes.pick([question.place for question in group]) for group in groups])
        batch = Batch(self.model, prefix, [question.ids for question in questions])
        sums = log_probabilities(batch, [question.candidates for question in questions])
        tokens, open_ = answer(
            batch, stop=self._ends(), max_new_tokens=self.max_new_tokens, defer_stragglers=defer_stragglers
        )
        return _Found(
            {question.number: tokens[i] for i, question in enumerate(questions) if i not in open_},
            {question.number: sums[i] for i, question in enumerate(questions)},
        )

    def _ends(self) -> frozenset[int]:
        tokenizer: Any = self.processor.tokenizer
        ends = frozenset({int(tokenizer.eos_token_id), int(tokenizer.convert_tokens_to_ids(END))})
        return ends if self.stop is None else self.stop


def _features(cache: FeatureCache, group: ImageGroup) -> TowerFeatures:
    """Features of a group's images, which the cache must hold."""
    return cache.load([image for image, _ in group])


def _candidate_score(text: str, log_probability: float, ids: Sequence[int]) -> CandidateScore:
    return CandidateScore(text, log_probability, tokens=len(ids), characters=len(text.strip()))


def by_image(images: Mapping[int, K], lengths: Sequence[int]) -> dict[K, list[int]]:
    """Prompt numbers of each image, images with the longest prompts first.

    Prompts of similar length are batched together, and a lack of memory shows at once.

    Args:
        images: by number of the prompt.
        lengths: of the prompts, by number.
    """
    numbers: dict[K, list[int]] = {}
    for number, image in images.items():
        numbers.setdefault(image, []).append(number)
    return dict(sorted(numbers.items(), key=lambda item: -max(lengths[number] for number in item[1])))
