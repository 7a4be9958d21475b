"""A small sample of ``killed_storage``; docs/storage.md has the complete count."""

from __future__ import annotations

from pathlib import Path

import pytest

from bettersynth_assets.engine.store import Slot
from bettersynth_assets_tests.helpers.killed_storage import Campaign, sample

pytestmark = pytest.mark.slow


def test_no_kill_loses_rows_or_leaves_stray_files(tmp_path: Path) -> None:
    campaign = sample(tmp_path, 40)
    assert campaign.kills >= 40
    assert campaign.findings == []


def test_a_kill_during_the_repair_of_a_link_is_repaired_by_the_next_run(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, ["link: folder"])
    assert all(campaign.trial("link: folder", at) for at in range(11, 17))
    assert campaign.findings == []


def test_a_second_kill_during_the_repair_leaves_the_link_on_a_complete_version(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, ["another version"])
    for at in (41, 43):  # between manifest and link of the first set
        assert all(campaign.trial("another version", at, again) for again in range(3, 14))
    assert campaign.findings == []


def test_the_campaign_detects_a_commit_that_is_not_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slot, "tidy", lambda self, manifest: [])  # links and leftovers are never checked
    campaign = Campaign(tmp_path, ["another version"])
    assert all(campaign.trial("another version", at) for at in range(36, 52))
    assert len(campaign.findings) > 5
