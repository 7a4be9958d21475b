"""Scores per question: reading them, the variance over questions, and the two-way bootstrap."""

import numpy as np
import pyarrow as pa
import pytest

from bettersynth_assets.experiments.bootstrap import two_way_bootstrap
from bettersynth_assets.experiments.questions import (
    QuestionScores,
    as_circular,
    generalising,
    question_scores,
    question_variance,
)
from bettersynth_assets.experiments.seeds import welch


def scores(values: list[list[float]] | np.ndarray, clusters: list[int] | None = None) -> QuestionScores:
    matrix = np.array(values, dtype=np.float64)
    found = np.arange(matrix.shape[1]) if clusters is None else np.array(clusters)
    return QuestionScores(runs=tuple(range(len(matrix))), values=matrix, clusters=found)


def rows() -> dict[str, list[object]]:
    """Two arms, two runs, three questions of two images."""
    found: dict[str, list[object]] = {name: [] for name in ("arm", "run", "benchmark", "question", "cluster", "score")}
    for arm, run, question in ((a, r, q) for a in ("x", "y") for r in (1, 0) for q in ("q2", "q0", "q1")):
        score = (run + 1) * 0.1 + int(question[1]) * (0.2 if arm == "x" else 0.0)
        values = (arm, run, "textvqa", question, "image7" if question == "q1" else "image3", score)
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    return found


def test_rows_in_any_order_become_a_matrix_of_runs_and_questions():
    for table in (rows(), pa.table(rows())):
        found = question_scores(table, "textvqa")
        assert list(found) == ["x", "y"]
        assert found["x"].values == pytest.approx(np.array([[10, 30, 50], [20, 40, 60]]))
        assert found["x"].runs == (0, 1)
        assert found["x"].clusters.tolist() == [0, 1, 0]
        assert found["x"].means() == pytest.approx([30, 40])
        assert found["y"].of((1,)).values == pytest.approx(np.array([[20, 20, 20]]))


def test_a_missing_or_repeated_question_is_named():
    short = {name: values[1:] for name, values in rows().items()}
    with pytest.raises(ValueError, match="textvqa: question q2 is missing in run 1 of x; evaluate the run again"):
        question_scores(short, "textvqa")
    twice = {name: [*values, values[0]] for name, values in rows().items()}
    with pytest.raises(ValueError, match="question q2 occurs more than once in run 1 of x"):
        question_scores(twice, "textvqa")
    with pytest.raises(ValueError, match="no rows of mmbench"):
        question_scores(rows(), "mmbench")


def test_a_question_in_two_clusters_is_refused():
    table = rows()
    table["cluster"][-1] = "image3"
    with pytest.raises(ValueError, match="question q1 is in two clusters"):
        question_scores(table, "textvqa")


def test_runs_without_question_scores_are_named():
    with pytest.raises(ValueError, match=r"no question scores of the runs \[5\]"):
        scores([[1.0, 2.0]]).of((5,))


def test_a_circular_question_is_right_only_in_all_its_rotations():
    found = as_circular(scores([[100, 100, 100, 0, 100], [100, 0, 0, 0, 0]], clusters=[0, 0, 1, 1, 2]))
    assert found.values.tolist() == [[100, 0, 100], [0, 0, 0]]
    assert found.clusters.tolist() == [0, 1, 2]


def test_the_variance_over_questions_by_hand():
    nothing = scores([[0, 0, 0], [0, 0, 0]])
    # Both runs order the questions alike: the differences by cluster are 2, 3, 4, with variance 1.
    assert question_variance(scores([[1, 2, 3], [3, 4, 5]]), nothing) == (pytest.approx(1 / 3), 3)
    # Deviations (-1, 0, 1) and (0, 1, -1): Var_c = 0.25, ρ = 1.5, and 0.25 - 1.5/2 < 0.
    assert question_variance(scores([[1, 2, 3], [3, 4, 2]]), nothing) == (0.0, 3)


def test_without_noise_of_runs_it_is_the_clustered_variance_of_the_paired_differences():
    random = np.random.default_rng(2)
    clusters = np.repeat([0, 1, 2, 3], [1, 4, 2, 3])
    a, b = random.uniform(0, 100, 10), random.uniform(0, 100, 10)
    off = (a - b) - (a - b).mean()
    sums = [off[clusters == cluster].sum() for cluster in range(4)]
    expected = sum(value**2 for value in sums) / 10**2 * 4 / 3
    found, count = question_variance(scores([a, a], clusters), scores([b, b], clusters))
    assert (found, count) == (pytest.approx(expected), 4)


def drawn(random: np.random.Generator, runs: int, questions: np.ndarray) -> QuestionScores:
    """Draw runs with noise of the whole run (sd 5) and of the single answer (sd 20)."""
    noise = random.normal(0, 5, (runs, 1)) + random.normal(0, 20, (runs, len(questions)))
    return scores(questions + noise)


def test_on_average_it_is_the_variance_that_other_questions_cause():
    random = np.random.default_rng(3)
    found = []
    for _ in range(400):
        a, b = random.normal(0, 12, 50), random.normal(0, 9, 50)
        found.append(question_variance(drawn(random, 3, a), drawn(random, 5, b))[0])
    assert np.mean(found) == pytest.approx((12**2 + 9**2) / 50, rel=0.06)


def test_the_generalising_interval_is_wider_than_that_over_seeds():
    seeds = welch(np.array([50.0, 52.0, 54.0]), np.array([40.0, 41.0, 42.0]))
    both = generalising(seeds, 3.0, 400)
    assert both.estimate == seeds.estimate
    assert both.se**2 == pytest.approx(seeds.se**2 + 3.0)
    assert both.df > seeds.df
    assert generalising(seeds, 0.0, 400).interval(0.05) == pytest.approx(seeds.interval(0.05))


def test_other_questions_in_the_two_arms_are_refused():
    with pytest.raises(ValueError, match="the arms have answered different questions"):
        question_variance(scores([[1, 2], [3, 4]]), scores([[1, 2, 3], [3, 4, 5]]))
    with pytest.raises(ValueError, match="2 of each are needed"):
        question_variance(scores([[1, 2]]), scores([[1, 2]]))


def test_the_bootstrap_is_refused_under_six_runs():
    few, enough = scores(np.ones((5, 3))), scores(np.ones((6, 3)))
    with pytest.raises(
        ValueError, match=r"5 run\(s\) in an arm: a bootstrap over fewer than 6 is too narrow; use welch"
    ):
        two_way_bootstrap(enough, few, random_seed=0)


def test_the_bootstrap_agrees_with_the_generalising_interval():
    random = np.random.default_rng(7)
    a, b = drawn(random, 8, random.normal(55, 12, 200)), drawn(random, 8, random.normal(50, 12, 200))
    found = two_way_bootstrap(a, b, random_seed=1, draws=2500)
    low, high = generalising(welch(a.means(), b.means()), *question_variance(a, b)).interval(0.05)
    assert (found.high - found.low) / (high - low) == pytest.approx(1.0, abs=0.25)
    assert found.low < a.means().mean() - b.means().mean() < found.high
    assert found == two_way_bootstrap(a, b, random_seed=1, draws=2500)


def test_the_bootstraps_p_value_is_never_zero():
    a, b = scores(np.full((6, 3), 90.0)), scores(np.full((6, 3), 10.0))
    assert two_way_bootstrap(a, b, random_seed=0, draws=999).p == pytest.approx(2 / 1000)
