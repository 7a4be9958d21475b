"""Removes or refuses special tokens in the text of a question. In and out: text.

The image always comes before the question, so an image token in the text is redundant and is removed. A chat marker
would end the user's turn or begin another one; removing it could change the question, so it is refused.
"""

from __future__ import annotations

import re

from toolkit.questions.answer_files import AnswerError
from toolkit.tokens import END_OF_TURN, IMAGE_TOKENS, START_OF_TURN

CHAT_MARKERS = (START_OF_TURN, END_OF_TURN, "<bos>", "<eos>", "<pad>")
"""Special tokens of Gemma's template."""
_IMAGE = re.compile(rf"[ \t]*(?:{'|'.join(IMAGE_TOKENS)})[ \t]*(?:\r?\n)?")


def clean_prompt(text: str, *, where: str) -> str:
    """Remove image tokens.

    Args:
        where: names the question in error messages.

    Raises:
        AnswerError: the text contains a chat marker.
    """
    marker = next((marker for marker in CHAT_MARKERS if marker in text), None)
    if marker:
        raise AnswerError(f"{where}: holds {marker}, which the model reads as the end of a turn or text; remove it")
    cleaned = text
    while _IMAGE.search(cleaned):
        cleaned = _IMAGE.sub(_gap, cleaned)
    return text if cleaned == text else cleaned.strip()


def _gap(token: re.Match[str]) -> str:
    """Replacement of an image token: a space between two words; a line of its own disappears."""
    text, (start, end) = token.string, token.span()
    if start == 0 or text[start - 1] == "\n":
        return ""
    if token[0].endswith("\n"):
        return "\n"
    return "" if end == len(text) else " "
