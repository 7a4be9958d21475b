"""The summary reports what is on disk: rows in and out, thresholds, both arms, and limits of the figures."""

import json

import pyarrow as pa
import pytest
import yaml

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.integrity import seal
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.store import WHOLE, Manifest, write_table
from bettersynth_assets.reports.summary import FILE, as_text, main, write_summary
from bettersynth_assets.stages.compare import arm_stats, compare
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets_tests.helpers.fake_graph import write_profile


def results(**values: list[float]) -> list[dict[str, object]]:
    """Return the rows of an arm: an accuracy per benchmark and training seed."""
    return [
        {"seed": seed, "benchmark": name, "metric": metric, "value": value, "n": 50}
        for name, given in values.items()
        for seed, accuracy in enumerate(given)
        for metric, value in (("accuracy", accuracy), ("log_probability_per_token", -accuracy / 10))
    ]


ROWS = results(textvqa=[20.0, 22.0, 21.0], mmbench=[12.0, 12.0, 12.0])
BASE = results(textvqa=[9.0, 10.0, 11.0], mmbench=[6.0, 6.0, 6.0])


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(write_profile(tmp_path / "tiny.yaml")))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path))
    monkeypatch.delenv("BETTERSYNTH_SEED", raising=False)
    return load_settings()


def put(settings, stage: str, shard: str = WHOLE, rows: list[dict[str, object]] | None = None, **values) -> None:
    """Write a finished shard as the engine does."""
    slot = Pipeline(STAGES, ResolvedRun(settings)).slot(stage, shard)
    folder = slot.begin(f"key-of-{stage}-{shard}", resume=False)
    write_table(folder / "kept.parquet", pa.Table.from_pylist(rows or [{"id": "a"}]))
    complete = {"rows_in": 10, "kept": 10, "rejected": {}, "quarantined": {}, "digest": "d", "seconds": 1.5}
    files = {"kept.parquet": seal(folder / "kept.parquet")}
    slot.commit(Manifest(stage=stage, shard=shard, key=f"key-of-{stage}-{shard}", files=files, **(complete | values)))


@pytest.fixture
def finished(settings):
    for index, rejected in enumerate(({"words": 2}, {"words": 1, "shape": 3})):
        kept = 9 - sum(rejected.values())
        limits = {"process": [{"clip_score_filter": {"min_score": 0.25}}]}
        bad = {"decode_error": 1}
        put(settings, "filtered_set", f"shard-0000{index}", kept=kept, rejected=rejected, quarantined=bad, stats=limits)
    put(settings, "seed_profile", stats={"clip_score": {"mean": 0.2, "sd": 0.05}})
    put(settings, "baseline_results", rows=BASE, stats=arm_stats(BASE))
    put(settings, "eval_results", rows=ROWS, stats=compare(ROWS, arm_stats(BASE)))
    return settings


def test_rows_are_summed_over_the_shards(finished):
    summary = write_summary(finished)
    (stage,) = [stage for stage in summary["stages"] if stage["name"] == "filtered_set"]
    assert stage == {
        "name": "filtered_set", "shards": 2, "rows_in": 20, "kept": 12, "rejected": {"shape": 3, "words": 3},
        "quarantined": {"decode_error": 2}, "seconds": 3.0,
    }  # fmt: skip


def test_both_arms_are_shown_with_their_spread_and_the_score(finished):
    summary = write_summary(finished)
    textvqa = summary["arms"]["third_place"]["textvqa"]["accuracy"]
    assert (textvqa["mean"], textvqa["per_seed"]) == (21.0, {"0": 20.0, "1": 22.0, "2": 21.0})
    mmbench = summary["arms"]["baseline"]["mmbench"]["accuracy"]
    assert mmbench == {"mean": 6.0, "sd": 0.0, "n": 50, "chance": None, "per_seed": {"0": 6.0, "1": 6.0, "2": 6.0}}
    assert summary["kit_score"] == 2.05


