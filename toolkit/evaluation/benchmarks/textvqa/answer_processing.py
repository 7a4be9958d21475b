"""Normalises short answers as the TextVQA reference (EvalAI's answer processor) does. In: any text. Out: text.

Lower case; commas, question marks and possessives; punctuation; number words become digits, articles are dropped,
contractions get their apostrophe. The rules are those of the VQA evaluation, including its quirks, because scores are
compared with published ones.
"""

from __future__ import annotations

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"(?<=\d)(\,)+(?=\d)")
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_PERIODS_AT_MOST = int(re.UNICODE)
"""The reference passes ``re.UNICODE`` where ``re.sub`` expects a count, so only the first 32 periods are removed."""

_NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(value)
    for value, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}

_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd
who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
""".split()  # noqa: SIM905 (a table of words reads better than a page of literals)
_TWO_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
""".split()  # noqa: SIM905 (a table of words reads better than a page of literals)


def _contractions() -> dict[str, str]:
    """Misspelt form -> form with all its apostrophes."""
    known = {word.replace("'", ""): word for word in _ONE_APOSTROPHE}
    for word in _TWO_APOSTROPHES:
        first, second = word.index("'"), word.rindex("'")
        known[word[:first] + word[first + 1 :]] = word
        known[word[:second] + word[second + 1 :]] = word
    irregular = {
        "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at", "somebody'd": "somebodyd",
        "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've",
    }  # fmt: skip
    return known | irregular


_CONTRACTIONS = _contractions()


def process_answer(text: str) -> str:
    """Normalise one answer."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return _digits_and_articles(_punctuation(text))


def _punctuation(text: str) -> str:
    out = text
    for mark in _PUNCTUATION:
        # As in the reference: search in the original text, replace in the text after earlier replacements.
        apart = mark + " " in text or " " + mark in text or _COMMA_IN_NUMBER.search(text) is not None
        out = out.replace(mark, "" if apart else " ")
    return _PERIOD.sub("", out, count=_PERIODS_AT_MOST)


def _digits_and_articles(text: str) -> str:
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
