"""budgeted_set and baseline_set give the kit's exposures and account for every row."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.config.recipe import BudgetSection
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.rules import Evidence
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.errors import ConfigError, EmptySetError
from bettersynth_assets.stages.rules import budget_met
from bettersynth_assets_tests.helpers.seeds import kit_row, settings_for, write_images, write_lines
from bettersynth_assets_tests.helpers.toy import score_of, toy_pipeline
from toolkit.preprocess.dj_to_llava import QUESTIONS

ROWS = 13


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    write_images(tmp_path, range(ROWS))
    return write_lines(tmp_path, [kit_row(number) for number in range(ROWS)])


def settings(seed: Path, exposures: int, order: str = "shuffle", **profile: Any) -> Settings:
    defaults = settings_for(seed, seed.parent / "data", shards=4, **profile)
    section = BudgetSection(exposures=exposures, order=order)  # type: ignore[arg-type]
    return replace(defaults, recipe=defaults.recipe.model_copy(update={"budget": section}))


def kit_lines(manifest: Manifest) -> list[bytes]:
    return (manifest.path / "processed_data.jsonl").read_bytes().split(b"\n")[:-1]


def as_the_kit_would(lines: list[bytes], budget: int) -> list[bytes]:
    """Section 2 of the task's facts, in the words of ``random`` itself."""
    random.seed(1024)
    if len(lines) >= budget:
        return random.sample(lines, budget)
    filled: list[bytes] = []
    while len(filled) < budget:
        filled += random.sample(lines, min(budget - len(filled), len(lines)))
    return filled


@pytest.mark.parametrize("budget", [1, 5, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 49, 1000])
def test_exposures_equal_the_kits_byte_for_byte_and_meet_the_budget_exactly(budget: int, seed: Path) -> None:
    manifest = toy_pipeline(settings(seed, budget)).ensure("budgeted_set")
    lines = [json.dumps(kit_row(number)).encode() for number in range(ROWS)]
    assert kit_lines(manifest) == as_the_kit_would(lines, budget)
    kept = manifest.table()
    assert sum(kept["exposures"].to_pylist()) == budget
    assert kept["line"].to_pylist() == sorted(kept["line"].to_pylist())
    shown = Counter(json.loads(line)["id"] for line in kit_lines(manifest))
    assert dict(zip(kept["id"].to_pylist(), kept["exposures"].to_pylist(), strict=True)) == shown


def test_rows_that_are_not_sampled_are_rejects_and_none_is_lost(seed: Path) -> None:
    manifest = toy_pipeline(settings(seed, 5)).ensure("budgeted_set")
    assert (manifest.rows_in, manifest.kept, manifest.rejected, manifest.lost) == (ROWS, 5, {"budget": ROWS - 5}, 0)
    assert manifest.stats["exposures_per_row"] == {"0": ROWS - 5, "1": 5}
    reject = manifest.table("rejects").to_pylist()[0]
    assert (reject["reason"], reject["limit"]) == ("not among the 5 drawn of 13 rows", '{"exposures": 5}')


def test_repeats_are_reported(seed: Path) -> None:
    stats = toy_pipeline(settings(seed, 49)).ensure("budgeted_set").stats
    assert stats["repeats"] == pytest.approx(49 / 13)
    assert stats["exposures_per_row"] == {"3": 3, "4": 10}
    assert stats["budget_met"] is True


def test_rows_limits_the_different_rows_and_fewer_are_a_part_of_more(seed: Path) -> None:
    def drawn(rows: int | None, random_seed: int = 1024) -> tuple[Manifest, dict[str, int]]:
        budget = BudgetSection(rows=rows, seed=random_seed, exposures=12)
        found = settings(seed, 12)
        found = replace(found, recipe=found.recipe.model_copy(update={"budget": budget}))
        manifest = toy_pipeline(found).ensure("budgeted_set")
        table = manifest.table()
        return manifest, dict(zip(table["id"].to_pylist(), table["exposures"].to_pylist(), strict=True))

    (three, ids), (_, two), (_, others) = drawn(3), drawn(2), drawn(3, random_seed=1)
    assert two.keys() < ids.keys() and others.keys() != ids.keys()
    assert [*ids.values()] == [4, 4, 4]
    assert three.stats["repeats"] == 4 and three.stats["budget_met"] and not three.lost
    assert drawn(None)[0].digest == drawn(1000)[0].digest  # more rows than there are


def test_order_keep_does_not_change_a_set_below_the_budget_and_reports_that_it_is_not_met(seed: Path) -> None:
    manifest = toy_pipeline(settings(seed, 49, "keep")).ensure("budgeted_set")
    assert [json.loads(line)["id"] for line in kit_lines(manifest)] == [f"{number:03d}" for number in range(ROWS)]
    assert (manifest.stats["budget_met"], manifest.stats["exposures"]) == (False, ROWS)
    evidence = Evidence(manifests=[manifest], upstream={}, settings=settings(seed, 49, "keep"), columns=None)
    verdict = budget_met(evidence)
    assert verdict.passed
    assert "13 exposures of 13 rows; the budget is 49, which" in verdict.summary
    lost = replace(manifest, rows_in=ROWS + 1)
    assert not budget_met(replace(evidence, manifests=[lost])).passed


def test_order_keep_above_the_budget_samples_as_the_kit_does(seed: Path) -> None:
    lines = [json.dumps(kit_row(number)).encode() for number in range(ROWS)]
    assert kit_lines(toy_pipeline(settings(seed, 5, "keep")).ensure("budgeted_set")) == as_the_kit_would(lines, 5)


