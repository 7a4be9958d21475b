"""Agreement of rungs, on orders whose Kendall's tau and verdicts follow by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.ladder import MEAN, Ladder, Pair, Rung, Step, ladder, read_rung, rung_of
from bettersynth_assets.experiments.ladder_files import as_csv, as_json, as_markdown
from bettersynth_assets.experiments.leaderboard import ArmFacts, leaderboard
from bettersynth_assets.experiments.leaderboard_files import as_json as board_as_json
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.table import compare_arms

ARMS = ("a", "b", "c", "d")


def rung(profile: str, *values: float, decided: Mapping[Pair, int] | None = None) -> Rung:
    """Return a rung of the arms a, b, … with these means."""
    arms = ARMS[: len(values)]
    found = dict(zip(arms, values, strict=True))
    return Rung(
        profile=profile, values={"textvqa": found}, decided={"textvqa": decided or {}}, runs=dict.fromkeys(arms, 3),
        recipes={arm: f"recipe of {arm}" for arm in arms},
    )  # fmt: skip


def step(one: Rung, other: Rung) -> Step:
    (found,) = ladder("mine", (one.profile, other.profile), (one, other)).steps
    return found


def test_tau_and_the_share_of_pairs_ordered_alike_by_hand() -> None:
    found = step(rung("small", 1, 2, 3, 4), rung("large", 10, 30, 20, 40))
    assert (found.arms, found.pairs, found.alike, found.share) == (4, 6, 5, 5 / 6)
    assert found.tau == pytest.approx((5 - 1) / 6)
    # Of the 24 orders of four arms, 8 have |tau| of 2/3 or more: 0 or 1 pairs, or 5 or 6, in the same order.
    assert found.p == pytest.approx(8 / 24)


def test_equal_means_are_ordered_alike_in_no_pair_and_tau_accounts_for_them() -> None:
    found = step(rung("small", 1, 2, 3, 4), rung("large", 1, 2, 2, 4))
    assert found.alike == 5 and found.tau == pytest.approx(5 / (6 * 5) ** 0.5)
    flat = step(rung("small", 1, 2, 3), rung("large", 5, 5, 5))
    assert (flat.tau, flat.p, flat.alike) == (None, None, 0)


def test_pairs_that_both_rungs_decide_agree_or_disagree_in_either_direction() -> None:
    small = rung("small", 4, 3, 2, 1, decided={("a", "b"): 1, ("a", "c"): 1, ("a", "d"): 1, ("d", "b"): -1})
    large = rung("large", 4, 3, 2, 5, decided={("b", "a"): -1, ("a", "d"): -1, ("c", "d"): -1})
    found = step(small, large)
    assert (found.agree, found.disagree) == (1, 1)  # a and b; a and d
    assert found.bounds == (1 / 6, 5 / 6)


def test_only_common_arms_are_compared_and_changed_recipes_are_named() -> None:
    other = replace(rung("large", 1, 2), recipes={"a": "another", "b": "recipe of b"})
    found = step(rung("small", 1, 2, 3, 4), other)
    assert (found.arms, found.pairs, found.tau, found.other_recipes) == (2, 1, 1.0, ("a",))
    alone = step(rung("small", 1), rung("large", 1))
    assert (alone.pairs, alone.share, alone.bounds, alone.tau) == (0, None, None, None)


def test_a_measure_that_a_rung_lacks_is_left_out() -> None:
    small, large = rung("small", 1, 2), rung("large", 1, 2)
    small = replace(small, values={"pope": {"a": 1.0}, "textvqa": {"a": 1.0, "b": 2.0}, MEAN: {"a": 1.0}})
    large = replace(large, values={"textvqa": {"a": 1.0, "b": 2.0}, MEAN: {"a": 1.0}})
    # The means are those of other benchmarks.
    assert [one.measure for one in ladder("mine", ("small", "large"), (small, large)).steps] == ["textvqa"]


def runs(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def board(**changes: dict[str, dict[int, float]]) -> str:
    """Return the leaderboard of three arms as JSON."""
    scores = {
        "baseline": {"mmbench": runs(9, 10, 11), "textvqa": runs(39, 40, 41)},
        "good": {"mmbench": runs(29, 30, 31), "textvqa": runs(59, 60, 61)},
        "noisy": {"mmbench": runs(29.5, 30, 30.5), "textvqa": runs(50, 61, 72)},
    } | changes
    declared = Declaration(baseline="baseline", benchmarks=("mmbench", "textvqa"), looks=Looks((3,)))
    facts = {arm: ArmFacts(arm=arm, recipe_hash=f"hash of {arm}") for arm in scores}
    return board_as_json(leaderboard("mine", compare_arms(scores, declared), declared, facts))


def test_a_rung_is_read_from_the_leaderboard_of_its_profile(tmp_path: Path) -> None:
    file = tmp_path / "leaderboard.json"
    assert read_rung("small", file) is None
    file.write_text(board())
    found = read_rung("small", file)
    assert found is not None and found.order() == ["noisy", "good", "baseline"]
    assert found.values["mmbench"] == {"baseline": 10, "good": 30, "noisy": 30}
    assert found.values[MEAN] == {"baseline": 25, "good": 45, "noisy": 45.5}
    assert found.decided["mmbench"] == {("good", "baseline"): 1, ("noisy", "baseline"): 1}
    assert found.decided["textvqa"] == found.decided[MEAN] == {("good", "baseline"): 1}
    assert found.runs == {"baseline": 3, "good": 3, "noisy": 3} and found.recipes["good"] == "hash of good"


def test_arms_without_runs_are_in_no_rung() -> None:
    empty: dict[str, dict[int, float]] = {"mmbench": {}, "textvqa": {}}
    found = rung_of("small", json.loads(board(noisy=empty)))
    assert found is not None and found.order() == ["good", "baseline"]
    assert rung_of("small", json.loads(board(noisy=empty, good=empty, baseline=empty))) is None


def test_a_leaderboard_of_an_older_version_is_refused_with_the_command_that_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "leaderboard.json"
    values = json.loads(board())
    del values["comparisons"]
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"leaderboard\.json: no leaderboard of this version .*BETTERSYNTH_PROFILE=x"):
        read_rung("x", file)


def three() -> Ladder:
    small = rung("small", 1, 2, 3, 4, decided={("d", "a"): 1})
    large = replace(rung("large", 1, 3, 2, 4, decided={("d", "a"): 1}), recipes=dict.fromkeys(ARMS, "another"))
    return ladder("mine", ("small", "medium", "large"), (small, large))


def test_the_forms_list_all_rungs_also_those_without_results() -> None:
    lines = as_markdown(three()).splitlines()
    assert lines[2:5] == ["| small | 3 | d, c, b, a |", "| medium |  | not measured |", "| large | 3 | d, b, c, a |"]
    assert lines[8] == "| small, large | TextVQA | 4 | 5 of 6 (83%) | 0.67 | 0.333 | 1 | 0 | 17% to 100% |"
    assert lines[-1] == "- small and large: other values of the recipe in the two rungs: a, b, c, d"
    values = json.loads(as_json(three()))
    assert (values["not_measured"], values["steps"][0]["bounds"]) == (["medium"], [1 / 6, 1])
    rows = list(csv.DictReader(io.StringIO(as_csv(three()))))
    assert (rows[0]["one"], rows[0]["other"], rows[0]["alike"], rows[0]["share_high"]) == ("small", "large", "5", "1.0")
    assert (rows[1]["one"], rows[1]["measure"], rows[1]["tau"]) == ("medium", "not measured", "")


def test_a_single_rung_is_compared_with_nothing() -> None:
    found = ladder("mine", ("small", "large"), (rung("small", 1, 2),))
    assert found.steps == () and found.not_measured == ("large",)
    assert as_markdown(found).splitlines()[-1] == "Rungs are compared as soon as two of them have results."
    assert as_csv(found).splitlines()[1].startswith("large,,not measured,")
