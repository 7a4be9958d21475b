"""Metadata is small, shows the figures of a stage, and contains only values that the event log accepts."""

import json
import math

import dagster as dg
import numpy as np
import pyarrow as pa

from bettersynth_assets.reports.metadata import (
    TABLE_ROWS,
    distributions,
    figures,
    lowest_score,
    metric_table,
    small_table,
)
from bettersynth_assets.reports.plots import INLINE_LIMIT
from bettersynth_assets.stages.compare import arm_stats, compare


def test_scores_show_mean_sd_percentiles_and_a_histogram():
    scores = np.linspace(0.0, 1.0, 101, dtype=np.float32)
    shown = distributions(pa.table({"clip_score": scores}))
    assert shown["clip_score_mean"] == 0.5
    assert shown["clip_score_sd"] == float(f"{scores.astype(float).std():.5g}")
    assert shown["clip_score_percentiles"] == "5: 0.05, 25: 0.25, 50: 0.5, 75: 0.75, 95: 0.95"
    assert shown["clip_score_histogram"].value.startswith("![histogram](data:")
    assert len(shown["clip_score_line"]) == 20


def test_columns_without_values_are_omitted():
    assert distributions(pa.table({"clip_score": pa.array([None, None], pa.float32())})) == {}


def test_a_stages_distribution_is_plotted_and_its_quantiles_are_omitted():
    stats = {
        "clip_score": {
            "mean": 0.25, "sd": 0.125, "k_sigma": [-0.125, 0.625], "quantiles": [0.0] * 1001,
            "histogram": {"edges": [0.0, 0.5, 1.0], "counts": [1, 2]},
        },
    }  # fmt: skip
    shown = figures(stats)
    assert shown["clip_score_k_sigma"] == "low: -0.125, high: 0.625"
    assert set(shown) == {f"clip_score_{name}" for name in ("mean", "sd", "k_sigma", "histogram", "line")}


def test_loss_curves_are_plotted_and_long_values_are_omitted():
    shown = figures({"loss_seed_0": [3.0, 1.0], "short": [1, 2], "long": list(range(1000))})
    assert shown["loss_seed_0"].value.startswith("![curve]")
    assert shown["loss_seed_0_line"] == "█▁"
    assert shown["short"].value == [1, 2]
    assert "long" not in shown


def test_a_value_that_is_not_a_number_is_shown_as_text():
    shown = figures({"loss": math.nan, "rate": math.inf, "n": 3, "word": "x", "yes": True, "score": None})
    assert shown == {"score": "none", "loss": "nan", "rate": "inf", "n": 3, "word": "x", "yes": True}


def test_a_small_set_is_shown_as_a_table_of_at_most_twenty_rows():
    shown = small_table(pa.table({"seed": list(range(30)), "textvqa": [1 / 3] * 30, "word": ["x"] * 30}))
    assert len(shown.records) == TABLE_ROWS
    assert shown.records[0].data == {"seed": 0, "textvqa": 0.33333, "word": "x"}
    assert [column.name for column in shown.schema.columns] == ["seed", "textvqa", "word"]


def test_results_are_shown_as_a_row_per_benchmark_and_metric_with_the_baseline():
    rows = [
        {"seed": seed, "benchmark": name, "metric": metric, "value": value + seed, "n": 5}
        for seed in (0, 2)
        for name, metric, value in (("pope", "f1", 1.0), ("pope", "accuracy", 2.0), ("mme", "accuracy", 3.0))
    ]
    stats = json.loads(json.dumps(compare(rows, arm_stats(rows[:2])), sort_keys=True))  # as stored in a manifest
    shown = small_table(metric_table(pa.Table.from_pylist(rows), stats))
    assert [(row.data["benchmark"], row.data["metric"]) for row in shown.records] == [
        ("pope", "f1"), ("pope", "accuracy"), ("mme", "accuracy"),
    ]  # fmt: skip
    assert shown.records[0].data["mean"] == 2.0 and shown.records[0].data["baseline"] == 1.0
    assert shown.records[2].data["baseline"] is None and shown.records[2].data["chance"] is None
    shown = small_table(metric_table(pa.Table.from_pylist(rows), stats | {"chance": {"pope": {"accuracy": 50.0}}}))
    assert [row.data["chance"] for row in shown.records] == [None, 50.0, None]


def test_dagster_accepts_every_value_and_each_fits_in_a_few_kilobytes():
    rng = np.random.default_rng(0)
    table = pa.table({"clip_score": rng.normal(size=5000).astype(np.float32), "words": rng.integers(3, 60, 5000)})
    shown = distributions(table)
    event = dg.AssetMaterialization("a", metadata=shown)
    assert set(event.metadata) == set(shown)
    assert all(len(value.value) < INLINE_LIMIT for value in shown.values() if isinstance(value, dg.MetadataValue))
    assert sum(len(str(value.value)) for value in event.metadata.values()) < 3000


def test_the_borderline_is_the_limit_of_the_last_similarity_filter():
    process, refilter = ([{"clip_score_filter": {"min_score": limit}}] for limit in (0.2, 0.3))
    assert lowest_score({"process": process, "refilter": refilter}) == 0.3
    assert lowest_score({"process": process}) == 0.2
    assert lowest_score({"process": [{"words_num_filter": None}]}) is None
