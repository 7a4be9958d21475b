from __future__ import annotations

import errno
import json

import numpy as np
import pytest

from bettersynth_assets.errors import ConfigError, UserError
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.operators import classifier_models, dataset_operators, image_classifiers
from bettersynth_assets.operators.limits import resolve_limits
from bettersynth_assets.operators.process import run_process
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import break_image, scored_table, tiny_profile
from toolkit import file_errors, progress
from toolkit.file_errors import EnvironmentFault
from toolkit.tokens import kit_text

STOCK = [
    {"words_num_filter": {"min_num": 5, "max_num": 24}},
    {"word_repetition_filter": {"rep_len": 2, "max_ratio": 0.3}},
    {"image_shape_filter": {"min_width": 50, "max_width": 64, "min_height": 40}},
    {"image_watermark_filter": {"prob_threshold": 0.6}},
]


@pytest.fixture
def rows(tmp_path):
    return scored_table(tmp_path, 40)


@pytest.fixture
def process(tmp_path, tiny_models):
    def run(table, entries, rescore=lambda paths, captions: [0.5] * len(captions)):
        limits = resolve_limits(entries, table["clip_score"].to_numpy(), table["id"].to_pylist())
        built = build_operators(limits, tiny_profile(tiny_models))
        return run_process(table, built, stage="filtered_set", image_root=tmp_path, rescore=rescore)

    return run


def by_data_juicer(table, root, operators):
    """Return the ids that Data-Juicer keeps when it runs each operator over the whole dataset."""
    from data_juicer.core.data import NestedDataset

    rows = [
        {"id": row["id"], "text": kit_text(row["caption"]), "images": [str(root / row["image"])]}
        for row in table.to_pylist()
    ]
    dataset = NestedDataset.from_list(rows)
    for operator in operators:
        dataset = operator.run(dataset)
    return dataset["id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "stat", "column"),
    [
        ({"image_size_filter": {"min_size": "200", "max_size": "1 TiB"}}, "image_sizes", "bytes"),
        ({"image_aspect_ratio_filter": {"min_ratio": 1.1, "max_ratio": 1.5}}, "aspect_ratios", None),
        ({"image_shape_filter": {"min_width": 60, "max_height": 48}}, "image_width", "width"),
    ],
)
def test_stats_from_headers_equal_those_that_data_juicer_measures(
    rows, process, tmp_path, tiny_models, entry, stat, column
):
    smallest = sorted(rows["bytes"].to_pylist())[5]
    if column == "bytes":
        entry = {"image_size_filter": {"min_size": str(smallest), "max_size": "1 TiB"}}
    (built,) = build_operators([entry], tiny_profile(tiny_models))
    done = process(rows, [entry])
    kept = done.kept["id"].to_pylist()
    assert 0 < len(kept) < rows.num_rows
    assert kept == list(by_data_juicer(rows, tmp_path, [built.operator]))
    if column:
        assert [json.loads(stats)[stat] for stats in done.kept["stats"].to_pylist()] == done.kept[column].to_pylist()


def test_headers_are_read_from_the_row_and_no_image_is_opened(rows, process, tmp_path):
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    entries = [
        {"image_shape_filter": {"min_width": 50}},
        {"image_aspect_ratio_filter": {"max_ratio": 1.6}},
        {"image_size_filter": {"min_size": "1"}},
    ]
    done = process(rows, entries)
    assert done.quarantine.num_rows == 0
    assert 0 < done.kept.num_rows < rows.num_rows


def test_kept_rows_equal_those_of_data_juicer(rows, process, tmp_path, tiny_models):
    operators = [built.operator for built in build_operators(STOCK, tiny_profile(tiny_models))]
    done = process(rows, STOCK)
    kept = done.kept["id"].to_pylist()
    assert 0 < len(kept) < rows.num_rows
    assert {*done.rejects["operator"].to_pylist()} == {next(iter(entry)) for entry in STOCK}
    assert kept == list(by_data_juicer(rows, tmp_path, operators))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "mean"},
        {"method": "k_sigma", "k": 1},
        {"method": "percentile", "low": 20, "high": 80},
        {"method": "top_k", "share": 0.3},
        {"method": "min", "min_score": -0.13},
    ],
)
def test_our_filter_keeps_the_same_rows_when_data_juicer_runs_it_alone(arguments, rows, process, tmp_path, tiny_models):
    from bettersynth_assets.models.scorers.clip_files import score_files
    from bettersynth_assets.models.scorers.clip_score import ClipScorer
    from bettersynth_assets.operators.sandbox import registry

    scorer = ClipScorer(str(tiny_models.clip))
    scores = score_files(scorer, [tmp_path / name for name in rows["image"].to_pylist()], rows["caption"].to_pylist())
    index = rows.schema.get_field_index("clip_score")
    scored = rows.set_column(index, "clip_score", [scores.scores])
    operator = registry().modules["clip_score_filter"](
        clip_model=str(tiny_models.clip), auto_op_parallelism=False, accelerator="cpu", **arguments
    )
    kept = process(scored, [{"clip_score_filter": arguments}]).kept["id"].to_pylist()
    assert 0 < len(kept) < rows.num_rows
    assert kept == list(by_data_juicer(rows, tmp_path, [operator]))


