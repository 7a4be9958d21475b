"""Ends of sentences in a caption that the token limit cut off. In: the text. Out: the text up to its last whole part.

No segmenter among the dependencies serves, as tried on 2026-11-26: NLTK's Punkt without its trained data and spaCy's
``sentencizer`` without a language split "Mt. Fuji", and neither splits Chinese; both come with an extra only. What a
sentence end looks like in any script is Unicode's (UAX #29, by the ``regex`` library); the abbreviations are below.
When in doubt there is no end: a caption that stops too early says something else, and a shorter one says less.
"""

from __future__ import annotations

import regex

from bettersynth_assets.models.captioners.reasoning import after_reasoning

_END = regex.compile(r"(?:(?P<sure>\p{SB=STerm}+)|(?P<dots>[.…]+))[\p{SB=STerm}.…]*\p{SB=Close}*")
_SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
_CLAUSE = regex.compile(r".*[，、；]", regex.DOTALL)
_INITIALS = regex.compile(r"(?:\p{L}\.)*\p{L}")
_TIMES = frozenset({"a.m", "p.m"})
_NAMES = """
adm apt asst ave bldg blvd brig bros ca capt cf cmdr co col corp ct dept det dr ed eds est fig figs fr ft gen gov hon
hwy inc insp jr lt ltd maj messrs mr mrs ms mt mtn mts mx op pfc ph pl pp pres prof pvt rd ref rep rev sec sen sgt sr st
sta ste supt univ viz vol vs approx incl excl min max misc aug dec feb jan jul jun nov oct sept sep apr mon tue tues wed
thu thur thurs fri bzw ggf inkl str tel sra srta mlle mme
"""
_BEFORE_NAMES = frozenset(_NAMES.split())
"""Abbreviations after which a sentence goes on, in lower case, without the full stop."""
_BEFORE_NUMBERS = frozenset({"no", "nos", "nr", "art", "p", "v", "ver", "ch"})


def whole(text: str) -> str:
    """Cut a caption that the token limit broke off to its last whole sentence, or else to its last whole word.

    Whether the last word is whole cannot be seen, so it is left out too, unless it is the only one. In writing without
    spaces, the last clause takes the word's place. A closed block of reasoning before the caption is left as it is.
    """
    text = text.strip().rstrip("\ufffd").rstrip()  # half a character, where the tokens are bytes
    start = after_reasoning(text)
    if end := _last_end(text, start):
        return text[:end]
    if _SPACELESS.search(text, start) and " " not in text[start:]:
        clauses = _CLAUSE.match(text, start)
        return clauses.group()[:-1].strip() if clauses else text
    return text[:start] + text[start:].rsplit(None, 1)[0].rstrip(" ,;:-") if " " in text[start:] else text


def _last_end(text: str, start: int) -> int:
    """Position after the last sure end of a sentence behind ``start``; 0 if there is none."""
    ends = (found.end() for found in reversed(list(_END.finditer(text, start))) if _is_end(text, start, found))
    return next(ends, 0)


def _is_end(text: str, start: int, found: regex.Match[str]) -> bool:
    following = text[found.end() :]
    after = following.lstrip()
    if found["sure"] and found["sure"][0] not in "!?":
        return True  # of a script whose full stop means nothing else
    if after and (after == following or regex.match(r"[\p{SB=Close}]*\p{SB=Lower}", after)):
        return False  # inside a word or a number; or the sentence goes on
    if found["sure"]:
        return True
    if len(found["dots"]) > 1 or "…" in found["dots"]:
        return bool(after)
    words = text[start : found.start()].split()
    word = words[-1].lstrip("\"'“‘«([{*_").lower() if words else ""
    return _ends_after(word, after, is_first=len(words) == 1)


def _ends_after(word: str, after: str, *, is_first: bool) -> bool:
    """Whether a full stop behind ``word`` ends a sentence when ``after`` comes next."""
    if not word or word in _BEFORE_NAMES:
        return False
    if word in _TIMES:
        return bool(after)
    if word in _BEFORE_NUMBERS:
        return bool(after) and not after[0].isdigit()
    if word.isdigit():  # "3." may be the begin of 3.5, and "1." of a list
        return bool(after) and not is_first
    return _INITIALS.fullmatch(word) is None
