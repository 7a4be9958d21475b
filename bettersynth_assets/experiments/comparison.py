"""Comparisons of two arms each in one benchmark, judged as one family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.difference import Difference, Floats
from bettersynth_assets.experiments.family import holm
from bettersynth_assets.experiments.power import seeds_needed, smallest_detectable
from bettersynth_assets.experiments.questions import QuestionScores, generalising, question_variance
from bettersynth_assets.experiments.seeds import paired, welch
from bettersynth_assets.experiments.verdict import NO_EVIDENCE, Evidence, Verdict, Word, across_looks, decide

Scores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Values in the units of the metric, by arm, benchmark and training seed."""
Questions = Mapping[str, Mapping[str, QuestionScores]]
"""Scores per question, by benchmark and arm; ``runs`` are training seeds."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Difference of two arms at the last look reached.

    Args:
        seeds: runs of each arm that it uses.
        value, se, df: the difference, its standard error over seeds, and the degrees of freedom.
        low, high: interval over seeds, questions fixed, at the level that alpha spending gives this look.
        generalising: interval over seeds and questions at the same level; None without scores per question.
        p: p-value of "no difference", all looks taken together, before Holm's correction.
    """

    seeds: int
    value: float
    se: float
    df: float
    low: float
    high: float
    generalising: tuple[float, float] | None
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One declared comparison, ``arm`` minus ``other``.

    Args:
        estimate: None with too few seeds.
        p_adjusted: p-value of "no difference" after Holm's correction; None with too few seeds.
        p_equivalent: that of "differs by the margin or more"; None with too few seeds or without a margin.
    """

    arm: str
    other: str
    benchmark: str
    estimate: Estimate | None = None
    p_adjusted: float | None = None
    p_equivalent: float | None = None
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The runs of a comparison, and the difference at each look that they reach."""

    arm: str
    other: str
    benchmark: str
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    values: tuple[Floats, Floats]
    differences: tuple[Difference, ...]


def pair_of(scores: Scores, arm: str, other: str, benchmark: str, declaration: Declaration) -> Pair:
    """Select the first runs of both arms, in the order of the seeds; common seeds only if the arms are paired."""
    found = scores[arm][benchmark], scores[other][benchmark]
    common = found[0].keys() & found[1].keys()
    orders = [sorted(common if declaration.paired else values) for values in found]
    counts = declaration.looks.reached(min(map(len, orders)))
    seeds = tuple(tuple(order[: counts[-1] if counts else 0]) for order in orders)
    a, b = (np.array([values[seed] for seed in chosen]) for values, chosen in zip(found, seeds, strict=True))
    difference = paired if declaration.paired else welch
    return Pair(
        arm=arm,
        other=other,
        benchmark=benchmark,
        seeds=(seeds[0], seeds[1]),
        values=(a, b),
        differences=tuple(difference(a[:count], b[:count]) for count in counts),
    )


def judge(pairs: Sequence[Pair], declaration: Declaration, questions: Questions) -> tuple[Comparison, ...]:
    """Give every pair of a family its estimate and verdict. Pairs that reach no look count in the family."""
    looks, margin = declaration.looks, declaration.margin
    single = [across_looks(pair.differences, looks, margin) if pair.differences else NO_EVIDENCE for pair in pairs]
    evidence = Evidence(
        sign=np.array([one.sign for one in single]),
        p=np.array([one.p for one in single]),
        p_equivalent=np.array([one.p_equivalent for one in single]),
    )
    words = [Word(word) for word in decide(evidence, declaration.level)]
    adjusted, equivalent = holm(evidence.p), holm(evidence.p_equivalent)
    # Holm tests what is still undecided at this level, so the power of further seeds is computed for it.
    next_level = declaration.level / max(1, sum(word not in (Word.BETTER, Word.WORSE) for word in words))
    found = []
    for at, pair in enumerate(pairs):
        comparison = Comparison(
            arm=pair.arm, other=pair.other, benchmark=pair.benchmark, verdict=Verdict(word=Word.TOO_FEW)
        )
        if not pair.differences:
            found.append(comparison)
            continue
        judged = replace(
            comparison,
            estimate=_estimate(pair, float(evidence.p[at]), declaration, questions.get(pair.benchmark, {})),
            p_adjusted=float(adjusted[at]),
            p_equivalent=None if margin is None else float(equivalent[at]),
            verdict=_verdict(words[at], pair, declaration, next_level),
        )
        found.append(judged)
    return tuple(found)


def _estimate(pair: Pair, p: float, declaration: Declaration, questions: Mapping[str, QuestionScores]) -> Estimate:
    last = pair.differences[-1]
    level = _level(pair, declaration, declaration.level)
    low, high = last.interval(level)
    wider = None
    if pair.arm in questions and pair.other in questions:
        a, b = questions[pair.arm].of(pair.seeds[0]), questions[pair.other].of(pair.seeds[1])
        both = generalising(last, *question_variance(a, b)).interval(level)
        wider = (float(both[0]), float(both[1]))
    return Estimate(
        seeds=len(pair.seeds[0]),
        value=float(last.estimate),
        se=float(last.se),
        df=float(last.df),
        low=float(low),
        high=float(high),
        generalising=wider,
        p=p,
    )


def _level(pair: Pair, declaration: Declaration, level: float) -> float:
    """Nominal level of the last look that a pair reaches."""
    return float(declaration.looks.nominal_levels(level)[len(pair.differences) - 1])


def _verdict(word: Word, pair: Pair, declaration: Declaration, next_level: float) -> Verdict:
    if word is Word.EQUIVALENT:
        return Verdict(word=word, margin=declaration.margin)
    if word is not Word.INDISTINGUISHABLE:
        return Verdict(word=word)
    last = pair.differences[-1]
    level = _level(pair, declaration, next_level)
    return Verdict(
        word=word,
        detectable=float(smallest_detectable(last.se, last.df, level=level)),
        more_seeds=_more_seeds(pair, declaration, next_level),
    )


def _more_seeds(pair: Pair, declaration: Declaration, level: float) -> int | None:
    """Seeds to add per arm to detect the observed difference, or the margin if that is larger; a look at least."""
    a, b = pair.values
    sds = (float((a - b).std(ddof=1)), 0.0) if declaration.paired else (float(a.std(ddof=1)), float(b.std(ddof=1)))
    wanted = max(abs(float(pair.differences[-1].estimate)), declaration.margin or 0.0)
    needed = seeds_needed(wanted, *sds, level=level)
    next_look = min((count for count in declaration.looks.counts if count > len(a)), default=len(a) + 1)
    return None if needed is None else max(needed, next_look) - len(a)
