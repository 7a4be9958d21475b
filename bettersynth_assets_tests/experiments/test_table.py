"""Comparison of a set of arms, on values that can be checked by hand."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.comparison import Comparison
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.questions import QuestionScores
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.table import Table, compare_arms


def runs(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


SCORES = {
    "random": {"mmbench": runs(9, 10, 11), "textvqa": runs(39, 40, 41)},
    "filtered": {"mmbench": runs(29, 30, 31), "textvqa": runs(59, 60, 61)},
    "captioned": {"mmbench": runs(29.5, 30, 30.5), "textvqa": runs(50, 60, 70)},
}
DECLARED = Declaration(baseline="random", benchmarks=("mmbench", "textvqa"), looks=Looks((3,)), margin=6.0)


def found(table: Table, arm: str, other: str, benchmark: str) -> Comparison:
    (one,) = [one for one in table.comparisons if (one.arm, one.other, one.benchmark) == (arm, other, benchmark)]
    return one


def test_every_declared_comparison_has_a_difference_and_a_verdict():
    table = compare_arms(SCORES, DECLARED)
    assert [(one.arm, one.other, one.benchmark, one.verdict.word) for one in table.comparisons] == [
        ("filtered", "random", "mmbench", "better"),
        ("filtered", "random", "textvqa", "better"),
        ("captioned", "random", "mmbench", "better"),
        ("captioned", "random", "textvqa", "indistinguishable"),
        ("filtered", "captioned", "mmbench", "equivalent"),
        ("filtered", "captioned", "textvqa", "indistinguishable"),
    ]
    estimate = found(table, "filtered", "random", "mmbench").estimate
    assert estimate is not None
    assert (estimate.seeds, estimate.value, estimate.df) == (3, 20, pytest.approx(4))
    assert estimate.se**2 == pytest.approx(2 / 3)
    assert (estimate.low, estimate.high) == pytest.approx((17.733, 22.267), abs=1e-3)  # t_{4, 0.975} = 2.776
    assert estimate.generalising is None


def test_means_have_intervals_and_the_chance_level():
    table = compare_arms(SCORES, replace(DECLARED, chance={"mmbench": 0.4}))
    first = table.means[0]
    assert (first.arm, first.benchmark, first.n, first.mean, first.sd, first.chance) == (
        "random",
        "mmbench",
        3,
        10,
        1,
        0.4,
    )
    assert (first.low, first.high) == pytest.approx((7.516, 12.484), abs=1e-3)  # t_{2, 0.975} = 4.303
    assert table.means[1].chance is None
    assert len(table.means) == 6


def test_an_undecided_comparison_says_what_the_seeds_can_show():
    verdict = found(compare_arms(SCORES, DECLARED), "filtered", "captioned", "textvqa").verdict
    # se = √(101/3), df = 2.04; Holm leaves 0.05/3 for each of the three comparisons without a difference.
    assert verdict.detectable == pytest.approx(49.3, abs=0.5)
    assert verdict.more_seeds is not None and 20 < verdict.more_seeds < 60


def test_two_seeds_are_never_compared():
    few = {
        arm: {name: {seed: values[seed] for seed in (0, 1)} for name, values in by_name.items()}
        for arm, by_name in SCORES.items()
    }
    table = compare_arms(few, DECLARED)
    for one in table.comparisons:
        assert str(one.verdict) == "too few seeds"
        assert one.estimate is None and one.p_adjusted is None and one.p_equivalent is None
    assert table.kit_scores == {}
    assert set(table.no_kit_score) == {"filtered", "captioned"}
    assert [mean.mean for mean in table.means][:2] == [9.5, 39.5]


def test_an_arm_without_enough_seeds_counts_in_the_family_but_stops_no_other():
    partial = SCORES | {"captioned": {"mmbench": runs(30), "textvqa": {}}}
    table = compare_arms(partial, DECLARED)
    assert {one.verdict.word.value for one in table.comparisons if "captioned" in (one.arm, one.other)} == {
        "too few seeds"
    }
    alone = {arm: SCORES[arm] for arm in ("random", "filtered")}
    p = found(compare_arms(alone, DECLARED), "filtered", "random", "mmbench").p_adjusted
    more = found(table, "filtered", "random", "mmbench").p_adjusted
    assert p is not None and more == pytest.approx(3 * p)
    assert [(mean.n, mean.mean, mean.sd) for mean in table.means[-2:]] == [(1, 30, None), (0, None, None)]


def test_seeds_between_looks_wait_for_the_next_look_and_the_order_of_runs_does_not_matter():
    looks = replace(DECLARED, looks=Looks((3, 5)))
    longer = {
        arm: {name: {3: values[0] + 30.0, **dict(reversed(values.items()))} for name, values in by_name.items()}
        for arm, by_name in SCORES.items()
    }
    assert compare_arms(longer, looks).comparisons == compare_arms(SCORES, looks).comparisons


def test_more_looks_ask_for_stronger_evidence_at_the_first():
    once = found(compare_arms(SCORES, DECLARED), "filtered", "random", "textvqa")
    first = found(compare_arms(SCORES, replace(DECLARED, looks=Looks((3, 6)))), "filtered", "random", "textvqa")
    assert once.estimate is not None and first.estimate is not None
    assert first.estimate.value == once.estimate.value
    assert first.estimate.p > once.estimate.p
    assert first.estimate.low < once.estimate.low


def test_paired_arms_use_their_common_seeds():
    scores = {
        "random": {"mmbench": {0: 10.0, 1: 20.0, 2: 30.0, 9: 0.0}},
        "filtered": {"mmbench": {2: 35.5, 1: 25.0, 0: 14.5, 3: 99.0}},
    }
    declared = Declaration(baseline="random", benchmarks=("mmbench",), looks=Looks((3,)), paired=True)
    (one,) = compare_arms(scores, declared).comparisons
    assert one.estimate is not None
    assert (one.estimate.value, one.estimate.seeds, one.estimate.df) == (pytest.approx(5.0), 3, 2)
    assert one.verdict.word == "better"
    (independent,) = compare_arms(scores, replace(declared, paired=False)).comparisons
    assert independent.verdict.word == "indistinguishable"


def test_question_scores_add_the_generalising_interval():
    def questions(arm: str) -> QuestionScores:
        values = np.array(list(SCORES[arm]["mmbench"].values()))
        spread = np.linspace(-5, 5, 8) if arm == "filtered" else np.zeros(8)
        return QuestionScores(runs=(0, 1, 2), values=values[:, None] + spread, clusters=np.arange(8))

    table = compare_arms(SCORES, DECLARED, {"mmbench": {arm: questions(arm) for arm in SCORES}})
    estimate = found(table, "filtered", "random", "mmbench").estimate
    assert estimate is not None and estimate.generalising is not None
    low, high = estimate.generalising
    assert low < estimate.low < estimate.high < high
    textvqa = found(table, "filtered", "random", "textvqa").estimate
    assert textvqa is not None and textvqa.generalising is None


def test_the_group_of_the_best_holds_what_is_not_shown_to_be_worse():
    table = compare_arms(SCORES, DECLARED)
    assert table.group_of_best("mmbench") == ("filtered", "captioned")
    assert table.group_of_best("textvqa") == ("filtered", "captioned")
    worse = SCORES | {"captioned": {"mmbench": runs(19, 20, 21), "textvqa": runs(59, 60, 61)}}
    assert compare_arms(worse, DECLARED).group_of_best("mmbench") == ("filtered",)
    untrained = {arm: {"mmbench": {}, "textvqa": {}} for arm in SCORES}
    assert compare_arms(untrained, DECLARED).group_of_best("mmbench") == ()


def test_a_smaller_family_holds_only_the_comparisons_with_the_baseline():
    table = compare_arms(SCORES, replace(DECLARED, pairs="baseline"))
    assert {one.other for one in table.comparisons} == {"random"}
    assert len(table.comparisons) == 4


def test_a_table_is_plain_values():
    text = str(asdict(compare_arms(SCORES, DECLARED)))
    assert "np." not in text and "array" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmarks": ()}, "name at least one"),
        ({"confidence": 1.0}, "confidence 1.0: use a share"),
        ({"margin": 0.0}, "margin 0.0: use a positive number"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_refused(change: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        replace(DECLARED, **change)


def test_arms_that_cannot_be_compared_are_named():
    with pytest.raises(ConfigError, match="the baseline random has no runs"):
        compare_arms({"filtered": SCORES["filtered"]}, DECLARED)
    with pytest.raises(ConfigError, match="random is the only arm"):
        compare_arms({"random": SCORES["random"]}, DECLARED)
    with pytest.raises(ConfigError, match="filtered has no scores in textvqa: evaluate it there"):
        compare_arms(SCORES | {"filtered": {"mmbench": runs(1, 2, 3)}}, DECLARED)
