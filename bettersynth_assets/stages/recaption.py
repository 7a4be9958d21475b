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
from bettersynth_assets.models.captioners.captioner import captioner_key
from bettersynth_assets.models.scorers.clip_score import scorer_key
from bettersynth_assets.operators.recaption import (
    choose_caption,
    positions_to_recaption,
    recaptioned_table,
    summary,
    synthesise,
)
from bettersynth_assets.operators.seed_scores import with_limits
from bettersynth_assets.operators.synthetic import Synthetic, check_failed, synthetic_rows, synthetic_table
from bettersynth_assets.records.schema import QUARANTINE, RECAPTIONED, rows_table
from bettersynth_assets.stages.recipe_check import check_recipe
from bettersynth_assets.stages.recipe_operators import build_list, list_key, process_rows, register_operators
from bettersynth_assets.stages.regenerate import regenerate_key, regenerate_rows
from bettersynth_assets.stages.rules import EVERY_ROW_SET, ROWS_LEFT
from bettersynth_assets.stages.run_models import RunModels
from toolkit.files import digest_of
from toolkit.progress import Progress

NAME = "recaptioned_set"
VERSION = 3
"""Increment it when equal rows would get other captions, other scores or another choice."""
NOTHING = QUARANTINE.empty_table()
LIBRARIES = ("torch", "transformers", "open_clip_torch", "pillow")
"""Libraries whose version can change a caption or its score."""


def low_score(section: CaptionSection, seed_profile: Manifest) -> float:
    """Return the cosine below which ``low_score_only`` recaptions a row."""
    mean = float(seed_profile.stats["clip_score"]["mean"])
    return mean if section.low_score == "mean" else float(section.low_score)


def run(work: Work) -> Result:
    """Recaption one shard."""
    table = work.rows("filtered_set")
    recipe = work.settings.recipe
    section = recipe.caption if table.num_rows else None
    if section is None:
        recaptioned, quarantine = (
            recaptioned_table([choose_caption(row, None, None) for row in table.to_pylist()]),
            NOTHING,
        )
    else:
        recaptioned, quarantine = _recaption(work, table, section)
    result = Result(rows_in=table.num_rows, kept=recaptioned, quarantine=quarantine, stats=summary(recaptioned))
    if recipe.regenerate and recaptioned.num_rows:
        regenerated = regenerate_rows(work, recaptioned, recipe.regenerate)
        result = replace(
            result, kept=regenerated.rows, files=regenerated.files, stats={**result.stats, **regenerated.stats}
        )
    return _refilter(work, result, section) if section and section.refilter and recaptioned.num_rows else result


def _recaption(work: Work, table: pa.Table, section: CaptionSection) -> tuple[pa.Table, pa.Table]:
    """Generate and choose captions.

    Returns:
        Rows of schema ``RECAPTIONED``; rows whose image cannot be decoded, for the quarantine.
    """
    rows = table.to_pylist()
    positions = positions_to_recaption(
        table.column("clip_score").to_pylist(), section, low_score(section, work.inputs["seed_profile"][0])
    )
    captions = _captions(work, [rows[index] for index in positions], section)
    by_row = dict(zip(positions, captions, strict=True))
    kept, quarantine = [], []
    for index, row in enumerate(rows):
        caption = by_row.get(index)
        if isinstance(caption, ImageError):
            quarantine.append(
                {
                    "id": row["id"],
                    "line": row["line"],
                    "stage": NAME,
                    "reason": caption.reason,
                    "detail": caption.detail,
                }
            )
        else:
            kept.append(choose_caption(row, caption, section))
    return recaptioned_table(kept), rows_table(quarantine, QUARANTINE)


def _captions(work: Work, rows: Sequence[dict[str, Any]], section: CaptionSection) -> list[Synthetic | ImageError]:
    """Return captions of rows, generated or stored; rows whose captioner failed in an earlier run are retried.

    Raises:
        EnvironmentFault: the captioner failed for more rows than the profile allows.
    """
    run = work.run
    limit = int(run.settings.profile.limits.max_failed_captions_share * len(rows))
    is_new = False

    def generate(selected: Sequence[dict[str, Any]], max_failed: int | None = None) -> list[Synthetic | ImageError]:
        paths = [Path(run.seed.images, row["image"]) for row in selected]
        results = synthesise(
            paths,
            [row["id"] for row in selected],
            RunModels(run).captioner,
            RunModels(run).scorer,
            section,
            Progress(work.log, f"{NAME} {work.shard}", len(selected)),
            max_failed,
        )
        for path, row, result in zip(paths, selected, results, strict=True):
            if isinstance(result, ImageError):
                check_unchanged(path, row["image_hash"])
        return results

    def generate_all() -> pa.Table:
        nonlocal is_new
        is_new = True
        return synthetic_table(generate(rows, limit))

    identity = ("id", "image_hash")
    key = digest_of([[row[name] for name in identity] for row in rows], caption_key(run, section))
    captions = synthetic_rows(work.memo("captions", key, generate_all))
    failed = [at for at, caption in enumerate(captions) if isinstance(caption, Synthetic) and caption.has_failed]
    if failed and not is_new:
        for at, caption in zip(failed, generate([rows[at] for at in failed]), strict=True):
            captions[at] = caption
        work.forget("captions", key)
        work.memo("captions", key, lambda: synthetic_table(captions))
    check_failed({row["id"]: caption for row, caption in zip(rows, captions, strict=True)}, len(rows), limit)
    return captions


def _refilter(work: Work, result: Result, section: CaptionSection) -> Result:
    """Run the ``refilter`` list over the chosen captions."""
    limits = with_limits(section.refilter, work.inputs["seed_profile"][0])
    processed = process_rows(
        work,
        result.kept,
        build_list(work, limits),
        entries=section.refilter,
        stage=NAME,
        image_root=work.run.image_root,
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
