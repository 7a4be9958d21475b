"""Section ``curve`` of an experiment: one recipe with fewer and fewer different rows. In: the section. Out: its points.

::

    point       exposures      different rows
    x4          N              N / 4
    fresh_25    N / 4          N / 4, each shown once

Every point has an arm of the recipe (``x4``) and one of random rows (``random_x4``).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from bettersynth_assets.config.model import ConfigModel

RANDOM = "random_"
"""First part of the names of the arms with random rows."""


class Curve(ConfigModel):
    """A recipe at several numbers of repeats, with random rows next to it."""

    recipe: str
    """Name or path of the recipe."""
    repeats: list[Annotated[int, Field(ge=1)]] = Field(default=[1, 2, 4, 8, 16], min_length=1)
    """Mean numbers of exposures of a row, at the recipe's number of exposures."""
    fresh: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default=[0.25])
    """Shares of the exposures that are trained on alone, with no row repeated if there are enough. They show what fresh
    rows are worth, without which the value of repeated rows is hardly identified (docs/statistics.md)."""

    @field_validator("repeats", "fresh")
    @classmethod
    def _each_once(cls, values: list[Any]) -> list[Any]:
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"{', '.join(map(str, twice))} is listed twice: give each number once")
        return values

    def points(self, exposures: int) -> dict[str, dict[str, int]]:
        """Return the changes of the recipe at each point, by the point's name.

        Args:
            exposures: of the recipe.
        """
        found: dict[str, dict[str, int]] = {}
        for number in self.repeats:
            # Without repetition, rows are drawn as for a baseline, whose runs are then the same.
            rows = {} if number == 1 else {"budget.rows": exposures // number}
            found[f"x{number}"] = {**rows, "budget.exposures": exposures}
        for share in self.fresh:
            found[f"fresh_{100 * share:g}".replace(".", "_")] = {"budget.exposures": max(1, round(exposures * share))}
        return found
