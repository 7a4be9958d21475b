"""Scores of an arm and comparison of two arms. In: metrics per training seed. Out: mean, sd, the contest's score.

The contest's score is the mean of MMBench/MMBench_base and TextVQA/TextVQA_base, truncated (not rounded) to four
decimals, as inferred from the published tables. Here each figure is the mean over the training seeds of an arm. The
spread is the sample standard deviation over the seeds; differences within it are not significant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_DOWN, Decimal
from statistics import mean, stdev
from typing import Any

from toolkit.questions.answer_files import DECIMALS

KIT = ("textvqa", "mmbench")
"""Benchmarks of the contest's score."""
Rows = Sequence[Mapping[str, Any]]
"""``seed``, ``benchmark``, ``metric``, ``value``, ``n``; a benchmark's first metric is its headline."""


def arm_stats(rows: Rows) -> dict[str, Any]:
    """Compute mean and sd of each metric over the training seeds.

    Returns:
        ``<benchmark>_mean`` and ``<benchmark>_sd`` of the headline metric, and ``metrics``: ``mean``, ``sd`` and ``n``
        of every metric, by benchmark and metric. The sd of a single seed is None.
    """
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        metrics.setdefault(row["benchmark"], {}).setdefault(row["metric"], {"values": [], "n": row["n"]})
        metrics[row["benchmark"]][row["metric"]]["values"].append(row["value"])
    stats: dict[str, Any] = {}
    for benchmark, found in metrics.items():
        for metric, figures in found.items():
            found[metric] = {**_spread(figures["values"]), "n": figures["n"]}
        headline = next(iter(found.values()))
        stats |= {f"{benchmark}_mean": headline["mean"], f"{benchmark}_sd": headline["sd"]}
    return {**stats, "metrics": metrics}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    sd = round(stdev(values), DECIMALS) if len(values) > 1 else None
    return {"mean": round(mean(values), DECIMALS), "sd": sd}


def kit_score(textvqa: float, mmbench: float, *, textvqa_base: float, mmbench_base: float) -> float | None:
    """Compute the contest's score of an arm against the baseline; 1.0 is equal to the baseline.

    Returns:
        The score, truncated to four decimals; None if the baseline scores 0 on a benchmark, so that no ratio exists.
    """
    if textvqa_base == 0 or mmbench_base == 0:
        return None
    # Decimal, because a binary float just below 1.2345 would be truncated to 1.2344.
    ratios = [
        Decimal(repr(value)) / Decimal(repr(base)) for value, base in ((mmbench, mmbench_base), (textvqa, textvqa_base))
    ]
    return float((sum(ratios, Decimal(0)) / 2).quantize(Decimal("0.0001"), rounding=ROUND_DOWN))


def compare(rows: Rows, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Combine the figures of an arm and of the baseline with the score.

    Args:
        rows: rows of the arm.
        baseline: ``arm_stats`` of the baseline.

    Returns:
        ``arm_stats`` of the arm, ``baseline_…``, ``kit_score`` of the means, and ``kit_score_sd`` over the arm's seeds,
        each relative to the baseline's mean. If there is no score, ``no_kit_score`` holds the reason.
    """
    own = arm_stats(rows)
    both = {**own, **{f"baseline_{name}": value for name, value in baseline.items() if name in own}}
    if reason := _no_score(own, baseline):
        return {**both, "kit_score": None, "kit_score_sd": None, "kit_score_per_seed": {}, "no_kit_score": reason}
    base = {f"{name}_base": baseline[f"{name}_mean"] for name in KIT}
    scores = {seed: kit_score(**values, **base) for seed, values in _headlines(rows).items()}
    known = [score for score in scores.values() if score is not None]
    return {
        **both,
        "kit_score": kit_score(**{name: own[f"{name}_mean"] for name in KIT}, **base),
        "kit_score_sd": round(stdev(known), 4) if len(known) > 1 else None,
        "kit_score_per_seed": scores,
    }


def _headlines(rows: Rows) -> dict[str, dict[str, float]]:
    """Return the headline metrics of the contest's benchmarks, by seed and benchmark."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["benchmark"] in KIT:
            found.setdefault(str(row["seed"]), {}).setdefault(row["benchmark"], row["value"])
    return found


def _no_score(own: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """Return why there is no score, or an empty text."""
    if missing := [name for name in KIT if f"{name}_mean" not in own or f"{name}_mean" not in baseline]:
        return f"it needs {' and '.join(KIT)}, and {' and '.join(missing)} {_are(missing)} not evaluated"
    if nothing := [name for name in KIT if baseline[f"{name}_mean"] == 0]:
        return f"the baseline has nothing right in {' and '.join(nothing)}, so there is no ratio to it"
    return ""


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"