def test_exposures_come_from_filtered_rows_and_those_of_the_baseline_from_the_whole_seed(seed: Path) -> None:
    pipeline = toy_pipeline(settings(seed, 40), least=0.5)
    ids = [f"{number:03d}" for number in range(ROWS)]
    good = [row_id for row_id in ids if score_of(row_id) >= 0.5]
    assert 0 < len(good) < ROWS
    assert pipeline.ensure("budgeted_set").table()["id"].to_pylist() == good
    baseline = pipeline.ensure("baseline_set")
    assert baseline.table()["id"].to_pylist() == ids
    assert sum(baseline.table()["exposures"].to_pylist()) == 40
    assert "clip_score" not in baseline.table().column_names


@pytest.mark.slow
def test_the_number_of_shards_does_not_change_the_exposures(seed: Path) -> None:
    digests = {
        toy_pipeline(replace(one, data_root=one.data_root / str(shards))).ensure("budgeted_set").digest
        for shards in (1, 3, 20)
        for one in [settings(seed, 20)]
        for one in [replace(one, profile=one.profile.model_copy(update={"shards": shards}))]
    }
    assert len(digests) == 1


def test_the_error_for_an_empty_set_names_the_operator_that_rejected_most_rows(seed: Path) -> None:
    with pytest.raises(EmptySetError) as error:
        toy_pipeline(settings(seed, 5), least=2.0).ensure("budgeted_set")
    assert "no rows are left of 13. operator toy_filter of filtered_set removed most, 13." in str(error.value)
    assert "recipe 'third_place'" in str(error.value)
    for image in (seed.parent / "images").iterdir():
        image.write_bytes(b"")
    with pytest.raises(EmptySetError, match=r"13\. quarantine decode_error of seed_dataset removed most, 13\. Loosen"):
        toy_pipeline(settings(seed, 5, limits=Limits(max_quarantined_share=1)), least=2.0).ensure("baseline_set")


def llava(manifest: Manifest) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((manifest.path / "llava.json").read_bytes())
    return rows


def test_llava_rows_follow_the_kit_rows_one_by_one(seed: Path) -> None:
    manifest = toy_pipeline(settings(seed, 20)).ensure("budgeted_set")
    kit = [json.loads(line) for line in kit_lines(manifest)]
    for row, other in zip(llava(manifest), kit, strict=True):
        human, gpt = row["conversations"]
        assert (row["id"], row["image"]) == (other["id"], other["images"][0])
        assert other["text"] == f"<__dj__image>\n{gpt['value']} <|__dj__eoc|>"
        assert human["value"].removeprefix("<image>\n") in QUESTIONS


def questions(path: Path, text: str) -> None:
    turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": "x"}]
    path.write_text(json.dumps([{"id": f"{number:03d}", "conversations": turns} for number in range(ROWS - 1)]))


def test_original_questions_come_from_the_file_next_to_the_seed_file_and_changes_are_detected(seed: Path) -> None:
    questions(seed.with_name("stage_1.json"), "Who?")
    manifest = toy_pipeline(settings(seed, ROWS)).ensure("budgeted_set")
    asked = {row["id"]: row["conversations"][0]["value"] for row in llava(manifest)}
    assert Counter(asked.values())["<image>\nWho?"] == ROWS - 1
    assert asked["012"].removeprefix("<image>\n") in QUESTIONS
    assert manifest.stats["original_questions"] == ROWS - 1
    questions(seed.with_name("stage_1.json"), "Where?")
    manifest = toy_pipeline(settings(seed, ROWS)).ensure("budgeted_set")
    assert llava(manifest)[0]["conversations"][0]["value"] in {"<image>\nWhere?", asked["012"]}


def test_the_profiles_questions_file_has_priority_and_an_invalid_one_is_named(seed: Path) -> None:
    questions(seed.with_name("stage_1.json"), "Who?")
    questions(seed.with_name("other.json"), "Where?")
    named = settings(seed, ROWS, questions=str(seed.with_name("other.json")))
    assert "Where?" in {
        row["conversations"][0]["value"][8:] for row in llava(toy_pipeline(named).ensure("budgeted_set"))
    }
    with pytest.raises(ConfigError, match=r"questions = .*none\.json.*does not exist"):
        toy_pipeline(settings(seed, 5, questions="none.json")).ensure("budgeted_set")
    with pytest.raises(ConfigError, match=r"seed\.jsonl, row 1 \(id '000'\): needs .* expected LLaVA JSON"):
        toy_pipeline(settings(seed, 5, questions=str(seed))).ensure("budgeted_set")


def test_a_llava_seed_file_keeps_its_questions(tmp_path: Path) -> None:
    write_images(tmp_path, range(4))
    turn = {"from": "human", "value": "Tell me.\n<image>"}
    rows: list[Any] = [
        {"id": f"{n}", "image": f"images/00{n}.jpg", "conversations": [turn, {"from": "gpt", "value": f"thing {n}"}]}
        for n in range(4)
    ]
    manifest = toy_pipeline(settings(write_lines(tmp_path, rows), 4)).ensure("budgeted_set")
    assert {row["conversations"][0]["value"] for row in llava(manifest)} == {"<image>\nTell me."}


def test_captions_with_line_separators_stay_on_one_line_in_the_kits_file(tmp_path: Path) -> None:
    write_images(tmp_path, range(1))
    caption = "one\u2028two\x85three\r\nfour 七"
    manifest = toy_pipeline(settings(write_lines(tmp_path, [kit_row(0, caption)]), 2)).ensure("budgeted_set")
    text = (manifest.path / "processed_data.jsonl").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2
    assert "七" in text
    assert json.loads(text.splitlines()[1])["text"] == f"<__dj__image>\n{caption} <|__dj__eoc|>"
