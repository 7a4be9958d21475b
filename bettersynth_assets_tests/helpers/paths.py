"""Folders of the checkout, and the real data next to it, which is not part of the project."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
EVALUATION_GOLDEN = SHARED / "eval-golden"
