"""Rows as tables and other tools write them: nulls for absent keys, missing ids, extra fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.fields import check_fields
from bettersynth_assets.operators.process import Processed, run_process
from bettersynth_assets.records.seed_file import seed_fields
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import scored_table
from bettersynth_assets_tests.helpers.seeds import kit_row, settings_for, write_images, write_lines
from bettersynth_assets_tests.helpers.toy import all_rows, toy_pipeline
from toolkit.preprocess.dj_to_llava import main as dj_to_llava

COLUMNS = ("id", "text", "images", "image", "conversations", "similarity")


def turns(number: int, question: str = "<image>\nWhat is this?") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": f"a picture of thing {number}"}]


def by_id(llava: Path) -> dict[str, Any]:
    return {row["id"]: row for row in json.loads(llava.read_text())}


def settings(path: Path, **profile: Any) -> Any:
    return settings_for(path, path.parent / "data", shards=2, budget=8, **profile)


def test_kit_and_llava_rows_joined_by_a_table_library_are_all_kept(tmp_path: Path) -> None:
    write_images(tmp_path, range(4))
    rows: list[Any] = [
        kit_row(0),
        {"id": "001", "image": "images/001.jpg", "conversations": turns(1)},
        {"id": 2, "image": ["images/002.jpg"], "conversations": turns(2), "images": []},
        {**kit_row(3), "conversations": [], "image": ""},
    ]
    joined = [{name: row.get(name) for name in COLUMNS} for row in rows[:2]] + rows[2:]
    pipeline = toy_pipeline(settings(write_lines(tmp_path, joined)))
    found = all_rows(pipeline, "seed_dataset").sort_by("line").to_pylist()
    assert [row["id"] for row in found] == ["000", "001", "2", "003"]
    assert [row["caption"] for row in found] == [f"a picture of thing {number}" for number in range(4)]
    assert {row["extra"] for row in found} == {None}


def test_rows_without_ids_get_derived_ones_and_repeated_rows_are_duplicates(tmp_path: Path) -> None:
    write_images(tmp_path, range(6))
    rows = [{name: value for name, value in kit_row(number).items() if name != "id"} for number in range(6)]
    path = write_lines(tmp_path, [*rows, rows[0]])
    questions = [
        {"image": f"images/00{number}.jpg", "conversations": turns(number, "<image>\nWho?")} for number in (1, 2)
    ]
    path.with_name("stage_1.json").write_text(json.dumps(questions))
    pipeline = toy_pipeline(settings(path))
    manifest = pipeline.ensure("budgeted_set")
    quarantine = all_rows(pipeline, "seed_dataset", "quarantine").to_pylist()
    assert [(row["line"], row["reason"]) for row in quarantine] == [(7, "duplicate_id")]
    assert manifest.stats["original_questions"] == 2
    # The kit's command gives rows without ids the same ids and therefore finds the same questions.
    llava = tmp_path / "llava.json"
    more = ["--questions", str(path.with_name("stage_1.json"))]
    assert (
        dj_to_llava(["--input", str(write_lines(tmp_path, [*rows], name="six.jsonl")), "--output", str(llava), *more])
        == 0
    )
    ours = {row["id"]: row for row in json.loads((manifest.path / "llava.json").read_text())}
    assert ours == {row["id"]: row for row in json.loads(llava.read_text())}


def test_extra_fields_are_kept_in_the_kits_file_and_can_be_named_in_recipes(tmp_path: Path) -> None:
    write_images(tmp_path, range(4))
    path = write_lines(
        tmp_path,
        [
            kit_row(0, zeta=1, meta={"score": 0.5, "source": {"name": "né"}}, none=None),
            kit_row(1, similarity="0.3"),
            kit_row(2),
            {"id": "003", "image": "images/003.jpg", "conversations": turns(3), "similarity": 4},
        ],
    )
    pipeline = toy_pipeline(settings(path))
    manifest = pipeline.ensure("budgeted_set")
    found = {row["id"]: row["extra"] for row in all_rows(pipeline, "recaptioned_set").to_pylist()}
    assert found == {
        "000": '{"meta": {"score": 0.5, "source": {"name": "né"}}, "zeta": 1}',
        "001": '{"similarity": "0.3"}', "002": None, "003": '{"similarity": 4}',
    }  # fmt: skip
    lines = {
        row["id"]: row for row in map(json.loads, (manifest.path / "processed_data.jsonl").read_text().splitlines())
    }
    assert lines["000"] == kit_row(0, meta={"score": 0.5, "source": {"name": "né"}}, zeta=1)
    assert lines["002"] == kit_row(2)
    assert {*json.loads((manifest.path / "llava.json").read_text())[0]} == {"id", "image", "conversations"}
    expected = {"zeta", "similarity", "meta", "meta.score", "meta.source", "meta.source.name"}
    assert seed_fields(ResolvedRun(settings(path)).seed) == expected


def processed(tmp_path: Path, extra: list[dict[str, Any] | None], *entries: Any) -> Processed:
    rows = scored_table(tmp_path, len(extra)).to_pylist()
    for row, fields in zip(rows, extra, strict=True):
        row["extra"] = None if fields is None else json.dumps(fields)
    table = scored_table(tmp_path, len(extra)).from_pylist(rows, schema=scored_table(tmp_path, 1).schema)
    built = build_operators(list(entries), settings_for(tmp_path, tmp_path, shards=1).profile)
    return run_process(table, built, stage="filtered_set", image_root=tmp_path, rescore=None)


def test_operators_see_extra_fields_which_never_replace_built_in_ones(tmp_path: Path) -> None:
    extra: list[dict[str, Any] | None] = [
        {"score": 0.9, "meta": {"rank": 3}},
        {"score": 0.1},
        {"score": 0.8, "__dj__stats__": {"image_width": [1]}, "caption": "x", "clip_score": "mine", "line": "mine"},
        None,
    ]
    by_score = {"specified_numeric_field_filter": {"field_key": "score", "min_value": 0.5}}
    done = processed(tmp_path, extra, by_score, {"image_shape_filter": {"min_width": 40}})
    kept = done.kept.to_pylist()
    assert [row["id"] for row in kept] == ["row000", "row002"]
    assert [json.loads(row["extra"]) for row in kept] == [extra[0], extra[2]]
    assert kept[1]["line"] == 3 and kept[1]["clip_score"] != "mine"
    assert kept[1]["caption"] != "x"
    alone = processed(tmp_path, [None, {"other": 1}], by_score)  # the shard's rows lack the field that others have
    assert (alone.kept.num_rows, alone.rejects.num_rows, alone.quarantine.num_rows) == (0, 2, 0)
    mixed: list[dict[str, Any] | None] = [{"score": 2, "other": 1}, {"score": 7, "other": "text"}, {"score": 5}]
    best = processed(tmp_path, mixed, {"topk_specified_field_selector": {"field_key": "score", "topk": 2}}).kept
    assert [(row["id"], json.loads(row["extra"])) for row in best.to_pylist()] == [
        ("row001", mixed[1]), ("row002", mixed[2])
    ]  # fmt: skip
    nested = {"specified_numeric_field_filter": {"field_key": "meta.rank", "max_value": 4}}
    assert [row["id"] for row in processed(tmp_path, extra[:1] * 2, nested).kept.to_pylist()] == ["row000", "row001"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'[{"id": 1, "conversations": [', r"not closed"),
        (b"", "holds no rows"),
        (b"[]", "holds no rows"),
        (b'{"a": ', r"row 1: invalid_json"),
        (b'[{"id": 1}]', r"row 1 \(id '1'\): needs .* human turn"),
        (b'[{"id": 1, "conversations": null}]', r"row 1 \(id '1'\): needs .* human turn"),
        (b'[{"id": 1, "conversations": [{"from": "human", "value": null}]}]', r"row 1 \(id '1'\): needs"),
        (b'[{"id": "000", "conversations": [{"from": "human", "value": "What?"}]}]', r"id '000': no <image>"),
        (
            b'[{"id": 1, "image": "1.jpg", "conversations": [{"from": "human", "value": "?"}]}]',
            r"'1'\): its question has 0 <image>",
        ),
        (
            b'[{"id": 1, "conversations": [{"from": "human", "value": "<image><__dj__image> A?"}]}]',
            r"'1'\): its question has 2 <image>",
        ),
        (
            b'[{"id": 1, "conversations": [{"from": "human", "value": "<image> A<eos>?"}]}]',
            r"id '1': token <eos> inside",
        ),
        (b'[{"id": 1, "conversations": [{"from": "human", "value": "<image> \\ud83d"}]}]', r"row 1: invalid_utf8"),
        (b'[{"id": 1, "conversations": [{"from": "human", "value": "<image> \xff"}]}]', r"row 1: invalid_utf8"),
        (
            b'[{"id": 1, "conversations": [{"from": "human", "value": "<image> A?"}]},'
            b' {"id": "1", "conversations": [{"from": "human", "value": "<image> B?"}]}]',
            r"row 2 \(id '1'\): row 1 has the same id but a different question",
        ),
        (b"<!DOCTYPE html><html>", "HTML page"),
    ],
)
def test_an_invalid_questions_file_is_refused_before_any_work(content: bytes, fault: str, tmp_path: Path) -> None:
    write_images(tmp_path, range(2))
    path = write_lines(tmp_path, [kit_row(0), kit_row(1)])
    toy_pipeline(settings(path)).ensure_all("seed_dataset")
    path.with_name("stage_1.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"questions file .*stage_1\.json.*{fault}"):
        toy_pipeline(settings(path)).ensure("clip_scores", "shard-00000")
    assert not list((tmp_path / "data").rglob("clip_scores/*/manifest.json"))


def test_numeric_and_text_ids_match_in_the_questions_file(tmp_path: Path) -> None:
    write_images(tmp_path, range(3))
    path = write_lines(tmp_path, [kit_row(0, id=17), kit_row(1, id="18"), kit_row(2, id=19.0)])
    rows = [{"id": row_id, "conversations": turns(0, f"<__dj__image>\nWho is {row_id}?")} for row_id in ("17", 18, 19)]
    text_only = {"id": "of no row", "conversations": turns(0, "What is two and two?")}
    path.with_name("stage_1.json").write_text(json.dumps([*rows, rows[0], text_only]))
    manifest = toy_pipeline(settings(path)).ensure("budgeted_set")
    asked = {
        row["id"]: row["conversations"][0]["value"] for row in json.loads((manifest.path / "llava.json").read_text())
    }
    assert asked == {row_id: f"<image>\nWho is {row_id}?" for row_id in ("17", "18", "19")}


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"specified_numeric_field_filter": {"field_key": "similarty", "min_value": 0.1}}, "similarty"),
        ({"specified_field_filter": {"field_key": "meta.scores", "target_value": [1]}}, "meta.scores"),
        ({"specified_numeric_field_filter": {"field_key": "image_hash"}}, "image_hash"),
        ({"suffix_filter": {"suffixes": ["jpg"]}}, "__dj__suffix__"),
    ],
)
def test_a_recipe_that_names_a_field_of_no_row_is_refused_before_any_work(
    entry: Any, field: str, tmp_path: Path
) -> None:
    seed = write_lines(tmp_path, [kit_row(0, similarity=0.3, meta={"score": 1}, image_hash="theirs"), kit_row(1)])
    names = seed_fields(ResolvedRun(settings(seed)).seed)
    assert names == {"similarity", "meta", "meta.score"}
    with pytest.raises(ConfigError, match=rf"the field '{field}', which neither our rows nor the seed file's have"):
        check_fields([entry], names)
    named = {"field_key": "meta.score", "min_value": 0}
    check_fields([{"specified_numeric_field_filter": named}], names)


def test_a_lone_surrogate_anywhere_in_a_row_quarantines_only_that_row(tmp_path: Path) -> None:
    write_images(tmp_path, range(4))
    written = [
        kit_row(1, "a boat HALF"),
        kit_row(1, id="HALF"),
        kit_row(1, images=["images/HALF.jpg"]),
        kit_row(1, note="HALF"),
        kit_row(1, note={"HALF": [1]}),
        {"image": "images/001.jpg", "conversations": turns(1, "<image> HALF")},
        {"text": "<image> HALF", "images": ["images/001.jpg"]},
    ]
    halves = [json.dumps(row).encode().replace(b"HALF", b"\\ud83d") for row in written]
    twice = b'{"id": "x", "\\ud83d": 1, "\\ud83d": 2}'
    rows: list[Any] = [kit_row(0), *halves, twice, kit_row(2, "a whole \U0001f600 pair")]
    shares = {"max_bad_line_share": 1.0, "max_quarantined_share": 1.0}
    lenient = settings(tmp_path).profile.limits.model_copy(update=shares)
    pipeline = toy_pipeline(settings(write_lines(tmp_path, rows), limits=lenient))
    manifest = pipeline.ensure("budgeted_set")
    quarantine = all_rows(pipeline, "seed_dataset", "quarantine").sort_by("line").to_pylist()
    assert [row["reason"] for row in quarantine] == ["invalid_utf8"] * 7 + ["duplicate_key"]
    assert {row["id"] for row in manifest.table().to_pylist()} == {"000", "002"}
