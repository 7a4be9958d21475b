"""Folders of the checkout, and the real data next to it, which is not part of the project."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
EVALUATION_GOLDEN = SHARED / "eval-golden"
golden = pytest.mark.skipif(not EVALUATION_GOLDEN.is_dir(), reason="the golden vectors are not on this machine")
