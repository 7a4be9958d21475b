"""The miniature's quality figures are computed from its truth for every stage that has run."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bettersynth_assets.engine.integrity import seal
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.miniature.generate import generate_world
from bettersynth_assets.reports.world_quality import world_quality
from bettersynth_assets_tests.helpers.small_world import FEWEST


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "w"
    return generate_world(root, rows=60, sizes=FEWEST)


@pytest.fixture
def truth(world):
    return pq.read_table(world.truth).to_pylist()


@pytest.fixture
def shard(tmp_path):
    def build(stage: str, stats=None, **tables: list[dict[str, object]]) -> dict[str, list[Manifest]]:
        folder = tmp_path / stage
        folder.mkdir()
        for name, rows in tables.items():
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        files = {path.name: seal(path) for path in folder.iterdir()}
        made = Manifest(stage=stage, shard="all", key="k", rows_in=0, kept=0, rejected={}, quarantined={}, digest="d",
                        files=files, stats=stats or {}, folder=str(folder))  # fmt: skip
        return {stage: [made]}

    return build


def is_bad(row) -> bool:
    return bool(row["mismatch"] or row["degenerate"])


def test_scores_derived_from_the_truth_are_perfect(world, truth, shard):
    scores = [{"id": row["id"], "clip_score": 0.1 if is_bad(row) else 0.9} for row in truth]
    found = shard("clip_scores", kept=scores)
    found |= shard("seed_profile", stats={"clip_score": {"mean": 0.5}})
    quality = world_quality(world.truth, found)
    assert quality["similarity"]["auc_mismatch"] == 1.0
    limit = quality["filters"]["seed_profile: clip_score_filter"]
    assert (limit["precision"], limit["recall"]) == (1.0, 1.0)
    assert limit["rejected"] == sum(map(is_bad, truth)) > 0


def test_a_filter_is_measured_against_the_fault_that_it_targets(world, truth, shard):
    marked = [row["id"] for row in truth if row["watermark"]]
    clean = [row["id"] for row in truth if not row["watermark"]]
    wrong = [*marked[:1], clean[0]]
    found = shard("clip_scores", kept=[{"id": row["id"], "clip_score": 0.5} for row in truth])
    rejects = [{"id": row_id, "operator": "image_watermark_filter"} for row_id in wrong]
    found |= shard("filtered_set", rejects=rejects)
    measured = world_quality(world.truth, found)["filters"]["filtered_set: image_watermark_filter"]
    assert measured == {"precision": 0.5, "recall": 1 / len(marked), "rejected": 2, "faulty": len(marked)}


def test_stages_that_have_not_run_are_omitted(world, truth, shard):
    assert world_quality(world.truth, {}) == {}
    found = shard("recaptioned_set", kept=[{"id": truth[0]["id"], "caption": "nothing"}])
    assert set(world_quality(world.truth, found)) == {"captions, chosen"}
