"""Long tables: rows are added once, DuckDB reads them in the query of the docs, and they give what comparisons take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.comparison_table import as_markdown
from bettersynth_assets.experiments.conclusions import NO_QUESTIONS, conclusions
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.leaderboard import ArmFacts, leaderboard
from bettersynth_assets.experiments.long_tables import RUNS, LongTables
from bettersynth_assets.experiments.run_store import Run, RunStore
from bettersynth_assets.experiments.scores import read_scores
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.table import compare_arms
from bettersynth_assets_tests.helpers.fake_trainer import Trainer, identity

SEEDS = (0, 1, 2, 3)
LIKELIHOOD = "log_probability_per_token"
SCORES = {"good": (1.0, 1.0, 1.0, 0.0), "bad": (1.0, 0.0, 0.0, 0.0)}
"""Scores of four questions in two clusters, the same in every run but for one question."""


def questions(scores: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"question_id": f"q{at}", "cluster": f"c{at // 2}", "right": score, "log_probability": -1.5, "tokens": 2,
         "characters": 5, "cluster_id": "image", "answer": "x", "options": {}}
        for at, score in enumerate(scores)
    ]  # fmt: skip


def metric(name: str, value: float) -> dict[str, Any]:
    return {"benchmark": "b", "metric": name, "value": value, "n": 4, "unparsed": 0, "protocol": "p"}


def add(tables: LongTables, run: Run, scores: Sequence[float], *, evaluation: str = "e1") -> None:
    mean, pairs = 25 * sum(scores), 50.0 * (min(scores[:2]) + min(scores[2:]))
    for benchmark, value, rule in (("textvqa", mean, "mean"), ("mmbench", pairs, "all_of_cluster"), ("mme", 9.0, None)):
        tables.add_answers(
            run.name, benchmark, evaluation,
            metrics=[metric("accuracy", value), metric("row_accuracy", mean), metric(LIKELIHOOD, mean / 100 - 2)],
            questions=lambda: questions(scores), from_questions=rule,
            chance={"accuracy": 12.5} if benchmark == "textvqa" else {"row_accuracy": 25.0},
        )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "miniature" / "experiments"


@pytest.fixture
def arms(tmp_path: Path, root: Path) -> dict[str, list[str]]:
    """Two arms of four runs with their answers to three benchmarks; returns the names of the runs."""
    store, tables, found = RunStore(tmp_path / "runs"), LongTables(root), {}
    for arm, base in SCORES.items():
        runs = store.ensure([identity(arm, seed) for seed in SEEDS], Trainer())
        for run in runs:
            tables.add_run(run)
            add(tables, run, (*base[:3], float(run.training_seed == 3)))
        found[arm] = [run.name for run in runs]
    return found


def test_scores_are_by_arm_benchmark_and_training_seed_and_agree_with_those_of_the_questions(
    root: Path, arms: dict[str, list[str]]
) -> None:
    found = read_scores(root, arms, ["textvqa", "mmbench", "mme"])
    assert found.scores["good"]["textvqa"] == {0: 75.0, 1: 75.0, 2: 75.0, 3: 100.0}
    assert found.scores["bad"]["mmbench"] == {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0}
    assert found.scores["bad"]["mme"] == dict.fromkeys(SEEDS, 9.0)
    assert set(found.questions) == {"textvqa", "mmbench"}  # MME's headline is no mean of questions
    for benchmark, of_arms in found.questions.items():
        for arm, scores in of_arms.items():
            assert dict(zip(scores.runs, scores.means(), strict=True)) == found.scores[arm][benchmark]


def test_another_metric_has_the_scores_and_intervals_that_follow_from_its_own_questions(
    root: Path, arms: dict[str, list[str]]
) -> None:
    headlines = read_scores(root, arms, ["textvqa", "mmbench"])
    found = read_scores(root, arms, ["textvqa", "mmbench/row_accuracy"])
    assert list(found.scores["good"]) == ["textvqa", "mmbench/row_accuracy", "mmbench"]  # the last: for the kit score
    assert found.scores["good"]["mmbench/row_accuracy"] == {0: 75.0, 1: 75.0, 2: 75.0, 3: 100.0}
    assert found.scores["good"]["mmbench"] == headlines.scores["good"]["mmbench"]
    assert found.chance == {"textvqa": 12.5, "mmbench/row_accuracy": 25.0}
    assert set(found.questions) == {"textvqa", "mmbench/row_accuracy"}
    scores = found.questions["mmbench/row_accuracy"]["good"]
    assert scores.values.shape == (4, 4) and scores.clusters.tolist() == [0, 0, 1, 1]  # rotations are not independent
    assert dict(zip(scores.runs, scores.means(), strict=True)) == found.scores["good"]["mmbench/row_accuracy"]

    arguments = {"baseline": "bad", "looks": Looks((4,))}
    circular, rows = (
        compare_arms(one.scores, Declaration(benchmarks=names, **arguments), one.questions)  # type: ignore[arg-type]
        for one, names in ((headlines, ("textvqa", "mmbench")), (found, ("textvqa", "mmbench/row_accuracy")))
    )
    assert rows.no_kit_score == circular.no_kit_score  # made of headlines, whatever decides
    judged = [(one.benchmark, one.estimate and one.estimate.value) for one in rows.comparisons]
    assert judged == [("textvqa", 50.0), ("mmbench/row_accuracy", 50.0)]
    table = as_markdown(rows.comparisons)
    assert "| MMBench row_accuracy | 4 | +50.0 [" in table and NO_QUESTIONS not in table


def test_log_probabilities_have_more_decimals_no_floor_and_no_interval_over_questions(
    root: Path, arms: dict[str, list[str]]
) -> None:
    name = f"textvqa/{LIKELIHOOD}"
    found = read_scores(root, arms, [name])
    assert found.scores["bad"][name] == {0: -1.75, 1: -1.75, 2: -1.75, 3: -1.5} and found.questions == {}
    declared = Declaration(baseline="bad", benchmarks=(name,), looks=Looks((4,)))
    result = compare_arms(found.scores, declared, found.questions)
    assert result.near_floor == ()
    assert f"| TextVQA {LIKELIHOOD} | 4 | +0.500 [0.284, 0.716] | {NO_QUESTIONS} |" in as_markdown(result.comparisons)
    board = leaderboard("mine", result, declared, {arm: ArmFacts(arm=arm, device_hours=1.0) for arm in arms})
    assert board.rows[0].to_baseline[name].verdict == "better" and board.rows[0].hours_per_point is None
    assert conclusions(board) == [f"good is better than random rows: TextVQA {LIKELIHOOD} +0.500 [0.284, 0.716]"]


def test_a_metric_that_the_tables_do_not_have_is_refused_with_those_that_they_have(
    root: Path, arms: dict[str, list[str]]
) -> None:
    with pytest.raises(ConfigError, match=rf"has no such metric: .*Valid: {LIKELIHOOD}, row_accuracy"):
        read_scores(root, arms, ["mmbench/row_accuracy/logic"])
    with pytest.raises(ConfigError, match="accuracy is the headline of mme: write mme"):
        read_scores(root, arms, ["mme/accuracy"])


def test_a_comparison_takes_them_as_they_are(root: Path, arms: dict[str, list[str]]) -> None:
    found = read_scores(root, arms, ["textvqa"])
    declared = Declaration(baseline="bad", benchmarks=("textvqa",), looks=Looks((4,)), margin=None)
    (comparison,) = compare_arms(found.scores, declared, found.questions).comparisons
    assert comparison.estimate is not None and comparison.estimate.value == 50.0
    assert comparison.estimate.generalising is not None


def test_rows_are_added_once_and_never_changed(root: Path, arms: dict[str, list[str]], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*.parquet")}
    assert len(before) == 8 + 2 * 8 * 3
    (run,) = RunStore(tmp_path / "runs").ensure([identity("good", 0)], Trainer())
    LongTables(root).add_run(run)
    add(LongTables(root), run, (0.0, 0.0, 0.0, 0.0))
    assert {path: path.read_bytes() for path in root.rglob("*.parquet")} == before
    (row,) = pq.read_table(root / "runs" / f"{run.name}.parquet").to_pylist()
    assert list(row) == RUNS.names and (row["arm"], row["training_seed"]) == ("good", 0)
    assert (row["pretrain_supervised_tokens"], row["finetune_energy_joules"]) == (124, None)


def test_answers_of_several_evaluations_need_a_choice(root: Path, arms: dict[str, list[str]], tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    for run in store.all():
        add(LongTables(root), run, (0.0, 0.0, 0.0, 0.0), evaluation="e2")
    with pytest.raises(ConfigError, match=r"several sets of answers to textvqa: choose one of \['e1', 'e2'\]"):
        read_scores(root, arms, ["textvqa"])
    assert read_scores(root, arms, ["textvqa"], {"textvqa": "e2"}).scores["good"]["textvqa"][0] == 0.0


def test_the_chance_level_is_that_of_the_headline_where_it_is_known(root: Path, arms: dict[str, list[str]]) -> None:
    assert read_scores(root, arms, ["textvqa", "mmbench"]).chance == {"textvqa": 12.5}


def test_tables_of_older_versions_lack_columns_and_are_read(root: Path, arms: dict[str, list[str]]) -> None:
    before = read_scores(root, arms, ["textvqa"])
    for path in (root / "metrics").glob(f"{arms['good'][0]}-*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["chance"]), path)
    assert read_scores(root, arms, ["textvqa"]).chance == {"textvqa": 12.5}  # of the other runs
    for path in (root / "metrics").glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.select([name for name in table.column_names if name != "chance"]), path)
    file = root / "runs" / f"{arms['good'][0]}.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["commit"]), file)
    after = read_scores(root, arms, ["textvqa"])
    assert after.chance == {} and after.scores == before.scores


def test_missing_runs_and_answers_are_named(root: Path, arms: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"run 0123 is not in .*runs: materialize its checkpoint"):
        read_scores(root, {"a": ["0123"]}, ["textvqa"])
    (root / "metrics" / f"{arms['good'][0]}-mme-e1.parquet").unlink()
    with pytest.raises(ConfigError, match="no common answers to mme"):
        read_scores(root, arms, ["mme"])
    with pytest.raises(ConfigError, match=f"run {arms['good'][0]} has no answers to mme"):
        read_scores(root, arms, ["mme"], {"mme": "e1"})


def test_two_runs_of_an_arm_with_one_training_seed_are_refused(root: Path, arms: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError, match="both has several runs with one training seed"):
        read_scores(root, {"both": [arms["good"][0], arms["bad"][0]]}, ["textvqa"])


def test_duckdb_reads_the_tables_in_the_query_of_the_docs(
    root: Path, arms: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb = pytest.importorskip("duckdb")
    for arm, runs in arms.items():
        folder = tmp_path / "data" / "miniature" / arm / "mgm_checkpoint" / "all"
        (folder / "v-1").mkdir(parents=True)
        (folder / "current").symlink_to("v-1")
        pq.write_table(pa.table({"seed": SEEDS, "run": runs}), folder / "current" / "kept.parquet")
    (query,) = re.findall(r"```sql\n(.*?)```", (PROJECT_ROOT / "docs" / "runs.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == 2 * 3 * 4
    assert ("good", "textvqa", 3, 100.0, -0.75, 2, 124) in rows and ("bad", "textvqa", 0, 25.0, -0.75, 2, 124) in rows


def test_the_docs_name_every_column() -> None:
    from bettersynth_assets.experiments.long_tables import METRICS, QUESTIONS

    text = (PROJECT_ROOT / "docs" / "runs.md").read_text("utf-8").replace("<phase>", "pretrain")
    names = {name for schema in (RUNS, METRICS, QUESTIONS) for name in schema.names if not name.startswith("finetune")}
    assert {name for name in names if f"`{name}`" not in text} == set()
