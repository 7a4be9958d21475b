"""A recipe's custom operator is imported in worker processes and gives the rows of a single process."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import yaml

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.job import PipelineJob
from bettersynth_assets.engine.scheduler import ShardScheduler
from bettersynth_assets.stages.filter import FILTERED_SET
from bettersynth_assets.stages.score import CLIP_SCORES
from bettersynth_assets.stages.seed import SEED_DATASET
from bettersynth_assets.stages.seed_statistics import SEED_PROFILE
from bettersynth_assets_tests.helpers.tiny_project import write_tiny_project

pytestmark = pytest.mark.slow

STAGES = (SEED_DATASET, CLIP_SCORES, SEED_PROFILE, FILTERED_SET)
OPERATOR = """
import os
from data_juicer.ops.base_op import OPERATORS
from bettersynth_assets.operators.row_filter import RowFilter

@OPERATORS.register_module("process_filter")
class ProcessFilter(RowFilter):
    def reject(self, sample):
        return None if int(sample["id"][-1], 36) % 2 else (float(os.getpid()), "even")
"""


def test_workers_import_a_recipes_operators(tmp_path):
    environment = write_tiny_project(tmp_path)
    (tmp_path / "process_filter.py").write_text(OPERATOR)
    recipe = {"baseline": True, "custom_operators": ["process_filter.py"], "process": [{"process_filter": {}}]}
    (tmp_path / "tiny_recipe.yaml").write_text(yaml.safe_dump(recipe))
    settings = load_settings(environment)
    gpu = settings.profile.gpu.model_copy(update={"workers": 2})
    profile = settings.profile.model_copy(update={"trusted_code": True, "gpu": gpu})
    job = PipelineJob(stages=STAGES, leased=frozenset(), settings=replace(settings, profile=profile))
    pipeline = job.pipeline(log=lambda line: None)
    pooled = frozenset({"clip_scores", "filtered_set"})

    def attempt(name: str, shard: str) -> None:
        pipeline.ensure(name, shard)

    scheduler = ShardScheduler(pipeline=pipeline, pooled=pooled, job=job, attempt=attempt)
    assert scheduler.prepare("filtered_set", settings.profile.shard_names()) == {}
    made = pipeline.ensure_all("filtered_set")
    rejects = [row for manifest in made for row in manifest.table("rejects").to_pylist()]
    kept = [row for manifest in made for row in manifest.table().to_pylist()]
    assert rejects and kept and {row["reason"] for row in rejects} == {"even"}
    assert os.getpid() not in {int(row["value"]) for row in rejects}
    assert all(int(row["id"][-1], 36) % 2 for row in kept) and not any(int(row["id"][-1], 36) % 2 for row in rejects)
