"""Rate of false verdicts of the whole procedure, by simulation from measured noise.

``python -m bettersynth_assets.experiments.simulate scores.json --baseline baseline`` reads
``{arm: {benchmark: {training seed: value}}}`` and prints the rates as JSON. Each simulated experiment has as many arms
and benchmarks as the file; all arms have the same mean, so every ``better`` or ``worse``, at any look, is false.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.difference import Difference, Floats
from bettersynth_assets.experiments.seeds import welch
from bettersynth_assets.experiments.sequential import SPENDING, Looks
from bettersynth_assets.experiments.verdict import Word, across_looks, decide

Noise = Literal["normal", "arms", "residuals"]
"""``normal``: one normal distribution for all arms, with the pooled covariance of the benchmarks. ``arms``: a normal
distribution for each arm. ``residuals``: the measured deviations from the arms' means, drawn with replacement."""
BLOCK = 2000
"""Experiments that are simulated at a time; bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of simulated experiments with one or more false verdicts.

    Args:
        noise: how runs were drawn.
        draws: number of simulated experiments.
        false_verdicts: ``better`` or ``worse`` without a difference or with the wrong sign, by the declared procedure.
        standard_error: of ``false_verdicts``, √(r (1 - r) / draws).
        false_equivalences: ``equivalent`` although the difference is the margin or more.
        without_holm: as ``false_verdicts``, accounting for the looks but not for the number of comparisons.
        uncorrected: an uncorrected Welch test of each comparison at each look.
    """

    noise: str
    draws: int
    false_verdicts: float
    standard_error: float
    false_equivalences: float
    without_holm: float
    uncorrected: float


def simulate(
    residuals: Mapping[str, Floats],
    declaration: Declaration,
    *,
    noise: Noise,
    draws: int = 10_000,
    random_seed: int = 0,
    shift: Mapping[str, float] | None = None,
) -> Rates:
    """Simulate experiments and count those with a false verdict.

    Args:
        residuals: measured deviations from the mean of each arm, (runs, benchmarks) of the declaration.
        declaration: looks, margin, confidence and family; arms are independent, so it must not be ``paired``.
        noise: how runs are drawn.
        draws: number of experiments.
        random_seed: same seed, same rates.
        shift: points by which the mean of an arm, by name, is above that of the others in all benchmarks.

    Raises:
        ConfigError: a paired declaration.
    """
    if declaration.paired:
        raise ConfigError("a paired experiment is not simulated: leave `paired` out")
    random = np.random.default_rng(random_seed)
    arms = list(residuals)
    moved = np.array([(shift or {}).get(arm, 0.0) for arm in arms])
    counts = np.zeros(4)
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        values = _runs(random, residuals, noise, size, declaration.looks.counts[-1]) + moved[:, None, None]
        counts += [found.any(axis=1).sum() for found in _false(values, arms, moved, declaration)]
    rate, equivalences, without_holm, uncorrected = (float(count) / draws for count in counts)
    return Rates(
        noise=noise,
        draws=draws,
        false_verdicts=rate,
        standard_error=float(np.sqrt(rate * (1 - rate) / draws)),
        false_equivalences=equivalences,
        without_holm=without_holm,
        uncorrected=uncorrected,
    )


def _false(values: Floats, arms: Sequence[str], moved: Floats, declaration: Declaration) -> Iterator[np.ndarray]:
    """Mark false verdicts, (experiments, comparisons): in the order of the fields of ``Rates``."""
    family = declaration.family(arms)
    one, other = ([arms.index(names[at]) for names in family] for at in (0, 1))
    benchmark = [declaration.benchmarks.index(name) for *_, name in family]
    truth = moved[one] - moved[other]
    a, b = values[:, one, benchmark], values[:, other, benchmark]
    differences: list[Difference] = [welch(a[..., :count], b[..., :count]) for count in declaration.looks.counts]
    evidence = across_looks(differences, declaration.looks, declaration.margin)
    words = decide(evidence, declaration.level)
    yield (words == Word.BETTER) & (truth <= 0) | (words == Word.WORSE) & (truth >= 0)
    yield (words == Word.EQUIVALENT) & (np.abs(truth) >= (declaration.margin or np.inf))
    yield (evidence.p <= declaration.level) & (evidence.sign * truth <= 0)
    alone = [(found.p() <= declaration.level) & (found.estimate * truth <= 0) for found in differences]
    yield np.any(alone, axis=0)


