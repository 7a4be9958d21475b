"""Leaderboard, its files and its sentences, on values that can be checked by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from bettersynth_assets.experiments.conclusions import conclusions
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.leaderboard import ArmFacts, Leaderboard, leaderboard
from bettersynth_assets.experiments.leaderboard_files import as_csv, as_json, as_markdown
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.table import compare_arms


def runs(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


SCORES = {
    "baseline": {"mmbench": runs(9, 10, 11), "textvqa": runs(39, 40, 41)},
    "filtered": {"mmbench": runs(29, 30, 31), "textvqa": runs(59, 60, 61)},
    "captioned": {"mmbench": runs(29.5, 30, 30.5), "textvqa": runs(50, 61, 72)},
    "harmful": {"mmbench": runs(1, 1.5, 2), "textvqa": runs(19, 20, 21)},
}
DECLARED = Declaration(baseline="baseline", benchmarks=("mmbench", "textvqa"), looks=Looks((3,)))
FACTS = {
    arm: ArmFacts(arm=arm, exposures=4000, unique_rows=800, tokens=5000.4, device_hours=1.5, commits=("12ab",))
    for arm in SCORES
}


def board(seeds: int = 3, **changes: object) -> Leaderboard:
    scores = {arm: {name: runs(*list(values.values())[:seeds]) for name, values in found.items()}
              for arm, found in SCORES.items()}  # fmt: skip
    declared = replace(DECLARED, **changes)  # type: ignore[arg-type]
    return leaderboard("mine", compare_arms(scores, declared), declared, FACTS)


def test_rows_are_sorted_by_the_mean_of_the_deciding_benchmarks() -> None:
    assert [(row.arm, row.mean) for row in board().rows] == [
        ("captioned", 45.5),
        ("filtered", 45.0),
        ("baseline", 25.0),
        ("harmful", 10.75),
    ]


def test_arms_that_are_not_shown_to_be_worse_than_the_best_are_a_group() -> None:
    assert [row.arm for row in board().rows if row.among_best] == ["captioned", "filtered"]
    # Only the baseline is compared with the best arm: nothing is known about the others.
    assert [row.arm for row in board(pairs="baseline").rows if row.among_best] == ["captioned"]
    assert [row.arm for row in board(2).rows if row.among_best] == []


def test_differences_are_the_arms_minus_the_other() -> None:
    harmful = board().rows[-1]
    best = harmful.to_best["mmbench"]
    assert (best.value, best.verdict) == (-28.5, "worse")
    assert best.low is not None and best.high is not None and best.low < -28.5 < best.high < 0
    assert harmful.to_baseline["textvqa"].value == -20 and harmful.to_baseline["textvqa"].verdict == "worse"
    assert board().rows[2].to_baseline == {} and board().rows[0].to_best == {}


def test_the_cost_per_point_is_that_of_one_run_of_a_better_arm() -> None:
    cost = {row.arm: row.hours_per_point for row in board().rows}
    assert cost == {"captioned": None, "filtered": pytest.approx(1.5 / 3 / 20), "baseline": None, "harmful": None}


def test_each_arm_has_one_concluding_sentence() -> None:
    captioned, filtered, harmful = conclusions(board())
    assert filtered == "filtered is better than random rows: MMBench +20.0 [17.7, 22.3], TextVQA +20.0 [17.7, 22.3]"
    assert harmful.startswith("harmful is worse than random rows: MMBench -8.5 [")
    assert captioned.startswith("captioned against random rows: MMBench +20.0 [") and " better, TextVQA " in captioned
    assert "indistinguishable (smallest detectable" in captioned


def test_arms_without_a_difference_are_called_so() -> None:
    declared = replace(DECLARED, baseline="filtered", margin=5.0)
    scores = {"filtered": SCORES["filtered"], "same": SCORES["filtered"], "noisy": SCORES["captioned"]}
    facts = {arm: ArmFacts(arm=arm) for arm in scores}
    found = {sentence.split()[0]: sentence for sentence in conclusions(
        leaderboard("mine", compare_arms(scores, declared), declared, facts), baseline="the filter")}  # fmt: skip
    assert found["same"].startswith("same and the filter are equivalent within 5 points: MMBench +0.0 [")
    declared = replace(declared, margin=None)
    table = compare_arms(scores, declared)
    (noisy,) = [one for one in conclusions(leaderboard("mine", table, declared, facts)) if one.startswith("noisy")]
    assert noisy.startswith("noisy and random rows are indistinguishable: MMBench +0.0 [")


def test_too_few_seeds_print_no_score_of_a_comparison() -> None:
    few = board(2)
    assert conclusions(few) == [
        f"{arm} and random rows: too few seeds (2; 3 are the fewest), no comparison"
        for arm in ("filtered", "captioned", "harmful")
    ]
    assert "kit_score_se" in as_csv(few) and all(
        row["kit_score"] == "" for row in csv.DictReader(io.StringIO(as_csv(few)))
    )
    assert "+" not in as_markdown(few)
    later = board(3, looks=Looks((4, 8)))
    assert (
        conclusions(later)[0] == "captioned and random rows: too few seeds (3; the first look is at 4), no comparison"
    )


def test_the_files_hold_the_same_values() -> None:
    found = board()
    rows = json.loads(as_json(found))["rows"]
    table = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["facts"]["arm"] for row in rows] == [row["arm"] for row in table] == [row.arm for row in found.rows]
    assert rows[1]["to_baseline"]["mmbench"]["value"] == float(table[1]["mmbench_to_baseline_value"]) == 20
    assert rows[1]["facts"]["repeats"] == float(table[1]["repeats"]) == 5
    assert json.loads(as_json(found))["conclusions"] == conclusions(found)
    lines = as_markdown(found).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:6]] == [row.arm for row in found.rows]
    assert "| 5.00 | 5,000 |" in lines[2] and len({line.count("|") for line in lines[:6]}) == 1


def test_the_chance_level_is_in_every_form_and_a_baseline_near_it_is_named() -> None:
    found = board(chance={"mmbench": 8.25})
    lines = as_markdown(found).splitlines()
    assert "| MMBench (chance 8.25) | MMBench to baseline |" in lines[0] and "| TextVQA | TextVQA to" in lines[0]
    assert lines[-1] == (
        "- MMBench is near its floor: the baseline has 10.0 with a standard deviation of 1.0 over seeds, close to the "
        "chance level 8.25; ratios to it are large and unstable"
    )
    values = json.loads(as_json(found))
    assert (values["chance"], values["near_floor"]) == ({"mmbench": 8.25, "textvqa": None}, ["mmbench"])
    table = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [(row["mmbench_chance"], row["textvqa_chance"]) for row in table] == [("8.25", "")] * 4
    assert board(chance={"mmbench": 5.0}).near_floor == board(2, chance={"mmbench": 8.25}).near_floor == ()


def test_the_commits_of_an_arm_are_listed_or_counted() -> None:
    facts = FACTS | {"filtered": replace(FACTS["filtered"], commits=("12ab", "34cd")),
                     "captioned": replace(FACTS["captioned"], commits=("1", "2", "unknown")),
                     "harmful": replace(FACTS["harmful"], commits=())}  # fmt: skip
    found = leaderboard("mine", compare_arms(SCORES, DECLARED), DECLARED, facts)
    cells = [line.split("|")[-2].strip() for line in as_markdown(found).splitlines()[2:6]]
    assert cells == ["3 commits", "12ab, 34cd", "12ab", ""]
    table = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["commits"] for row in table] == ["1 2 unknown", "12ab 34cd", "12ab", ""]


def test_an_arm_names_those_with_the_same_training_file() -> None:
    facts = FACTS | {"filtered": replace(FACTS["filtered"], same_as=("copy",))}
    text = as_markdown(leaderboard("mine", compare_arms(SCORES, DECLARED), DECLARED, facts))
    assert "| filtered (= copy) |" in text
