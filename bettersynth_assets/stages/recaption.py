"""recaptioned_set: the recipe's ``caption`` and ``regenerate`` sections. In: rows of filtered_set. Out: chosen pairs.

Captions are generated, cleaned, scored by the model of clip_scores and chosen by the recipe's policy. ``regenerate``
then replaces images, and ``caption.refilter`` filters the chosen pairs with limits from seed_profile. A baseline's rows
pass unchanged. Generated captions are stored separately, under a key without the limits and the policy: if a few new
rows shift the mean of the seed file, every shard is filtered again, but no caption is generated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.engine.libraries import key_versions
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.images.opening import ImageError, check_unchanged
from bettersynth_assets.models.captioners.caption_files import caption_files
from bettersynth_assets.models.captioners.captioner import captioner_key
from bettersynth_assets.models.captioners.synthetic import (
    Synthetic,
    check_failed,
    completed,
    synthetic_rows,
)
from bettersynth_assets.models.scorers.clip_score import scorer_key
from bettersynth_assets.operators.limits import with_limits
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.records.schema import RECAPTIONED
from bettersynth_assets.stages.caption_choice import choice_stats, choose_captions, positions_to_recaption
from bettersynth_assets.stages.recipe_check import check_recipe
from bettersynth_assets.stages.recipe_operators import list_key, ready_list, register_operators
from bettersynth_assets.stages.regenerate import LEDGER, regenerate_key, regenerate_rows
from bettersynth_assets.stages.rules import EVERY_ROW_SET, ROWS_LEFT
from bettersynth_assets.stages.run_models import RunModels
from toolkit.files import digest_of
from toolkit.progress import Progress

NAME = "recaptioned_set"
VERSION = 3
"""Increment it when equal rows would get other captions, other scores or another choice."""
LIBRARIES = ("torch", "transformers", "open_clip_torch", "pillow")
"""Libraries whose version can change a caption or its score."""


def low_score(section: CaptionSection, seed_profile: Manifest) -> float:
    """Return the cosine below which ``low_score_only`` recaptions a row."""
    mean = float(seed_profile.stats["clip_score"]["mean"])
    return mean if section.low_score == "mean" else float(section.low_score)


def run(work: Work) -> Result:
    """Recaption one shard."""
    run, recipe, (seed_profile,) = work.run, work.run.recipe, work.inputs["seed_profile"]
    refilter = ready_list(run, with_limits(recipe.refilter, seed_profile)) if recipe.refilter else None
    rows = work.rows("filtered_set").to_pylist()
    section = recipe.caption if rows else None
    captions: dict[int, Synthetic | ImageError] = {}
    if section:
        threshold = low_score(section, seed_profile)
        positions = positions_to_recaption([row["clip_score"] for row in rows], section, threshold)
        captions = dict(zip(positions, _captions(work, [rows[at] for at in positions], section), strict=True))
    recaptioned, quarantine = choose_captions(rows, captions, section, stage=NAME)
    result = Result(rows_in=len(rows), kept=recaptioned, quarantine=quarantine, stats=choice_stats(recaptioned))
    if recipe.regenerate and recaptioned.num_rows:
        regenerated = regenerate_rows(work, recaptioned, recipe.regenerate)
        stats = {**result.stats, **regenerated.stats}
        tables, images = {LEDGER: regenerated.ledger}, regenerated.images
        result = replace(result, kept=regenerated.rows, tables=tables, files=images, stats=stats)
    if refilter is None or not recaptioned.num_rows:
        return result
    processed = run_process(
        result.kept,
        refilter.operators,
        stage=NAME,
        image_root=run.image_root,
        rescore=refilter.rescore,
        log=work.log_with_shard,
    )
    return replace(
        result,
        kept=processed.kept.cast(RECAPTIONED),
        rejects=processed.rejects,
        quarantine=pa.concat_tables([result.quarantine, processed.quarantine]),
        stats={**result.stats, "refilter": refilter.limits, "operators": processed.operators},
    )


def _captions(work: Work, rows: Sequence[dict[str, Any]], section: CaptionSection) -> list[Synthetic | ImageError]:
    """Return captions of rows, generated or stored; rows whose captioner failed in an earlier run are retried.

    Raises:
        EnvironmentFault: the captioner failed for more rows than the profile allows.
    """
    run, models, made_from = work.run, RunModels(work.run), caption_key(work.run, section)
    ids, paths = [row["id"] for row in rows], [Path(run.seed.images, row["image"]) for row in rows]
    key = digest_of([[row["id"], row["image_hash"]] for row in rows], made_from)
    limit = int(run.settings.profile.limits.max_failed_captions_share * len(rows))

    def generate(missing: Sequence[int], max_failed: int | None) -> list[Synthetic | ImageError]:
        progress = Progress(work.log, f"{NAME} {work.shard}", len(missing))
        files, names = [paths[at] for at in missing], [ids[at] for at in missing]
        generated = caption_files(files, names, models.captioner, models.scorer, section, progress, max_failed)
        for at, caption in zip(missing, generated, strict=True):
            if isinstance(caption, ImageError):
                check_unchanged(paths[at], rows[at]["image_hash"])
        return generated

    def update(stored: pa.Table | None) -> pa.Table:
        max_failed = limit if stored is None else None  # a retry is stored before it is refused
        return completed(stored, len(rows), lambda missing: generate(missing, max_failed))

    captions = synthetic_rows(work.memo("captions", key, update))
    check_failed(dict(zip(ids, captions, strict=True)), len(rows), limit)
    return captions


def caption_key(run: ResolvedRun, section: CaptionSection) -> object:
    """Return what an image's synthetic caption and score depend on, besides the image."""
    return {
        "version": VERSION,
        "section": section.key("captions"),
        **captioner_key(run.captioner, run.gpu),
        "scorer": scorer_key(run.scorer, run.gpu),
        "libraries": key_versions(LIBRARIES),
    }


def depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    register_operators(run)
    section, regenerate = run.recipe.caption, run.recipe.regenerate
    (seed_profile,) = inputs["seed_profile"]
    images = {"regenerate": regenerate_key(run, regenerate, seed_profile)} if regenerate else {}
    if section is None:
        return images or None
    return images | {
        "caption": section.key(),
        "low_score": low_score(section, seed_profile) if section.policy == "low_score_only" else None,
        "refilter": with_limits(section.refilter, seed_profile),
        "models": list_key(run, section.refilter),
        "captions": caption_key(run, section),
    }


RECAPTIONED_SET = Stage(
    name=NAME,
    version=VERSION,
    columns=RECAPTIONED,
    rules=(*EVERY_ROW_SET, ROWS_LEFT),
    run=run,
    depends=depends,
    sharded=True,
    inputs=("filtered_set", "seed_profile"),
    by_value=("seed_profile",),
    preflight=check_recipe,
    libraries=("py-data-juicer", *LIBRARIES),
)
