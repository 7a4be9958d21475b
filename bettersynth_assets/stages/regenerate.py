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

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.recipe import RegenerateSection
from bettersynth_assets.engine.libraries import key_versions
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Work
from bettersynth_assets.engine.store import Manifest, write_table
from bettersynth_assets.images.opening import content_hash
from bettersynth_assets.models.diffusion import PACKAGE, check_package, save_image
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import scorer_key
from bettersynth_assets.records.image_root import REGENERATED
from bettersynth_assets.records.schema import RECAPTIONED
from bettersynth_assets.stages.run_models import RunModels
from bettersynth_assets.stages.world import link_image_root
from toolkit.file_errors import EnvironmentFault, patiently
from toolkit.files import digest_of
from toolkit.progress import Progress

VERSION = 1
"""Increment it when equal captions would give other images."""
LIBRARIES = (PACKAGE, "torch", "transformers", "pillow")
FOLDER = "images"
LEDGER = "regenerated.parquet"
LEDGER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the row, unchanged
        ("parent_image", pa.string()),  # image of the seed file
        ("image", pa.string()),  # new image; null if every try was refused
        ("caption", pa.string()),  # caption that it was generated from
        ("score_before", pa.float32()),  # cosine with the parent image
        ("score_after", pa.float32()),  # cosine with the new image
        ("outcome", pa.string()),  # replaced, parent_better (or equal; under best_of), refused
    ]
)


@dataclass(frozen=True, kw_only=True)
class Regenerated:
    """Rows after regeneration."""

    rows: pa.Table
    files: tuple[str, ...]
    """The ledger and the new images that rows name, relative to the version's folder."""
    stats: dict[str, Any]


def limit(section: RegenerateSection, seed_profile: Manifest) -> float:
    """Return the cosine below which a row gets a new image."""
    return float(seed_profile.stats["clip_score"]["mean"]) if section.below == "mean" else float(section.below)


def regenerate_rows(work: Work, rows: pa.Table, section: RegenerateSection) -> Regenerated:
    """Generate new images for the badly matched rows of a shard.

    Args:
        work: the work of recaptioned_set.
        rows: rows of schema ``RECAPTIONED``.
        section: the recipe's ``regenerate`` section.
    """
    link_image_root(work.run)
    below = limit(section, work.inputs["seed_profile"][0])
    values = rows.to_pylist()
    positions = [index for index, row in enumerate(values) if row["clip_score"] < below]
    parents = [values[index] for index in positions]
    paths = _make_images(work, parents, section)
    scores = _scores(work.run, paths, [row["caption"] for row in parents])
    results = zip(parents, paths, scores, strict=True)
    ledger = [_entry(*result, policy=section.policy, shard=work.shard) for result in results]
    for index, path, entry in zip(positions, paths, ledger, strict=True):
        values[index] = _row(values[index], path, entry)
    _remove_unused(work, paths)
    write_table(work.folder / LEDGER, pa.Table.from_pylist(ledger, schema=LEDGER_SCHEMA))
    used = sorted(f"../{FOLDER}/{Path(entry['image']).name}" for entry in ledger if entry["outcome"] == "replaced")
    table = pa.Table.from_pylist(values, schema=RECAPTIONED)
    return Regenerated(rows=table, files=(LEDGER, *used), stats=_stats(ledger, below))


def _make_images(work: Work, rows: Sequence[dict[str, Any]], section: RegenerateSection) -> list[Path | None]:
    """Generate the images that do not exist; None for a row that was refused at every try."""
    folder, depends = work.folder.parent / FOLDER, image_key(work.run, section)
    paths: list[Path | None] = [folder / f"{digest_of(row['id'], row['caption'], depends)[:24]}.jpg" for row in rows]
    missing = [(at, path) for at, path in enumerate(paths) if path is not None and not path.is_file()]
    if not missing:
        return paths
    progress = Progress(work.log, f"recaptioned_set {work.shard} images", len(missing))
    captions, ids = ([rows[at][column] for at, _ in missing] for column in ("caption", "id"))
    maker = RunModels(work.run).image_maker
    for position, image in maker.images(captions, ids, section):
        at, path = missing[position]
        if image is None:
            paths[at] = None
        else:
            save_image(image, path)
        progress.add(1)
    return paths


def _scores(run: ResolvedRun, paths: Sequence[Path | None], captions: Sequence[str]) -> list[float | None]:
    """Score new images with their captions; None if there is no image."""
    existing = [position for position, path in enumerate(paths) if path is not None]
    if not existing:
        return [None] * len(paths)
    scorer = RunModels(run).scorer
    scored = score_files(
        scorer, [path for path in paths if path is not None], [captions[position] for position in existing]
    )
    for position, error in scored.errors.items():  # just written: the disk is at fault, not the row
        path = paths[existing[position]]
        raise EnvironmentFault(f"{path}: {error}: remove the file and run again", str(path))
    score_at = dict(zip(existing, scored.scores.tolist(), strict=True))
    return [score_at.get(position) for position in range(len(paths))]


def _entry(row: dict[str, Any], path: Path | None, score: float | None, *, policy: str, shard: str) -> dict[str, Any]:
    """Return the ledger's entry of one row."""
    if path is None or score is None:
        outcome, image = "refused", None
    else:
        outcome = "replaced" if policy == "replace" or score > row["clip_score"] else "parent_better"
        image = f"{REGENERATED}/{shard}/{FOLDER}/{path.name}"
    common = {name: row[name] for name in ("id", "caption")}
    common |= {"parent_image": row["image"], "score_before": row["clip_score"]}
    return {**common, "image": image, "score_after": score, "outcome": outcome}


def _row(row: dict[str, Any], path: Path | None, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the row for the output table."""
    if entry["outcome"] == "replaced" and path is not None:
        return {**row, **_image_fields(path), "image": entry["image"], "clip_score": entry["score_after"]}
    return row if path is not None else {**row, "flags": [*row["flags"], "regeneration_refused"]}


def _image_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a row that describe its image file."""
    from PIL import Image

    data = patiently(path.read_bytes, path)
    with Image.open(io.BytesIO(data)) as image:
        size = {"width": image.width, "height": image.height}
    of_bytes = {"bytes": len(data), "image_hash": content_hash(data)}
    return {**size, **of_bytes, "mode": "RGB", "format": "JPEG", "flags": ["regenerated"]}


def _remove_unused(work: Work, paths: Sequence[Path | None]) -> None:
    """Remove images of earlier captions, limits or models."""
    existing = set(paths)
    for path in (work.folder.parent / FOLDER).glob("*.jpg"):
        if path not in existing:
            path.unlink()


def _stats(ledger: Sequence[dict[str, Any]], below: float) -> dict[str, Any]:
    scored = [row for row in ledger if row["score_after"] is not None]
    mean = lambda name: sum(row[name] for row in scored) / len(scored) if scored else None  # noqa: E731
    return {
        "regenerate_below": below,
        "regenerated": dict(sorted(Counter(row["outcome"] for row in ledger).items())),
        "score_mean_parent_image": mean("score_before"),
        "score_mean_new_image": mean("score_after"),
    }


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