def test_no_row_is_lost_and_each_reject_names_its_first_operator_value_and_limit(rows, process):
    entries = [*STOCK, {"clip_score_filter": {"method": "min", "min_score": 0.4}}]
    done = process(rows, entries)
    left = [rows.num_rows, *(operator["rows_out"] for operator in done.operators)]
    assert [operator["rows_in"] for operator in done.operators] == left[:-1] and left[-1] == done.kept.num_rows
    ids = [*done.kept["id"].to_pylist(), *done.rejects["id"].to_pylist(), *done.quarantine["id"].to_pylist()]
    assert sorted(ids) == rows["id"].to_pylist()
    rejects = {row["id"]: row for row in done.rejects.to_pylist()}
    # Row 0 breaks the limits of width too, but words come first. "two dogs" is 4 words with the kit's two tokens.
    assert rejects["row001"]["reason"] == "num_words 4 < min_num 5" and rejects["row001"]["value"] == 4.0
    assert rejects["row004"]["operator"] == "word_repetition_filter"
    assert rejects["row000"]["reason"] == "image_width 48 < min_width 50"
    assert rejects["row020"]["reason"] == "image_width 68 > max_width 64"
    assert json.loads(rejects["row020"]["limit"]) == {"min_width": 50, "max_width": 64, "min_height": 40}
    watermark = next(row for row in rejects.values() if row["operator"] == "image_watermark_filter")
    assert watermark["value"] > 0.6 and watermark["reason"].endswith("> prob_threshold 0.6")
    score = next(row for row in rejects.values() if row["operator"] == "clip_score_filter")
    assert score["value"] < 0.4 and score["reason"].endswith("< min_score 0.4")
    assert {row["stage"] for row in rejects.values()} == {"filtered_set"}


def test_kept_rows_carry_the_stats_and_all_their_columns(rows, process):
    done = process(rows, STOCK)
    for row in done.kept.to_pylist():
        stats = json.loads(row["stats"])
        assert stats["image_width"] == row["width"] and 5 <= stats["num_words"] <= 24
        assert stats["image_watermark_prob"] <= 0.6
        assert np.float32(stats["image_text_similarity"]) == np.float32(row["clip_score"])
    kept = rows.filter([row_id in done.kept["id"].to_pylist() for row_id in rows["id"].to_pylist()])
    assert done.kept.drop_columns(["stats"]) == kept


def test_top_k_over_shards_keeps_exactly_k_rows_with_ties(rows, process, tmp_path, tiny_models):
    index = rows.schema.get_field_index("clip_score")
    scores = np.array([0.3] * 25 + [0.4] * 15, np.float32)
    table = rows.set_column(index, "clip_score", [scores])
    entries = resolve_limits([{"clip_score_filter": {"method": "top_k", "count": 20}}], scores, table["id"].to_pylist())
    built = build_operators(entries, tiny_profile(tiny_models))
    kept = []
    for first in (0, 10, 20, 30):
        shard = table.slice(first, 10)
        done = run_process(shard, built, stage="filtered_set", image_root=tmp_path, rescore=len)
        assert done.kept.num_rows + done.rejects.num_rows == 10
        kept.extend(done.kept["id"].to_pylist())
    assert kept == [f"row{index:03d}" for index in (*range(5), *range(25, 40))]


def test_the_stock_similarity_filter_uses_existing_scores(rows, process, monkeypatch):
    import data_juicer.ops.filter.image_text_similarity_filter as stock

    monkeypatch.setattr(stock, "get_model", lambda *arguments: pytest.fail("scored again"))
    done = process(rows, [{"image_text_similarity_filter": {"min_score": 0.35}}])
    assert all(score >= 0.35 for score in done.kept["clip_score"].to_pylist())
    assert done.rejects.num_rows == sum(score < 0.35 for score in rows["clip_score"].to_pylist())
    assert done.rejects["reason"][0].as_py().endswith("< min_score 0.35")


