"""What a pipeline builds, what it skips, and what a failure leaves on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Stage, Work
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.records.schema import QUARANTINE, REJECTS, rows_table
from bettersynth_assets_tests.helpers.seeds import settings_for

SHARDS = 3


class World:
    """Three toy stages over numbers: ``source`` per shard, ``doubled`` per shard, ``total`` over all."""

    def __init__(self, root: Path) -> None:
        self.settings = settings_for(root / "none.jsonl", root / "data", shards=SHARDS)
        self.values = {"shard-00000": [1, 2, 3], "shard-00001": [4, 5], "shard-00002": [6]}
        self.version = 1
        self.runs: list[str] = []
        self.fail = ""

    def stages(self) -> list[Stage]:
        def source(work: Work) -> Result:
            return self._result("source", work, self.values[work.shard])

        def doubled(work: Work) -> Result:
            values = work.rows("source")["value"].to_pylist()
            rejects = [{"id": str(value), "stage": "doubled", "operator": "odd"} for value in values if value % 2]
            quarantine = [{"id": str(value), "stage": "doubled", "reason": "six"} for value in values if value == 6]
            result = self._result("doubled", work, [2 * value for value in values if value in (2, 4)])
            return Result(
                rows_in=len(values),
                kept=result.kept,
                rejects=rows_table(rejects, REJECTS),  # type: ignore[arg-type]
                quarantine=rows_table(quarantine, QUARANTINE),  # type: ignore[arg-type]
            )

        def total(work: Work) -> Result:
            (work.folder / "sum.txt").write_text(str(sum(work.rows("doubled")["value"].to_pylist())))
            return Result(rows_in=1, kept=pa.table({"value": [0]}), files=("sum.txt",))

        def seen(run: ResolvedRun, shard: str, inputs: object) -> object:
            return self.values[shard]

        return [
            Stage(name="source", version=1, run=source, depends=seen, sharded=True, scope="seed"),
            Stage(
                name="doubled", version=self.version, run=doubled, depends=_nothing, sharded=True, inputs=("source",)
            ),
            Stage(name="total", version=1, run=total, depends=_nothing, sharded=False, inputs=("doubled",)),
        ]

    def pipeline(self) -> Pipeline:
        self.runs = []
        return Pipeline(self.stages(), ResolvedRun(self.settings))

    def _result(self, name: str, work: Work, values: list[int]) -> Result:
        self.runs.append(f"{name} {work.shard[-1]}")
        if self.fail == f"{name} {work.shard[-1]}":
            (work.folder / "half").write_text("x")
            raise ValueError("on purpose")
        return Result(rows_in=len(values), kept=pa.table({"value": pa.array(values, pa.int64())}))


def _nothing(run: ResolvedRun, shard: str, inputs: object) -> object:
    return None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def made(world: World) -> list[str]:
    pipeline = world.pipeline()
    pipeline.ensure("total")
    return [f"{manifest.stage} {manifest.shard[-1]}" for manifest in pipeline.materialized]


def test_all_missing_sets_are_built_once_with_inputs_first(world: World) -> None:
    order = ["source 0", "source 1", "source 2", "doubled 0", "doubled 1", "doubled 2", "total l"]
    assert made(world) == order
    assert (world.pipeline().ensure("total").path / "sum.txt").read_text() == "12"


def test_an_up_to_date_set_is_not_built_again(world: World) -> None:
    made(world)
    assert made(world) == []
    assert world.runs == []


def test_one_shard_can_be_built_alone(world: World) -> None:
    pipeline = world.pipeline()
    pipeline.ensure("doubled", "shard-00001")
    assert world.runs == ["source 1", "doubled 1"]
    assert [manifest.shard for manifest in pipeline.current("doubled")] == ["shard-00001"]


def test_only_a_changed_shard_and_its_dependents_are_rebuilt(world: World) -> None:
    made(world)
    world.values["shard-00001"] = [4, 4]
    assert made(world) == ["source 1", "doubled 1", "total l"]


def test_nothing_downstream_is_rebuilt_if_the_kept_rows_are_the_same(world: World) -> None:
    made(world)
    world.values["shard-00001"] = [4, 7]
    assert made(world) == ["source 1", "doubled 1"]


def test_a_new_stage_version_rebuilds_the_stage_and_not_its_inputs(world: World) -> None:
    made(world)
    world.version = 2
    assert made(world) == ["doubled 0", "doubled 1", "doubled 2"]


def test_an_input_by_value_affects_the_key_only_through_the_value_used(world: World) -> None:
    def longest(run: ResolvedRun, shard: str, inputs: object) -> object:
        return max(manifest.kept for manifest in inputs["source"])  # type: ignore[index]

    def run(work: Work) -> Result:
        return Result(rows_in=0, kept=pa.table({"value": pa.array([], pa.int64())}))

    def ensure() -> int:
        by_value = Stage(
            name="by_value",
            version=1,
            run=run,
            depends=longest,
            sharded=False,
            inputs=("source",),
            by_value=("source",),
        )
        pipeline = Pipeline([*world.stages(), by_value], ResolvedRun(world.settings))
        pipeline.ensure("by_value")
        return sum(manifest.stage == "by_value" for manifest in pipeline.materialized)

    assert ensure() == 1
    world.values["shard-00001"] = [40, 50]
    assert ensure() == 0
    world.values["shard-00001"] = [4, 5, 6, 7]
    assert ensure() == 1


def test_a_failed_overwrite_leaves_the_last_good_version(world: World) -> None:
    made(world)
    world.values["shard-00001"] = [8]
    world.fail = "source 1"
    with pytest.raises(ValueError, match="on purpose"):
        made(world)
    kept = [manifest.table()["value"].to_pylist() for manifest in world.pipeline().current("source")]
    assert kept == [[1, 2, 3], [4, 5], [6]]


def test_only_a_failed_shard_is_redone_and_finished_shards_are_kept(world: World) -> None:
    world.fail = "doubled 1"
    with pytest.raises(ValueError, match="on purpose"):
        made(world)
    world.fail = ""
    assert made(world) == ["doubled 1", "doubled 2", "total l"]


def test_every_row_is_counted_once(world: World) -> None:
    manifests = world.pipeline().ensure_all("doubled")
    assert [manifest.lost for manifest in manifests] == [0, 0, 0]
    assert [(item.rows_in, item.kept, item.rejected, item.quarantined) for item in manifests] == [
        (3, 1, {"odd": 2}, {}),
        (2, 1, {"odd": 1}, {}),
        (1, 0, {}, {"six": 1}),
    ]


def test_another_data_root_gets_the_same_bytes(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    digests = [
        [manifest.digest for name in ("source", "doubled", "total") for manifest in pipeline.ensure_all(name)]
        for pipeline in (world.pipeline(), other.pipeline())
    ]
    assert digests[0] == digests[1]


def test_shared_stages_are_stored_next_to_the_recipes_and_others_inside_them(world: World) -> None:
    pipeline = world.pipeline()
    assert pipeline.ensure("source", "shard-00000").path.is_relative_to(world.settings.shared_root)
    assert pipeline.ensure("doubled", "shard-00000").path.is_relative_to(world.settings.recipe_root)


def test_two_runs_on_one_shard_build_it_once(world: World) -> None:
    first, second = world.pipeline(), Pipeline(world.stages(), ResolvedRun(world.settings))
    run_together(lambda: first.ensure("total"), lambda: second.ensure("total"))
    assert len(first.materialized) + len(second.materialized) == 7
    assert first.ensure("total").digest == second.ensure("total").digest


def run_together(*calls: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_refused_setting_leaves_no_folder(world: World) -> None:
    def refuse(work: Work) -> Result:
        raise ConfigError("no such operator")

    data = world.settings.data_root
    stages = [replace(stage, run=refuse) if stage.name == "source" else stage for stage in world.stages()]
    with pytest.raises(ConfigError, match="no such operator"):
        Pipeline(stages, ResolvedRun(world.settings)).ensure_all("total")
    assert not list(data.iterdir())

    world.pipeline().ensure_all("source")
    before = sorted(data.rglob("*"))
    stages = [replace(stage, run=refuse) if stage.name == "doubled" else stage for stage in world.stages()]
    with pytest.raises(ConfigError, match="no such operator"):
        Pipeline(stages, ResolvedRun(world.settings)).ensure_all("total")
    assert sorted(data.rglob("*")) == before

    world.pipeline().ensure_all("total")
    before = sorted(data.rglob("*"))
    world.version = 2
    stages = [replace(stage, run=refuse) if stage.name == "doubled" else stage for stage in world.stages()]
    with pytest.raises(ConfigError, match="no such operator"):
        Pipeline(stages, ResolvedRun(world.settings)).ensure_all("total")
    assert sorted(data.rglob("*")) == before, "sets built with other settings are kept"


def test_a_lock_file_removed_while_another_run_waits_for_it_is_created_again(world: World) -> None:
    slot = world.pipeline().slot("source", "shard-00000")
    entered = threading.Event()

    def second() -> None:
        with slot.locked():
            entered.set()

    with slot.locked():
        other = threading.Thread(target=second)
        other.start()
        assert not entered.wait(0.2)
        slot.abandon("0" * 64)
        assert not slot.folder.exists()
    other.join(timeout=300)
    assert entered.is_set() and (slot.folder / ".lock").is_file()


def test_no_stage_runs_before_its_preflight_check_has_passed_and_it_runs_once_per_run(world: World) -> None:
    asked, lines = [], []

    def check(run: ResolvedRun) -> list[str]:
        asked.append(list(world.runs))
        if len(asked) == 1:
            raise ConfigError("the recipe cannot be used")
        return ["a plugin has not been reviewed"]

    source, doubled, total = world.stages()
    stages = [source, *(replace(stage, preflight=check) for stage in (doubled, total))]
    run = ResolvedRun(world.settings)
    with pytest.raises(ConfigError, match="cannot be used"):
        Pipeline(stages, run, log=lines.append).ensure("total")
    assert not any(entry.startswith("doubled") for entry in world.runs) and lines == []
    Pipeline(stages, run, log=lines.append).ensure("total")
    assert len(asked) == 2 and lines == ["a plugin has not been reviewed"]
    assert not any(entry.startswith("doubled") for entry in asked[1])
    world.values["shard-00000"] = [8]
    Pipeline(stages, run, log=lines.append).ensure("total")  # such as that of a worker, which has the same run
    assert len(asked) == 2
