"""Data-Juicer operators whose model files the profile names, each with a small trained model."""

from __future__ import annotations

import json
import tomllib
from importlib.util import find_spec
from itertools import pairwise

import pyarrow as pa
import pytest
from packaging.requirements import Requirement

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators import local_models, stock
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets_tests.helpers.operators import build_operators, operators_key
from bettersynth_assets_tests.helpers.rows import break_image, scored_table, tiny_profile
from tiny_models.image_models import make_owlvit
from tiny_models.text_models import (
    ENGLISH,
    FRENCH,
    make_fasttext,
    make_nltk,
    make_perplexity,
    make_spacy,
)
from toolkit.tokens import kit_text

pytestmark = pytest.mark.slow  # trains a model of each kind and loads their libraries

CAPTIONS = [*ENGLISH, *FRENCH]

WITH_NEEDS = [spec.name for spec in stock.SPECS if spec.needs]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_models):
    root = tmp_path_factory.mktemp("local-models")
    (root / "words").mkdir()
    for kind, words in (("flagged_words", ["red", "cat"]), ("stopwords", ["a", "the", "of", "on"])):
        (root / "words" / f"{kind}.json").write_text(json.dumps({"en": words}))
    return {
        "words": root / "words",
        "tokenizer": tiny_models.clip,
        "language_id": make_fasttext(root / "lid.bin"),
        "perplexity": make_perplexity(root / "perplexity"),
        "spacy": make_spacy(root / "spacy"),
        "nltk": make_nltk(root / "nltk"),
        "grounding": make_owlvit(root / "owlvit", tiny_models.clip),
    }


@pytest.fixture
def profile_of(tiny_models):
    def make(roles):
        profile = tiny_profile(tiny_models)
        named = {role: None if path is None else str(path) for role, path in roles.items()}
        return profile.model_copy(update={"models": profile.models.model_copy(update=named)})

    return make


@pytest.fixture
def rows(tmp_path):
    table = scored_table(tmp_path, len(CAPTIONS))
    return table.set_column(table.schema.get_field_index("caption"), "caption", pa.array(CAPTIONS))


@pytest.fixture
def process(tmp_path, models, profile_of):
    def run(entry, table):
        built = build_operators([entry], profile_of(models))
        return run_process(table, built, stage="filtered_set", image_root=tmp_path, rescore=None)

    return run


def stats_of(done, name):
    return {
        row["id"]: json.loads(row["stats"])[name] for row in done.kept.select(["id", "stats"]).to_pylist()
    }  # fmt: skip


def ids(table):
    return table["id"].to_pylist()


def test_only_captions_of_the_requested_language_are_kept(process, rows, models):
    import fasttext

    done = process({"language_id_score_filter": {"lang": "en", "min_score": 0.6}}, rows)
    assert ids(done.kept) == [f"row{index:03d}" for index in range(len(ENGLISH))]
    assert ids(done.rejects) == [f"row{index:03d}" for index in range(len(ENGLISH), len(CAPTIONS))]
    model = fasttext.load_model(str(models["language_id"]))
    expected = [model.predict(kit_text(text).lower().replace("\n", " "))[1][0] for text in ENGLISH]
    assert list(stats_of(done, "lang_score").values()) == pytest.approx(expected)


def test_the_reason_names_a_score_below_the_minimum(process, rows):
    done = process({"language_id_score_filter": {"min_score": 0.9999999}}, rows)
    assert done.rejects.num_rows and all("< min_score" in reason for reason in done.rejects["reason"].to_pylist())


