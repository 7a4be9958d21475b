"""``budget.select``: operators that need all rows at once. In: the rows of all shards. Out: rows that may be drawn.

Here Deduplicators and Selectors see rows of different shards. Filters may be among them, for decisions that depend on
the chosen caption. Mappers may not, because no later stage scores the captions that they change. Embeddings come from
clip_scores, for each row whose image has not been replaced since.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from bettersynth_assets.engine.libraries import key_versions
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Work
from bettersynth_assets.operators.data_juicer import compares_images
from bettersynth_assets.operators.limits import with_limits
from bettersynth_assets.operators.process import Processed, run_process
from bettersynth_assets.stages.accounting import empty_set_error
from bettersynth_assets.stages.recipe_operators import list_key, ready_list, register_operators
from bettersynth_assets.stages.score import embeddings_of

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
    run, entries = work.run, work.run.recipe.budget.select
    ready = ready_list(run, with_limits(entries, work.inputs["seed_profile"][0]), has_all_rows=True)
    embeddings = embeddings_of(work, rows) if compares_images(entries) else None
    processed = run_process(
        rows,
        ready.operators,
        stage=stage,
        image_root=run.image_root,
        rescore=ready.rescore,
        embeddings=embeddings,
        log=work.log,
    )
    if not processed.kept.num_rows:
        raise empty_set_error(stage, work.settings, Counter(processed.rejects["operator"].to_pylist()))
    return processed


def select_inputs(run: ResolvedRun) -> tuple[str, ...]:
    """Return the inputs that only a recipe with ``budget.select`` needs."""
    entries = run.recipe.budget.select
    if not entries:
        return ()
    register_operators(run)
    return ("seed_profile", "clip_scores") if compares_images(entries) else ("seed_profile",)


def select_key(run: ResolvedRun, inputs: Inputs) -> dict[str, object]:
    """Return what the choice depends on besides rows and embeddings; empty without ``budget.select``."""
    entries = run.recipe.budget.select
    if not entries:
        return {}
    register_operators(run)
    return {
        "select": with_limits(entries, inputs["seed_profile"][0]),
        "models": list_key(run, entries),
        "libraries": key_versions(LIBRARIES),
    }
