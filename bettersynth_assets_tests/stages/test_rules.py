"""Rules report actual faults and nothing else."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.integrity import seal
from bettersynth_assets.engine.rules import Evidence
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.stages.rules import (
    all_answered,
    budget_met,
    conservation,
    finite_loss,
    quarantine_share,
    rows_left,
    schema,
    thresholds,
)


def manifest(**values) -> Manifest:
    complete = {
        "stage": "s", "shard": "all", "key": "k", "rows_in": 10, "kept": 10, "rejected": {}, "quarantined": {},
        "digest": "d", "files": {},
    }  # fmt: skip
    return Manifest(**(complete | values))


@pytest.fixture
def evidence(data_root):
    def build(*manifests: Manifest, upstream=None, columns=None) -> Evidence:
        return Evidence(manifests=manifests, upstream=upstream or {}, settings=load_settings(), columns=columns)

    return build


def kept(folder, **columns) -> Manifest:
    pq.write_table(pa.table(columns), folder / "kept.parquet")
    files = {"kept.parquet": seal(folder / "kept.parquet")}
    return manifest(folder=str(folder), kept=len(next(iter(columns.values()))), files=files)


def test_conservation_counts_rejects_and_quarantine(evidence):
    whole = manifest(kept=6, rejected={"words": 3}, quarantined={"decode_error": 1})
    assert conservation(evidence(whole)).passed
    lossy = conservation(evidence(whole, manifest(shard="shard-00001", kept=9)))
    assert not lossy.passed
    assert "shard-00001" in lossy.summary
    assert lossy.numbers == {"rows_in": 20, "lost": 1}


def test_conservation_detects_rows_lost_between_two_stages(evidence):
    before = manifest(shard="shard-00001", kept=12, digest="a")
    after = manifest(shard="shard-00001", inputs={"before": ["a"]})
    assert "before -> shard-00001" in conservation(evidence(after, upstream={"before": [before]})).summary
    stale = manifest(shard="shard-00001", inputs={"before": ["older"]})
    assert conservation(evidence(stale, upstream={"before": [before]})).passed


def test_conservation_of_a_whole_set_sums_over_its_shards(evidence):
    shards = [manifest(shard=f"shard-0000{index}", kept=5, digest=str(index)) for index in range(2)]
    whole = manifest(inputs={"before": ["0", "1"]})
    assert conservation(evidence(whole, upstream={"before": shards})).passed
    short = manifest(inputs={"before": ["0", "1"]}, rows_in=9, kept=9)
    assert not conservation(evidence(short, upstream={"before": shards})).passed


def test_the_schema_rule_names_the_columns_that_differ(evidence, tmp_path):
    shard = kept(tmp_path, id=["a"], words=[1.0], extra=[1])
    columns = pa.schema([("id", pa.string()), ("words", pa.int64()), ("line", pa.int64())])
    verdict = schema(evidence(shard, columns=columns))
    assert not verdict.passed
    assert "['extra', 'line', 'words']" in verdict.summary
    assert schema(evidence(shard, columns=pq.read_schema(tmp_path / "kept.parquet"))).passed


def test_the_quarantine_rule_uses_the_profiles_limit(evidence):
    limit = load_settings().profile.limits.max_quarantined_share
    at_limit = manifest(kept=8, quarantined={"decode_error": 2})
    assert limit == 0.2
    assert quarantine_share(evidence(at_limit)).passed
    assert not quarantine_share(evidence(manifest(kept=7, quarantined={"decode_error": 3}))).passed


def test_a_filter_that_rejects_nearly_all_rows_is_reported(evidence):
    assert not rows_left(evidence(manifest(rows_in=1000, kept=9, rejected={"f": 991}))).passed
    assert rows_left(evidence(manifest(rows_in=1000, kept=10, rejected={"f": 990}))).passed


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sd": 0.0}, "all scores are the same"),
        ({"mean": math.nan}, "not finite"),
        ({"mean": 1.5}, "the mean is outside"),
    ],
)
def test_thresholds_must_be_cosines_with_a_spread(evidence, change, fault):
    score = {"mean": 0.3, "sd": 0.04, "k_sigma": [0.18, 0.42], "percentiles": {"50": 0.3}}
    upstream = {"clip_scores": [manifest(kept=10)]}
    good = manifest(stats={"rows": 10, "clip_score": score})
    assert thresholds(evidence(good, upstream=upstream)).passed
    bad = thresholds(evidence(manifest(stats={"rows": 10, "clip_score": score | change}), upstream=upstream))
    assert not bad.passed
    assert fault in bad.summary


def test_thresholds_cover_every_scored_row(evidence):
    score = {"mean": 0.3, "sd": 0.04, "k_sigma": [0.18, 0.42], "percentiles": {"50": 0.3}}
    statistics = manifest(stats={"rows": 9, "clip_score": score})
    verdict = thresholds(evidence(statistics, upstream={"clip_scores": [manifest(kept=10)]}))
    assert verdict.summary == "mean 0.3000, sd 0.0400; 9 rows measured of 10 scored"
    assert not verdict.passed


def test_the_budget_rule_requires_the_exact_number_of_exposures(evidence, tmp_path):
    assert budget_met(evidence(kept(tmp_path, exposures=[3, 4]))).passed
    short = budget_met(evidence(kept(tmp_path, exposures=[3, 3])))
    assert not short.passed
    assert short.summary == "6 exposures of 2 rows; the budget is 7"


@pytest.mark.parametrize("loss", [[math.nan], [math.inf], []])
def test_a_training_seed_without_a_finite_loss_is_named(evidence, tmp_path, loss):
    trained = kept(tmp_path, seed=pa.array([0] * len(loss), pa.int64()), final_loss=pa.array(loss, pa.float64()))
    assert finite_loss(evidence(trained)).summary == "training seeds without a finite loss: [0]"
    assert finite_loss(evidence(kept(tmp_path, seed=[0], final_loss=[0.5]))).passed


def answered(folder, stats: dict[str, int], *answers: tuple[int, str, str | None]) -> Manifest:
    """Return a results set in which only the answers to questions matter."""
    pq.write_table(
        pa.Table.from_pylist([{"seed": s, "benchmark": b, "answer": a} for s, b, a in answers]),
        folder / "questions.parquet",
    )
    files = {"questions.parquet": seal(folder / "questions.parquet")}
    return manifest(folder=str(folder), files=files, stats={"questions": stats})


def test_a_missing_answer_seed_or_benchmark_is_named(evidence, tmp_path):
    asked = {"textvqa": 2, "mmbench": 1}
    rows = [(0, "textvqa", ""), (0, "textvqa", "x"), (0, "mmbench", "A")]
    whole = all_answered(evidence(answered(tmp_path, asked, *rows)))
    assert whole.passed and whole.summary == "3 answers"
    for broken, fault in (
        (rows[:2], "'mmbench of seed 0': 1"),
        ([*rows[:2], (0, "mmbench", None)], "'mmbench of seed 0': 1"),
        ([(3, *row[1:]) for row in rows], "'textvqa of seed 0': 2"),
    ):
        found = all_answered(evidence(answered(tmp_path, asked, *broken)))
        assert not found.passed and fault in found.summary
    other = all_answered(evidence(answered(tmp_path, {"textvqa": 2}, *rows)))
    assert "'mmbench of seed 0': 'no questions'" in other.summary