def test_perplexity_equals_that_of_the_bigram_model(process, rows, models):
    pytest.importorskip("kenlm", reason="kenlm is compiled, which this machine or this Python could not do")
    import sentencepiece

    done = process({"perplexity_filter": {"max_ppl": 40}}, rows)
    assert sorted([*ids(done.kept), *ids(done.rejects)]) == ids(rows) and done.kept.num_rows and done.rejects.num_rows
    assert all(reason.startswith("perplexity ") for reason in done.rejects["reason"].to_pylist())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(models["perplexity"] / "en.sp.model"))
    chances, backoffs = read_arpa((models["perplexity"] / "en.arpa.bin").read_text())
    for row_id, found in stats_of(done, "perplexity").items():
        words = pieces.encode_as_pieces(kit_text(CAPTIONS[int(row_id[3:])]))
        words = [piece if (piece,) in chances else "<unk>" for piece in " ".join(words).split()]
        total = sum(
            chances.get(pair, backoffs[pair[0]] + chances[pair[1:]]) for pair in pairwise(["<s>", *words, "</s>"])
        )
        assert found == pytest.approx(10 ** (-total / (len(words) + 1)), rel=5e-3, abs=0.051)


def read_arpa(text):
    """Return log10 probabilities by n-gram, and the back-off weights."""
    chances, backoffs = {}, {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) >= 2:
            chances[tuple(fields[1].split(" "))] = float(fields[0])
            backoffs[fields[1]] = float(fields[2]) if len(fields) == 3 else 0.0
    return chances, backoffs


def test_the_arpa_models_probabilities_sum_to_one(models):
    chances, backoffs = read_arpa((models["perplexity"] / "en.arpa.bin").read_text())
    words = [words[0] for words in chances if len(words) == 1 and words != ("<s>",)]
    for first in ("<s>", words[3]):
        total = sum(10 ** chances.get((first, word), backoffs[first] + chances[(word,)]) for word in words)
        assert total == pytest.approx(1, abs=1e-4)


def test_captions_without_an_action_are_rejected(process, rows):
    done = process({"text_action_filter": {}}, rows.slice(0, len(ENGLISH)))
    assert ids(done.rejects) == ["row000", "row003"]
    assert done.rejects["reason"][0].as_py() == "num_action 0 < min_action_num 1"
    assert stats_of(done, "num_action") == {"row001": 1, "row002": 2, "row004": 1}


def test_captions_with_an_entity_without_dependency_are_rejected(process, rows):
    captions = ["two dogs run", "dogs", "the cat sat on the mat", "run"]
    table = rows.slice(0, 4).set_column(rows.schema.get_field_index("caption"), "caption", pa.array(captions))
    done = process({"text_entity_dependency_filter": {"any_or_all": "any"}}, table)
    assert ids(done.kept) == ["row000", "row002"]
    assert stats_of(done, "num_dependency_edges")["row002"] == [2, 2], "cat: the, sat; mat: the, on"
    assert done.rejects["reason"].to_pylist()[0] == "num_dependency_edges 0 < min_dependency_num 1"


def test_recall_is_the_share_of_caption_phrases_that_are_found(process, rows, tmp_path):
    table = rows.slice(0, len(ENGLISH))
    done = process({"phrase_grounding_recall_filter": {"min_recall": 0.0}}, table)
    from data_juicer.ops.filter.phrase_grounding_recall_filter import run_ner

    phrases = [run_ner(caption) for caption in ENGLISH]
    assert {*phrases[0]} == {"a red square", "the left", "a blue circle"}
    recalls = stats_of(done, "phrase_grounding_recall").values()
    found = [recall * len(texts) for recall, texts in zip(recalls, phrases, strict=True)]
    assert found == pytest.approx([round(value) for value in found]) and 0 < sum(found) < sum(map(len, phrases))
    break_image(tmp_path, table["image"][2].as_py())
    again = process({"phrase_grounding_recall_filter": {"min_recall": 0.0}}, table)
    assert [(row["id"], row["reason"]) for row in again.quarantine.to_pylist()] == [("row002", "decode_error")]
    assert again.kept.num_rows == len(ENGLISH) - 1


def test_sentencepiece_splits_words_with_the_profiles_model(process, rows, models):
    import sentencepiece
    from data_juicer.ops.common import SPECIAL_CHARACTERS, words_refinement

    done = process({"words_num_filter": {"tokenization": True, "min_num": 1}}, rows.slice(0, 2))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(models["perplexity"] / "en.sp.model"))
    words = pieces.encode_as_pieces(kit_text(ENGLISH[1]))
    expected = len(words_refinement(words, strip_chars=SPECIAL_CHARACTERS))
    assert stats_of(done, "num_words")["row001"] == expected > len(kit_text(ENGLISH[1]).split())


