"""Chat templates: turns of one row become token ids and labels, whatever the tokenizer's template.

::

    turns ─► Jinja template ─► one text ─► ids, offsets ─► labels on the answers and the token that ends each

Where an answer stands follows from rendering the conversation up to it, once with the opening of an answer and once
with the answer, so a template has to render a longer conversation as a continuation of a shorter one. Texts that hold
a special token are refused: they would be read as the end of a turn. As in the library's processors, a conversation
begins with the token that the tokenizer puts first (Llama's ``<s>``), unless the template has written it already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from toolkit.data.conversation import IGNORE_INDEX, EncodedRow, LabelError, Turn, exchanges
from toolkit.tokens import IMAGE_TOKEN

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. {% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {{ message['content'] }} "
    "{% else %}ASSISTANT: {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""For a tokenizer without a template: LLaVA-1.5's."""


class ChatTemplate:
    """A chat template with its tokenizer.

    Args:
        tokenizer: a fast one.
        template: Jinja; None takes :data:`VICUNA`.
        image_token: one token that stands for an image.

    Raises:
        ValueError: a tokenizer without offsets, an image token that is not one token, or a template that cannot be
            rendered or ends an answer with no special token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None, image_token: str) -> None:
        where = tokenizer.name_or_path
        if not tokenizer.is_fast:
            raise ValueError(f"the tokenizer of {where!r} gives no character offsets; it needs a tokenizer.json")
        self.tokenizer, self.template, self.image_token = tokenizer, template or VICUNA, image_token
        ids = tokenizer(image_token, add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer of {where!r} splits {image_token!r} into {ids}; it must be one token")
        self.image_token_id = int(ids[0])
        self.structured = self._takes_lists()
        self._first = self._first_ids()
        probe = self.encode([Turn(speaker="human", text="a"), Turn(speaker="gpt", text="b")], row_id="probe")
        self.end = next(label for label in reversed(probe.labels) if label != IGNORE_INDEX)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        known = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        marks = sorted({*known, *map(str, self.tokenizer.all_special_tokens), self.image_token}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, marks)))

    def encode(self, turns: Sequence[Turn], *, row_id: str, room: int | None = None) -> EncodedRow:
        """Ids and labels of one training row.

        Args:
            turns: human and gpt in turn.
            row_id: named in errors.
            room: longest number of ids; what is over is cut off at the end.

        Raises:
            ValueError: turns that do not alternate, or a template whose answers cannot be found.
            LabelError: a special token in a text, an image in an answer, or no token that carries loss.
        """
        messages: list[dict[str, Any]] = []
        spans: list[tuple[int, int]] = []
        text = ""
        for question, answer in exchanges(list(turns), row_id=row_id):
            messages.append(self._question(question, row_id))
            opening = self._render(messages, opened=True)
            answer = self._plain(answer, row_id)
            messages.append(self._message("assistant", answer, has_image=False))
            longer = self._render(messages, opened=False)
            if not (longer.startswith(opening) and longer.startswith(text)):
                raise ValueError(
                    f"row {row_id!r}: the chat template changes earlier turns, so answers cannot be located"
                )
            text = longer
            end = text.find(answer, len(opening)) + len(answer)
            mark = self._special.match(text, end + (text[end : end + 1] == " "))
            if end < len(opening) + len(answer) or mark is None:
                raise ValueError(f"row {row_id!r}: the chat template ends an answer with no special token")
            spans.append((len(opening), mark.end()))
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = [int(token) for token in encoded["input_ids"]]
        labels = [
            token if any(begin <= start < end for begin, end in spans) else IGNORE_INDEX
            for token, (start, _) in zip(ids, encoded["offset_mapping"], strict=True)
        ]
        ids, labels = [*self._first, *ids][:room], [*(IGNORE_INDEX for _ in self._first), *labels][:room]
        if all(label == IGNORE_INDEX for label in labels):
            raise LabelError(f"row {row_id!r}: no token carries loss within {room} ids; shorten or drop the row")
        return EncodedRow(input_ids=ids, labels=labels)

    def encode_prompt(self, question: str) -> list[int]:
        """Ids of a question, up to where the answer begins.

        Raises:
            LabelError: a special token in the text.
        """
        text = self._render([self._question(question, question)], opened=True)
        return [*self._first, *map(int, self.tokenizer(text, add_special_tokens=False).input_ids)]

    def encode_answer(self, answer: str) -> list[int]:
        """Ids of an answer after a prompt, without the token that ends it; none for an answer without text."""
        if not answer.strip():
            return []
        row = self.encode([Turn(speaker="human", text="a"), Turn(speaker="gpt", text=answer)], row_id=answer)
        return [label for label in row.labels if label != IGNORE_INDEX][:-1]

    def _question(self, text: str, row_id: str) -> dict[str, Any]:
        return self._message("user", self._plain(text.replace(IMAGE_TOKEN, ""), row_id), has_image=IMAGE_TOKEN in text)

    def _plain(self, text: str, row_id: str) -> str:
        if match := self._special.search(text):
            raise LabelError(
                f"row {row_id!r}: its text holds {match[0]!r}, a special token; take it out or drop the row"
            )
        return text.strip()

    def _message(self, role: str, text: str, *, has_image: bool) -> dict[str, Any]:
        if self.structured:
            return {"role": role, "content": [{"type": "image"}] * has_image + [{"type": "text", "text": text}]}
        return {"role": role, "content": f"{self.image_token}\n{text}".strip() if has_image else text}

    def _render(self, messages: list[dict[str, Any]], *, opened: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, tokenize=False, add_generation_prompt=opened
        )
        assert isinstance(rendered, str)
        return rendered

    def _first_ids(self) -> list[int]:
        """What stands before every conversation: the beginning of text, or nothing."""
        tokenizer = self.tokenizer
        first = [int(token) for token in tokenizer("").input_ids[:1]]
        begun = str(tokenizer.bos_token or "")
        if first != [tokenizer.bos_token_id] or self._render([self._question("a", "probe")], opened=True).startswith(
            begun
        ):
            return []
        return first

    def _takes_lists(self) -> bool:
        """Whether the template wants a message as a list of parts, as processors' templates do, or as one string."""
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}
        try:
            return self.image_token in self._render([message], opened=False)
        except (jinja2.TemplateError, TypeError):
            return False
