from __future__ import annotations

import json

import pytest

from bettersynth_assets.errors import UserError
from bettersynth_assets.images import decoding
from bettersynth_assets.operators import image_classifiers
from bettersynth_assets.operators.image_classifiers import BuiltClassifier
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.operators.rows import STATS, make_row
from bettersynth_assets.operators.sandbox import operator_environment
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import CAPTIONS, break_image, scored_table, seed_table, tiny_profile
from tiny_models.image_models import make_blip_itm
from toolkit.tokens import kit_text

STAT = "image_text_matching_score"
LONG = "the dog looked at the cat " * 20
"""More tokens than the model's context of 32."""


@pytest.fixture(scope="module")
def blip_itm(tmp_path_factory):
    return make_blip_itm(tmp_path_factory.mktemp("models") / "blip-itm", CAPTIONS)


@pytest.fixture
def build(tiny_models, blip_itm):
    def build(*names, matching=None):
        entries = {
            "watermark": {"image_watermark_filter": {"prob_threshold": 1.0}},
            "nsfw": {"image_nsfw_filter": {"hf_nsfw_model": str(tiny_models.watermark), "max_score": 1.0}},
            "letters": {"remove_specific_chars_mapper": {"chars_to_remove": "hnrstu"}},
            "matching": {
                "image_text_matching_filter": {"hf_blip": str(blip_itm), "min_score": 0.0, **(matching or {})}
            },
        }
        return build_operators([entries[name] for name in names], tiny_profile(tiny_models))

    return build


@pytest.fixture
def rows(tmp_path):
    values = seed_table(tmp_path, 30).to_pylist()
    for at, caption in ((3, LONG), (8, ""), (9, "unseen words, (and) signs!"), (11, CAPTIONS[0].upper())):
        values[at]["caption"] = caption
    return [make_row({"clip_score": 0.3, **row}, tmp_path, with_score=True) for row in values]


@pytest.fixture
def opened(monkeypatch):
    paths = []
    monkeypatch.setattr(decoding, "open_rgb", lambda path, real=decoding.open_rgb: paths.append(path) or real(path))
    return paths


def own_calls(built, rows):
    """Return the results of Data-Juicer's operator, row by row."""
    return [built.operator.compute_stats_single({**row.sample, STATS: {}})[STATS][STAT] for row in rows]


def scores_of(built, rows):
    assert built.measure(rows, []) == {}
    return [row.sample[STATS].pop(STAT) for row in rows]


def test_scores_equal_those_of_data_juicers_operator_for_captions_of_any_length(build, rows):
    (matching,) = build("matching")
    with operator_environment():
        ours, theirs = scores_of(matching, rows), own_calls(matching, rows)
    assert ours == [pytest.approx(values, abs=1e-6) for values in theirs]
    assert len({round(values[0], 4) for values in theirs}) > 10


def test_neighbours_change_only_the_last_bits_of_a_score(build, rows):
    (matching,) = build("matching")
    with operator_environment():
        together = scores_of(matching, rows)
        alone = [scores_of(matching, [row])[0] for row in rows]
        assert together == scores_of(matching, rows)
    assert together == [pytest.approx(values, abs=1e-6) for values in alone]


def test_an_image_is_decoded_once_for_all_classifiers_of_a_list(build, rows, opened):
    operators = build("watermark", "matching", "nsfw")
    with operator_environment():
        for place, built in enumerate(operators, start=1):
            assert built.measure(rows, operators[place:]) == {}
        assert len(opened) == len(rows) and not any(row.pixels for row in rows)
        ours = [row.sample[STATS][STAT] for row in rows]
        assert ours == [pytest.approx(values, abs=1e-6) for values in own_calls(operators[1], rows)]


def test_decoded_images_are_kept_for_as_many_rows_as_fit(build, rows, opened, monkeypatch):
    operators = build("watermark", "matching", "nsfw")
    monkeypatch.setattr(image_classifiers, "KEPT_BYTES", 20 * 3 * 32 * 32 + 5)
    with operator_environment():
        operators[0].measure(rows, operators[1:])
        assert [len(row.pixels) for row in rows] == [2] * 10 + [0] * 20
        operators[1].measure(rows, operators[2:])
        assert [len(row.pixels) for row in rows] == [1] * 20 + [0] * 10
        operators[2].measure(rows, [])
    assert len(opened) == 30 + 20 + 10
    assert all({"image_watermark_prob", STAT, "image_nsfw_score"} <= row.sample[STATS].keys() for row in rows)


