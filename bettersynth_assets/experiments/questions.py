"""Scores per question, and the noise that the choice of questions adds to a difference.

In: one row per training run and question. Out: matrices of runs × questions, and q², the variance of a difference of
two arms over other questions of the same kind.

========== ======= ==================================================================================
arm        string  name of the arm
run        any     training seed, or whatever tells the runs of an arm apart
benchmark  string
question   any     unique in its benchmark
cluster    any     questions that share content: TextVQA's image, MMBench's index modulo 1,000,000
score      float   [0, 1]; its mean over the questions is the metric (MMBench: see ``as_circular``)
log_prob…  float   ``log_probability`` of the right answer
========== ======= ==================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.experiments.difference import Difference, Floats, sum_of_variances


class Columns(Protocol):
    """Columns by name: a dictionary of lists or arrays, or an Arrow table."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class QuestionScores:
    """Scores of one arm in one benchmark.

    Args:
        runs: names of the runs, ascending.
        values: float64, (runs, questions), in the units of the metric.
        clusters: (questions,), the cluster of each as a number from 0; all arms have the same.
    """

    runs: tuple[Any, ...]
    values: Floats
    clusters: NDArray[np.intp]

    def means(self) -> Floats:
        """The metric of each run, (runs,)."""
        return np.asarray(self.values.mean(axis=1))

    def of(self, runs: tuple[Any, ...]) -> QuestionScores:
        """Only these runs.

        Raises:
            ValueError: a run without rows.
        """
        if missing := [run for run in runs if run not in self.runs]:
            raise ValueError(f"no question scores of the runs {missing}: there are {list(self.runs)}")
        at = [self.runs.index(run) for run in runs]
        return QuestionScores(runs=runs, values=self.values[at], clusters=self.clusters)


def question_scores(
    rows: Columns, benchmark: str, *, column: str = "score", scale: float = 100.0
) -> dict[str, QuestionScores]:
    """Arrange the rows of one benchmark as a matrix per arm; all arms must have answered the same questions.

    Args:
        rows: the columns of the module's table.
        benchmark: name of the benchmark.
        column: ``score`` or ``log_probability``.
        scale: factor to the units of the metric; 100 makes percent of shares, use 1 for log-probabilities.

    Raises:
        ValueError: no rows; a run that lacks a question or has one twice; a question in two clusters.
    """
    chosen = np.asarray(rows["benchmark"]) == benchmark
    arms, runs, asked, groups, values = (
        np.asarray(rows[name])[chosen] for name in ("arm", "run", "question", "cluster", column)
    )
    if not len(arms):
        raise ValueError(f"no rows of {benchmark}: evaluate it, or take it out of the experiment's benchmarks")
    questions, first, question = np.unique(asked, return_index=True, return_inverse=True)
    _, cluster_of_row = np.unique(groups, return_inverse=True)
    clusters = np.unique(cluster_of_row[first], return_inverse=True)[1]
    if (split := cluster_of_row != cluster_of_row[first][question]).any():
        raise ValueError(
            f"{benchmark}: question {asked[split][0]} is in two clusters; the rows are of different versions"
        )
    found = {}
    for arm in np.unique(arms):
        mine = arms == arm
        names, run = np.unique(runs[mine], return_inverse=True)
        counts = np.zeros((len(names), len(questions)), dtype=np.intp)
        np.add.at(counts, (run, question[mine]), 1)
        if (counts != 1).any():
            row, column_at = np.argwhere(counts != 1)[0]
            what = "is missing" if counts[row, column_at] == 0 else "occurs more than once"
            where = f"{benchmark}: question {questions[column_at]} {what} in run {names[row]} of {arm}"
            raise ValueError(f"{where}; evaluate the run again")
        matrix = np.empty(counts.shape)
        matrix[run, question[mine]] = scale * values[mine].astype(np.float64)
        found[str(arm)] = QuestionScores(runs=tuple(names.tolist()), values=matrix, clusters=clusters)
    return found


def as_circular(scores: QuestionScores) -> QuestionScores:
    """Make one question of each cluster, right only if all its rotations are: MMBench's CircularEval."""
    count = scores.clusters.max() + 1
    worst = np.stack([scores.values[:, scores.clusters == c].min(axis=1) for c in range(count)], axis=1)
    return QuestionScores(runs=scores.runs, values=worst, clusters=np.arange(count))


def question_variance(a: QuestionScores, b: QuestionScores) -> tuple[float, int]:
    """Estimate the variance of a difference of means over the choice of questions, by clusters.

    q² = max(0, [Var_c(d_c) - ρ_a/n_a - ρ_b/n_b] / C). d_c is the difference of the arms in cluster c, averaged over
    seeds, and Var_c its variance over the C clusters. ρ is the variance of one run's score in a cluster around the
    arm's, beyond what shifts the whole run. It is part of Var_c, but seeds cause it, and the variance over seeds
    includes it already. A cluster of unequal size counts as C/N times its sum of deviations from the mean over all N
    questions, as in a clustered standard error.

    Sources: Miller (2024), "Adding Error Bars to Evals", arXiv:2411.00640 (questions as a sample, clusters, paired
    differences). The subtraction is the analysis of variance of a table of runs × clusters.

    Returns:
        q², and the number of clusters C.

    Raises:
        ValueError: other questions in the two arms, one cluster only, or a single run.
    """
    if not np.array_equal(a.clusters, b.clusters):
        raise ValueError("the arms have answered different questions: evaluate both with the same files")
    count = int(a.clusters.max()) + 1
    if count < 2 or min(len(a.values), len(b.values)) < 2:
        raise ValueError(f"{count} cluster(s), {len(a.values)} and {len(b.values)} runs: 2 of each are needed")
    of_a, of_b = _deviations(a, count), _deviations(b, count)
    between = np.var(of_a.mean(axis=0) - of_b.mean(axis=0), ddof=1)
    seeds = sum(_interaction(found) / len(found) for found in (of_a, of_b))
    return max(0.0, float(between - seeds) / count), count


def _deviations(scores: QuestionScores, count: int) -> Floats:
    """Deviations of the clusters from each run's mean, (runs, clusters), scaled so that their mean has its variance."""
    sums = cluster_sums(scores)
    sizes = np.bincount(scores.clusters, minlength=count)
    return np.asarray((sums - scores.means()[:, None] * sizes) * count / sizes.sum())


def cluster_sums(scores: QuestionScores) -> Floats:
    """Sum of each run's values in each cluster, (runs, clusters)."""
    return np.stack([np.bincount(scores.clusters, weights=row) for row in scores.values])


def _interaction(deviations: Floats) -> float:
    """ρ: mean square of what neither the cluster nor the run explains."""
    runs, clusters = deviations.shape
    residuals = deviations - deviations.mean(axis=0)
    return float((residuals**2).sum() / ((runs - 1) * (clusters - 1)))


def generalising(over_seeds: Difference, q2: float, clusters: int) -> Difference:
    """Add the variance over questions to a difference over seeds: other seeds *and* other questions.

    se² = se_seeds² + q², degrees of freedom by Satterthwaite with clusters - 1 for q².
    """
    variance, df = sum_of_variances([over_seeds.se**2, np.asarray(q2)], [over_seeds.df, clusters - 1])
    return Difference(estimate=over_seeds.estimate, se=np.sqrt(variance), df=df)