def test_word_lists_and_a_tokenizer_come_from_the_profile(process, rows, models):
    captions = ["the cat on the mat", "red square blue circle"]
    two = rows.slice(0, 2).set_column(rows.schema.get_field_index("caption"), "caption", pa.array(captions))
    done = process({"stopwords_filter": {"min_ratio": 0.2}}, two)
    assert ids(done.rejects) == ["row001"]
    assert stats_of(done, "stopwords_ratio")["row000"] == pytest.approx(3 / len(kit_text(captions[0]).split()))
    flagged = process({"flagged_words_filter": {"max_ratio": 0.0}}, two)
    assert ids(flagged.rejects) == ["row000", "row001"] and not flagged.kept.num_rows
    assert flagged.rejects["reason"][0].as_py().startswith("flagged_words_ratio 0.14")
    tokens = process({"token_num_filter": {"min_num": 1}}, rows.slice(0, 2))
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(models["tokenizer"])
    assert stats_of(tokens, "num_token")["row001"] == len(own.tokenize(kit_text(ENGLISH[1])))
    split = process(
        {"alphanumeric_filter": {"tokenization": True, "min_ratio": 0.0, "max_ratio": 99.0}}, rows.slice(0, 2)
    )
    assert stats_of(split, "alpha_token_ratio")["row001"] > 0


def test_an_invalid_word_list_is_named_and_nothing_is_downloaded_or_written(profile_of, tmp_path, monkeypatch):
    import requests

    monkeypatch.setattr(requests, "get", lambda *arguments, **more: pytest.fail("fetched"))
    entry, folder = [{"stopwords_filter": {}}], tmp_path / "words"
    with pytest.raises(
        ConfigError, match=r"models\.words = .*stopwords\.json not found, which operator 'stopwords_filter'"
    ):
        build_operators(entry, profile_of({"words": folder}))
    assert not folder.exists()
    with pytest.raises(ConfigError, match=r"stopwords_dir = .*not found"):
        build_operators([{"stopwords_filter": {"stopwords_dir": str(folder)}}], profile_of({}))
    folder.mkdir()
    for text, says in (
        ("{", "is not a word list in JSON"), ('["a"]', "is not a word list"), ('{"en": [1]}', "is not a word list"),
        ("{}", "is not a word list"), ('{"fr": ["le"]}', r"lang = 'en', but .* has words of fr"),
    ):  # fmt: skip
        (folder / "stopwords.json").write_text(text)
        with pytest.raises(ConfigError, match=says):
            build_operators(entry, profile_of({"words": folder}))
    (folder / "stopwords.json").write_text('{"en": ["the"]}')
    named = [{"stopwords_filter": {"stopwords_dir": str(folder)}}]
    assert build_operators(named, profile_of({}))[0].operator.STOPWORDS["en"] == {"the"}
    with pytest.raises(ConfigError, match=r"needs models\.perplexity"):
        build_operators([{"stopwords_filter": {"tokenization": True}}], profile_of({"words": folder}))


@pytest.mark.parametrize("name", WITH_NEEDS)
def test_a_model_omitted_from_the_profile_is_named_with_its_download(name, profile_of, monkeypatch):
    monkeypatch.setattr(local_models, "find_spec", lambda module: module)  # kenlm has no build for Python 3.13
    role = spec_of(name).needs[0].role
    with pytest.raises(
        ConfigError, match=rf"{name}.* needs models\.{role}, which the profile does not set: set it to "
    ):
        build_operators([{name: {}}], profile_of({}))
    with pytest.raises(ConfigError, match=rf"models\.{role}"):
        operators_key([{name: {}}], profile_of({}))