def _runs(random: np.random.Generator, residuals: Mapping[str, Floats], noise: Noise, draws: int, n: int) -> Floats:
    """Draw ``n`` runs of every arm: (draws, arms, benchmarks, n). The benchmarks of a run stay correlated."""
    given = list(residuals.values())
    if noise == "residuals":
        # A residual is smaller than the noise by √((n - 1)/n), because the mean was estimated from the same runs.
        pool = np.concatenate([found * np.sqrt(len(found) / (len(found) - 1)) for found in given])
        drawn = pool[random.integers(len(pool), size=(draws, len(given), n))]
        return np.moveaxis(drawn, -1, -2)
    covariances = [found.T @ found / (len(found) - 1) for found in given]
    if noise == "normal":
        covariances = [np.mean(covariances, axis=0)] * len(given)
    of_arms = [
        random.multivariate_normal(np.zeros(len(covariance)), covariance, size=(draws, n), method="eigh")
        for covariance in covariances
    ]
    return np.moveaxis(np.stack(of_arms, axis=1), -1, -2)


def residuals_of(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], benchmarks: Sequence[str]
) -> dict[str, Floats]:
    """Deviations of runs from the mean of their arm, (runs, benchmarks), by arm.

    Raises:
        ConfigError: an arm with fewer than three runs that have all benchmarks.
    """
    found = {}
    for arm, by_benchmark in scores.items():
        runs = [run for run in by_benchmark[benchmarks[0]] if all(run in by_benchmark[name] for name in benchmarks)]
        if len(runs) < 3:
            raise ConfigError(f"{arm} has {len(runs)} run(s) with all benchmarks: measure noise with 3 or more")
        values = np.array([[by_benchmark[name][run] for name in benchmarks] for run in runs], dtype=np.float64)
        found[arm] = values - values.mean(axis=0)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rate of false verdicts, from measured noise.")
    parser.add_argument("scores", type=Path, help="JSON: {arm: {benchmark: {training seed: value}}}")
    parser.add_argument("--baseline", required=True, help="name of the baseline arm")
    parser.add_argument("--arms", nargs="+", help="other arms; all of the file by default")
    parser.add_argument("--looks", type=int, nargs=3, default=(4, 4, 12), metavar=("START", "STEP", "MAX"))
    parser.add_argument("--spending", choices=SPENDING, default="obrien_fleming")
    parser.add_argument("--margin", type=float, help="points that count as a difference")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--random-seed", type=int, default=0)
    given = parser.parse_args(argv)
    if not given.scores.is_file():
        parser.error(f"no such file: {given.scores}")
    scores = json.loads(given.scores.read_text("utf-8"))
    arms = [given.baseline, *(given.arms or [arm for arm in scores if arm != given.baseline])]
    if unknown := [arm for arm in arms if arm not in scores]:
        parser.error(f"{given.scores} has no arm {', '.join(unknown)}: there are {', '.join(scores)}")
    start, step, maximum = given.looks
    declaration = Declaration(
        baseline=given.baseline,
        benchmarks=tuple(scores[given.baseline]),
        looks=Looks.planned(start, step, maximum, given.spending),
        margin=given.margin,
        confidence=given.confidence,
    )
    residuals = residuals_of({arm: scores[arm] for arm in arms}, declaration.benchmarks)
    for noise in get_args(Noise):
        rates = simulate(residuals, declaration, noise=noise, draws=given.draws, random_seed=given.random_seed)
        print(json.dumps(asdict(rates)))


if __name__ == "__main__":
    main()
