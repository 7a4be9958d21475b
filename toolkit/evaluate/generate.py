"""Batched greedy answers. In: prompts, each with its picture. Out: their answers, in the order of the prompts.

::

    pictures, those with long questions first ─► squares, made ahead ─► towers, projector ─► prefixes, PART at a time
    questions whose prefix is there           ─► answers, batch_size at a time

A picture and what stands before it are read once for all its questions; see ``greedy``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.data.feature_cache import FeatureCache
from toolkit.evaluate.answer_files import AnswerError
from toolkit.evaluate.greedy import Batch, answer
from toolkit.evaluate.pictures import loaded, workers_for
from toolkit.evaluate.prefixes import Prefix, joined, read_prefixes
from toolkit.evaluate.prompts import Answer, Prompt
from toolkit.mgm.conversation import END
from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.mgm.names import IMAGE_TOKEN_INDEX
from toolkit.mgm.processing_mgm import MGMProcessor
from toolkit.mgm.towers import TowerFeatures

PART = 16
"""Pictures that are read together."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Question(NamedTuple):
    """A prompt whose picture has been read: its number, its ids, and where its prefix is."""

    number: int
    ids: list[int]
    prefixes: Prefix
    place: int


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A model that answers.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same checkpoint.
        batch_size: prompts at a time; halved, to 1 if need be, when the GPU's memory is too small.
        max_new_tokens: longest answer; the kit's 128.
        cache: features of the frozen towers, shared by checkpoints with the same towers; None runs them here.
        workers: processes that prepare pictures; None is one per core up to 16 beside a GPU, and none on the CPU.
        stop: tokens that end an answer; None is the end of the turn and of the text.
    """

    model: MGMGemmaForCausalLM
    processor: MGMProcessor
    batch_size: int = 32
    max_new_tokens: int = 128
    cache: FeatureCache | None = None
    workers: int | None = None
    stop: frozenset[int] | None = None

    def __call__(self, prompts: Sequence[Prompt], on_batch: Callable[[int], None] = lambda done: None) -> list[Answer]:
        """Answer all prompts; ``on_batch`` hears how many are done.

        Raises:
            AnswerError: a prompt with an image token of its own; the message names the prompt.
            ImageError: a picture that cannot be read; the message names the prompt.
            torch.OutOfMemoryError: not even one prompt fits.
        """
        if self.cache is not None:
            self.cache.fill({prompt.image: prompt.id for prompt in prompts})
        ids = [self._encode(prompt) for prompt in prompts]
        found: dict[int, list[int]] = {}
        put_off = True
        while len(found) < len(prompts):
            wanted = {i: prompt for i, prompt in enumerate(prompts) if i not in found}
            for some in self._answer_all(wanted, ids, put_off=put_off):
                found |= some
                on_batch(len(found))
            put_off = False
        texts = self.processor.tokenizer.batch_decode([found[i] for i in range(len(prompts))], skip_special_tokens=True)
        return [Answer(text.strip()) for text in texts]

    def _encode(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt behind its picture's placeholder, the only one: what follows it must fit any picture."""
        ids = self.processor.encode_prompt(f"<image>\n{prompt.text}")
        if ids.count(IMAGE_TOKEN_INDEX) != 1:
            raise AnswerError(f"prompt {prompt.id!r}: holds an <image> of its own; the picture is put before it")
        return ids

    def _answer_all(
        self, prompts: Mapping[int, Prompt], ids: Sequence[list[int]], *, put_off: bool
    ) -> Iterator[dict[int, list[int]]]:
        """Batch by batch, the tokens of the answers by number of the prompt, less those that were put off."""
        numbers = by_picture({i: prompt.image for i, prompt in prompts.items()}, list(map(len, ids)))
        pictures = [(picture, prompts[rows[0]].id) for picture, rows in numbers.items()]
        parts = [pictures[at : at + PART] for at in range(0, len(pictures), PART)]
        at = ids[0].index(IMAGE_TOKEN_INDEX)  # the template puts the picture first, so this is the same in all prompts
        device = self.model.device
        workers = workers_for(device, len(os.sched_getaffinity(0))) if self.workers is None else self.workers
        items = loaded(parts, self.processor, self.cache, workers=workers, pin=device.type == "cuda")
        at_once, batch = PART, self.batch_size
        waiting: list[_Question] = []
        for part, item in zip(parts, items, strict=True):
            prefixes, at_once = fitting(partial(self._read, item, ids[0][:at]), at_once)
            for place, (picture, _) in enumerate(part):
                waiting += [_Question(row, ids[row][at + 1 :], prefixes, place) for row in numbers[picture]]
            while len(waiting) >= batch or (waiting and part is parts[-1]):
                found, batch = fitting(partial(self._answer, waiting, put_off), batch)
                waiting = waiting[batch:]
                yield found

    @torch.inference_mode()
    def _read(self, item: Tensor | TowerFeatures, before: Sequence[int], at_once: int) -> Prefix:
        """Prefixes of a part's pictures, ``at_once`` of them at a time."""
        tensors = (item,) if isinstance(item, Tensor) else (item.low, *item.maps)
        made = [
            read_prefixes(self.model, before, self._embeds(pieces, at_once))
            for pieces in zip(*(tensor.split(at_once) for tensor in tensors), strict=True)
        ]
        return made[0] if len(made) == 1 else joined(made)

    def _embeds(self, pieces: Sequence[Tensor], at_once: int) -> Tensor:
        """Image embeddings (P, N, h) of squares, or of the five tensors that a cache holds."""
        model, count = self.model, len(pieces[0])
        there = [piece.to(model.device, non_blocking=True) for piece in pieces]
        if model.speed.compiled and count < at_once:
            # What is compiled is compiled anew, for seconds, at each number of pictures.
            there = [F.pad(piece, (0, 0) * (piece.dim() - 1) + (0, at_once - count)) for piece in there]
        if len(there) == 1:
            features = model.encode_images(*self.processor.normalise(there[0]))
        else:
            low, *maps = (piece.to(model.dtype) for piece in there)
            features = TowerFeatures(low, tuple(maps))
        return model.project_images(features)[:count]

    @torch.inference_mode()
    def _answer(self, waiting: Sequence[_Question], put_off: bool, size: int) -> dict[int, list[int]]:
        """Tokens of the first ``size`` questions, by number of the prompt."""
        questions = waiting[:size]
        groups = [list(group) for _, group in groupby(questions, key=lambda question: id(question.prefixes))]
        prefix = joined([group[0].prefixes.pick([question.place for question in group]) for group in groups])
        batch = Batch(self.model, prefix, [question.ids for question in questions])
        tokens, open_ = answer(batch, stop=self._ends(), max_new_tokens=self.max_new_tokens, put_off=put_off)
        return {question.number: tokens[i] for i, question in enumerate(questions) if i not in open_}

    def _ends(self) -> frozenset[int]:
        tokenizer = self.processor.tokenizer
        ends = frozenset({int(tokenizer.eos_token_id), int(tokenizer.convert_tokens_to_ids(END))})
        return ends if self.stop is None else self.stop


def by_picture(pictures: Mapping[int, K], lengths: Sequence[int]) -> dict[K, list[int]]:
    """Numbers of the prompts of each picture. Like lengths come together, the longest first, so that too little memory
    shows at once.

    Args:
        pictures: by number of the prompt.
        lengths: of the prompts, by number.
    """
    found: dict[K, list[int]] = {}
    for number, picture in pictures.items():
        found.setdefault(picture, []).append(number)
    return dict(sorted(found.items(), key=lambda item: -max(lengths[number] for number in item[1])))


def fitting(work: Callable[[int], T], size: int) -> tuple[T, int]:
    """What ``work`` makes of a size, and that size: halved as long as the GPU's memory is too small.

    Raises:
        torch.OutOfMemoryError: size 1 does not fit either.
    """
    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # Outside of the handler: the error holds on to the frames, and they to the tensors that filled the memory.
        torch.cuda.empty_cache()
        size //= 2
