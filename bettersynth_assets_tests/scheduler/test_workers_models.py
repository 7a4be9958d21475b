"""The real stages with small models give the same bytes in every table with workers and with none.

Scores come from two workers at a time; filters and captions from one, because each worker imports all libraries.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.defs.cards import CARDS
from bettersynth_assets.engine.job import PipelineJob
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.scheduler import ShardScheduler
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets_tests.helpers.tiny_project import write_tiny_project

pytestmark = pytest.mark.slow

LAST = "recaptioned_set"
WITH_MODELS = frozenset(card.name for card in CARDS if card.uses_models)


def job_in(root: Path, settings: Settings, workers: int) -> PipelineJob:
    gpu = settings.profile.gpu.model_copy(update={"workers": workers})
    profile = settings.profile.model_copy(update={"gpu": gpu})
    return PipelineJob(
        stages=STAGES, leased=WITH_MODELS, run=ResolvedRun(replace(settings, profile=profile, data_root=root))
    )


def files_of(pipeline: Pipeline) -> dict[str, bytes]:
    """Return tables and embeddings of all stages up to the last, by path."""
    names = [name for name in pipeline.stages if pipeline.current(name)]
    assert {"clip_scores", "filtered_set", LAST} <= set(names)
    found = [manifest.path / file for name in names for manifest in pipeline.current(name) for file in manifest.files]
    return {str(path.relative_to(pipeline.settings.data_root)): path.read_bytes() for path in found}


def test_scores_filters_and_captions_do_not_depend_on_workers(tmp_path):
    settings = load_settings(write_tiny_project(tmp_path))
    alone = job_in(tmp_path / "alone", settings, 1).pipeline()
    alone.ensure_all(LAST)
    logged: list[str] = []
    shards = settings.profile.shard_names()
    for name, workers in (("clip_scores", 2), (LAST, 1)):
        job = job_in(tmp_path / "workers", settings, workers)
        pipeline = job.pipeline(log=logged.append)
        pooled = frozenset(name for name in WITH_MODELS if pipeline.stages[name].sharded)
        scheduler = ShardScheduler(pipeline=pipeline, pooled=pooled, job=job, attempt=partial(_made, pipeline))
        assert scheduler.prepare(name, shards) == {}
    assert files_of(pipeline) == files_of(alone)
    for shard in shards:  # progress of the workers is in the log of the run
        assert any(line.startswith(f"clip_scores {shard}: ") and "rows/s" in line for line in logged)


def _made(pipeline: Pipeline, name: str, shard: str) -> None:
    pipeline.ensure(name, shard)
