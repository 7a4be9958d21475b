"""Blocking checks of a set, enforced before another stage reads it. In: a pipeline and a set. Out: verdicts.

Checks apply to data, not to the assets that a user selected. ``Pipeline`` evaluates the rules of every set that a stage
reads, whether the set was selected, built as a dependency or found up to date, in this process or another one. The
evidence is every shard of the set that is up to date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.rules import Evidence, Verdict
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.errors import UserError


class GateError(UserError):
    """A set fails a blocking check; nothing is built from it."""


class Sets(Protocol):
    """The part of a pipeline that ``judge`` uses."""

    stages: dict[str, Stage]

    @property
    def settings(self) -> Settings:
        """Settings that the rules read."""

    def up_to_date(self, name: str) -> Sequence[Manifest]:
        """Return the manifests of a set's shards that are up to date, in order."""


def judge(sets: Sets, name: str) -> dict[str, Verdict]:
    """Apply a set's rules to its shards that are up to date.

    Returns:
        The verdicts by rule name.
    """
    stage = sets.stages[name]
    evidence = Evidence(
        manifests=sets.up_to_date(name),
        upstream={
            source: sets.up_to_date(source) for source in stage.inputs if sets.stages[source].columns is not None
        },
        settings=sets.settings,
        columns=stage.columns,
    )
    return {rule.name: rule.judge(evidence) for rule in stage.rules}


def refuse_failed(stage: Stage, verdicts: Mapping[str, Verdict]) -> None:
    """Raise for the first blocking rule that failed.

    Raises:
        GateError: the message names the set, the check, the result and the fix.
    """
    for rule in stage.rules:
        verdict = verdicts[rule.name]
        if rule.blocking and not verdict.passed:
            fix = f": {rule.fix}" if rule.fix else ""
            raise GateError(
                f"{stage.name} fails its blocking check {rule.name}, so nothing is built from it: "
                f"{verdict.summary}{fix}"
            )