def test_a_broken_image_is_quarantined_alone(rows, process, tmp_path):
    whole = process(rows, STOCK)
    victim, gone = whole.kept["id"].to_pylist()[:2]
    break_image(tmp_path, f"images/{victim[3:]}.png")
    done = process(rows, STOCK)
    assert [(row["id"], row["reason"]) for row in done.quarantine.to_pylist()] == [(victim, "decode_error")]
    assert done.kept["id"].to_pylist() == whole.kept["id"].to_pylist()[1:]
    assert done.rejects == whole.rejects
    (tmp_path / f"images/{gone[3:]}.png").unlink()
    with pytest.raises(EnvironmentFault, match=rf"{gone[3:]}\.png was read before and no longer exists"):
        process(rows, STOCK)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.EIO, "Input/output error"), r"EIO"),
        (FileNotFoundError(errno.ENOENT, "No such file", "{image}"), r"006\.png was read before and no longer exists"),
        (ValueError("wrapped"), r"ESTALE"),
    ],
)
def test_an_environment_error_inside_an_operator_blames_no_row(rows, process, monkeypatch, tmp_path, error, found):
    from data_juicer.ops.filter.words_num_filter import WordsNumFilter

    original, calls = WordsNumFilter.compute_stats_batched, []
    if isinstance(error, FileNotFoundError):
        error.filename = f"{tmp_path}/images/006.png"
    if isinstance(error, ValueError):
        error.__cause__ = OSError(errno.ESTALE, "Stale file handle")
    lasting = True

    def failing(self, samples, context=False):
        if "row006" in samples["id"]:
            calls.append(1)
            if lasting or len(calls) == 1:
                raise error
        return original(self, samples, context)

    monkeypatch.setattr(WordsNumFilter, "compute_stats_batched", failing)
    monkeypatch.setattr(file_errors, "_gave_up", {})
    entries = [{"words_num_filter": {"min_num": 1, "max_num": 1000 + len(found)}}]  # built again for each case
    with pytest.raises(EnvironmentFault, match=found):
        process(rows, entries)
    lasting = False
    calls.clear()
    monkeypatch.setattr(file_errors, "_gave_up", {})
    assert process(rows, entries).kept.num_rows == rows.num_rows and len(calls) == 2


def test_a_row_on_which_an_operator_fails_is_quarantined_and_the_operator_is_named(rows, process, monkeypatch):
    from data_juicer.ops.filter.words_num_filter import WordsNumFilter

    original = WordsNumFilter.compute_stats_batched

    def failing(self, samples, context=False):
        if any(
            "two dogs" in text and row_id == "row006"
            for text, row_id in zip(samples["text"], samples["id"], strict=True)
        ):
            raise KeyError("a word that it does not know")
        return original(self, samples, context)

    monkeypatch.setattr(WordsNumFilter, "compute_stats_batched", failing)
    # Arguments used in no other test, because built operators are cached per process with their methods bound.
    done = process(rows, [{"words_num_filter": {"min_num": 2, "max_num": 99}}])
    (row,) = done.quarantine.to_pylist()
    assert (row["id"], row["reason"]) == ("row006", "operator_error")
    assert row["detail"].startswith("words_num_filter: KeyError")
    assert done.kept.num_rows == rows.num_rows - 1


def test_an_operator_that_fails_on_every_row_is_an_error_and_removes_no_rows(rows, process, tmp_path):
    (tmp_path / "not-a-model").mkdir()
    with pytest.raises(UserError, match=r"'image_nsfw_filter' with .* failed while its model was loaded: ValueError: "):
        process(rows, [{"image_nsfw_filter": {"hf_nsfw_model": str(tmp_path / "not-a-model")}}])
    with pytest.raises(UserError, match=r"'image_text_matching_filter' with .* failed on all 40 rows: "):
        arguments = {"hf_blip": str(tmp_path / "not-a-model"), "vertical_flip": True}
        process(rows, [{"image_text_matching_filter": arguments}])


def test_a_mapper_changes_the_caption_and_the_change_and_new_score_are_recorded(rows, process):
    asked = []

    def rescore(paths, captions):
        asked.extend(captions)
        return [0.75] * len(captions)

    entries = [
        {"replace_content_mapper": {"pattern": "two", "repl": "three"}},
        {"clip_score_filter": {"method": "min", "min_score": 0.7}},
    ]
    done = process(rows, entries, rescore)
    assert done.kept.num_rows == 8 and asked == ["three dogs"] * 8
    for row in done.kept.to_pylist():
        assert row["caption"] == "three dogs" and row["clip_score"] == 0.75 and row["flags"] == ["caption_edited"]
        assert json.loads(row["stats"])["edits"] == [{"operator": "replace_content_mapper", "before": "two dogs"}]


