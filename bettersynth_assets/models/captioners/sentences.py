"""Shortens captions that the token limit cut off. In: the text. Out: the text up to its last complete part.

None of the available segmenters works, as tried on 2026-11-26: NLTK's Punkt without its trained data and spaCy's
``sentencizer`` without a language split "Mt. Fuji", and neither splits Chinese; both need an extra. Sentence ends of
all scripts follow Unicode (UAX #29, by the ``regex`` library); the abbreviations are listed below. Doubtful ends are
ignored: a caption that ends too early changes its meaning, and a shorter one only says less.
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
"""Abbreviations after which a sentence continues, in lower case, without the full stop."""
_BEFORE_NUMBERS = frozenset({"no", "nos", "nr", "art", "p", "v", "ver", "ch"})


def trim_incomplete(text: str) -> str:
    """Cut a caption to its last complete sentence, or else to its last complete word.

    The last word may be incomplete, so it is removed too, unless it is the only one. In scripts without spaces the last
    clause is removed instead. A closed block of reasoning before the caption is left unchanged.
    """
    text = text.strip().rstrip("\ufffd").rstrip()  # an incomplete character, if tokens are bytes
    start = after_reasoning(text)
    if end := _last_end(text, start):
        return text[:end]
    if _SPACELESS.search(text, start) and " " not in text[start:]:
        clauses = _CLAUSE.match(text, start)
        return clauses.group()[:-1].strip() if clauses else text
    return text[:start] + text[start:].rsplit(None, 1)[0].rstrip(" ,;:-") if " " in text[start:] else text


def _last_end(text: str, start: int) -> int:
    """Position after the last certain end of a sentence after ``start``; 0 if there is none."""
    ends = (match.end() for match in reversed(list(_END.finditer(text, start))) if _is_end(text, start, match))
    return next(ends, 0)


def _is_end(text: str, start: int, match: regex.Match[str]) -> bool:
    following = text[match.end() :]
    after = following.lstrip()
    if match["sure"] and match["sure"][0] not in "!?":
        return True  # a script whose full stop is unambiguous
    if after and (after == following or regex.match(r"[\p{SB=Close}]*\p{SB=Lower}", after)):
        return False  # inside a word or a number, or the sentence continues
    if match["sure"]:
        return True
    if len(match["dots"]) > 1 or "…" in match["dots"]:
        return bool(after)
    words = text[start : match.start()].split()
    word = words[-1].lstrip("\"'“‘«([{*_").lower() if words else ""
    return _ends_after(word, after, is_first=len(words) == 1)


def _ends_after(word: str, after: str, *, is_first: bool) -> bool:
    """Whether a full stop after ``word`` ends a sentence if ``after`` follows."""
    if not word or word in _BEFORE_NAMES:
        return False
    if word in _TIMES:
        return bool(after)
    if word in _BEFORE_NUMBERS:
        return bool(after) and not after[0].isdigit()
    if word.isdigit():  # "3." may begin 3.5, and "1." a list
        return bool(after) and not is_first
    return _INITIALS.fullmatch(word) is None
