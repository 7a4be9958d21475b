from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.rules import Evidence
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.reports.metadata import describe
from bettersynth_assets.stages import operator_order
from bettersynth_assets.stages.operator_order import OPERATOR_PLAN, sample_of
from bettersynth_assets.stages.rules import SAME_KEPT
from bettersynth_assets_tests.helpers.seed_stages import STAGES

PROCESS = [
    {"image_watermark_filter": {"prob_threshold": 0.8}},
    {"clip_score_filter": {"method": "mean"}},
    {"whitespace_normalization_mapper": {}},
    {"words_num_filter": {"min_num": 5, "max_num": 24}},
    {"image_shape_filter": {"min_width": 50}},
]


@pytest.fixture
def planning(settings, monkeypatch):
    """A pipeline with operator_plan; ``seconds`` stand in for what each operator took on the sample."""

    def make(seconds=None, **sections):
        if seconds is not None:
            real = operator_order.probe

            def probe(*arguments):
                found = real(*arguments)
                return [replace(item, seconds=seconds.get(item.name, 1.0)) for item in found]

            monkeypatch.setattr(operator_order, "probe", probe)
        recipe = Recipe.parse({"name": "test", "baseline": True, "process": PROCESS, **sections}, where="test")
        return Pipeline((*STAGES, OPERATOR_PLAN), ResolvedRun(replace(settings, recipe=recipe)), log=lambda line: None)

    return make


DEAR_FIRST = {"image_watermark_filter": 900.0, "words_num_filter": 900.0}


def tables(run):
    return [shard.table() for shard in run.ensure_all("filtered_set")]


@pytest.mark.slow
def test_the_planned_order_keeps_the_same_rows(planning):
    written = planning()
    before = tables(written)
    assert "operator_plan" not in {item.stage for item in written.materialized}
    planned = planning(DEAR_FIRST, order="planned")
    after = tables(planned)
    assert planned.ensure("operator_plan").stats["order"] == [1, 0, 2, 4, 3]
    assert sum(item.stage == "filtered_set" for item in planned.materialized) == 3
    assert all(one.equals(other) for one, other in zip(before, after, strict=True)) and sum(map(len, after)) > 0
    names = [next(iter(entry)) for entry in planned.ensure("filtered_set", "shard-00000").stats["process"]]
    assert names[2] == "whitespace_normalization_mapper" and names[:2] == [
        "clip_score_filter",
        "image_watermark_filter",
    ]


@pytest.mark.slow
def test_new_timings_of_the_same_order_keep_every_shard(planning):
    first = planning(DEAR_FIRST, order="planned")
    first.ensure_all("filtered_set")
    slot = first.slot("operator_plan", "all")
    before = slot.read()
    (slot.folder / "manifest.json").unlink()
    again = planning({name: value * 2 for name, value in DEAR_FIRST.items()}, order="planned")
    again.ensure_all("filtered_set")
    assert [item.stage for item in again.materialized] == ["operator_plan"]
    assert again.materialized[0].digest != before.digest
    (slot.folder / "manifest.json").unlink()
    other = planning({"clip_score_filter": 9000.0, "image_shape_filter": 9000.0}, order="planned")
    other.ensure_all("filtered_set")
    assert [item.stage for item in other.materialized] == ["operator_plan", *["filtered_set"] * 3]


def test_each_operator_is_logged_with_its_position(planning):
    run = planning()
    plan = run.ensure("operator_plan")
    rows = plan.table().to_pylist()
    assert [row["operator"] for row in rows] == [next(iter(entry)) for entry in PROCESS]
    assert sorted(row["planned"] for row in rows) == [1, 2, 3, 4, 5] and rows[2]["planned"] == 3
    assert rows[2]["moves"].startswith("fence: a mapper") and rows[0]["moves"] == "moves"
    assert 0 < rows[1]["share_kept"] < 1 and rows[1]["seconds_per_reject"] > 0
    assert rows[2]["share_kept"] == 1 and rows[2]["seconds_per_reject"] is None
    shown = describe(plan, run.run, rows=False)
    assert "actual_seconds" not in shown and shown["predicted_seconds_planned_seed"] > 0
    assert "whitespace_normalization_mapper" in shown["operator order"].value
    assert (
        not {"table", "order"} & shown.keys() and max(map(len, shown)) <= 32
    )  # as wide as the column of names in the UI
    run.ensure_all("filtered_set")
    shown = describe(plan, run.run, rows=False)
    assert (shown["actual_rows"], shown["actual_shards"], shown["actual_order"]) == (30, 3, "written")


