"""The recipe's ``regenerate`` section, part of recaptioned_set. In: rows with chosen captions. Out: the same rows.

Rows that match their image badly get a new image, generated from the caption. The caption stays, and the similarity is
measured again. All rows remain, with the same ids: a replaced row's ``image`` names the new file, and its ``flags``
contain ``regenerated``. ``regenerated.parquet`` next to the rows holds each row's parent image and both scores. A row
whose image the safety checker refuses at every try keeps its image, flagged ``regeneration_refused``.

<recipe>/recaptioned_set/<shard>/images/<hash>.jpg    new files, named by a hash of all that they depend on, so that a
                                                      killed run or another limit generates none of them twice
<recipe>/image_root/                                  root of the rows' image paths (``records.image_root``)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.recipe import RegenerateSection
from bettersynth_assets.engine.libraries import key_versions
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Work
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.models.diffusion import PACKAGE, check_package, image_files
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import scorer_key
from bettersynth_assets.records.schema import RECAPTIONED
from bettersynth_assets.stages.regenerated_rows import (
    FOLDER,
    LEDGER_SCHEMA,
    ledger_entry,
    ledger_stats,
    regenerated_row,
)
from bettersynth_assets.stages.run_models import RunModels
from toolkit.file_errors import EnvironmentFault
from toolkit.files import digest_of
from toolkit.progress import Progress

VERSION = 1
"""Increment it when equal captions would give other images."""
LIBRARIES = (PACKAGE, "torch", "transformers", "pillow")
LEDGER = "regenerated.parquet"


@dataclass(frozen=True, kw_only=True)
class Regenerated:
    """Rows after regeneration."""

    rows: pa.Table
    ledger: pa.Table
    """Schema ``LEDGER_SCHEMA``."""
    images: tuple[str, ...]
    """Files of the new images that rows name, relative to the version's folder."""
    stats: dict[str, Any]


def limit(section: RegenerateSection, seed_profile: Manifest) -> float:
    """Return the cosine below which a row gets a new image."""
    return float(seed_profile.stats["clip_score"]["mean"]) if section.below == "mean" else float(section.below)


def regenerate_rows(work: Work, table: pa.Table, section: RegenerateSection) -> Regenerated:
    """Generate new images for the badly matched rows of a shard.

    Args:
        work: the work of recaptioned_set.
        table: rows of schema ``RECAPTIONED``.
        section: the recipe's ``regenerate`` section.
    """
    below, models = limit(section, work.inputs["seed_profile"][0]), RunModels(work.run)
    folder, depends = work.folder.parent / FOLDER, image_key(work.run, section)
    rows = table.to_pylist()
    positions = [index for index, row in enumerate(rows) if row["clip_score"] < below]
    parents = [rows[index] for index in positions]
    files = [folder / f"{digest_of(row['id'], row['caption'], depends)[:24]}.jpg" for row in parents]
    missing = [index for index, file in enumerate(files) if not file.is_file()]
    paths: list[Path | None] = list(files)
    if missing:
        captions, ids = ([parents[index][column] for index in missing] for column in ("caption", "id"))
        progress = Progress(work.log, f"recaptioned_set {work.shard} images", len(missing))
        generated = image_files(
            models.image_maker, captions, ids, [files[index] for index in missing], section, progress
        )
        for index, path in zip(missing, generated, strict=True):
            paths[index] = path
    scores = _scores(models, paths, [row["caption"] for row in parents])
    results = zip(parents, paths, scores, strict=True)
    ledger = [ledger_entry(*result, policy=section.policy, shard=work.shard) for result in results]
    for index, path, entry in zip(positions, paths, ledger, strict=True):
        rows[index] = regenerated_row(rows[index], path, entry)
    for path in {*folder.glob("*.jpg")} - {*paths}:  # images of earlier captions, limits or models
        path.unlink()
    used = sorted(f"../{FOLDER}/{Path(entry['image']).name}" for entry in ledger if entry["outcome"] == "replaced")
    return Regenerated(
        rows=pa.Table.from_pylist(rows, schema=RECAPTIONED),
        ledger=pa.Table.from_pylist(ledger, schema=LEDGER_SCHEMA),
        images=tuple(used),
        stats=ledger_stats(ledger, below),
    )


def _scores(models: RunModels, paths: Sequence[Path | None], captions: Sequence[str]) -> list[float | None]:
    """Score new images with their captions; None if there is no image."""
    existing = [position for position, path in enumerate(paths) if path is not None]
    if not existing:
        return [None] * len(paths)
    files = [path for path in paths if path is not None]
    scored = score_files(models.scorer, files, [captions[position] for position in existing])
    for position, error in scored.errors.items():  # just written: the disk is at fault, not the row
        raise EnvironmentFault(f"{files[position]}: {error}: remove the file and run again", str(files[position]))
    score_at = dict(zip(existing, scored.scores.tolist(), strict=True))
    return [score_at.get(position) for position in range(len(paths))]


def image_key(run: ResolvedRun, section: RegenerateSection) -> dict[str, Any]:
    """Return what an image depends on besides its row's id and caption."""
    return {
        "version": VERSION,
        "section": section.key("images"),
        "model": run.diffusion.fingerprint,
        "gpu": run.gpu.key("diffusion"),
        "libraries": key_versions(LIBRARIES),
    }


def regenerate_key(run: ResolvedRun, section: RegenerateSection, seed_profile: Manifest) -> dict[str, Any]:
    """Return what the rows depend on besides their captions."""
    check_package()
    return {
        "section": section.key(),
        "below": limit(section, seed_profile),
        "images": image_key(run, section),
        "scorer": scorer_key(run.scorer, run.gpu),
    }
