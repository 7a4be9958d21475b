"""Every stage, in a row's order. In: their modules. Out: ``STAGES``; no model library is imported."""

from __future__ import annotations

from bettersynth_assets.stages.engine import Stage

STAGES: tuple[Stage, ...] = ()