@pytest.mark.slow
def test_the_refilter_is_measured_and_keeps_its_order(planning):
    later = [{"image_watermark_filter": {"prob_threshold": 0.9}}, {"clip_score_filter": {"method": "mean"}}]
    run = planning(DEAR_FIRST, baseline=False, caption={"policy": "replace", "refilter": later})
    plan = run.ensure("operator_plan")
    rows = plan.table().to_pylist()[len(PROCESS) :]
    assert [(row["list"], row["operator"], row["planned"]) for row in rows] == [
        ("caption.refilter", "image_watermark_filter", 1),
        ("caption.refilter", "clip_score_filter", 2),
    ]
    assert all(row["moves"] == operator_order.REFILTER_STAYS for row in rows) and 0 < rows[1]["share_kept"] < 1
    assert len(plan.stats["order"]) == len(PROCESS)
    lines = describe(plan, run.run, rows=False)["operator order"].value.splitlines()
    assert lines[-1] == operator_order.REFILTER_STAYS and operator_order.REFILTER_STAYS not in "".join(lines[:-1])
    lines = [line for line in lines if line.startswith("|")]
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["process"] * 5 + ["caption.refilter"] * 2


def test_the_check_fails_if_the_orders_keep_different_rows(planning, monkeypatch):
    run = planning(DEAR_FIRST)
    plan = run.ensure("operator_plan")
    evidence = Evidence(manifests=[plan], upstream={}, settings=run.settings, columns=None)
    assert SAME_KEPT.judge(evidence).passed and plan.stats["kept_rows_that_differ"] == 0
    assert not SAME_KEPT.judge(
        replace(evidence, manifests=[replace(plan, stats={**plan.stats, "kept_rows_that_differ": 2})])
    ).passed
    one = pa.table({"id": ["a", "b", "c"], "stats": ["1", "2", "3"]})
    assert operator_order.differing(one, one) == 0
    assert operator_order.differing(one, pa.table({"id": ["a", "b"], "stats": ["1", "0"]})) == 2


def test_the_sample_is_spread_over_all_rows():
    rows = pa.table({"id": list(range(10))})
    assert sample_of(rows, 5)["id"].to_pylist() == [0, 2, 4, 6, 8]
    assert sample_of(rows, 99)["id"].to_pylist() == list(range(10))


def test_a_recipe_without_operators_has_an_empty_plan(planning):
    plan = planning(process=[], order="planned").ensure("operator_plan")
    assert plan.kept == 0 and plan.stats["order"] == []


def test_an_unknown_order_is_named(planning):
    with pytest.raises(ConfigError, match="order"):
        planning(order="fastest")


def test_the_selector_gets_the_stored_embeddings(planning, settings, monkeypatch):
    from bettersynth_assets.operators.ours import kmeans_diversity_selector

    def embed_files(*arguments):
        raise AssertionError("the sample's images were embedded again")

    monkeypatch.setattr(kmeans_diversity_selector, "embed_files", embed_files)
    run = planning(process=[{"kmeans_diversity_selector": {"clusters": 3, "share": 0.5}}])
    one_shard = settings.profile.model_copy(update={"shards": 1})
    run.run = ResolvedRun(replace(run.settings, profile=one_shard))
    plan = run.ensure("operator_plan")
    assert plan.stats["sample_rows_kept"] == plan.stats["sample_rows"] // 2 > 0
