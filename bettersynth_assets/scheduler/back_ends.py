"""Selects the scheduler's back end. In: a job. Out: the pool that its ``gpu`` section names."""

from __future__ import annotations

from contextlib import AbstractContextManager

from bettersynth_assets.scheduler.job import Job
from bettersynth_assets.scheduler.local_pool import local_pool
from bettersynth_assets.scheduler.pool import Pool
from bettersynth_assets.scheduler.ray_pool import ray_pool


def open_pool(job: Job) -> AbstractContextManager[Pool]:
    """Open the pool that a job's ``gpu.pool`` names: ``local`` or ``ray``."""
    return ray_pool(job) if job.gpu.pool == "ray" else local_pool(job)
