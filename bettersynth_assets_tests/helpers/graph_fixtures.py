"""Fixtures of a small graph with a small profile and a temporary data root; conftest.py imports them for all tests.

Imports stand in the fixtures: xdist's own process, which runs no test, imports conftest.py before it starts the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import dagster as dg

    Materialize = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from bettersynth_assets_tests.helpers.fake_graph import write_profile

    (tmp_path / "seed.jsonl").touch()
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(write_profile(tmp_path / "tiny.yaml")))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path))
    for name in ("BETTERSYNTH_RECIPE", "BETTERSYNTH_RECIPES", "BETTERSYNTH_EXPERIMENTS", "BETTERSYNTH_SEED"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory; test_literal_command.py covers one on disk."""
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def materialize(data_root: Path, instance: dg.DagsterInstance) -> Materialize:
    """Function that runs assets of the small graph over a range of shards in this process, e.g. `clip_top_k/copies`."""
    import dagster as dg

    from bettersynth_assets.config.recipes import load_recipes
    from bettersynth_assets.config.settings import load_active_profile
    from bettersynth_assets.definitions import build_definitions
    from bettersynth_assets.defs.partitions import all_shards
    from bettersynth_assets_tests.helpers.fake_graph import CARDS, STAGES

    def run(
        *names: str,
        shards: tuple[str, str] | None = None,
        extra_tags: dict[str, str] | None = None,
        **more: object,
    ) -> dg.ExecuteInProcessResult:
        profile = load_active_profile()
        defs = build_definitions(STAGES, profile, load_recipes(profile), CARDS)
        tags = all_shards(profile)
        if shards is not None:
            tags = dict(zip(tags, shards, strict=True))
        job = defs.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=instance,
            tags=tags | (extra_tags or {}),
            asset_selection=[dg.AssetKey.from_user_string(name) for name in names or ("rows", "copies", "total")],
            raise_on_error=False,
            **more,
        )

    return run
