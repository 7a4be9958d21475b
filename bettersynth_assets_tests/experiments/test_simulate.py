"""False verdicts of the whole procedure on simulated experiments."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.simulate import Noise, main, residuals_of, simulate

DECLARED = Declaration(
    baseline="random", benchmarks=("textvqa", "mmbench"), looks=Looks.planned(4, 4, 12), margin=2.0, confidence=0.95
)


def noise(arms: int = 4, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Draw six runs of two correlated benchmarks per arm, arms of unequal spread, as the miniature has them."""
    random = np.random.default_rng(11)
    names = ["random", *(f"recipe{number}" for number in range(1, arms))]
    found = {}
    for number, name in enumerate(names):
        covariance = np.array([[36.0, 9.0], [9.0, 12.0]]) * (1 + number) / 2
        runs = scale * random.multivariate_normal([0, 0], covariance, size=6)
        found[name] = runs - runs.mean(axis=0)
    return found


@pytest.mark.parametrize("kind", ["normal", "arms", "residuals"])
def test_equal_arms_get_a_false_verdict_in_fewer_than_one_of_twenty_experiments(kind: Noise):
    found = simulate(noise(), DECLARED, noise=kind, draws=4000)
    assert found.false_verdicts < 0.05
    assert found.without_holm > 0.1, "many comparisons need Holm's correction"
    assert found.uncorrected > found.without_holm, "looking three times needs spending"


def test_looks_alone_raise_the_rate_of_one_uncorrected_comparison():
    one = replace(DECLARED, benchmarks=("textvqa",))
    residuals = {name: values[:, :1] for name, values in noise(arms=2).items()}
    found = simulate(residuals, one, noise="normal", draws=8000)
    assert found.false_verdicts == found.without_holm == pytest.approx(0.05, abs=0.01)
    assert found.uncorrected > 0.08


def test_arms_that_differ_by_the_margin_are_seldom_called_equivalent():
    quiet = noise(arms=3, scale=0.15)
    found = simulate(quiet, DECLARED, noise="normal", draws=2000, shift={"recipe1": 2.0})
    assert 0 < found.false_equivalences < 0.05
    narrow = simulate(quiet, replace(DECLARED, margin=4.0), noise="normal", draws=500, shift={"recipe1": 3.9})
    assert narrow.false_equivalences == 0, "a difference under the margin makes the verdict true"


def test_the_same_seed_gives_the_same_rates():
    first, again, other = (simulate(noise(), DECLARED, noise="arms", draws=300, random_seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.uncorrected != other.uncorrected


def test_a_paired_experiment_is_not_simulated():
    with pytest.raises(ConfigError, match="a paired experiment is not simulated"):
        simulate(noise(), replace(DECLARED, paired=True), noise="normal", draws=10)


def test_noise_comes_from_runs_with_all_benchmarks():
    scores = {"a": {"x": {"0": 1.0, "1": 2.0, "2": 3.0, "3": 9.0}, "y": {"0": 5.0, "1": 5.0, "2": 8.0}}}
    assert residuals_of(scores, ("x", "y"))["a"].tolist() == [[-1, -1], [0, -1], [1, 2]]
    with pytest.raises(ConfigError, match=r"a has 2 run\(s\) with all benchmarks"):
        residuals_of({"a": {"x": {"0": 1.0, "1": 2.0}}}, ("x",))


def test_the_command_prints_a_line_for_each_kind_of_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "scores.json"
    arm = {"textvqa": {"0": 50.0, "1": 55.0, "2": 46.0}, "mmbench": {"0": 20.0, "1": 18.0, "2": 25.0}}
    file.write_text(json.dumps({"random": arm, "filtered": arm}))
    main([str(file), "--baseline", "random", "--draws", "50", "--looks", "3", "3", "6"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["noise"] for line in lines] == ["normal", "arms", "residuals"]
    assert {line["draws"] for line in lines} == {50}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json", "--baseline", "random"], "no such file: none.json"),
        (["scores.json", "--baseline", "best"], "scores.json has no arm best: there are random"),
    ],
)
def test_a_wrong_file_or_arm_is_named(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    Path("scores.json").write_text('{"random": {}}')
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
