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
    has_failed,
    synthetic_rows,
    synthetic_table,
)
from bettersynth_assets.models.scorers.clip_score import scorer_key
from bettersynth_assets.operators.limits import with_limits
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.records.schema import RECAPTIONED
from bettersynth_assets.stages.caption_choice import choice_stats, choose_captions, positions_to_recaption
from bettersynth_assets.stages.recipe_check import check_recipe
from bettersynth_assets.stages.recipe_operators import list_key, ready_list, register_operators
from bettersynth_assets.stages.regenerate import regenerate_key, regenerate_rows
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
    rows = work.rows("filtered_set").to_pylist()
    recipe, (seed_profile,) = work.run.recipe, work.inputs["seed_profile"]
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
        result = replace(result, kept=regenerated.rows, files=regenerated.files, stats=stats)
    return _refilter(work, result, section) if section and section.refilter and recaptioned.num_rows else result


def _captions(work: Work, rows: Sequence[dict[str, Any]], section: CaptionSection) -> list[Synthetic | ImageError]:
    """Return captions of rows, generated or stored; rows whose captioner failed in an earlier run are retried.

    Raises:
        EnvironmentFault: the captioner failed for more rows than the profile allows.
    """
    run, models = work.run, RunModels(work.run)
    limit = int(run.settings.profile.limits.max_failed_captions_share * len(rows))
    depends = caption_key(run, section)
    key = digest_of([[row["id"], row["image_hash"]] for row in rows], depends)
    stored = work.stored("captions", key)
    captions = {} if stored is None else dict(enumerate(synthetic_rows(stored)))
    missing = [at for at in range(len(rows)) if at not in captions or has_failed(captions[at])]
    if missing or stored is None:
        paths = [Path(run.seed.images, rows[at]["image"]) for at in missing]
        progress = Progress(work.log, f"{NAME} {work.shard}", len(missing))
        ids = [rows[at]["id"] for at in missing]
        max_failed = limit if stored is None else None  # a retry is stored before it is refused
        generated = caption_files(paths, ids, models.captioner, models.scorer, section, progress, max_failed)
        for at, path, caption in zip(missing, paths, generated, strict=True):
            if isinstance(caption, ImageError):
                check_unchanged(path, rows[at]["image_hash"])
            captions[at] = caption
        work.store("captions", key, synthetic_table([captions[at] for at in range(len(rows))]))
    check_failed({row["id"]: captions[at] for at, row in enumerate(rows)}, len(rows), limit)
    return [captions[at] for at in range(len(rows))]


def _refilter(work: Work, result: Result, section: CaptionSection) -> Result:
    """Run the ``refilter`` list over the chosen captions."""
    limits = with_limits(section.refilter, work.inputs["seed_profile"][0])
    ready = ready_list(work.run, limits)
    processed = run_process(
        result.kept,
        ready.operators,
        stage=NAME,
        image_root=work.run.image_root,
        rescore=ready.rescore,
        log=work.log_with_shard,
    )
    return replace(
        result,
        kept=processed.kept.cast(RECAPTIONED),
        rejects=processed.rejects,
        quarantine=pa.concat_tables([result.quarantine, processed.quarantine]),
        stats={**result.stats, "refilter": limits, "operators": processed.operators},
    )


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
