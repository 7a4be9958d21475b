"""Mark of tests that read the golden vectors; not in ``paths``, which worker processes import without pytest."""

from __future__ import annotations

import pytest

from bettersynth_assets_tests.helpers.paths import EVALUATION_GOLDEN

golden = pytest.mark.skipif(not EVALUATION_GOLDEN.is_dir(), reason="the golden vectors are not on this machine")
