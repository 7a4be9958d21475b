"""What the UI says about each set. In: nothing. Out: one ``Card`` per asset; how a set is made is in ``stages/``.

A card's description begins with what one row of the set is.
"""

from __future__ import annotations

from dataclasses import dataclass

OWNER = "team:data-synthesis"


@dataclass(frozen=True, kw_only=True)
class Card:
    """How one asset is shown and queued."""

    name: str
    group: str
    kinds: frozenset[str]
    description: str
    uses_models: bool = False
    """True where it waits for the pool and the lease of the GPUs."""
    also_after: tuple[str, ...] = ()
    """Upstream beyond the stage's own inputs."""


CARDS = (
    Card(
        name="seed_dataset",
        group="seed",
        kinds=frozenset({"python", "parquet"}),
        description=(
            "One row is one image-text pair of the seed file: id, line, image path, caption, image size and mode read "
            "from the header. A line that cannot be used is in the quarantine table, with the reason."
        ),
    ),
    Card(
        name="clip_scores",
        group="seed",
        kinds=frozenset({"pytorch", "huggingface", "parquet"}),
        description="One row is one pair of the seed with the cosine similarity of its image and caption, in [-1, 1].",
        uses_models=True,
    ),
    Card(
        name="seed_profile",
        group="seed",
        kinds=frozenset({"python", "parquet"}),
        description=(
            "One row is one measure of the whole seed (similarity, words, width, height): mean, sd, k-sigma interval, "
            "percentiles, histogram. The recipe's thresholds that depend on all rows come from here."
        ),
    ),
    Card(
        name="operator_plan",
        group="data",
        kinds=frozenset({"python", "pytorch"}),
        description=(
            "One row is one operator of the recipe's `process` or `caption.refilter` list, measured on a sample of the "
            "seed: rows per second, share kept, seconds per rejected row and its place in the order that costs least. "
            "filtered_set takes that order only where the recipe says `order: planned`."
        ),
        uses_models=True,
    ),
    Card(
        name="filtered_set",
        group="data",
        kinds=frozenset({"python", "pytorch", "parquet"}),
        description=(
            "One row is one pair that the recipe's `process` operators, run by Data-Juicer, let through. Each rejected "
            "row is in the rejects table with the operator, its value and the limit."
        ),
        uses_models=True,
    ),
    Card(
        name="recaptioned_set",
        group="data",
        kinds=frozenset({"pytorch", "huggingface", "parquet"}),
        description=(
            "One row is one filtered pair with its original and its synthetic caption, both similarities and which of "
            "the two the recipe chose."
        ),
        uses_models=True,
    ),
    Card(
        name="budgeted_set",
        group="data",
        kinds=frozenset({"python", "parquet", "json"}),
        description=(
            "One row is one pair with its number of exposures; the exposures of all rows are exactly the budget. The "
            "kit's processed_data.jsonl and the LLaVA JSON, in training order, lie beside it."
        ),
        uses_models=True,  # where the recipe's `budget.select` holds an operator with one
    ),
    Card(
        name="mgm_checkpoint",
        group="training",
        kinds=frozenset({"pytorch", "huggingface"}),
        description=(
            "One row is one training seed: the checkpoint after stage 1 (projector) and stage 2 (projector and "
            "language model), its last loss, steps and samples per second."
        ),
        uses_models=True,
        also_after=("recaptioned_set",),
    ),
    Card(
        name="eval_results",
        group="training",
        kinds=frozenset({"pytorch", "python"}),
        description=(
            "One row is one metric of one benchmark for one training seed; a benchmark's first metric is its headline, "
            "in percent. The kit score compares the means on TextVQA and MMBench with the baseline arm's. "
            "questions.parquet has a row per question: answer, right or not, log-probability of the right answer."
        ),
        uses_models=True,
        also_after=("recaptioned_set",),
    ),
    Card(
        name="baseline_set",
        group="baseline",
        kinds=frozenset({"python", "parquet", "json"}),
        description="One row is one random pair of the seed, as it came, with its exposures; the recipe's budget.",
    ),
    Card(
        name="baseline_checkpoint",
        group="baseline",
        kinds=frozenset({"pytorch", "huggingface"}),
        description="One row is one training seed of the baseline arm: base model, steps and seeds of the recipe's.",
        uses_models=True,
    ),
    Card(
        name="baseline_results",
        group="baseline",
        kinds=frozenset({"pytorch", "python"}),
        description="One row is one metric of one benchmark for one training seed of the baseline: the noise floor.",
        uses_models=True,
    ),
)
