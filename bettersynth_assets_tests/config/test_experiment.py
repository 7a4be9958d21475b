"""Experiments as files: what they declare, which recipes their arms are, and errors that name the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from bettersynth_assets.config.experiment import (
    Experiment,
    Spending,
    is_random_rows,
    load_experiment,
    recipes_of,
    with_values,
)
from bettersynth_assets.config.model import shipped_files
from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.sequential import MIN_SEEDS, SPENDING

SMALL: dict[str, Any] = {"name": "mine", "arms": {"clip_top_k": {}}, "decide": {"benchmarks": ["textvqa"]}}


def parsed(**changes: Any) -> Experiment:
    return Experiment.parse({**SMALL, **changes}, where="mine.yaml")


@pytest.mark.parametrize("name", shipped_files("experiments"))
def test_shipped_experiments_have_usable_arms(name: str) -> None:
    experiment = load_experiment(name)
    recipes = recipes_of(experiment, load_recipe)
    assert [*recipes] == ["baseline", *experiment.arms] and is_random_rows(recipes["baseline"])


def test_an_arm_with_changes_is_a_recipe_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "arms: {clip_top_k: {}, half: {recipe: clip_top_k, set: {budget.exposures: 2000, caption.policy: replace}}}\n"
        "decide: {benchmarks: [textvqa]}\n"
    )
    recipes = recipes_of(load_experiment(str(path)), load_recipe)
    whole, half = recipes["clip_top_k"], recipes["half"]
    assert whole == load_recipe("clip_top_k")
    assert (half.name, half.budget.exposures, half.caption and half.caption.policy) == ("mine.half", 2000, "replace")
    assert half.process == whole.process and half.description == (
        "clip_top_k with budget.exposures = 2000; caption.policy = replace"
    )


def test_a_change_can_add_a_section() -> None:
    changed = with_values(load_recipe("baseline_random"), "x", {"caption.policy": "best_of"}, experiment="mine")
    assert changed.caption is not None and changed.caption.policy == "best_of"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget.exposures": "x"}, r"mine: arms\.half\.set: budget\.exposures = 'x': Input should be a valid integer"),
        ({"budgt.exposures": 2}, r"mine: arms\.half\.set: unknown key 'budgt': did you mean 'budget'\?"),
        ({"process.first": 2}, r"'process\.first': process is not a section: set process as a whole"),
        ({"caption.policy": "best"}, r"caption\.policy = 'best': Input should be 'replace'"),
    ],
)
def test_a_change_that_the_recipe_cannot_have_is_refused(changes: dict[str, Any], words: str) -> None:
    experiment = parsed(arms={"half": {"recipe": "clip_top_k", "set": changes}})
    with pytest.raises(ConfigError, match=words):
        recipes_of(experiment, load_recipe)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": {"start": 2}}, r"mine\.yaml: seeds\.start = 2: Input should be greater than or equal to 3"),
        ({"seeds": {"max": 10}}, r"seeds: steps of 4 from start = 4 do not reach max = 10: use max = 8 or 12"),
        ({"seeds": {"start": 8, "max": 4}}, r"use max = 8 or 12"),
        ({"arms": {"baseline": {}}}, "'baseline' is the name of the baseline's arm: choose another name"),
        ({"arms": {"a/b": {}}}, "arm name 'a/b': use letters"),
        ({"arms": {"a": {"set": {"name": "b"}}}}, "'name' cannot be set here"),
        ({"decide": {"benchmarks": ["a", "a"]}}, "a is listed twice"),
        (
            {"decide": {"benchmarks": ["mmbench/row_acuracy"]}},
            r"mmbench has no metric 'row_acuracy' to decide by .*: did you mean 'row_accuracy'\? Valid: log_prob",
        ),
        ({"decide": {"benchmarks": ["pope/yes_ratio"]}}, r"no metric 'yes_ratio'.*Valid: accuracy, f1, log_prob"),
        ({"decide": {"benchmarks": ["textvqa/"]}}, r"'textvqa/' has no metric: write textvqa, or textvqa/<metric>"),
        (
            {"decide": {"benchmarks": ["textvqa", "mmbench/log_probability_per_token"]}},
            "mmbench/log_probability_per_token is in nats and other metrics are in percent",
        ),
        (
            {"decide": {"benchmarks": ["mmbench/log_probability_per_token"], "margin": 2}},
            r"margin = 2 is in points, and mmbench/log_probability_per_token is in nats: leave it out",
        ),
        ({"decide": {"benchmarks": ["a"], "margin": 0}}, r"decide\.margin = 0: Input should be greater than 0"),
        ({"decide": {"benchmarks": ["a"], "spending": "all"}}, r"decide\.spending = 'all'"),
        ({"name": "a-b"}, r"name = 'a-b': use letters"),
        ({"seed": 3}, r"unknown key 'seed': did you mean 'seeds'\?"),
    ],
)
def test_errors_name_the_file_the_key_and_the_fix(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parsed(**changes)


def test_an_unknown_recipe_is_named_with_its_arm() -> None:
    with pytest.raises(ConfigError, match=r"experiment mine: arms\.clip_topk: recipe 'clip_topk' not found: did you"):
        recipes_of(parsed(arms={"clip_topk": {}}), load_recipe)
    with pytest.raises(ConfigError, match=r"experiment mine: baseline\.recipe: recipe 'random' not found"):
        recipes_of(parsed(baseline={"recipe": "random"}), load_recipe)


def test_only_random_rows_can_be_drawn_again() -> None:
    assert [*recipes_of(parsed(baseline={"draws": 2}), load_recipe)] == ["baseline", "clip_top_k"]
    with pytest.raises(ConfigError, match=r"baseline\.draws = 2: the recipe third_place is more than random rows"):
        recipes_of(parsed(baseline={"recipe": "third_place", "draws": 2}), load_recipe)


def test_a_benchmark_is_evaluated_once_whatever_metrics_of_it_decide() -> None:
    decide = parsed(decide={"benchmarks": ["mmbench", "mmbench/row_accuracy", "gqa/accuracy/open"], "margin": 2}).decide
    assert decide.evaluated == ["mmbench", "gqa"]


def test_looks_follow_from_start_step_and_max() -> None:
    assert parsed(seeds={"start": 4, "step": 4, "max": 12}).seeds.counts() == (4, 8, 12)
    assert parsed(seeds={"start": 5, "max": 5}).seeds.counts() == (5,)


def test_the_files_and_the_statistics_name_the_same_rules() -> None:
    assert set(get_args(Spending)) == set(SPENDING)
    assert parsed(seeds={"start": MIN_SEEDS, "max": MIN_SEEDS}).seeds.start == MIN_SEEDS
