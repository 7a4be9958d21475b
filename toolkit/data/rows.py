"""Samples tokenised once, before training, and packed into a few flat arrays.

In: :class:`Sample` rows. Out: :class:`Rows`: ids, images, tokens, which tokens carry loss, lengths.

Lengths and label counts are needed before the first step (batches are dealt by length, loss weights count labels), and
flat arrays are shared by all loader processes: a fork that reads a list of Python objects copies it page by page.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.data.conversation import IGNORE_INDEX, EncodedRow, Turn
from toolkit.data.llava import Sample
from toolkit.data.protocols import Processor
from toolkit.worker_pools import naming_killed_workers

_CHUNK = 2048
_Text = tuple[str, str, tuple[Turn, ...]]
"""Where it is in its file, the id of its row, and its turns."""


class Strings:
    """Many strings in one piece of memory."""

    def __init__(self, values: Iterable[str]) -> None:
        encoded = [value.encode() for value in values]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """n samples with their encoded texts; equal texts are kept once.

    Args:
        ids: id of each sample.
        images: path of each sample's image, empty for text only.
        words: (n,) words of each sample, by which ``group_by_modality_length`` sorts.
        lengths: (n,) positions after images are put in.
        labelled: (n,) tokens that carry loss.
        text: (n,) which text each sample has.
        starts: (texts + 1,) where each text begins in ``tokens``.
        tokens: ids of all texts, one placeholder per image.
        learned: which of them carry loss.
    """

    ids: Strings
    images: Strings
    words: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labelled: NDArray[np.int64]
    text: NDArray[np.int64]
    starts: NDArray[np.int64]
    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_image(self) -> list[bool]:
        """Whether each sample has an image."""
        return [bool(self.images[index]) for index in range(len(self))]

    def image(self, index: int) -> Path | None:
        """Path of a sample's image, None for text only."""
        path = self.images[index]
        return Path(path) if path else None

    def encoded(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and labels (T,) of a sample."""
        at = self.text[index]
        part = slice(self.starts[at], self.starts[at + 1])
        ids = self.tokens[part].astype(np.int64)
        return ids, np.where(self.learned[part], ids, IGNORE_INDEX)


def encode_rows(samples: Sequence[Sample], processor: Processor) -> Rows:
    """Tokenise every sample, on all cores that this process may use when there are many.

    Raises:
        LabelError, ValueError: a row that cannot be encoded; the message names file, row and id.
    """
    numbers: dict[tuple[Turn, ...], int] = {}
    text = np.array([numbers.setdefault(sample.turns, len(numbers)) for sample in samples], dtype=np.int64)
    first = np.unique(text, return_index=True)[1]
    texts: list[_Text] = [(_place(samples[at]), samples[at].id, samples[at].turns) for at in first]
    tokens, learned, sizes = _encode_texts(texts, processor)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    labelled = np.add.reduceat(learned.astype(np.int64), starts[:-1])
    has_image = np.array([sample.image is not None for sample in samples])
    return Rows(
        ids=Strings(sample.id for sample in samples),
        images=Strings("" if sample.image is None else str(sample.image) for sample in samples),
        words=np.array([sample.words for sample in samples]),
        lengths=sizes[text] + has_image * (processor.image_tokens - 1),
        labelled=labelled[text],
        text=text, starts=starts, tokens=tokens, learned=learned,
    )  # fmt: skip


def _place(sample: Sample) -> str:
    return f"{sample.source}, row {sample.number}"


_Encoded = tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]
_processor: Processor | None = None


def _encode_texts(texts: Sequence[_Text], processor: Processor) -> _Encoded:
    chunks = [texts[at : at + _CHUNK] for at in range(0, len(texts), _CHUNK)]
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    jobs = min(len(chunks), cores)
    if jobs < 2:
        _adopt(processor)
        parts = [_encode(chunk) for chunk in chunks]
    else:
        # A fork: the processor is inherited, not pickled.
        pool = ProcessPoolExecutor(jobs, get_context("fork"), initializer=_adopt, initargs=(processor,))
        with naming_killed_workers(f"encoding of {len(texts)} texts"), pool:
            parts = list(pool.map(_encode, chunks))
    tokens, learned, sizes = zip(*parts, strict=True)
    return np.concatenate(tokens), np.concatenate(learned), np.concatenate(sizes)


def _adopt(processor: Processor) -> None:
    global _processor
    _processor = processor


def _encode(texts: Sequence[_Text]) -> _Encoded:
    assert _processor is not None
    rows: list[EncodedRow] = []
    for place, row_id, turns in texts:
        try:
            rows.append(_processor.encode_row(turns, row_id=row_id))
        except ValueError as error:
            raise type(error)(f"{place}: {error}") from error
    tokens = np.concatenate([np.array(row.input_ids, dtype=np.int32) for row in rows])
    labels = np.concatenate([np.array(row.labels, dtype=np.int32) for row in rows])
    return tokens, labels != IGNORE_INDEX, np.array([len(row.input_ids) for row in rows], dtype=np.int64)