def test_the_printed_summary_equals_the_written_one(finished, capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert json.loads((finished.recipe_root / FILE).read_text()) == write_summary(finished)
    assert 'filtered_set clip_score_filter: {"min_score": 0.25}' in printed
    assert "kit score against the baseline: 2.050 ± 0.067 (standard error, with the baseline's noise)" in printed
    assert printed.splitlines()[-1] == json.loads((finished.recipe_root / FILE).read_text())["conclusion"]
    row = next(line.split() for line in printed.splitlines() if line.startswith("filtered_set "))
    assert row == ["filtered_set", "2", "20", "12", "6", "2", "3.0"]
    assert "dagster dev" in printed
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    at = lines.index("arm TextVQA accuracy, n 50 MMBench accuracy, n 50 seeds")
    assert lines[at + 1 : at + 3] == ["third_place 21.00 ± 1.00 12.00 ± 0.00 3", "baseline 10.00 ± 1.00 6.00 ± 0.00 3"]
    at = lines.index("log-probability of the correct answer per token, nats:")
    assert lines[at + 1 : at + 4] == [
        "arm TextVQA MMBench seeds",
        "third_place -2.1000 ± 0.1000 -1.2000 ± 0.0000 3",
        "baseline -1.0000 ± 0.1000 -0.6000 ± 0.0000 3",
    ]  # fmt: skip


def test_the_chance_level_stands_next_to_each_benchmark(settings):
    levels = {"chance": {"textvqa": {"accuracy": 3.5}, "mmbench": {}}}
    put(settings, "eval_results", rows=ROWS, stats={**arm_stats(ROWS), **levels})
    summary = write_summary(settings)
    assert summary["arms"]["third_place"]["textvqa"]["accuracy"]["chance"] == 3.5
    heads = " ".join(as_text(summary).split())
    assert "TextVQA accuracy, n 50, chance 3.50 MMBench accuracy, n 50 seeds" in heads


def test_the_summary_ends_with_the_verdict(finished):
    found = write_summary(finished)["conclusion"]
    assert found == "third_place is better than random rows: TextVQA +11.0 [8.7, 13.3], MMBench +6.0 [6.0, 6.0]"


def test_two_seeds_are_too_few_and_show_no_score_of_a_comparison(settings):
    few = results(textvqa=[20.0, 22.0], mmbench=[12.0, 12.0])
    put(settings, "baseline_results", rows=BASE, stats=arm_stats(BASE))
    put(settings, "eval_results", rows=few, stats=compare(few, arm_stats(BASE)))
    text = as_text(write_summary(settings))
    assert text.endswith("third_place and random rows: too few seeds (2; 3 are the fewest), no comparison")
    assert "no kit score: 2 training seed(s) in mmbench; 3 are needed for each arm" in text


def test_a_baseline_that_scores_zero_is_reported_instead_of_a_kit_score(settings):
    nothing = results(textvqa=[10.0] * 3, mmbench=[0.0] * 3)
    put(settings, "baseline_results", rows=nothing, stats=arm_stats(nothing))
    put(settings, "eval_results", rows=ROWS, stats=compare(ROWS, arm_stats(nothing)))
    summary = write_summary(settings)
    assert summary["kit_score"] is None
    assert "no kit score: the baseline has nothing right in mmbench" in as_text(summary)


def test_an_arm_without_one_of_the_contests_benchmarks_has_its_columns_and_no_score(settings):
    some = results(pope=[60.0] * 3)
    put(settings, "baseline_results", rows=some, stats=arm_stats(some))
    put(settings, "eval_results", rows=some, stats=compare(some, arm_stats(some)))
    summary = write_summary(settings)
    assert list(summary["arms"]["baseline"]) == ["pope"]
    assert "no kit score: mmbench is not evaluated" in as_text(summary)


def test_the_summary_is_empty_before_the_first_run(settings):
    summary = write_summary(settings)
    assert (summary["stages"], summary["arms"], summary["kit_score"], summary["thresholds"]) == ([], {}, None, {})
    assert "kit score" not in as_text(summary)


def test_small_models_are_named_next_to_the_figures(settings, tmp_path, monkeypatch):
    assert write_summary(settings)["note"] == ""
    values = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    values["models"]["clip"] = "bettersynth_assets/miniature/weights/clip"
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    note = write_summary(load_settings())["note"]
    assert "were used (clip), and the seed file is not from the world" in note
    assert "nothing about MGM-2B" in note


def test_the_summary_of_another_recipe_does_not_replace_the_first_ones(finished, capsys):
    assert main([]) == main(["clip_top_k"]) == 0
    printed = capsys.readouterr().out
    for recipe in ("third_place", "clip_top_k"):
        path = finished.profile_root / recipe / FILE
        assert json.loads(path.read_text())["recipe"] == recipe
        assert f"{FILE}: {path}" in printed


def test_an_unknown_recipe_is_reported_in_one_line(settings, capsys):
    assert main(["third_plac"]) == 1
    error = capsys.readouterr().err
    assert "did you mean 'third_place'?" in error
    assert error.count("\n") == 1
