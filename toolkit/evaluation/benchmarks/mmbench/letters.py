"""Reads the option letter of a multiple-choice answer. In: the model's text and the options. Out: a letter or None.

An answer counts if it begins with exactly one letter that is marked as such: the letter is alone, or followed by a line
break, punctuation, a bracket, a quotation mark, Markdown or a special token. Two different letters are not an answer,
nor is a sentence that only mentions a letter: nothing is guessed. Full-width forms count as ASCII. An answer that
repeats its option's text is that option, whatever letters the text contains (``D. both A and B``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

LETTERS = "ABCD"

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_SPECIAL_TOKEN = re.compile(r"<[/|]*[a-z_][\w.-]*[/|]*>")
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u2060\ufeff]")

_BEGINNING = re.compile(
    rf"[\s*_`\"'“‘「『(\[{{【〔《$]*([{LETTERS}])"
    r"(?:[ \t]*(?:$|(?=[\n.):,;。、!]|[ \t][-–—―][ \t]))|[*_`\"'”’」』)\]}】〕》$]+(?!\w)|\))"
)
_JOINED = r"(?:\b(?:and|or|und|oder|et|ou)\b|[&+/]|和|或|与|及)"
_WRAP = r"[\s.):,;。、!*_(\[\]–—―-]*"
_END = rf"[\s)\]*_]*(?:$|[\n.):,;。、!|]|{_JOINED})"
# In a list, `A` before a word is an article: `B, A man is riding`.
_LISTED = re.compile(rf"{_WRAP}(?:[,;、|]|{_JOINED}){_WRAP}(?:([B-D])\b(?!['’])|(A)(?={_END}))")
# After a label, the second letter must be marked too: `A. B cells` is an option's text.
_LABELLED = re.compile(rf"{_WRAP}([{LETTERS}])(?={_END})")
_LINE = re.compile(rf"\n[\s(\[*_]*([{LETTERS}])(?=[)\]*_]*(?:[.):,;。、]|[ \t]*(?:$|\n)))")
_ALTERNATIVE = re.compile(rf"{_JOINED}[\s(\[*_]*([{LETTERS}])(?=[\s)\]*_.]*$|[)\]])")


def parse_letter(prediction: str, options: int | Sequence[str] = len(LETTERS)) -> str | None:
    """The option letter that an answer begins with, or None.

    Args:
        prediction: the model's answer.
        options: texts of the options, or their number; a letter beyond them is not an answer.
    """
    texts = [""] * options if isinstance(options, int) else list(options)
    text = _plain(prediction)
    match = _BEGINNING.match(text)
    if match is None or LETTERS.index(match[1]) >= len(texts):
        return None
    letter, rest = match[1], text[match.end() :]
    own = _words(texts[LETTERS.index(letter)])
    if own and _words(rest) == own and not rest.lstrip().startswith((",", ";", "、")):
        return letter
    others = {*_further_letters(rest), *(LETTERS[i] for i, t in enumerate(texts) if _repeats(rest, LETTERS[i], t))}
    return letter if others <= {letter} else None


def _further_letters(rest: str) -> Iterator[str]:
    """Letters that the text after the first letter names as options."""
    yield from (match[1] for pattern in (_LINE, _ALTERNATIVE) for match in pattern.finditer(rest))
    while match := _LISTED.match(rest) or _LABELLED.match(rest):
        yield next(filter(None, match.groups()))
        rest = rest[match.end() :]


def _repeats(text: str, letter: str, option: str) -> bool:
    """True if the text contains an option with its label: ``B. blue``."""
    label = f"{letter}. {option}".casefold()
    return bool(option.strip()) and label in re.sub(r"[):]", ".", text).casefold()


def _plain(text: str) -> str:
    text = _SPECIAL_TOKEN.sub("\n", _THOUGHT.sub("\n", text))
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).strip()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", _plain(text).casefold())
