"""How the UI presents each set: one ``Card`` per asset. ``stages/`` has the code that builds the set.

The first sentence of a description defines one row, in at most 100 characters: `dg list defs` truncates the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

OWNER = "team:data-synthesis"


@dataclass(frozen=True, kw_only=True)
class Card:
    """Presentation and queueing of one asset."""

    name: str
    group: str
    kinds: frozenset[str]
    description: str
    uses_models: bool = False
    """True if the asset waits for the pool and the lease of the GPUs."""
    also_after: tuple[str, ...] = ()
    """Upstream assets besides the stage's inputs."""


CARDS = (
    Card(
        name="seed_dataset",
        group="seed",
        kinds=frozenset({"python", "parquet"}),
        description=(
            "One row is one valid image-text pair of the seed file. "
            "It has id, line, image path, caption, image size and colour mode (read from the header). A line that "
            "cannot be used is in the quarantine table with the reason."
        ),
    ),
    Card(
        name="clip_scores",
        group="seed",
        kinds=frozenset({"pytorch", "huggingface", "parquet"}),
        description=("One row is one pair of the seed with the cosine similarity of image and caption, in [-1, 1]."),
        uses_models=True,
    ),
    Card(
        name="seed_profile",
        group="seed",
        kinds=frozenset({"python", "parquet"}),
        description=(
            "One row is one statistic of the whole seed: similarity, words, width or height. "
            "It has mean, standard deviation, k-sigma interval, percentiles and histogram. Thresholds of the recipe "
            "that depend on all rows come from here."
        ),
    ),
    Card(
        name="operator_plan",
        group="data",
        kinds=frozenset({"python", "pytorch"}),
        description=(
            "One row is one operator of the recipe, measured on a sample of the seed. "
            "Covers the lists `process` and `caption.refilter`: rows per second, share kept, seconds per rejected row, "
            "and the place in the cheapest order. filtered_set uses that order only if the recipe says "
            "`order: planned`."
        ),
        uses_models=True,
    ),
    Card(
        name="filtered_set",
        group="data",
        kinds=frozenset({"python", "pytorch", "parquet"}),
        description=(
            "One row is one pair that passed every operator of the recipe's `process` list. "
            "Data-Juicer runs the operators. The rejects table has every rejected row with the operator, its value and "
            "the limit."
        ),
        uses_models=True,
    ),
    Card(
        name="recaptioned_set",
        group="data",
        kinds=frozenset({"pytorch", "huggingface", "parquet"}),
        description=(
            "One row is one filtered pair with its original caption and a synthetic one. "
            "It has both similarities and says which caption the recipe chose."
        ),
        uses_models=True,
    ),
    Card(
        name="budgeted_set",
        group="data",
        kinds=frozenset({"python", "parquet", "json"}),
        description=(
            "One row is one pair with its number of exposures in training. "
            "The exposures of all rows add up to the budget. The kit's processed_data.jsonl and the LLaVA JSON, in "
            "training order, are in the same folder."
        ),
        uses_models=True,  # if the recipe's `budget.select` has an operator with a model
    ),
    Card(
        name="mgm_checkpoint",
        group="training",
        kinds=frozenset({"pytorch", "huggingface"}),
        description=(
            "One row is one trained model, for one training seed. Pre-training trains the projector, fine-tuning the "
            "projector and the language model. It has the run's name, last loss, steps, exposures and supervised "
            "tokens. Runs are shared by all recipes: one that is stored already is linked, not trained again."
        ),
        uses_models=True,
        also_after=("recaptioned_set",),
    ),
    Card(
        name="eval_results",
        group="training",
        kinds=frozenset({"pytorch", "python"}),
        description=(
            "One row is one metric of one benchmark for one training seed. "
            "A benchmark's first metric is its headline, in percent. The kit score compares the means on TextVQA and "
            "MMBench with the baseline's. questions.parquet has one row per question: answer, right or wrong, "
            "log-probability of the right answer."
        ),
        uses_models=True,
        also_after=("recaptioned_set",),
    ),
    Card(
        name="baseline_set",
        group="baseline",
        kinds=frozenset({"python", "parquet", "json"}),
        description=(
            "One row is one random, unchanged pair of the seed with its number of exposures. "
            "The budget is the same as the recipe's."
        ),
    ),
    Card(
        name="baseline_checkpoint",
        group="baseline",
        kinds=frozenset({"pytorch", "huggingface"}),
        description=(
            "One row is one model trained on the baseline set, for one training seed. "
            "Base model, steps and training seeds are the same as for the recipe."
        ),
        uses_models=True,
    ),
    Card(
        name="baseline_results",
        group="baseline",
        kinds=frozenset({"pytorch", "python"}),
        description=(
            "One row is one metric of one benchmark for one baseline model. "
            "These results are the noise floor for the recipe's."
        ),
        uses_models=True,
    ),
)
