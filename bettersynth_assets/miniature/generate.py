"""Writes the miniature world. In: a folder, a number of seed rows, a seed. Out: files in the contest kit's own formats.

::

    seed/mgm_pretrain_stage_1.jsonl  stage_1.json  images/00609/006092514.jpg  truth.parquet
    finetune/finetune.json  images/
    textvqa/questions.jsonl  annotations.json  images/
    mmbench/mmbench_dev.tsv
    mme/existence/0000.txt  0000.jpg  …
    pope/coco_pope_random.json  coco_pope_popular.json  coco_pope_adversarial.json  images/
    gqa/testdev_balanced_questions.json  images/

The world is written beside its place and moved there whole with its marker inside, so a marker that is found means that
everything is there. Same arguments and generator version, same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from bettersynth_assets.errors.storage import naming_the_path
from bettersynth_assets.miniature.gqa_set import gqa_finetune_rows, gqa_rows
from bettersynth_assets.miniature.question_sets import (
    SetSizes,
    finetune_rows,
    mmbench_rows,
    textvqa_annotations,
    textvqa_rows,
    write_mmbench,
)
from bettersynth_assets.miniature.seed_rows import SeedRow, plan_rows
from bettersynth_assets.miniature.write_images import ImageJob, write_images
from bettersynth_assets.miniature.write_seed import seed_job, write_seed_files
from bettersynth_assets.miniature.yes_no import mme_pairs, pope_rows, write_mme, write_pope
from toolkit.files import write_atomically

GENERATOR_VERSION = 4
"""Raise it with every change of what is written; older worlds are then written anew."""

MARKER = "world.json"


@dataclass(frozen=True, kw_only=True)
class WorldPaths:
    """Where each file of a world lies."""

    root: Path

    @property
    def seed(self) -> Path:
        return self.root / "seed" / "mgm_pretrain_stage_1.jsonl"

    @property
    def seed_images(self) -> Path:
        """What the seed's image paths are relative to."""
        return self.root / "seed"

    @property
    def questions(self) -> Path:
        return self.root / "seed" / "stage_1.json"

    @property
    def truth(self) -> Path:
        return self.root / "seed" / "truth.parquet"

    @property
    def finetune_json(self) -> Path:
        return self.root / "finetune" / "finetune.json"

    @property
    def finetune_images(self) -> Path:
        """What the fine-tuning set's image paths are relative to."""
        return self.root / "finetune" / "images"

    @property
    def textvqa_questions(self) -> Path:
        return self.root / "textvqa" / "questions.jsonl"

    @property
    def textvqa_annotations(self) -> Path:
        return self.root / "textvqa" / "annotations.json"

    @property
    def textvqa_images(self) -> Path:
        return self.root / "textvqa" / "images"

    @property
    def mmbench(self) -> Path:
        return self.root / "mmbench" / "mmbench_dev.tsv"

    @property
    def mme(self) -> Path:
        """Folder of MME's subtasks."""
        return self.root / "mme"

    @property
    def pope(self) -> Path:
        """Folder of POPE's three question files."""
        return self.root / "pope"

    @property
    def pope_images(self) -> Path:
        return self.root / "pope" / "images"

    @property
    def gqa_questions(self) -> Path:
        return self.root / "gqa" / "testdev_balanced_questions.json"

    @property
    def gqa_images(self) -> Path:
        return self.root / "gqa" / "images"


def generate_world(
    root: Path, *, rows: int = 3000, seed: int = 20240803, sizes: SetSizes | None = None, workers: int | None = None
) -> WorldPaths:
    """Write the miniature world, or return at once if exactly this one is there.

    Args:
        root: the world's folder; an older world in it is replaced.
        rows: lines of the seed, at least 50.
        seed: everything follows from it.
        sizes: rows of the fine-tuning and evaluation sets; None is the full miniature.
        workers: processes that draw; None is one per core, at most 8. The bytes do not depend on it.

    Raises:
        StorageError: the disk is full or cannot be written to.
        ValueError: fewer than 50 rows.
    """
    sizes = sizes or SetSizes()
    paths = WorldPaths(root=root)
    wanted = {"version": GENERATOR_VERSION, "rows": rows, "seed": seed, "sizes": sizes.as_dict()}
    if _marker_of(root) == wanted:
        return paths
    planned = plan_rows(rows, seed)
    _remove_leftovers(root)
    fresh = root.with_name(f".{root.name}.{os.getpid()}.partial")
    try:
        with naming_the_path(root.parent):
            shutil.rmtree(fresh, ignore_errors=True)
            _write_world(WorldPaths(root=fresh), planned, sizes, seed, workers)
            write_atomically(fresh / MARKER, json.dumps(wanted, indent=1) + "\n")
            _put_in_place(fresh, root, wanted)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return paths


