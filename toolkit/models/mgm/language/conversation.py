"""The ``gemma`` conversation template. In: the turns of one row. Out: token ids and labels.

::

    <bos><start_of_turn>user\\n<image>\\n{question}<end_of_turn>\\n<start_of_turn>model\\n{answer}<end_of_turn>\\n<eos>
                                                                                  └───────── loss ─────────┘

Further turns follow without ``<bos>``. The text is split at ``<image>`` and each piece is tokenised as a whole, so that
the ids equal those of the original code. Character offsets determine which tokens carry loss. Labels also equal the
original's, including its quirks, because published models were trained that way:

* A line break at the start of an answer merges with the preceding one and carries no loss.
* An empty question has no ``<end_of_turn>``. An answer before the first question is dropped.

Rows with an empty answer, an unanswered question, or ``<eos>``, ``<pad>`` or ``<start_of_turn>model`` in their text are
an error here. The original code miscounts the tokens of such a row, prints a warning and ignores it. An answer of only
white space is also an error, although the original trains on its end mark.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.data.conversation import IGNORE_INDEX, EncodedRow, LabelError, Turn, is_blank
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.tokens import END_OF_TURN, IMAGE_TOKEN, START_OF_TURN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = START_OF_TURN, END_OF_TURN


def put_image_first(text: str) -> str:
    """Move ``<image>`` to a separate first line, as the kit does; text without ``<image>`` is returned unchanged."""
    if IMAGE_TOKEN not in text:
        return text
    return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}".strip()


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer supports the template.

    Raises:
        ValueError: it has no offsets, no begin or end token, or splits a template mark into several tokens.
    """
    where = tokenizer.name_or_path
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {where!r} returns no character offsets; it needs a tokenizer.json")
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {where!r} lacks a begin or an end token; the gemma template needs both")
    for mark in (START, END):
        ids = tokenizer(mark, add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer of {where!r} splits {mark!r} into {ids}; the template needs one token")


def encode_row(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, row_id: str, room: int | None = None
) -> EncodedRow:
    """Encode one training row.

    Args:
        tokenizer: see :func:`check_tokenizer`.
        turns: alternating human and gpt turns, starting with human.
        row_id: named in errors: an id, or file, row and id.
        room: maximum number of ids; the row is truncated at the end.

    Raises:
        ValueError: the turns do not alternate.
        LabelError: no token carries loss, e.g. because of truncation, or the row is invalid (see the module's
            docstring).
    """
    turns = turns[1:] if turns and turns[0].speaker == "gpt" else turns
    if not turns or [t.speaker for t in turns] != (["human", "gpt"] * len(turns))[: len(turns)]:
        raise ValueError(f"row {row_id!r}: turns must alternate human, gpt: {[t.speaker for t in turns]}")
    text = ""
    for human, gpt in itertools.zip_longest(turns[::2], turns[1::2]):
        if gpt is None or is_blank(gpt.text):
            raise LabelError(f"row {row_id!r}: a question has no answer or an empty one; complete or drop the row")
        text += _turn("user", put_image_first(human.text))
        text += _turn("model", put_image_first(gpt.text)) + str(tokenizer.eos_token)
    spans = _answers(tokenizer, text, row_id=row_id)
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
    """Return the ids of a question up to the start of its answer, with a placeholder for ``<image>``."""
    text = _turn("user", question) + f"{START}model\n"
    return [int(tokenizer.bos_token_id), *(token for ids, _ in _pieces(tokenizer, text) for token in ids)]


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Return the ids of an answer after :func:`encode_prompt`, without its end mark, as in a training row's labels.

    Args:
        tokenizer: see :func:`check_tokenizer`.
        answer: text without surrounding white space; an empty answer has no ids.

    Raises:
        ValueError: the text contains a special token, which would be read as the end of the answer.
    """
    opening = f"{START}model\n"
    [(ids, starts)] = _pieces(tokenizer, f"{opening}{answer}{END}") if IMAGE_TOKEN not in answer else [([], [])]
    found = [token for token, start in zip(ids, starts, strict=True) if len(opening) <= start < len(opening + answer)]
    if IMAGE_TOKEN in answer or not set(tokenizer.all_special_ids).isdisjoint(found):
        raise ValueError(f"answer {answer!r} contains a special token; remove it")
    return found


def _turn(role: str, text: str) -> str:
    """Format one turn; like the original, without an end mark if the text is empty."""
    return f"{START}{role}\n{text}{END}\n" if text else f"{START}{role}\n"


def _answers(tokenizer: PreTrainedTokenizerBase, text: str, *, row_id: str) -> list[tuple[int, int]]:
    """Return the spans of the answers in ``text``, including their end marks.

    As in the original, a round ends with ``<eos>``, and its answer follows its only ``<start_of_turn>model``.
    """
    opening, end, pad = f"{START}model\n", str(tokenizer.eos_token), str(tokenizer.pad_token)
    spans, at = [], 0
    rounds = text.split(end)[:-1]
    for talk in rounds:
        if talk.count(opening) != 1 or pad in talk:
            raise LabelError(
                f"row {row_id!r}: its text contains {end!r}, {pad!r} or {opening!r}, so that its answers cannot be "
                "located; remove the mark or drop the row"
            )
        spans.append((at + talk.index(opening) + len(opening), at + len(talk) + len(end)))
        at += len(talk) + len(end)
    return spans


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[list[int], list[int]]]:
    """Return ids and start offsets in ``text`` of the pieces around ``<image>``, with placeholders between them."""
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
