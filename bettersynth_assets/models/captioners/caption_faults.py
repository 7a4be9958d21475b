"""Faults of a caption that cannot be repaired. In: a caption in one line. Out: whether it has the fault.

refusal  the model says that it cannot answer, that it is a model, or that it sees no image
markup   JSON, a code fence, HTML or Markdown instead of a sentence
loop     repetition by greedy decoding
"""

from __future__ import annotations

import json
import re
from collections import Counter

MAX_CYCLE = 12
REPEATS = 3
MAX_ALLOWED = 4
"""Permitted repetitions of a sign's words; more indicate a decoding loop."""
MAX_QUOTED = 3

_CANNOT = r"(?:can(?:'t|not| not)|could(?:n't| not)|won't|will not|am (?:not able|unable) to|'m (?:not able|unable) to)"
_ACTS = (
    r"(?:assist|comply|describe|identify|recogni[sz]e|determine|provide|process|access|analy[sz]e|caption|fulfil{1,2}|"
    r"interpret|comment|do (?:that|this)|(?:help|see|view|generate|create|answer|discuss|tell|make out|engage|continue)"
    r"(?=\s*(?:$|[.,;:!?]|(?:with|the|this|that|you|any|an?|images?|who|what|your|or|on|in)\b)))"
)
_REGRET = r"(?:(?:sorry|unfortunately|regrettably)[,.!:]? (?:but )?)?"
_PICTURE = r"(?:image|picture|photo)"
_REFUSALS = (
    r"(?:i'm|i am|we're|we are) (?:(?:very|so|really|truly) )?sorry(?=\s*(?:$|[.,;:!—–-]|but\b|i\b))",
    r"(?:i apologi[sz]e|my apologies|apologies)(?=\s*(?:$|[.,;:!]|but\b|for (?:the|any)\b))",
    rf"{_REGRET}(?:i|we) ?(?:do not|don't) (?:see|have|know)\b.*\b"
    r"(?:images?|pictures?|photos?|ability|access|attached)\b",
    rf"{_REGRET}(?:i|we) ?{_CANNOT} (?:directly |actually )?{_ACTS}",
    r"(?:i|we) (?:must|have to) (?:decline|refuse)\b",
    rf"unable to {_ACTS}",
    r"as an? (?:\w+[ -]){0,3}(?:ai|artificial intelligence|language model|helpful assistant)\b(?=[ ,.])",
    r"i(?:'m| am) (?:just |only )?an? (?:\w+[ -]){0,3}(?:ai|language model|text-based model|ai assistant)\b",
    rf"(?:there is|there's|i see) no {_PICTURE}(?: \w+)?(?: here| provided| attached| uploaded| to\b|[.,]|$)",
    rf"no {_PICTURE}s? (?:was|were|is|has been|have been) (?:provided|attached|uploaded|given|included|shared)",
    r"(?:please|could you(?: please)?|kindly) (?:provide|upload|share|attach|send|supply)\b.*\b(?:image|picture|photo)",
    r"(?:the|this|your) (?:image|picture|photo)(?: you \w+)? (?:cannot|can't|could not|couldn't) be "
    r"(?:seen|displayed|loaded|viewed|accessed|processed|opened)",
    r"(?:很|非常)?抱歉[，,。！!]",
    r"对不起[，,。！!]",
    r"作为一?[个款名位]?(?:人工智能|ai)",
    r"我(?:无法|不能)(?:提供|回答|识别|查看|描述|协助|帮助)",
    r"申し訳(?:ありません|ございません)",
    r"lo siento, (?:pero )?no puedo",
    r"(?:je suis )?désolée?, (?:mais )?je (?:ne peux|suis)",
    r"(?:es tut mir leid|entschuldigung), (?:aber )?(?:ich|das)",
)
_REFUSAL = re.compile(rf"(?:^|[.!?。！？][\"')]*\s*)[\s\"'*_(]*(?:{'|'.join(_REFUSALS)})", re.IGNORECASE)
_MARKUP = re.compile(
    r"```|~~~|<!doctype|<\?xml|<!--"
    r"|</?[a-z][a-z0-9-]*(?:\s[^<>]*)?/?>"  # an HTML or XML tag
    r"|(?:^|[{,])\s*(?P<quote>[\"'])[\w -]+(?P=quote)\s*:"  # a JSON key
    r"|^\s*(?:\[\s*[{\"']|\{\s*[\"'}])"
    r"|!?\[[^\]]*\]\((?:https?:|data:|/|#)"  # a Markdown link or image
    r"|\*\*[^*\s][^*]*\*\*|__[^_\s][^_]*__|^\s*#{2,6} |^\s*\|.*\|\s*$|\|\s*:?-{3,}"
    r"|\\(?:boxed|begin|text)\{",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)
