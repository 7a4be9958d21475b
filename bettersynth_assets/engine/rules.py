"""What a check of a set is. In: the manifests on disk. Out: a verdict: a sentence and its numbers.

A rule reads manifests and never recomputes rows. No stage reads a set that fails a blocking rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.store import Manifest


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Input of a rule."""

    manifests: Sequence[Manifest]
    """Manifests of every shard on disk."""
    upstream: Mapping[str, Sequence[Manifest]]
    """Manifests of the sets of rows that this set is built from."""
    settings: Settings
    columns: pa.Schema | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of a rule."""

    passed: bool
    summary: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One check of one set."""

    name: str
    description: str
    judge: Callable[[Evidence], Verdict]
    blocking: bool = True
    fix: str = ""
    """The remedy for a failure; the end of the error message."""