def test_a_missing_model_file_is_named(profile_of, models):
    roles = {**models, "perplexity": models["nltk"], "language_id": "no/such/lid.176.bin"}
    with pytest.raises(ConfigError, match=r"models\.language_id = 'no/such/lid\.176\.bin': .* not found"):
        build_operators([{"language_id_score_filter": {}}], profile_of(roles))
    with pytest.raises(ConfigError, match=r"fr\.sp\.model and .*fr\.arpa\.bin not found"):
        operators_key([{"perplexity_filter": {"lang": "fr"}}], profile_of(roles))


def test_a_pipeline_of_the_wrong_language_and_a_file_of_the_wrong_kind_are_named(profile_of, models):
    with pytest.raises(ConfigError, match=r"pipeline for 'en', and lang = 'zh'"):
        build_operators([{"text_action_filter": {"lang": "zh"}}], profile_of(models))
    with pytest.raises(ConfigError, match=r"'language_id_score_filter' with .*"):
        build_operators([{"language_id_score_filter": {}}], profile_of({"language_id": models["spacy"] / "config.cfg"}))


@pytest.mark.parametrize("name", WITH_NEEDS)
def test_the_key_changes_with_the_files_that_are_read(name, models, profile_of, tmp_path):
    import shutil

    role = spec_of(name).needs[0].role
    copy = tmp_path / role
    (shutil.copyfile if models[role].is_file() else shutil.copytree)(models[role], copy)
    profile = profile_of({role: copy})
    before = operators_key([{name: {}}], profile)
    assert list(before) == [f"{name}.{role}"]
    named = spec_of(name).needs[0].files[0].format(lang="en")
    changed = next(path for path in [copy / named, copy, *sorted(copy.rglob("*.*"))] if path.is_file())
    changed.write_bytes(changed.read_bytes() + b"\n")
    assert operators_key([{name: {}}], profile) != before


@pytest.mark.parametrize("name", [name for name in WITH_NEEDS if spec_of(name).needs[0].packages])
def test_a_missing_package_is_named_before_any_row_is_processed(name, models, profile_of, monkeypatch):
    monkeypatch.setattr(local_models, "find_spec", lambda module: None)
    package = spec_of(name).needs[0].packages[0][1]
    with pytest.raises(ConfigError, match=rf"needs the package '{package}': pip install"):
        build_operators([{name: {}}], profile_of(models))


def test_the_error_does_not_suggest_a_package_that_this_python_does_not_support(models, profile_of, monkeypatch):
    monkeypatch.setattr(local_models, "find_spec", lambda module: None if module == "kenlm" else find_spec(module))
    monkeypatch.setattr(local_models, "TOO_NEW", {"kenlm": (3, 11)})
    with pytest.raises(
        ConfigError, match=r"'kenlm': it does not compile on Python 3\.11 or newer, use an older one, or"
    ):
        build_operators([{"perplexity_filter": {}}], profile_of(models))


def test_packages_without_a_release_for_a_python_have_a_marker_in_pyproject():
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {wish.name: wish for wish in map(Requirement, project["optional-dependencies"]["operators"])}
    assert local_models.TOO_NEW
    for package, version in local_models.TOO_NEW.items():
        held = [wanted[package].marker.evaluate({"python_version": f"3.{minor}"}) for minor in (11, 12, 13)]
        assert held == [(3, minor) < version for minor in (11, 12, 13)]


def test_nltk_keeps_its_downloader_and_its_refusal_of_pickles(models, profile_of):
    import nltk

    before = nltk.download, nltk.data.restricted_pickle_load
    build_operators([{"phrase_grounding_recall_filter": {"iou_thr": 0.4}}], profile_of(models))
    assert (nltk.download, nltk.data.restricted_pickle_load) == before


def test_a_model_file_that_data_juicer_would_download_is_refused():
    registry()
    from data_juicer.utils import model_utils

    with pytest.raises(ConfigError, match=r"needs the model file 'no-such\.bin', which is not in .*put it there"):
        model_utils.check_model("no-such.bin")
    with pytest.raises(ConfigError, match="would download NLTK's sentence splitter"):
        model_utils.prepare_model("nltk", lang="en")