_NUMBER = r"\d{1,3}(?:[ \u00a0\u202f]\d{3}\b){1,4}|\d+(?:[.,:/'’-]\d+)*"
_LETTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_CHARACTER = re.compile(rf"[{_LETTERS}]")
_WORD = re.compile(rf"{_NUMBER}|[{_LETTERS}]|[^\W{_LETTERS}]+")
"""A number with its separators is one word; so is each Chinese or Japanese character."""
_STUTTER = re.compile(r"([^\W\d_]{1,6}?)\1{11,}|([.,:]\d{1,3})\2{7,}")
_READING = """
read reads reading say says saying said spell spells spelling spelled word words text texts lettering letters label
labeled labelled title titled named called caption captioned written writes write sings singing shouts shouting chants
chanting yells yelling lyrics phrase phrases slogan message quote inscription inscribed logo
"""
_READS = frozenset(_READING.split())
_STRESSED = frozenset({"very", "really", "so", "too", "much"})
_QUOTES = ('"', "'", "“", "‘", "«", "„", "「", "『")


def straight(text: str) -> str:
    """Replace curly apostrophes and quotes with straight ones, for comparisons."""
    return text.translate({0x2018: "'", 0x2019: "'", 0x02BC: "'", 0x00B4: "'", 0x201C: '"', 0x201D: '"'})


def is_refusal(text: str) -> bool:
    """Whether a sentence of the caption begins like a model's refusal."""
    return _REFUSAL.search(straight(text)) is not None


def is_markup(text: str) -> bool:
    """Whether the caption, with its line breaks, holds a code fence, JSON, HTML, Markdown or a list."""
    text = text.strip()
    if _MARKUP.search(text) or len(_BULLET.findall(text)) > 1:
        return True
    if not text.startswith(("{", "[")):
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def is_loop(text: str) -> bool:
    """Whether the caption repeats itself like a decoder in a loop.

    A cycle of up to ``MAX_CYCLE`` words is a loop if it occurs ``REPEATS`` times or more in a row. Numbers ("7 7 7"),
    "very" and similar words, single Chinese and Japanese characters, and up to ``MAX_QUOTED`` words that the caption
    quotes ("a sign that reads no no no") may occur ``MAX_ALLOWED`` times. One word that makes up half of a caption of
    eight or more words is a loop too, unless it is a number or quoted.
    """
    if _STUTTER.search(text.lower()):
        return True
    matches = list(_WORD.finditer(text.lower()))
    words = [match.group() for match in matches]

    def quoted(first: int) -> bool:
        preceding = text[: matches[first].start()].rstrip()
        return not _READS.isdisjoint(words[max(0, first - 2) : first]) or preceding.endswith(_QUOTES)

    quotes: set[int] = set()
    for size in range(1, min(MAX_CYCLE, len(words) // REPEATS) + 1):
        for first in range(len(words) - REPEATS * size + 1):
            repeats = _repeats(words, first, size)
            if repeats < REPEATS:
                continue
            cycle = words[first : first + size]
            free = _CHARACTER.fullmatch("".join(cycle)) or all(map(_is_number_or_stress, cycle))
            allowed = size <= MAX_QUOTED and repeats <= MAX_ALLOWED and (free or quoted(first))
            if not allowed:
                return True
            quotes.update(range(first, first + repeats * size))
    counts = Counter(word for at, word in enumerate(words) if at not in quotes and not word[0].isdigit())
    return len(words) >= 8 and bool(counts) and max(counts.values()) * 2 >= len(words)


def _is_number_or_stress(word: str) -> bool:
    return word[0].isdigit() or word in _STRESSED


def _repeats(words: list[str], first: int, size: int) -> int:
    """Count how often the cycle at ``first`` occurs in a row; 0 if the run began earlier."""
    if first and words[first - 1] == words[first + size - 1]:
        return 0
    end = first + size
    while end < len(words) and words[end] == words[end - size]:
        end += 1
    return (end - first) // size
