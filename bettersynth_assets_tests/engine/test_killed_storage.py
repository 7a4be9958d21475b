"""A bounded sample of ``killed_storage``, whose whole count is in docs/storage.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from bettersynth_assets.engine.store import Slot
from bettersynth_assets_tests.helpers.killed_storage import Campaign, sample

pytestmark = pytest.mark.slow


def test_no_kill_loses_rows_or_leaves_anything_behind(tmp_path: Path) -> None:
    campaign = sample(tmp_path, 40)
    assert campaign.kills >= 40
    assert campaign.findings == []


def test_a_link_that_is_being_repaired_is_repaired_by_the_next_run(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, ["link: folder"])
    assert all(campaign.trial("link: folder", at) for at in range(11, 17))
    assert campaign.findings == []


def test_a_second_kill_while_the_first_is_repaired_leaves_the_link_on_a_whole_version(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, ["another version"])
    for at in (41, 43):  # between manifest and link of the first set
        assert all(campaign.trial("another version", at, again) for again in range(3, 14))
    assert campaign.findings == []


def test_the_campaign_sees_a_commit_in_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slot, "tidy", lambda self, manifest: [])  # as if links and leftovers were never looked at
    campaign = Campaign(tmp_path, ["another version"])
    assert all(campaign.trial("another version", at) for at in range(36, 52))
    assert len(campaign.findings) > 5
