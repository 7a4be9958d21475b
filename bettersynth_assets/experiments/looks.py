"""Which training runs an experiment needs next. In: the runs that exist and the verdicts on them. Out: seeds per arm.

Every arm gets the seeds of the first look. Then each arm that takes part in a comparison without a verdict gets the
seeds of the next look, until the last one. So the answer depends on the runs that exist only, not on when it was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bettersynth_assets.experiments.comparison import Comparison
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.verdict import Word

DECIDED = frozenset({Word.BETTER, Word.WORSE, Word.EQUIVALENT})


def seeds_wanted(
    comparisons: Sequence[Comparison], runs: Mapping[str, int], declaration: Declaration
) -> dict[str, int]:
    """Return the number of training seeds that each arm should have at the next look.

    Args:
        comparisons: the family of the experiment, judged on the runs that exist.
        runs: number of runs that exist, by arm.
        declaration: what the experiment declares.

    Returns:
        By arm; at least ``runs``. Equal to ``runs`` for all arms if the experiment is finished.
    """
    counts = declaration.looks.counts
    wanted = {arm: max(found, counts[0]) for arm, found in runs.items()}
    if wanted != runs:  # first complete the first look
        return wanted
    for one in comparisons:
        reached = one.estimate.seeds if one.estimate else 0
        following = next((count for count in counts if count > reached), None)
        if one.verdict.word not in DECIDED and following is not None:
            for arm in (one.arm, one.other):
                wanted[arm] = max(wanted[arm], following)
    return wanted


def undecided(comparisons: Sequence[Comparison]) -> int:
    """Count the comparisons without ``better``, ``worse`` or ``equivalent``."""
    return sum(one.verdict.word not in DECIDED for one in comparisons)
