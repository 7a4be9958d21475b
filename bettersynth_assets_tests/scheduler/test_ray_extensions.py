"""Local workers and a Ray cluster run an extension's scorer and a recipe's custom operator, with the same rows."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.engine.job import PipelineJob
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.scheduler import ShardScheduler
from bettersynth_assets.models.scorers import SCORERS
from bettersynth_assets.stages.filter import FILTERED_SET
from bettersynth_assets.stages.score import CLIP_SCORES
from bettersynth_assets.stages.seed import SEED_DATASET
from bettersynth_assets.stages.seed_statistics import SEED_PROFILE
from bettersynth_assets_tests.helpers.tiny_project import write_tiny_project

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
STAGES = (SEED_DATASET, CLIP_SCORES, SEED_PROFILE, FILTERED_SET)
PAGE = PROJECT_ROOT / "docs" / "extending.md"
OPERATOR = """
import os
from pathlib import Path
from data_juicer.ops.base_op import OPERATORS
from bettersynth_assets.operators.row_filter import RowFilter

@OPERATORS.register_module("odd_filter")
class OddFilter(RowFilter):
    def reject(self, sample):
        (Path(__file__).parent / "processes" / f"filter-{os.getpid()}").touch()
        return None if int(sample["id"][-1], 36) % 2 else (0.0, "even")
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a cluster of one node with one CPU; test_ray_pool.py covers several nodes."""
    import ray
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a tiny project; its scorer, from docs/extending.md, and its operator record their process ids."""
    monkeypatch.setattr(SCORERS, "_added", {})
    environment = write_tiny_project(tmp_path)
    (tmp_path / "processes").mkdir()
    (code,) = re.findall(r"```python\n(# colours\.py\n.*?)```", PAGE.read_text(), flags=re.S)
    scorer, _ = code.split("SCORERS.register(")
    recording = scorer.replace(
        "    import torch\n",
        f"    import os, torch\n    open({str(tmp_path / 'processes')!r} + f'/scorer-{{os.getpid()}}', 'w').close()\n",
        1,
    )
    (tmp_path / "colours.py").write_text(recording + 'SCORERS.register("colours", load_colours)\n')
    (tmp_path / "colours").mkdir()
    (tmp_path / "colours" / "config.json").write_text(json.dumps({"model_type": "colours"}))
    (tmp_path / "odd_filter.py").write_text(OPERATOR)
    profile = yaml.safe_load((tmp_path / "tiny_profile.yaml").read_text())
    profile |= {"extensions": [str(tmp_path / "colours.py")], "trusted_code": True}
    profile["models"]["clip"] = str(tmp_path / "colours")
    (tmp_path / "tiny_profile.yaml").write_text(yaml.safe_dump(profile))
    recipe = {
        "baseline": True,
        "custom_operators": [str(tmp_path / "odd_filter.py")],
        "process": [{"odd_filter": {}}, {"clip_score_filter": {"method": "mean"}}],
    }
    (tmp_path / "recipes" / "tiny_recipe.yaml").write_text(yaml.safe_dump(recipe))
    return load_settings(environment)


def files_of(settings: Settings, root: Path, **gpu: object) -> dict[str, bytes]:
    """Build all stages with a pool of workers; return the bytes of their files by relative path."""
    profile = settings.profile.model_copy(update={"gpu": settings.profile.gpu.model_copy(update=gpu)})
    job = PipelineJob(
        stages=STAGES, leased=frozenset(), run=ResolvedRun(replace(settings, profile=profile, data_root=root))
    )
    pipeline = job.pipeline(log=lambda line: None)

    def attempt(name: str, shard: str) -> None:
        pipeline.ensure(name, shard)

    scheduler = ShardScheduler(
        pipeline=pipeline, pooled=frozenset({"clip_scores", "filtered_set"}), job=job, attempt=attempt
    )
    assert scheduler.prepare("filtered_set", profile.shard_names()) == {}
    assert all(pipeline.current(stage.name) for stage in STAGES)
    found = [
        manifest.path / file for stage in STAGES for manifest in pipeline.current(stage.name) for file in manifest.files
    ]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def rows_of(files: dict[str, bytes], table: str) -> list[dict[str, Any]]:
    """Return the rows of one table of the filtered set, of all shards."""
    wanted = [
        content for path, content in files.items() if "filtered_set/" in path and path.endswith(f"{table}.parquet")
    ]
    return [row for content in wanted for row in pq.read_table(io.BytesIO(content)).to_pylist()]


def is_odd(row: dict[str, Any]) -> bool:
    return bool(int(row["id"][-1], 36) % 2)


def test_ray_workers_load_extensions_and_custom_operators_and_produce_the_same_files_as_local_workers(
    address: str, settings: Settings, tmp_path: Path
) -> None:
    def processes() -> set[str]:
        return {path.name for path in (tmp_path / "processes").iterdir()}

    local = files_of(settings, tmp_path / "local", workers=1)  # one worker process
    before = processes()
    assert {name.split("-")[0] for name in before} == {"scorer", "filter"}
    assert not any(name.endswith(f"-{os.getpid()}") for name in before)
    kept, rejects = rows_of(local, "kept"), rows_of(local, "rejects")
    assert kept and all(is_odd(row) for row in kept)
    even = [row for row in rejects if row["reason"] == "even"]
    assert even and not any(is_odd(row) for row in even)
    ray = files_of(settings, tmp_path / "ray", pool="ray", ray_address=address, workers="auto")
    assert ray == local
    new = processes() - before
    assert {name.split("-")[0] for name in new} == {"scorer", "filter"}
    assert not any(name.endswith(f"-{os.getpid()}") for name in new)
