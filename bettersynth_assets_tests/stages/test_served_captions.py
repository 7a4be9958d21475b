"""recaptioned_set with a captioning server that fails, writes reserved tokens or echoes an API key."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.models.captioners import captioner
from bettersynth_assets.reports.metadata import describe
from bettersynth_assets.stages.budget import BUDGETED_SET
from bettersynth_assets_tests.helpers.caption_server import NAME, completion, image_of, serving
from bettersynth_assets_tests.helpers.seed_stages import STAGES
from toolkit.file_errors import EnvironmentFault

SECRET = "sk-0123456789-secret"


@pytest.fixture
def server():
    with serving(None) as state:
        state.script = lambda body: completion(f"a picture {row_of(body)} pixels wide")
        yield state
    captioner._connect.cache_clear()


@pytest.fixture
def run(settings, server):
    """A pipeline of 30 rows captioned by the server; ``allowed`` is the share that may fail."""
    lines = []

    def make(policy="replace", allowed=0.2, shards=3):
        models = settings.profile.models.model_copy(update={"captioner": f"{server.address}#{NAME}"})
        limits = settings.profile.limits.model_copy(update={"max_failed_captions_share": allowed})
        profile = settings.profile.model_copy(
            update={"models": models, "limits": limits, "budget": 30, "shards": shards}
        )
        recipe = Recipe.parse({"name": "test", "caption": {"policy": policy}}, where="test")
        pipeline = Pipeline(
            (*STAGES, BUDGETED_SET), ResolvedRun(replace(settings, profile=profile, recipe=recipe)), log=lines.append
        )
        pipeline.lines = lines
        return pipeline

    return make


def row_of(body):
    return image_of(body).width - 48


def by_id(manifests):
    return {row["id"]: row for manifest in manifests for row in manifest.table().to_pylist()}


@pytest.mark.slow
def test_a_row_without_a_new_caption_keeps_its_original_flagged_and_a_later_run_retries_it(run, server):
    answers = server.script
    server.script = lambda body: completion(None) if row_of(body) in (3, 4, 17) else answers(body)
    rows = by_id(run().ensure_all("recaptioned_set"))
    assert len(rows) == 30
    failed = {name: row for name, row in rows.items() if row["caption_flags"] == ["caption_failed"]}
    assert sorted(failed) == ["row003", "row004", "row017"]
    for row in failed.values():
        assert (row["choice"], row["caption"]) == ("original", row["original_caption"])
        assert row["raw_caption"] is row["synthetic_caption"] is row["synthetic_score"] is None
    assert rows["row005"]["caption"] == "a picture 5 pixels wide"

    del server.asked[:]
    server.script = answers
    assert by_id(run().ensure_all("recaptioned_set")) == rows and server.asked == []
    rows = by_id(run("best_of").ensure_all("recaptioned_set"))
    assert sorted(map(row_of, server.asked)) == [3, 4, 17]
    assert rows["row003"]["raw_caption"] == "a picture 3 pixels wide"
    assert not any("caption_failed" in row["caption_flags"] for row in rows.values())


@pytest.mark.slow
def test_more_failures_than_the_profile_allows_fail_the_shard_and_name_the_first(run, server):
    answers = server.script
    server.script = lambda body: (200, {}, b"<html>") if row_of(body) in range(3, 10) else answers(body)
    with pytest.raises(
        EnvironmentFault, match=r"failed for 7 of 30 rows, and limits\.max_failed_captions_share .* allows 6; "
    ):
        run(shards=1).ensure_all("recaptioned_set")
    (shard,) = run(allowed=0.25, shards=1).ensure_all("recaptioned_set")
    assert (shard.kept, shard.stats["flags"]) == (30, {"caption_failed": 7})
    with pytest.raises(
        EnvironmentFault, match=r"of 30 rows, .* allows 0; the first, row 'row00[3-9]': the answer is no chat"
    ):
        run("best_of", allowed=0.0, shards=1).ensure_all("recaptioned_set")


@pytest.mark.slow
def test_captions_with_reserved_tokens_are_replaced_by_the_original_in_both_formats(run, server):
    tokens = (
        "<image>",
        "<__dj__image>",
        "<|__dj__eoc|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|im_end|>",
        "<eos>",
        "",
    )
    server.script = lambda body: completion(f"a dog {tokens[row_of(body) % 8]} on a hill".replace("  ", " "))
    pipeline = run()
    manifest = pipeline.ensure("budgeted_set")
    rows = by_id(pipeline.ensure_all("recaptioned_set"))
    assert {name for name, row in rows.items() if not row["caption_flags"]} == {"row007", "row015", "row023"}
    assert {tuple(row["caption_flags"]) for row in rows.values()} == {(), ("reserved_token",)}
    kit = [json.loads(line) for line in (manifest.path / "processed_data.jsonl").read_text().splitlines()]
    llava = json.loads((manifest.path / "llava.json").read_text())
    assert len(kit) == len(llava) == 30
    for line, row in zip(kit, llava, strict=True):
        caption = row["conversations"][1]["value"]
        assert line["text"] == f"<__dj__image>\n{caption} <|__dj__eoc|>" and "<" not in caption
        assert caption == rows[line["id"]]["caption"]


@pytest.mark.slow
def test_no_output_of_a_run_contains_the_api_key(run, server, monkeypatch, settings):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    answers = server.script
    refusal = (400, {}, f"header Authorization: Bearer {SECRET}".encode())
    server.script = lambda body: refusal if row_of(body) == 3 else answers(body)
    pipeline = run()
    manifests = pipeline.ensure_all("recaptioned_set")
    assert server.headers[-1]["Authorization"] == f"Bearer {SECRET}"
    shown = [str(describe(manifest, pipeline.run, rows=True)) for manifest in manifests]
    with pytest.raises(EnvironmentFault) as error:
        run("best_of", allowed=0.0).ensure_all("recaptioned_set")
    assert "Bearer ***" in str(error.value)
    texts = [*shown, *pipeline.lines, str(error.value), repr(pipeline.settings)]
    assert not any(SECRET in text for text in texts)
    files = [path for path in settings.data_root.rglob("*") if path.is_file()]
    assert len(files) > 20 and not any(SECRET.encode() in path.read_bytes() for path in files)
