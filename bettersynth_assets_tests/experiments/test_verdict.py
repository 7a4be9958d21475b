"""Verdicts of a family of comparisons."""

import numpy as np
import pytest

from bettersynth_assets.experiments.difference import Difference
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.verdict import Evidence, Verdict, Word, across_looks, decide


def test_each_comparison_gets_a_word_from_the_closed_list():
    evidence = Evidence(
        sign=np.array([1.0, -1.0, 1.0, 1.0]),
        p=np.array([0.001, 0.002, 0.4, 0.03]),
        p_equivalent=np.array([0.9, 0.9, 0.001, 0.5]),
    )
    assert decide(evidence, 0.05).tolist() == ["better", "worse", "equivalent", "indistinguishable"]


def test_holm_keeps_a_difference_from_counting_that_alone_would():
    evidence = Evidence(sign=np.ones(2), p=np.array([0.03, 0.9]), p_equivalent=np.ones(2))
    assert decide(evidence, 0.05).tolist() == ["indistinguishable", "indistinguishable"]


def test_a_shown_difference_within_the_margin_is_called_a_difference():
    evidence = Evidence(sign=np.array([1.0]), p=np.array([0.001]), p_equivalent=np.array([0.001]))
    assert decide(evidence, 0.05).tolist() == ["better"]


def look(estimate: float) -> Difference:
    return Difference(estimate=np.array(estimate), se=np.array(1.0), df=np.array(30.0))


def test_the_sign_is_that_of_the_look_that_decides():
    found = across_looks([look(9.0), look(-0.5)], Looks((4, 8)), None)
    assert found.sign == 1 and found.p < 0.001
    assert found.p_equivalent == 1


def test_equivalence_accounts_for_the_looks_too():
    looks = Looks((4, 8))
    early, late = across_looks([look(0.0)], looks, 3.0), across_looks([look(0.0), look(0.0)], looks, 3.0)
    assert early.p_equivalent > late.p_equivalent >= look(0.0).p_equivalent(3.0)


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict(word=Word.BETTER), "better"),
        (Verdict(word=Word.WORSE), "worse"),
        (Verdict(word=Word.EQUIVALENT, margin=2.0), "equivalent within 2"),
        (
            Verdict(word=Word.INDISTINGUISHABLE, detectable=16.83, more_seeds=40),
            "indistinguishable (smallest detectable 16.8; about 40 more seeds)",
        ),
        (
            Verdict(word=Word.INDISTINGUISHABLE, detectable=16.83),
            "indistinguishable (smallest detectable 16.8; over 2000 more seeds)",
        ),
        (Verdict(word=Word.TOO_FEW), "too few seeds"),
    ],
)
def test_texts_of_verdicts(verdict: Verdict, text: str):
    assert str(verdict) == text


def test_there_are_five_words():
    assert {word.value for word in Word} == {"better", "worse", "equivalent", "indistinguishable", "too few seeds"}
