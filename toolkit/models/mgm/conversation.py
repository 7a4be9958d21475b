"""The ``gemma`` conversation template: turns of one row become token ids and labels.

::

    <bos><start_of_turn>user\\n<image>\\n{question}<end_of_turn>\\n<start_of_turn>model\\n{answer}<end_of_turn>\\n<eos>
                                                                                  └───────── loss ─────────┘

Further turns follow without ``<bos>``. The text is cut at ``<image>`` and each piece tokenised as a whole, so that the
ids are those of the original code; which tokens carry loss follows from their character offsets. Labels are the
original's too, its oddities included, since published models were trained that way:

* a line break that begins an answer joins the one before it and carries no loss;
* a question without text loses its ``<end_of_turn>``; an answer before the first question is left out;
* a row with an empty answer, an unanswered question, or ``<eos>``, ``<pad>`` or ``<start_of_turn>model`` in its text
  taught the original nothing: its own count of tokens came out wrong, it printed a warning and ignored the row. Here
  such a row is an error that names it. So is an answer of white space alone, although the original learned its end.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.models.conversation import IGNORE_INDEX, IMAGE_TOKEN, EncodedRow, LabelError, Turn, is_blank
from toolkit.models.mgm.names import IMAGE_TOKEN_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = "<start_of_turn>", "<end_of_turn>"


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
        row_id: named in errors: an id, or file, row and id.
        room: longest number of ids; what is over is cut off at the end.

    Raises:
        ValueError: the turns do not alternate.
        LabelError: no token carries loss, e.g. because everything with loss was cut off; see also the module's text.
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
    """Ids of a question as it is, up to where the answer begins; ``<image>`` in it becomes the placeholder."""
    text = _turn("user", question) + f"{START}model\n"
    return [int(tokenizer.bos_token_id), *(token for ids, _ in _pieces(tokenizer, text) for token in ids)]


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """Ids of an answer after :func:`encode_prompt`, without what ends it: those that a training row's labels hold.

    Args:
        answer: without white space around it; an empty one has no ids.

    Raises:
        ValueError: a special token in the text, which would be read as the end of the answer.
    """
    opening = f"{START}model\n"
    [(ids, starts)] = _pieces(tokenizer, f"{opening}{answer}{END}") if IMAGE_TOKEN not in answer else [([], [])]
    found = [token for token, start in zip(ids, starts, strict=True) if len(opening) <= start < len(opening + answer)]
    if IMAGE_TOKEN in answer or not set(tokenizer.all_special_ids).isdisjoint(found):
        raise ValueError(f"answer {answer!r} holds a special token")
    return found


def _turn(role: str, text: str) -> str:
    """One turn; the original leaves the end mark of an empty one out."""
    return f"{START}{role}\n{text}{END}\n" if text else f"{START}{role}\n"


def _answers(tokenizer: PreTrainedTokenizerBase, text: str, *, row_id: str) -> list[tuple[int, int]]:
    """Where in ``text`` the answers stand, end marks included.

    As the original finds them: a round ends with ``<eos>`` and its answer follows the one ``<start_of_turn>model``.
    """
    opening, end, pad = f"{START}model\n", str(tokenizer.eos_token), str(tokenizer.pad_token)
    spans, at = [], 0
    rounds = text.split(end)[:-1]
    for talk in rounds:
        if talk.count(opening) != 1 or pad in talk:
            raise LabelError(
                f"row {row_id!r}: its text holds {end!r}, {pad!r} or {opening!r}, so that its answers cannot be told; "
                "take the mark out or drop the row"
            )
        spans.append((at + talk.index(opening) + len(opening), at + len(talk) + len(end)))
        at += len(talk) + len(end)
    return spans


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
