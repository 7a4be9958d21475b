"""Verdicts: words from a closed list. In: differences at each look. Out: one verdict per comparison.

The procedure is the same for one experiment (``table``) and for thousands of simulated ones (``simulate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.experiments.difference import Difference, Floats
from bettersynth_assets.experiments.family import holm
from bettersynth_assets.experiments.power import MOST_SEEDS
from bettersynth_assets.experiments.sequential import Looks


class Word(StrEnum):
    """All verdicts that exist."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    INDISTINGUISHABLE = "indistinguishable"
    TOO_FEW = "too few seeds"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A word with the figures that belong to it; ``str()`` gives the text of tables.

    Args:
        word: from the closed list.
        margin: of ``equivalent``: the declared margin.
        detectable: of ``indistinguishable``: the smallest difference that these seeds would detect.
        more_seeds: of ``indistinguishable``: seeds per arm to add, about; None if more than can be computed.
    """

    word: Word
    margin: float | None = None
    detectable: float | None = None
    more_seeds: int | None = None

    def __str__(self) -> str:
        if self.word is Word.EQUIVALENT:
            return f"equivalent within {self.margin:g}"
        if self.word is Word.INDISTINGUISHABLE:
            more = f"about {self.more_seeds}" if self.more_seeds is not None else f"over {MOST_SEEDS}"
            assert self.detectable is not None
            figure = f"{self.detectable:.1f}" if self.detectable >= 1 else f"{self.detectable:.2g}"
            return f"indistinguishable (smallest detectable {figure}; {more} more seeds)"
        return self.word.value


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the looks reached say about a comparison, or about an array of them.

    Args:
        sign: of the difference at the look that decides, -1 to 1.
        p: of "no difference", all looks taken together.
        p_equivalent: of "they differ by the margin or more"; 1 without a margin.
    """

    sign: Floats
    p: Floats
    p_equivalent: Floats


NO_EVIDENCE = Evidence(sign=np.zeros(()), p=np.ones(()), p_equivalent=np.ones(()))
"""Of a declared comparison that has too few seeds; it counts in the family."""


def across_looks(differences: Sequence[Difference], looks: Looks, margin: float | None) -> Evidence:
    """Combine the differences of the looks reached, first look first."""
    p, at = looks.p(np.stack([difference.p() for difference in differences], axis=-1))
    signs = np.sign(np.stack([difference.estimate for difference in differences], axis=-1))
    equivalent = np.ones(p.shape)
    if margin is not None:
        equivalent, _ = looks.p(np.stack([difference.p_equivalent(margin) for difference in differences], axis=-1))
    sign = np.take_along_axis(signs, at[..., None], axis=-1)[..., 0]
    return Evidence(sign=sign, p=p, p_equivalent=equivalent)


def decide(evidence: Evidence, level: float) -> NDArray[np.str_]:
    """Give each comparison of a family its word.

    ``better`` or ``worse`` if Holm's adjusted p-value is at most ``level``; else ``equivalent`` if that of the
    equivalence tests is, a family of their own; else ``indistinguishable``. A difference that is shown and smaller than
    the margin is called a difference.

    Args:
        evidence: arrays of shape (…, m); the last axis is the family.
        level: chance of one or more false verdicts of each kind, e.g. 0.05.
    """
    differs, equivalent = holm(evidence.p) <= level, holm(evidence.p_equivalent) <= level
    return np.select(
        [differs & (evidence.sign > 0), differs, equivalent],
        [Word.BETTER.value, Word.WORSE.value, Word.EQUIVALENT.value],
        Word.INDISTINGUISHABLE.value,
    )
