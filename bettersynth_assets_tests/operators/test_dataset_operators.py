"""Deduplicators and selectors in a recipe keep the same rows as Data-Juicer and account for every row."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import break_image, scored_table, tiny_profile
from toolkit.tokens import kit_text

IMAGES = {"image_near_duplicate_deduplicator": {"max_distance": 4}}
BEST = {"image_near_duplicate_deduplicator": {"max_distance": 4, "keep": "best"}}
TEXTS = {"document_deduplicator": {}}
SHINGLES = {"document_minhash_deduplicator": {"window_size": 1, "num_bands": 32, "num_rows_per_band": 4}}
CLUSTERS = {"kmeans_diversity_selector": {"clusters": 4, "count": 9}}
TOP = {"topk_specified_field_selector": {"field_key": "__dj__stats__.image_text_similarity", "topk": 7}}
DRAWN = {"random_selector": {"select_num": 6}}


@pytest.fixture
def rows(tmp_path):
    """24 rows; images 20 to 23 are images 0 to 3 resized and saved as JPEG."""
    table = scored_table(tmp_path, 24)
    names = table["image"].to_pylist()
    for copy, original in zip(range(20, 24), range(4), strict=True):
        names[copy] = f"images/{copy:03d}.jpg"
        coarse = np.random.default_rng(original).integers(0, 255, (14, 14, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((240, 200), Image.Resampling.BICUBIC)
        smooth.save(tmp_path / names[original])
        smooth.resize((120, 110)).save(tmp_path / names[copy], quality=60)
    return table.set_column(table.schema.get_field_index("image"), "image", pa.array(names))


@pytest.fixture
def process(tmp_path, tiny_models):
    def run(table, entries, shards=1):
        built = build_operators(entries, tiny_profile(tiny_models, shards=shards))
        return run_process(table, built, stage="filtered_set", image_root=tmp_path, rescore=len)

    return run


def ids(table):
    return table["id"].to_pylist()


def test_resized_and_recompressed_copies_are_rejected_and_name_the_kept_row(rows, process):
    done = process(rows, [IMAGES])
    rejects = done.rejects.to_pylist()
    assert [row["id"] for row in rejects] == ["row020", "row021", "row022", "row023"]
    assert "that of row 'row000', which stays" in rejects[0]["reason"] and 0 <= rejects[0]["value"] <= 4
    assert ids(done.kept) == ids(rows)[:20]
    assert len(json.loads(done.kept["stats"][0].as_py())["image_hash"]) == 16


def test_the_best_matching_row_of_a_group_is_kept(rows, process):
    done = process(rows, [BEST])
    scores = dict(zip(ids(rows), rows["clip_score"].to_pylist(), strict=True))
    for copy in range(20, 24):
        pair = (f"row{copy - 20:03d}", f"row{copy:03d}")
        assert min(pair, key=scores.__getitem__) in ids(done.rejects)
    assert done.rejects.num_rows == 4


@pytest.mark.parametrize(
    "entry", [IMAGES, BEST, TEXTS, SHINGLES, CLUSTERS, TOP, DRAWN], ids=lambda entry: next(iter(entry))
)
def test_no_row_is_lost_and_a_second_run_keeps_the_same_rows(entry, rows, process):
    done, again = process(rows, [entry]), process(rows, [entry])
    every = sorted([*ids(done.kept), *ids(done.rejects), *ids(done.quarantine)])
    assert every == ids(rows) and 0 < done.kept.num_rows < rows.num_rows and done.quarantine.num_rows == 0
    assert done.kept == again.kept and done.rejects == again.rejects
    assert ids(done.kept) == sorted(ids(done.kept)), "the order of the set is preserved"
    assert {*done.rejects["operator"].to_pylist()} == {next(iter(entry))}
    assert all(reason for reason in done.rejects["reason"].to_pylist())


@pytest.mark.parametrize("entry", [IMAGES, BEST, TEXTS, SHINGLES, CLUSTERS, TOP], ids=lambda entry: next(iter(entry)))
def test_kept_rows_equal_those_of_data_juicer(entry, rows, process, tmp_path, tiny_models):
    from data_juicer.core.data import NestedDataset

    registry()
    (built,) = build_operators([entry], tiny_profile(tiny_models, shards=1))
    dataset = NestedDataset.from_list(
        [
            {
                "id": row["id"], "text": kit_text(row["caption"]), "images": [str(tmp_path / row["image"])],
                "__dj__stats__": {"image_text_similarity": [row["clip_score"]]},
            }
            for row in rows.to_pylist()
        ]
    )  # fmt: skip
    kept = built.operator.run(dataset)
    assert sorted(kept["id"]) == ids(process(rows, [entry]).kept)


def test_repeated_captions_are_rejected_and_name_the_first_row(rows, process):
    done = process(rows, [TEXTS])
    assert ids(done.kept) == [f"row{index:03d}" for index in range(5)]
    assert done.rejects["reason"][0].as_py() == "text is that of row 'row000', which stays"


def test_data_juicers_progress_bars_do_not_reach_stderr_of_the_step(rows, process, capfd):
    process(rows, [TEXTS])
    process(rows, [SHINGLES])
    assert "it/s" not in capfd.readouterr().err


def test_captions_that_share_most_words_are_near_duplicates(rows, process):
    captions = [
        " ".join(f"{word}{index}" for word in ("red", "dog", "runs", "over", "wet", "grass", "at", "noon"))
        for index in range(24)
    ]
    captions[9] = captions[2].replace("wet2", "dry2")
    table = rows.set_column(rows.schema.get_field_index("caption"), "caption", pa.array(captions))
    shingles = {"document_minhash_deduplicator": {"window_size": 1, "num_bands": 32, "num_rows_per_band": 6}}
    done = process(table, [shingles])
    assert ids(done.rejects) == ["row009"]


def test_a_broken_image_is_quarantined_alone(rows, process, tmp_path):
    break_image(tmp_path, rows["image"][5].as_py())
    for entry in (IMAGES, CLUSTERS):
        done = process(rows, [entry])
        assert [(row["id"], row["reason"]) for row in done.quarantine.to_pylist()] == [("row005", "decode_error")]
        assert done.kept.num_rows + done.rejects.num_rows == rows.num_rows - 1


def test_the_selector_keeps_exactly_the_requested_number_of_rows_spread_over_clusters(rows, process):
    whole = process(rows, [{"kmeans_diversity_selector": {"clusters": 4, "share": 1.0}}])
    sizes = np.bincount([json.loads(text)["image_cluster"] for text in whole.kept["stats"].to_pylist()])
    done = process(rows, [CLUSTERS])
    given = np.bincount([json.loads(text)["image_cluster"] for text in done.kept["stats"].to_pylist()], minlength=4)
    assert whole.kept.num_rows == 24 and sizes.sum() == 24 and given.sum() == 9
    open_clusters = given < sizes
    assert given[open_clusters].max() - given[open_clusters].min() <= 1
    assert done.rejects["reason"][0].as_py().startswith(f"place {done.rejects['value'][0].as_py():.0f} of cluster ")


def test_one_list_can_mix_both_kinds_of_operators_and_each_gets_the_remaining_rows(rows, process):
    done = process(rows, [{"image_shape_filter": {"min_width": 49}}, IMAGES, {"words_num_filter": {"min_num": 5}}])
    # Row 0 is too small, so its copy, row 20, is kept.
    assert "row020" in [
        *ids(done.kept),
        *(row["id"] for row in done.rejects.to_pylist() if row["operator"] == "words_num_filter"),
    ]
    assert [operator["rows_in"] for operator in done.operators] == [24, 23, 20]


def test_one_row_or_no_rows_pass_through(rows, process):
    for entry in (IMAGES, TEXTS, SHINGLES, CLUSTERS, TOP):
        assert ids(process(rows.slice(0, 1), [entry]).kept) == ["row000"]
        assert process(rows.slice(0, 0), [entry]).kept.num_rows == 0


def test_several_shards_are_refused_with_the_fix(rows, process):
    says = r"'document_deduplicator' needs all rows at once.* 4 shards.*`budget\.select`.*`shards: 1`"
    with pytest.raises(ConfigError, match=says):
        process(rows, [TEXTS], shards=4)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"image_near_duplicate_deduplicator": {"max_distance": 8}}, "max_distance = 8: Input should be less than"),
        ({"image_near_duplicate_deduplicator": {"keep": "last"}}, "keep = 'last'"),
        ({"kmeans_diversity_selector": {"clusters": 3}}, "either count .* or share"),
        ({"kmeans_diversity_selector": {"share": 0}}, "no row left"),
        ({"kmeans_diversity_selector": {"share": 0.5, "prefer": "nearest"}}, "prefer = 'nearest'"),
        ({"document_minhash_deduplicator": {}}, "window_size = 5 makes all captions of fewer than 3 words duplicates"),
        ({"image_deduplicator": {}}, "needs the package 'imagededup.*', which is not installed"),
        ({"ray_image_deduplicator": {}}, "did you mean 'image_deduplicator'"),
    ],
)  # fmt: skip
def test_an_invalid_argument_is_named_with_the_reason(entry, says, tiny_models):
    with pytest.raises(ConfigError, match=says):
        build_operators([entry], tiny_profile(tiny_models, shards=1))
