"""Scores of an arm and comparison of two arms. In: metrics per training seed. Out: mean, sd, the contest's score.

The contest's score is the mean of MMBench/MMBench_base and TextVQA/TextVQA_base (``experiments.kit_score``). Each
figure is the mean over the training seeds of an arm, and the spread is the sample standard deviation over the seeds.
With fewer than three seeds in an arm, nothing is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from bettersynth_assets.experiments.kit_score import BENCHMARKS, kit_score, why_no_score
from toolkit.questions.answer_files import DECIMALS

Rows = Sequence[Mapping[str, Any]]
"""``seed``, ``benchmark``, ``metric``, ``value``, ``n``; a benchmark's first metric is its headline."""


def arm_stats(rows: Rows) -> dict[str, Any]:
    """Compute mean and sd of each metric over the training seeds.

    Returns:
        ``<benchmark>_mean``, ``<benchmark>_sd`` and ``<benchmark>_values`` (one per seed) of the headline metric, and
        ``metrics``: ``mean``, ``sd`` and ``n`` of every metric, by benchmark and metric. The sd of a single seed is
        None.
    """
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        metrics.setdefault(row["benchmark"], {}).setdefault(row["metric"], {"values": [], "n": row["n"]})
        metrics[row["benchmark"]][row["metric"]]["values"].append(row["value"])
    stats: dict[str, Any] = {}
    values = {benchmark: next(iter(by_metric.values()))["values"] for benchmark, by_metric in metrics.items()}
    for benchmark, by_metric in metrics.items():
        for metric, figures in by_metric.items():
            by_metric[metric] = {**_spread(figures["values"]), "n": figures["n"]}
        headline = next(iter(by_metric.values()))
        stats |= {f"{benchmark}_mean": headline["mean"], f"{benchmark}_sd": headline["sd"]}
        stats[f"{benchmark}_values"] = values[benchmark]
    return {**stats, "metrics": metrics}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    sd = round(stdev(values), DECIMALS) if len(values) > 1 else None
    return {"mean": round(mean(values), DECIMALS), "sd": sd}


def compare(rows: Rows, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Combine the figures of an arm and of the baseline with the score.

    Args:
        rows: rows of the arm.
        baseline: ``arm_stats`` of the baseline.

    Returns:
        ``arm_stats`` of the arm, ``baseline_…``, ``kit_score`` of the means, and its standard error ``kit_score_se``,
        with the noise of both arms. If there is no score, both are None and ``no_kit_score`` holds the reason.
    """
    own = arm_stats(rows)
    both = {**own, **{f"baseline_{name}": value for name, value in baseline.items() if name in own}}
    arms = [{name: np.array(arm[f"{name}_values"]) for name in BENCHMARKS if f"{name}_values" in arm}
            for arm in (own, baseline)]  # fmt: skip
    if reason := why_no_score(*arms):
        return {**both, "kit_score": None, "kit_score_se": None, "no_kit_score": reason}
    score = kit_score(*arms)
    return {**both, "kit_score": round(score.value, DECIMALS), "kit_score_se": round(score.se, DECIMALS)}
