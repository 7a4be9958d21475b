"""``budget.select``: operators that need all rows at once. In: the rows of all shards. Out: rows that may be drawn.

Here Deduplicators and Selectors see rows of different shards. Filters may be among them, for decisions that depend on
the chosen caption. Mappers may not, because no later stage scores the captions that they change. Embeddings come from
clip_scores, for each row whose image has not been replaced since.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.libraries import key_versions
from bettersynth_assets.engine.stage import Inputs, Work
from bettersynth_assets.operators.custom_operators import use_custom_operators
from bettersynth_assets.operators.data_juicer import (
    build_operators,
    compares_images,
    operators_key,
    own_similarity,
)
from bettersynth_assets.operators.process import Processed, run_process
from bettersynth_assets.operators.recipe_check import check_once
from bettersynth_assets.operators.seed_scores import with_limits
from bettersynth_assets.records.seed_path import image_root
from bettersynth_assets.stages.accounting import nothing_left
from bettersynth_assets.stages.filter import rescorer
from bettersynth_assets.stages.score import read_embeddings

LIBRARIES = ("py-data-juicer", "torch", "transformers", "open_clip_torch", "pillow")


def select_rows(work: Work, rows: pa.Table, *, stage: str) -> Processed:
    """Run the recipe's ``budget.select`` over all rows at once.

    Args:
        work: work with the inputs that ``select_inputs`` names.
        rows: rows of all shards, in line order.
        stage: name for the tables of rejects and quarantine.

    Raises:
        ConfigError: a Mapper, or an unusable operator.
        EmptySetError: no row is left; names the operator that removed most.
    """
    settings, entries = work.settings, work.settings.recipe.budget.select
    check_once(settings)
    done = run_process(
        rows,
        build_operators(with_limits(entries, work.inputs["seed_profile"][0]), settings.profile, has_all_rows=True),
        stage=stage,
        image_root=image_root(settings),
        rescore=None if own_similarity(entries) else rescorer(settings),
        embeddings=embeddings_of(work, rows) if compares_images(entries) else None,
        log=work.log,
    )
    if not done.kept.num_rows:
        raise nothing_left(stage, settings, Counter(done.rejects["operator"].to_pylist()))
    return done


def embeddings_of(work: Work, rows: pa.Table) -> list[np.ndarray | None]:
    """Return each row's embedding by clip_scores; None if its image has been replaced."""
    scored = work.rows("clip_scores")
    places = {pair: place for place, pair in enumerate(_images(scored))}
    found = read_embeddings(work.inputs["clip_scores"])
    return [None if (place := places.get(pair)) is None else found[place] for pair in _images(rows)]


def _images(rows: pa.Table) -> zip[tuple[str, str]]:
    return zip(rows["id"].to_pylist(), rows["image_hash"].to_pylist(), strict=True)


def select_inputs(settings: Settings) -> tuple[str, ...]:
    """Return the inputs that only a recipe with ``budget.select`` needs."""
    entries = settings.recipe.budget.select
    if not entries:
        return ()
    use_custom_operators(settings)
    return ("seed_profile", "clip_scores") if compares_images(entries) else ("seed_profile",)


def select_key(settings: Settings, inputs: Inputs) -> dict[str, object]:
    """Return what the choice depends on besides rows and embeddings; empty without ``budget.select``."""
    entries = settings.recipe.budget.select
    if not entries:
        return {}
    use_custom_operators(settings)
    return {
        "select": with_limits(entries, inputs["seed_profile"][0]),
        "models": operators_key(entries, settings.profile),
        "libraries": key_versions(LIBRARIES),
    }
