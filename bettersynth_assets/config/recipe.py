"""Recipes: how the training set is made from the seed. In: a YAML file. Out: a frozen ``Recipe``.

    process            operators on the seed's rows (filtered_set), in Data-Juicer's ``process:`` syntax
    caption            how new captions are generated and selected (recaptioned_set)
    regenerate         which of these rows get a new image
    caption.refilter   a second ``process`` list, on the rows with their selected captions
    budget             how the fixed number of exposures is filled (budgeted_set)
    budget.select      operators that select the rows for the budget

An operator is any Data-Juicer operator that processes single rows, or one of this project (``clip_score_filter``).
``budget.select`` also accepts operators that need all rows. A recipe never names a model or a device; the profile does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bettersynth_assets.config.model import ConfigModel, read_yaml
from toolkit.settings import CountsFor, NotInKey

Operator = dict[str, dict[str, Any] | None]
BY_CODE = NotInKey("the code of the operators in use is in the key")
CHOICE = CountsFor("choice")
"""Settings for selecting captions and images; changing one does not regenerate any."""
Policy = Literal["replace", "best_of", "low_score_only"]


class Sampling(ConfigModel):
    """Token sampling. It is seeded by ``seed`` and the row's id, so that a row's caption is reproducible."""

    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the most likely tokens whose cumulative probability reaches this value."""
    top_k: int | None = Field(default=None, ge=1)
    """Sample from this many of the most likely tokens."""
    seed: int = Field(default=1024, ge=0)
    """Random seed."""


class CaptionSection(ConfigModel):
    """How synthetic captions are generated and when they replace the original captions."""

    policy: Annotated[Policy, CHOICE] = "replace"
    """When a new caption replaces the original: always (``replace``), if it scores higher (``best_of``), or if the
    original scores below ``low_score`` (``low_score_only``)."""
    low_score: Annotated[float | Literal["mean"], CHOICE] = "mean"
    """With ``low_score_only``, recaption rows whose original caption scores below this cosine, or below the seed's
    mean."""
    captioner: Annotated[Literal["blip-2", "llava"] | None, NotInKey("the model itself is in the key")] = None
    """The kind of captioner that the recipe requires; profiles with another kind are refused. None accepts any."""
    prompt: str = ""
    """Empty uses the captioner's default: no prompt for BLIP-2, a request for one short sentence for LLaVA."""
    max_new_tokens: int = Field(default=30, ge=1, le=512)
    sampling: Sampling | None = None
    """None uses greedy decoding."""
    clean: bool = True
    """Remove tails such as "stock photo". A row whose new caption is degenerate (a loop, a refusal, …) keeps its
    original caption and is flagged."""
    refilter: Annotated[list[Operator], CHOICE] = Field(default_factory=list)


class RegenerateSection(ConfigModel):
    """Which rows get a new image, generated from their selected caption, and how."""

    policy: Annotated[Literal["replace", "best_of"], CHOICE] = "replace"
    """``best_of`` uses the new image only if the caption matches it better than the old one."""
    below: Annotated[float | Literal["mean"], CHOICE] = "mean"
    """Regenerate images of rows that score below this cosine, or below the seed's mean."""
    steps: int = Field(default=30, ge=1, le=1000)
    """Denoising steps."""
    guidance: float = Field(default=7.5, ge=0)
    """Guidance scale."""
    side: int | None = Field(default=None, ge=8, multiple_of=8)
    """Width and height in pixels; None uses the model's default."""
    tries: int = Field(default=3, ge=1, le=20)
    """Maximum number of attempts if the safety checker refuses an image; after the last one, the row keeps its
    image."""
    seed: int = Field(default=1024, ge=0)
    """Random seed."""


class BudgetSection(ConfigModel):
    """How the exposure budget is filled."""

    order: Literal["shuffle", "keep"] = "shuffle"
    """With fewer rows than exposures, ``shuffle`` repeats the rows in shuffled passes until the budget is full, and
    ``keep`` uses each row once, as the kit does. With more rows, both sample the budget's number of rows."""
    exposures: Annotated[int | None, NotInKey("the resolved number is in the key")] = None
    """None uses the profile's budget."""
    rows: int | None = Field(default=None, ge=1)
    """Use at most this many different rows, drawn at random, so that each is repeated more often; None uses all rows.
    With equal random seeds, fewer rows are a part of more rows."""
    seed: int = 1024
    """Random seed."""
    select: list[Operator] = Field(default_factory=list)
    """Operators on the rows of all shards together (Deduplicators, Selectors), and Filters between them."""


class Recipe(ConfigModel):
    """One data recipe."""

    name: Annotated[str, NotInKey("a folder's name")]
    description: Annotated[str, NotInKey("for readers")] = ""
    baseline: Annotated[bool, NotInKey("the other sections determine how rows are processed")] = False
    """Set to true only for a baseline: the contest refuses a solution without synthesis."""
    custom_operators: Annotated[list[str], BY_CODE] = Field(default_factory=list)
    """Python files, relative to the recipe, that register additional operators with Data-Juicer. They are executed, and
    therefore require the profile's ``trusted_code`` (docs/security.md)."""
    process: list[Operator] = Field(default_factory=list)
    order: Literal["written", "planned"] = "written"
    """``planned`` runs ``process`` in the cheapest order according to operator_plan's measurements; the result is the
    same."""
    caption: CaptionSection | None = None
    regenerate: RegenerateSection | None = None
    budget: BudgetSection = Field(default_factory=BudgetSection)

    @model_validator(mode="after")
    def _has_synthesis(self) -> Self:
        if self.caption is None and self.regenerate is None and not self.baseline:
            raise ValueError(
                "the recipe has neither a `caption` nor a `regenerate` section, so nothing is synthesised, and the "
                "contest treats a solution without a synthesis step as invalid: add `caption:` or, for a baseline, set "
                "`baseline: true`"
            )
        return self

    @property
    def refilter(self) -> list[Operator]:
        """``caption.refilter``; empty without a ``caption`` section."""
        return self.caption.refilter if self.caption else []

    @model_validator(mode="after")
    def _one_operator_per_entry(self) -> Self:
        for entry in [*self.process, *self.refilter, *self.budget.select]:
            if len(entry) != 1:
                raise ValueError(f"each operator is one `name: {{arguments}}` entry, found {sorted(entry)}")
        return self


def load_recipe(name: str) -> Recipe:
    """Load a recipe by name (shipped) or by path.

    Raises:
        ConfigError: an unknown file or key (the message suggests the nearest valid one), or a recipe without synthesis.
    """
    values, path = read_yaml(name, "recipes")
    recipe = Recipe.parse(values, where=str(path))
    custom = [str(path.parent.absolute() / Path(file).expanduser()) for file in recipe.custom_operators]
    return recipe.model_copy(update={"custom_operators": custom})
