"""Files of a repetition curve: tables that say what is known, and a plot."""

from __future__ import annotations

import base64
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from bettersynth_assets.experiments.curve import CurveResult, curve_result
from bettersynth_assets.experiments.curve_tables import as_json, as_markdown
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.leaderboard import ArmFacts, leaderboard
from bettersynth_assets.experiments.repetition import effective_rows
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.table import compare_arms
from bettersynth_assets.reports.curve_files import as_image, write_curve

N, SEEDS = 1600, 4
REPEATS = (1, 2, 4, 8, 16)
R_STAR = {"recipe": 6.0, "random": math.inf}


def made(slope: float = 8.0, *, fewest: int = 0, seeds: int = SEEDS) -> CurveResult:
    """Return a curve with an R* per kind of rows; the recipe keeps at most ``fewest`` rows if that is not 0."""
    random = np.random.default_rng(0)
    scores, facts = {}, {}
    points = {**{f"x{number}": (N, N // number) for number in REPEATS}, "fresh_25": (N // 4, N // 4)}
    for name, (exposures, rows) in points.items():
        for kind, arm in (("recipe", name), ("random", f"random_{name}")):
            unique = min(rows, fewest) if fewest and kind == "recipe" else rows
            level = 50 + slope * math.log(effective_rows(unique, exposures, R_STAR[kind]) / N)
            scores[arm] = {"textvqa": dict(enumerate((level + random.normal(0, 0.5, seeds)).tolist()))}
            facts[arm] = ArmFacts(arm=arm, exposures=exposures, unique_rows=unique)
    declared = Declaration(baseline="random_x1", benchmarks=("textvqa",), looks=Looks((SEEDS,)), pairs="baseline")
    board = leaderboard("mine", compare_arms(scores, declared), declared, facts)
    rows_of = {row.arm: row for row in board.rows}
    return curve_result("mine", "my_recipe", REPEATS, [*points], rows_of, scores, {}, declared)


def test_the_tables_name_r_star_or_say_that_it_is_not_identified() -> None:
    text = as_markdown(made())
    lines = [line for line in text.splitlines() if line.startswith(("| recipe | TextVQA", "| random rows | TextVQA"))]
    assert len(lines) == 2 and "not identified" not in lines[0]
    assert "not identified: at least " in lines[1]
    assert "not identified: the runs fit every value" in as_markdown(made(slope=0.0))


def test_the_third_place_teams_number_of_repeats_is_stated_as_its_claim() -> None:
    text = as_markdown(made())
    assert "| 3.76 (third-place team's claim) | " in text
    assert "3.76 repeats are what the contest's third-place team says that its best run had" in text


def test_points_without_equal_repetition_are_marked() -> None:
    assert "*" not in as_markdown(made()).replace("R*", "")
    text = as_markdown(made(fewest=400))
    assert "\\* not at equal repetition: one of the two has too few rows" in text
    assert "| x1 | 1,600 | 400 | 4.00 | 1.00 * |" in text and "| x4 | 1,600 | 400 | 4.00 | 4.00 |" in text


def test_the_json_has_intervals_and_null_where_nothing_limits_them() -> None:
    found = json.loads(as_json(made()))
    assert [point["point"] for point in found["points"]] == ["x1", "x2", "x4", "x8", "x16", "fresh_25"]
    recipe, random = (one["r_star"] for one in found["fits"])
    assert recipe["low"] < R_STAR["recipe"] < recipe["high"] and random["high"] is None and random["value"] is None
    share = found["fits"][0]["effective_share"]["3.76"]
    truth = float(effective_rows(1.0, 3.76, R_STAR["recipe"]))
    assert 1 < share["low"] < truth < share["high"] < 3.76


@pytest.mark.slow
def test_the_plot_has_a_band_for_each_kind_of_rows_and_is_the_same_every_time(tmp_path: Path) -> None:
    files = write_curve(made(), tmp_path)
    assert {ending: path.name for ending, path in files.items()} == {
        ending: f"curve.{ending}" for ending in ("md", "json", "svg")
    }
    svg = files["svg"].read_text("utf-8")
    root = ElementTree.fromstring(svg)
    ids = [element.get("id", "") for element in root.iter()]
    assert root.tag.endswith("svg") and sum("FillBetween" in name for name in ids) == 2
    for words in ("my_recipe: TextVQA", "repeats: exposures / unique rows", "third-place team's claim, 3.76 repeats"):
        assert words in svg
    assert write_curve(made(), tmp_path / "again")["svg"].read_text("utf-8") == svg
    image = as_image(files["svg"])
    assert base64.b64decode(image.partition("base64,")[2].rstrip(")")) == svg.encode()


def test_a_curve_without_a_fit_says_why_and_is_drawn(tmp_path: Path) -> None:
    curve = made(seeds=2)
    text = as_markdown(curve)
    assert "no fit: 2 training seed(s) in all points; 3 are needed" in text and "D'/U" not in text
    assert "no fit" in write_curve(curve, tmp_path)["svg"].read_text("utf-8")
