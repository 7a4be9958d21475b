"""Decision accuracy: how often few training seeds order two arms as many others do. In: scores. Out: shares of pairs.

The runs of each arm are split at random into a reference and the rest, many times. The means of 1, 2, 4, … runs of the
rest order each pair of arms; so do the means of the reference. Subset and reference share no run: those that share runs
agree more often than new runs would. The share with the mean of all runs, which contains the subset, is given too, as
the upper end.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.comparison import Scores
from bettersynth_assets.experiments.conclusions import title
from bettersynth_assets.experiments.difference import Floats

SIZES = (1, 2, 4)
DRAWS = 2000
RANDOM_SEED = 0
MEAN = "mean"
"""Measure: mean of the benchmarks of a run."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Agreement of the order by few seeds with that by others, over all pairs of arms.

    Args:
        measure: a benchmark, or ``MEAN``.
        seeds: runs per arm that order the pairs.
        reference: other runs per arm, whose order is compared.
        alike: share of pairs ordered alike, [0, 1], mean over the splits; equal means count as half.
        lowest: that of the pair with the lowest one.
        shared: share with the mean of all runs of an arm, which contain the subset: too high.
    """

    measure: str
    seeds: int
    reference: int
    alike: float
    lowest: float
    shared: float


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Decision accuracy of an experiment.

    Args:
        arms: names.
        runs: per arm; the first ones of each.
        pairs: number of pairs of arms.
        draws: number of splits.
        rows: by measure and number of seeds.
    """

    arms: tuple[str, ...]
    runs: int
    pairs: int
    draws: int
    rows: tuple[Decision, ...]


def decision_accuracy(
    scores: Scores,
    benchmarks: Sequence[str],
    *,
    sizes: Sequence[int] = SIZES,
    draws: int = DRAWS,
    random_seed: int = RANDOM_SEED,
) -> Decisions:
    """Compute the share of pairs of arms that few seeds order as other seeds do.

    All arms take part with as many runs as the one with the fewest, in the order of their training seeds. The reference
    has the runs that the largest size leaves, so that all sizes are compared with references of one size. Each arm is
    split alone: runs of equal training seeds are not alike.

    Args:
        scores: values by arm, benchmark and training seed.
        benchmarks: names.
        sizes: numbers of seeds; those that leave no run for the reference are left out.
        draws: number of splits.
        random_seed: same seed, same splits.

    Raises:
        ConfigError: fewer than two arms, or than two runs in an arm.
    """
    arms = tuple(scores)
    seeds = {arm: sorted(set.intersection(*(set(scores[arm][name]) for name in benchmarks))) for arm in arms}
    runs = min(map(len, seeds.values()))
    possible = sorted(size for size in sizes if 0 < size < runs)
    if len(arms) < 2 or not possible:
        raise ConfigError(
            f"decision accuracy needs two arms with more runs than {min(sizes)} each: there are {len(arms)} arms, and "
            f"one has {runs} runs"
        )
    values = np.array(
        [[[scores[arm][name][seed] for seed in seeds[arm][:runs]] for name in benchmarks] for arm in arms]
    )
    names = list(benchmarks)
    if len(names) > 1:
        values, names = np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1), [*names, MEAN]
    random = np.random.default_rng(random_seed)
    order = random.permuted(np.tile(np.arange(runs), (draws, len(arms), 1)), axis=-1)
    split = np.take_along_axis(values[None], order[:, :, None, :], axis=-1)  # (draws, arms, measures, runs)
    reference = runs - possible[-1]
    pairs = list(combinations(range(len(arms)), 2))
    of_reference, of_all = _signs(split[..., runs - reference :], pairs), _signs(split, pairs)
    rows = []
    for size in possible:
        signs = _signs(split[..., :size], pairs)
        alike, shared = (_alike(signs, other) for other in (of_reference, of_all))  # (pairs, measures)
        rows += [
            Decision(
                measure=name,
                seeds=size,
                reference=reference,
                alike=float(alike[:, at].mean()),
                lowest=float(alike[:, at].min()),
                shared=float(shared[:, at].mean()),
            )
            for at, name in enumerate(names)
        ]
    rows.sort(key=lambda row: names.index(row.measure))
    return Decisions(arms=arms, runs=runs, pairs=len(pairs), draws=draws, rows=tuple(rows))


def as_markdown(found: Decisions) -> str:
    """Format one line per measure and number of seeds, and what the figures mean."""
    reference = found.rows[0].reference
    others = f"{reference} other{'s' if reference > 1 else ''}"
    heads = ("measure", "seeds per arm", f"ordered alike by {others}", "least of a pair",
             f"ordered alike by all {found.runs}")  # fmt: skip
    rows = [
        (title(row.measure), str(row.seeds), f"{row.alike:.1%}", f"{row.lowest:.1%}", f"{row.shared:.1%}")
        for row in found.rows
    ]
    table = [f"| {' | '.join(cells)} |" for cells in (heads, ("---",) * len(heads), *rows)]
    note = (
        f"{found.pairs} pairs of {len(found.arms)} arms with {found.runs} runs each, over {found.draws} splits; 50% is "
        "chance. The last column shares runs with the subset and is too high."
    )
    return "\n".join([*table, "", note, ""])


def as_json(found: Decisions) -> str:
    """Format all values."""
    return json.dumps(asdict(found), indent=1) + "\n"


def as_csv(found: Decisions) -> str:
    """Format one line per measure and number of seeds."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(asdict(found.rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, found.rows))
    return text.getvalue()


FORMATS = {"md": as_markdown, "json": as_json, "csv": as_csv}
"""By the ending of the file."""


def _signs(values: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Signs of the differences of means, (draws, pairs, measures)."""
    means = values.mean(axis=-1)
    one, other = np.array(pairs).T
    # Equal scores in another order of summation may differ in the last digits.
    differences = np.round(means[:, one] - means[:, other], 9)
    return np.asarray(np.sign(differences), dtype=np.float64)


def _alike(one: Floats, other: Floats) -> Floats:
    """Share of splits with equal signs, (pairs, measures); an order of equal means is a coin toss."""
    return np.asarray(((1 + one * other) / 2).mean(axis=0), dtype=np.float64)
