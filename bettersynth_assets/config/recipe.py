"""Recipe = what is done to the data. In: a YAML in Data-Juicer's ``process:`` syntax. Out: a frozen ``Recipe``.

``process`` works on the seed's captions (filtered_set), ``caption`` says how new captions are made and chosen
(recaptioned_set), ``regenerate`` which of these rows get a new image, ``caption.refilter`` is a second ``process`` list
over what was chosen, ``budget`` says how the fixed number of exposures is filled (budgeted_set), and by
``budget.select`` from which rows. Operators may be any
Data-Juicer operator that looks at one row, ours (``clip_score_filter``) and, in ``budget.select``, those that need all
rows. The recipe never names a model or a device: that is the profile's part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bettersynth_assets.config.model import ConfigModel, read_yaml
from toolkit.settings import CountsFor, NotInKey

Operator = dict[str, dict[str, Any] | None]
BY_CODE = NotInKey("an operator that is used counts by its code")
CHOICE = CountsFor("choice")
"""What captions and images are chosen by; those that were made stay when it changes."""
Policy = Literal["replace", "best_of", "low_score_only"]


class Sampling(ConfigModel):
    """Draws each token by its probability; the seed and the row's id decide, so a row's caption is always the same."""

    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the likeliest tokens are drawn from, as many as reach this probability."""
    top_k: int | None = Field(default=None, ge=1)
    """Only this many of the likeliest."""
    seed: int = Field(default=1024, ge=0)


class CaptionSection(ConfigModel):
    """How synthetic captions are made and when they take the original's place."""

    policy: Annotated[Policy, CHOICE] = "replace"
    """When a new caption takes the original's place."""
    low_score: Annotated[float | Literal["mean"], CHOICE] = "mean"
    """``low_score_only``: rows whose original scores under this cosine (or the seed's mean) are recaptioned."""
    captioner: Annotated[Literal["blip-2", "llava"] | None, NotInKey("the model itself is in the key")] = None
    """The kind of captioner that the recipe is written for; a profile with another one is refused. None takes any."""
    prompt: str = ""
    """Empty takes the captioner's own: none for BLIP-2, a request for one short sentence for LLaVA."""
    max_new_tokens: int = Field(default=30, ge=1, le=512)
    sampling: Sampling | None = None
    """None is greedy decoding."""
    clean: bool = True
    """Cut "stock photo" and other tails; a degenerate caption (a loop, a refusal, ...) keeps the original, flagged."""
    refilter: Annotated[list[Operator], CHOICE] = Field(default_factory=list)


class RegenerateSection(ConfigModel):
    """Which rows get a new image, made from their chosen caption, and how; the caption stays."""

    policy: Annotated[Literal["replace", "best_of"], CHOICE] = "replace"
    """``best_of`` takes the new image only where the caption matches it better than the old one."""
    below: Annotated[float | Literal["mean"], CHOICE] = "mean"
    """Rows that score under this cosine (or the seed's mean)."""
    steps: int = Field(default=30, ge=1, le=1000)
    guidance: float = Field(default=7.5, ge=0)
    side: int | None = Field(default=None, ge=8, multiple_of=8)
    """Pixels, width and height; None is the model's own."""
    tries: int = Field(default=3, ge=1, le=20)
    """How often an image that the safety checker refuses is made anew before the row keeps its own."""
    seed: int = Field(default=1024, ge=0)


class BudgetSection(ConfigModel):
    """How the budget is filled. ``shuffle`` samples or repeats in shuffled passes; ``keep`` is the kit's original."""

    order: Literal["shuffle", "keep"] = "shuffle"
    exposures: Annotated[int | None, NotInKey("the number that it stands for is in the key")] = None
    """None takes the profile's budget."""
    seed: int = 1024
    select: list[Operator] = Field(default_factory=list)
    """Operators that judge the rows of all shards at once (Deduplicators, Selectors), and Filters between them."""


class Recipe(ConfigModel):
    """One data recipe."""

    name: Annotated[str, NotInKey("a folder's name")]
    description: Annotated[str, NotInKey("for readers")] = ""
    baseline: Annotated[bool, NotInKey("what is done to rows is in the other sections")] = False
    """True only for a recipe that is meant as a baseline: the contest refuses a solution without synthesis."""
    custom_operators: Annotated[list[str], BY_CODE] = Field(default_factory=list)
    """Python files, relative to the recipe's, that register operators of its own with Data-Juicer; they run as programs
    and need the profile's ``trusted_code`` (docs/security.md)."""
    process: list[Operator] = Field(default_factory=list)
    order: Literal["written", "planned"] = "written"
    """``planned`` runs ``process`` in the order that operator_plan measured to be cheapest; the same rows stay."""
    caption: CaptionSection | None = None
    regenerate: RegenerateSection | None = None
    budget: BudgetSection = Field(default_factory=BudgetSection)

    @model_validator(mode="after")
    def _has_synthesis(self) -> Self:
        if self.caption is None and self.regenerate is None and not self.baseline:
            raise ValueError(
                "the recipe has neither a `caption` nor a `regenerate` section, so nothing is synthesised, and the "
                "contest counts a solution without a synthesis step as invalid: add `caption:` or, for a baseline, set "
                "`baseline: true`"
            )
        return self

    @property
    def refilter(self) -> list[Operator]:
        """``caption.refilter``; empty without captions."""
        return self.caption.refilter if self.caption else []

    @model_validator(mode="after")
    def _one_operator_per_entry(self) -> Self:
        for entry in [*self.process, *self.refilter, *self.budget.select]:
            if len(entry) != 1:
                raise ValueError(f"each operator is one `name: {{arguments}}` entry, found {sorted(entry)}")
        return self


def load_recipe(name: str) -> Recipe:
    """Load a shipped recipe by name or the user's own by path.

    Raises:
        ConfigError: unknown file or key (with the nearest valid one), or a recipe without synthesis.
    """
    values, path = read_yaml(name, "recipes")
    recipe = Recipe.parse(values, where=str(path))
    custom = [str(path.parent.absolute() / Path(file).expanduser()) for file in recipe.custom_operators]
    return recipe.model_copy(update={"custom_operators": custom})
