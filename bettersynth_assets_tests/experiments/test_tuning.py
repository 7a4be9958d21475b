"""Choices by scores of the report that the tables and an experiment's file show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets.config.experiment import Experiment
from bettersynth_assets.experiments.long_tables import LongTables
from bettersynth_assets.experiments.run_store import Run
from bettersynth_assets.experiments.tuning import other_settings, searched
from bettersynth_assets_tests.helpers.fake_trainer import COST

OURS: dict[str, Any] = {"base": "b", "training": {"stage_2": {"max_steps": 150}}, "deepspeed": [None, None]}
OTHERS: dict[str, Any] = {**OURS, "training": {"stage_2": {"max_steps": 300, "warmup_ratio": 0.1}}}
METRIC = {"metric": "accuracy", "value": 1.0, "n": 1, "unparsed": 0, "protocol": "p"}


def add(root: Path, settings: dict[str, Any], *, seed: int = 0, evaluation: str = "e") -> None:
    tables = LongTables(root)
    identity = {**settings, "arm": "a", "training_seed": seed}
    key = f"{seed}{settings['training']['stage_2']['max_steps']}{settings['base']}".ljust(64, "0")
    run = Run(folder=root, key=key, identity=identity, files={}, cost={"pretrain": COST, "finetune": COST})
    tables.add_run(run)
    tables.add_answers(
        run.name, "mmbench", evaluation, metrics=[METRIC], questions=list, from_questions=None, chance={}
    )


def test_a_run_with_other_training_settings_and_the_same_questions_is_named(tmp_path: Path) -> None:
    add(tmp_path, OURS)
    add(tmp_path, OTHERS, seed=1)
    found = other_settings(tmp_path, {"mmbench": "e"}, OURS)
    assert found == (
        "run 1300b00000000000 with training.stage_2.max_steps = 300, training.stage_2.warmup_ratio = 0.1, and now "
        "training.stage_2.max_steps = 150, training.stage_2.warmup_ratio = the default"
    )


@pytest.mark.parametrize(
    ("settings", "evaluation"),
    [
        (OURS, "e"),  # another seed or budget
        (OTHERS, "of other questions"),
        ({**OTHERS, "base": "of another profile"}, "e"),
    ],
)
def test_other_runs_are_no_choice(tmp_path: Path, settings: dict[str, Any], evaluation: str) -> None:
    add(tmp_path, settings, seed=1, evaluation=evaluation)
    assert other_settings(tmp_path, {"mmbench": "e"}, OURS) is None


def test_no_tables_hold_no_choice(tmp_path: Path) -> None:
    assert other_settings(tmp_path, {"mmbench": "e"}, OURS) is None


def arms(key: str, *values: object) -> Experiment:
    found = {f"a{at}": {"recipe": "r", "set": {key: value}} for at, value in enumerate(values)}
    return Experiment.parse({"name": "mine", "arms": found, "decide": {"benchmarks": ["mmbench"]}})


def test_three_values_of_one_key_are_a_search_and_two_are_a_comparison() -> None:
    assert searched(arms("caption.max_new_tokens", 10, 20, 30)) == [
        "a0, a1, a2: values 10, 20, 30 of caption.max_new_tokens in r"
    ]
    assert searched(arms("caption.max_new_tokens", 10, 20, 20)) == []


def test_amounts_of_data_are_no_search() -> None:
    assert searched(arms("budget.rows", 500, 1000, 2000)) == []