def test_an_edited_row_whose_image_cannot_be_scored_is_quarantined_alone(rows, process):
    def rescore(paths, captions):
        return [ImageError("decode_error", "cut off"), *[0.5] * (len(captions) - 1)]

    done = process(rows, [{"replace_content_mapper": {"pattern": "two", "repl": "three"}}], rescore)
    assert [(row["id"], row["reason"]) for row in done.quarantine.to_pylist()] == [("row001", "decode_error")]
    assert done.kept.num_rows == rows.num_rows - 1


def test_a_row_whose_caption_a_mapper_empties_is_rejected(rows, process):
    done = process(rows, [{"replace_content_mapper": {"pattern": "two dogs", "repl": ""}}])
    assert done.rejects["operator"].to_pylist() == ["replace_content_mapper"] * 8
    assert done.rejects["reason"][0].as_py() == "no caption left"
    assert done.kept.num_rows == rows.num_rows - 8


@pytest.mark.parametrize(
    ("entry", "at_once"),
    [
        ({"image_watermark_filter": {"prob_threshold": 0.9999}}, 12),
        ({"words_num_filter": {"min_num": 1, "batch_size": 10}}, 10),
        ({"image_near_duplicate_deduplicator": {}}, 15),
        ({"document_deduplicator": {}}, 1),
    ],
)
def test_a_slow_operator_logs_its_progress(rows, tmp_path, tiny_models, monkeypatch, entry, at_once):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(dataset_operators, "AT_ONCE", 15)
    monkeypatch.setitem(classifier_models.AT_ONCE, "cpu", 12)
    monkeypatch.setattr(image_classifiers, "load_classifier", classifier_models.load_classifier.__wrapped__)
    lines = []
    built = build_operators([entry], tiny_profile(tiny_models), has_all_rows=True)
    run_process(rows, built, stage="filtered_set", image_root=tmp_path, rescore=None, log=lines.append)
    reported = [line.split(": ")[2].split(" rows,")[0] for line in lines[:-1]]
    assert reported == [f"{count}/40" for count in range(at_once, 40, at_once)]
    assert f"{built[0].name} passed" in lines[-1]


def test_a_mapper_that_splits_the_kits_tokens_is_refused(rows, process):
    with pytest.raises(ConfigError, match=r"remove_specific_chars_mapper.*changes the kit's tokens.*row '"):
        process(rows, [{"remove_specific_chars_mapper": {"chars_to_remove": "ia"}}])


@pytest.mark.parametrize(
    ("written", "token"),
    [("<image>", "<image>"), ("<__dj__image>", "<__dj__image>"), ("<|__dj__eoc|> cats", "<|__dj__eoc|>"),
     ("<|im_end|>", "<|im_end|>"), ("<End_Of_Turn>", "<End_Of_Turn>")],
)  # fmt: skip
def test_a_row_whose_caption_gets_a_reserved_token_from_a_mapper_is_quarantined_alone(rows, process, written, token):
    done = process(rows, [{"replace_content_mapper": {"pattern": "two", "repl": f"two {written}"}}])
    quarantine = done.quarantine.to_pylist()
    assert [row["reason"] for row in quarantine] == ["reserved_token"] * 8
    assert quarantine[0]["detail"] == f"replace_content_mapper: {token} inside the text"
    assert done.kept.num_rows == rows.num_rows - 8 and not done.rejects.num_rows
    assert not any("<" in caption for caption in done.kept["caption"].to_pylist())


def test_reserved_tokens_in_every_caption_quarantine_the_rows_and_none_is_lost(rows, process):
    done = process(rows, [{"replace_content_mapper": {"pattern": "(?m)^(?!<)", "repl": "<image> "}}])
    assert done.kept.num_rows == 0
    assert done.quarantine["reason"].to_pylist() == ["reserved_token"] * rows.num_rows


def test_a_mapper_that_returns_several_rows_for_one_is_refused(rows, process):
    with pytest.raises(ConfigError, match=r"'text_chunk_mapper' returned 2 rows .* for row 'row000'"):
        process(rows, [{"text_chunk_mapper": {"max_len": 40}}])


def test_no_rows_and_no_operators_pass_through(rows, process):
    assert process(rows.slice(0, 0), [{"words_num_filter": {}}]).kept.num_rows == 0
    assert process(rows, []).kept.drop_columns(["stats"]) == rows