def _marker_of(root: Path) -> object:
    marker = root / MARKER
    try:
        return json.loads(marker.read_text()) if marker.is_file() else None
    except ValueError:  # damaged: written again
        return None


def _remove_leftovers(root: Path) -> None:
    """Remove worlds that killed processes of this machine had not finished."""
    for path in root.parent.glob(f".{root.name}.*.partial"):
        number = path.name.removeprefix(f".{root.name}.").split(".")[0].split("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _put_in_place(fresh: Path, root: Path, wanted: object) -> None:
    """Move the finished world to its place; a twin that another process finished meanwhile wins."""
    if root.exists():
        if _marker_of(root) == wanted:
            shutil.rmtree(fresh)
            return
        # Moved first: removed in its place it would, when that is interrupted, be found with its marker and in part.
        old = root.with_name(f".{root.name}.{os.getpid()}-old.partial")
        root.rename(old)
        shutil.rmtree(old)
    fresh.rename(root)


def _write_world(paths: WorldPaths, planned: list[SeedRow], sizes: SetSizes, seed: int, workers: int | None) -> None:
    finetune = finetune_rows(sizes.finetune, seed + 1) + gqa_finetune_rows(sizes.finetune_gqa, seed + 7)
    textvqa = textvqa_rows(sizes.textvqa, seed + 2)
    mmbench = mmbench_rows(sizes.mmbench, seed + 3)
    pairs = mme_pairs(sizes.mme, seed + 4)
    pope, pope_scenes = pope_rows(sizes.pope, seed + 5)
    gqa, gqa_scenes = gqa_rows(sizes.gqa, seed + 6)
    picture_folders = (paths.finetune_images, paths.textvqa_images, paths.pope_images, paths.gqa_images)
    for folder in (*picture_folders, paths.mmbench.parent):
        folder.mkdir(parents=True)
    jobs = [job for row in planned if (job := seed_job(row, paths.seed_images))]
    jobs += [ImageJob(path=paths.finetune_images / row["image"], scene=scene) for row, scene in finetune]
    jobs += [ImageJob(path=paths.textvqa_images / row["image"], scene=scene) for row, scene, _ in textvqa]
    # MMBench carries its images inside the table; they are drawn to files like the rest, read back and removed.
    drawn = paths.mmbench.parent / "drawn"
    jobs += [ImageJob(path=drawn / f"{index}.jpg", scene=scene) for index, (_, scene) in enumerate(mmbench)]
    jobs += [ImageJob(path=path, scene=scene) for path, scene in write_mme(pairs, paths.mme)]
    jobs += [ImageJob(path=paths.pope_images / name, scene=scene) for name, scene in pope_scenes]
    jobs += [ImageJob(path=paths.gqa_images / name, scene=scene) for name, scene in gqa_scenes]
    write_images(jobs, workers=workers)
    write_seed_files(planned, seed=seed, jsonl=paths.seed, questions=paths.questions, truth=paths.truth)
    paths.finetune_json.write_text(json.dumps([row for row, _ in finetune], indent=1))
    lines = [json.dumps(row) for row, _, _ in textvqa]
    paths.textvqa_questions.write_text("\n".join(lines) + "\n")
    paths.textvqa_annotations.write_text(json.dumps(textvqa_annotations(textvqa)))
    write_mmbench(mmbench, drawn, paths.mmbench)
    write_pope(pope, paths.pope)
    paths.gqa_questions.write_text(json.dumps(gqa, indent=1))
    shutil.rmtree(drawn)
