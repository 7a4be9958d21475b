"""Draws scenes to JPEG files in a process pool. In: ``ImageJob``s. Out: files; the bytes depend on the job only."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from bettersynth_assets.miniature.render import render
from bettersynth_assets.miniature.world import Scene
from toolkit.worker_pools import naming_killed_workers

_ORIENTATION_TAG = 0x0112
_ROTATED_90 = 6
"""EXIF orientation 6: viewers rotate the stored pixels by 90 degrees clockwise."""


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """One file to draw. ``variant``: "" or a key of ``seed_rows.VARIANT_RATES``; ``truncate`` halves the file."""

    path: Path
    scene: Scene
    width: int = 336
    height: int = 336
    watermark: bool = False
    variant: str = ""
    truncate: bool = False


def encode(job: ImageJob) -> bytes:
    """Render a job and encode it as JPEG."""
    image = render(job.scene, width=job.width, height=job.height, watermark=job.watermark)
    exif = Image.Exif()
    if job.variant == "exif_rotated":
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[_ORIENTATION_TAG] = _ROTATED_90
    elif job.variant == "grey":
        image = image.convert("L")
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85, progressive=job.variant == "progressive", exif=exif)
    data = buffer.getvalue()
    return data[: len(data) // 2] if job.truncate else data


def _write(job: ImageJob) -> None:
    job.path.write_bytes(encode(job))


def write_images(jobs: Sequence[ImageJob], *, workers: int | None = None) -> None:
    """Draw all jobs to their files, creating folders.

    Args:
        jobs: the images, each with its own path.
        workers: processes; None for one per core, at most 8.
    """
    for folder in sorted({job.path.parent for job in jobs}):
        folder.mkdir(parents=True, exist_ok=True)
    count = workers or min(8, len(os.sched_getaffinity(0)))
    if count == 1 or len(jobs) < 200:
        for job in jobs:
            _write(job)
        return
    # Spawn instead of fork: the caller may be a Dagster process with threads.
    context = multiprocessing.get_context("spawn")
    with (
        naming_killed_workers(f"drawing {len(jobs)} images"),
        ProcessPoolExecutor(count, mp_context=context) as pool,
    ):
        list(pool.map(_write, jobs, chunksize=64))