def test_a_broken_image_and_an_unreadable_caption_fail_no_other_row(build, rows, tmp_path):
    (matching,) = build("matching")
    with operator_environment():
        whole = scores_of(matching, rows)
        break_image(tmp_path, rows[4].values["image"])
        rows[7].sample["text"] = kit_text("half a \ud83d smile")
        failed = matching.measure(rows, [])
    assert list(failed) == [4, 7]
    left = [at for at in range(len(rows)) if at not in failed]
    assert [rows[at].sample[STATS][STAT] for at in left] == [pytest.approx(whole[at], abs=1e-6) for at in left]
    assert not any(STAT in rows[at].sample[STATS] for at in failed)


def test_rows_of_a_recipe_with_a_broken_image_are_quarantined(build, tmp_path):
    table = scored_table(tmp_path, 12)
    break_image(tmp_path, "images/005.png")
    done = run_process(table, build("matching", "watermark"), stage="test", image_root=tmp_path, rescore=None)
    assert done.quarantine.select(["id", "reason"]).to_pylist() == [{"id": "row005", "reason": "decode_error"}]
    assert done.kept.num_rows == 11


def test_a_classifier_uses_the_caption_of_the_mapper_before_it(build, tmp_path, opened):
    table = scored_table(tmp_path, 12)
    operators = build("watermark", "letters", "matching")
    done = run_process(table, operators, stage="test", image_root=tmp_path, rescore=None)
    assert len(opened) == 12
    kept = done.kept.to_pylist()
    assert kept[1]["caption"] == "wo dog"
    rows = [make_row(row, tmp_path, with_score=True) for row in kept]
    with operator_environment():
        theirs = own_calls(operators[2], rows)
        before = own_calls(operators[2], [make_row(row, tmp_path, with_score=True) for row in table.to_pylist()])
    assert [json.loads(row["stats"])[STAT] for row in kept] == [pytest.approx(values[0], abs=1e-6) for values in theirs]
    assert max(abs(values[0] - others[0]) for values, others in zip(theirs, before, strict=True)) > 1e-3


def test_a_tokenizer_of_another_model_is_reported_as_such(build, rows, tiny_models, blip_itm, tmp_path):
    import shutil

    folder = shutil.copytree(blip_itm, tmp_path / "mixed")
    (folder / "tokenizer.json").unlink()
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text() + "\n".join(f"more{at}" for at in range(99)) + "\nquokka\n")
    (matching,) = build("matching", matching={"hf_blip": str(folder)})
    rows[2].sample["text"] = kit_text("a quokka")
    with operator_environment():
        failed = matching.measure(rows, [])
    assert list(failed) == [2] and "tokenizer of another model" in str(failed[2])
    table = scored_table(tmp_path, 3)
    quokkas = table.set_column(table.schema.get_field_index("caption"), "caption", [["quokka"] * 3])
    with pytest.raises(UserError, match="failed on all 3 rows: ValueError: its caption has token"):
        run_process(quokkas, [matching], stage="test", image_root=tmp_path, rescore=None)


def test_flipped_images_use_the_implementation_of_data_juicer(build, tmp_path):
    table = scored_table(tmp_path, 6)
    plain, mirrored = build("matching") + build("matching", matching={"horizontal_flip": True})
    assert isinstance(plain, BuiltClassifier) and not isinstance(mirrored, BuiltClassifier)
    done = run_process(table, [mirrored], stage="test", image_root=tmp_path, rescore=None)
    rows = [make_row(row, tmp_path, with_score=True) for row in table.to_pylist()]
    with operator_environment():
        theirs = own_calls(mirrored, rows)
        assert theirs != own_calls(plain, rows)
    stats = [json.loads(row["stats"])[STAT] for row in done.kept.to_pylist()]
    assert stats == [pytest.approx(values[0], abs=1e-6) for values in theirs]


@pytest.mark.slow
def test_the_profiles_dtype_applies_to_a_copy_of_the_model(build, rows, tiny_models, blip_itm):
    (exact,) = build("matching")
    gpu = tiny_profile(tiny_models).gpu.model_copy(update={"dtype": "bfloat16"})
    entry = {"image_text_matching_filter": {"hf_blip": str(blip_itm), "min_score": 0.0}}
    (rough,) = build_operators([entry], tiny_profile(tiny_models, gpu=gpu))
    with operator_environment():
        ours, theirs = scores_of(rough, rows), own_calls(exact, rows)
        assert scores_of(exact, rows) == [pytest.approx(values, abs=1e-6) for values in theirs]
    apart = [abs(values[0] - others[0]) for values, others in zip(ours, theirs, strict=True)]
    assert 1e-5 < max(apart) < 0.2
