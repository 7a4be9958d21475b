"""What an arm scored, and how two arms compare. In: accuracies per training seed. Out: mean, sd, the contest's score.

The contest's score is the mean of MMBench/MMBench_base and TextVQA/TextVQA_base, cut (not rounded) to four decimals;
it is inferred from the published tables. Here each figure is the mean over the training seeds of an arm. The spread is
the sample standard deviation over the seeds: differences within it say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_DOWN, Decimal
from statistics import mean, stdev
from typing import Any

from toolkit.evaluate.answer_files import DECIMALS

BENCHMARKS = ("textvqa", "mmbench")


def arm_stats(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean and sd of each benchmark.

    Args:
        rows: one per training seed, with ``textvqa`` and ``mmbench`` in percent.

    Returns:
        ``<benchmark>_mean`` and ``<benchmark>_sd``; the sd of a single seed is None.
    """
    stats: dict[str, float | None] = {}
    for name in BENCHMARKS:
        values = [row[name] for row in rows]
        stats[f"{name}_mean"] = round(mean(values), DECIMALS)
        stats[f"{name}_sd"] = round(stdev(values), DECIMALS) if len(values) > 1 else None
    return stats


def kit_score(textvqa: float, mmbench: float, *, textvqa_base: float, mmbench_base: float) -> float | None:
    """The contest's score of one arm against the baseline; 1.0 is as good as the baseline.

    Returns:
        Cut to four decimals; None where the baseline has nothing right in a benchmark, so that no ratio exists.
    """
    if textvqa_base == 0 or mmbench_base == 0:
        return None
    # Decimals, because a binary float just under 1.2345 would be cut to 1.2344.
    ratios = [
        Decimal(repr(value)) / Decimal(repr(base)) for value, base in ((mmbench, mmbench_base), (textvqa, textvqa_base))
    ]
    return float((sum(ratios, Decimal(0)) / 2).quantize(Decimal("0.0001"), rounding=ROUND_DOWN))


def compare(rows: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's own figures, the baseline's beside them, and the score.

    Args:
        rows: one per training seed of the arm.
        baseline: the baseline's ``arm_stats``.

    Returns:
        ``arm_stats`` of the arm, ``baseline_…``, ``kit_score`` of the means, and ``kit_score_sd`` over the arm's seeds,
        each taken against the baseline's mean.
    """
    own = arm_stats(rows)
    base = {f"{name}_base": baseline[f"{name}_mean"] for name in BENCHMARKS}
    scores = [kit_score(row["textvqa"], row["mmbench"], **base) for row in rows]
    known = [score for score in scores if score is not None]
    return {
        **own,
        **{f"baseline_{name}": value for name, value in baseline.items() if name in own},
        "kit_score": kit_score(own["textvqa_mean"] or 0.0, own["mmbench_mean"] or 0.0, **base),
        "kit_score_sd": round(stdev(known), 4) if len(known) > 1 else None,
        "kit_score_per_seed": {str(row["seed"]): score for row, score in zip(rows, scores, strict=True)},
    }
