"""What an experiment declares before its first run; the statistics follow it and choose nothing afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, Self

from bettersynth_assets.config.experiment import BASELINE, Experiment
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.sequential import Looks
from toolkit.evaluation.settings import Split


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """The comparisons of an experiment and the rules of their verdicts.

    Args:
        baseline: name of the arm that each other arm is compared with.
        benchmarks: those that decide.
        looks: numbers of seeds at which verdicts are given.
        margin: differences below it do not matter, in the units of the metric; without one, no arms are equivalent.
        confidence: 1 - chance of a false verdict in the whole family.
        paired: compare runs of equal training seeds (``seeds.paired``).
        pairs: ``all`` compares each two arms, ``baseline`` each arm with the baseline only: a smaller family.
        chance: chance levels of the headline metrics, by benchmark, as far as they are known.
        split: of the benchmarks' questions. Scores of ``tune`` are for choosing settings only.

    Raises:
        ConfigError: values that cannot be used.
    """

    baseline: str
    benchmarks: tuple[str, ...]
    looks: Looks
    margin: float | None = None
    confidence: float = 0.95
    paired: bool = False
    pairs: Literal["all", "baseline"] = "all"
    chance: Mapping[str, float] = field(default_factory=dict)
    split: Split = "report"

    def __post_init__(self) -> None:
        if not self.benchmarks or len(set(self.benchmarks)) != len(self.benchmarks):
            raise ConfigError(f"benchmarks {list(self.benchmarks)}: name at least one, each once")
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(
                f"confidence {self.confidence}: use a share from 0.5 up to, but not including, 1, e.g. 0.95"
            )
        if self.margin is not None and not self.margin > 0:
            raise ConfigError(f"margin {self.margin}: use a positive number of points, or leave it out")

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Return what the file of an experiment declares."""
        decide = experiment.decide
        return cls(
            baseline=BASELINE,
            benchmarks=tuple(decide.benchmarks),
            looks=Looks(experiment.seeds.counts(), decide.spending),
            margin=decide.margin,
            confidence=decide.confidence,
            paired=decide.paired,
            pairs=decide.pairs,
        )

    @property
    def level(self) -> float:
        return 1 - self.confidence

    def family(self, arms: Sequence[str]) -> list[tuple[str, str, str]]:
        """List the comparisons (arm, other arm, benchmark): with the baseline first, then the pairs of other arms.

        Raises:
            ConfigError: the baseline is not among the arms, or it is the only one.
        """
        if self.baseline not in arms:
            raise ConfigError(f"the baseline {self.baseline} has no runs: train it, or name another of {list(arms)}")
        others = [arm for arm in arms if arm != self.baseline]
        if not others:
            raise ConfigError(f"{self.baseline} is the only arm: an experiment compares at least one other with it")
        pairs = [(arm, self.baseline) for arm in others]
        if self.pairs == "all":
            pairs += combinations(others, 2)
        return [(one, other, benchmark) for one, other in pairs for benchmark in self.benchmarks]
