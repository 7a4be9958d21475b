"""The ``gemma`` conversation template: turns of one row become token ids and labels.

::

    <bos><start_of_turn>user\\n<image>\\n{question}<end_of_turn>\\n<start_of_turn>model\\n{answer}<end_of_turn>\\n<eos>
                                                                                  └───────── loss ─────────┘

Further turns follow without ``<bos>``. The text is cut at ``<image>`` and each piece tokenised as a whole, so that the
ids are those of the original code; which tokens carry loss follows from their character offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from toolkit.mgm.configuration_mgm import IGNORE_INDEX, IMAGE_TOKEN_INDEX

IMAGE_TOKEN = "<image>"
START, END = "<start_of_turn>", "<end_of_turn>"


class LabelError(ValueError):
    """A row that nothing can be learned from: no token of it carries loss."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One side of a conversation; ``speaker`` is ``human`` or ``gpt``, as in LLaVA's JSON."""

    speaker: str
    text: str

    def __post_init__(self) -> None:
        if self.speaker not in ("human", "gpt"):
            raise ValueError(f"speaker {self.speaker!r} is unknown; use 'human' or 'gpt'")


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """Token ids with one ``IMAGE_TOKEN_INDEX`` per image, and labels of the same length."""

    input_ids: list[int]
    labels: list[int]


def put_image_first(text: str) -> str:
    """Move an ``<image>`` to the front, on a line of its own, as the kit does; other text comes back stripped."""
    if IMAGE_TOKEN not in text:
        return text
    return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}".strip()


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that the template does not fit.

    Raises:
        ValueError: no offsets, no begin or end token, or a template mark that is not one token.
    """
    where = tokenizer.name_or_path
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {where!r} gives no character offsets; it needs a tokenizer.json")
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {where!r} has no begin or no end token; the gemma template needs both")
    for mark in (START, END):
        ids = tokenizer(mark, add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer of {where!r} splits {mark!r} into {ids}; the template needs one token")


def encode_row(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, row_id: str, room: int | None = None
) -> EncodedRow:
    """Encode one training row.

    Args:
        turns: human and gpt in turn, the human first.
        row_id: named in errors.
        room: longest number of ids; what is over is cut off at the end.

    Raises:
        ValueError: the turns do not alternate.
        LabelError: no token carries loss, e.g. because everything with loss was cut off.
    """
    expected = ["human", "gpt"] * (len(turns) // 2)
    if not turns or [t.speaker for t in turns] != expected:
        raise ValueError(f"row {row_id!r}: turns must alternate human, gpt: {[t.speaker for t in turns]}")
    text, spans = "", []
    for human, gpt in zip(turns[::2], turns[1::2], strict=True):
        text += f"{START}user\n{put_image_first(human.text)}{END}\n{START}model\n"
        begin = len(text)
        text += f"{put_image_first(gpt.text)}{END}\n{tokenizer.eos_token}"
        spans.append((begin, len(text)))
    ids, labels = [int(tokenizer.bos_token_id)], [IGNORE_INDEX]
    for piece_ids, starts in _pieces(tokenizer, text):
        for token, start in zip(piece_ids, starts, strict=True):
            learned = token != IMAGE_TOKEN_INDEX and any(begin <= start < end for begin, end in spans)
            ids.append(token)
            labels.append(token if learned else IGNORE_INDEX)
    ids, labels = ids[:room], labels[:room]
    if all(label == IGNORE_INDEX for label in labels):
        raise LabelError(f"row {row_id!r}: no token carries loss within {room} ids; shorten or drop the row")
    return EncodedRow(input_ids=ids, labels=labels)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Ids of a question up to where the model's answer begins; ``<image>`` in it becomes the placeholder."""
    text = f"{START}user\n{put_image_first(question)}{END}\n{START}model\n"
    return [int(tokenizer.bos_token_id), *(token for ids, _ in _pieces(tokenizer, text) for token in ids)]


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[list[int], list[int]]]:
    """Ids and start offsets (in ``text``) of the pieces around ``<image>``, placeholders between them."""
    pieces: list[tuple[list[int], list[int]]] = []
    at = 0
    for number, piece in enumerate(text.split(IMAGE_TOKEN)):
        if number:
            pieces.append(([IMAGE_TOKEN_INDEX], [at]))
            at += len(IMAGE_TOKEN)
        encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        pieces.append((encoded["input_ids"], [at + start for start, _ in encoded["offset_mapping"]]))
        at += len(piece)
    return pieces
