"""Operators that raise: either the row is quarantined, or the shard fails with a one-sentence error."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError, DeviceError
from bettersynth_assets.operators.operator_calls import OperatorError, attempt, operator_context
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.stages.recipe_check import check_recipe
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import scored_table, tiny_profile
from toolkit.file_errors import EnvironmentFault

STAT = "__dj__stats__.num_words"


@pytest.fixture
def rows(tmp_path):
    """Twelve rows whose seed had the fields ``similarity``, ``tag`` (null in row 3) and ``mixed``, of two types."""
    table = scored_table(tmp_path, 12)
    extra = [
        json.dumps(
            {"similarity": index / 10, "tag": None if index == 3 else f"t{index % 2}", "mixed": [index, "x"][index % 2]}
        )
        for index in range(12)
    ]
    return table.set_column(table.schema.get_field_index("extra"), "extra", pa.array(extra))


@pytest.fixture
def process(tmp_path, tiny_models):
    profile = tiny_profile(tiny_models, shards=1, trusted_code=True)

    def run(table, *entries):
        built = build_operators(list(entries), profile)
        done = run_process(
            table, built, stage="s", image_root=tmp_path, rescore=lambda paths, texts: [0.5] * len(texts)
        )
        assert done.kept.num_rows + done.rejects.num_rows + done.quarantine.num_rows == table.num_rows
        return done

    return run


def ids(table):
    return table["id"].to_pylist()


def test_operators_can_filter_and_select_by_extra_fields_of_the_seed_file(rows, process):
    numbers = process(rows, {"specified_numeric_field_filter": {"field_key": "similarity", "min_value": 0.5}})
    assert ids(numbers.kept) == ids(rows)[5:]
    assert numbers.rejects["reason"][1].as_py() == "similarity 0.1 < min_value 0.5"
    assert ids(process(rows, {"topk_specified_field_selector": {"field_key": "similarity", "topk": 2}}).kept) == [
        "row010", "row011",
    ]  # fmt: skip
    tagged = process(rows, {"tags_specified_field_selector": {"field_key": "tag", "target_tags": ["t1"]}})
    assert ids(tagged.kept) == ["row001", "row005", "row007", "row009", "row011"]
    one = {"specified_field_filter": {"field_key": "tag", "target_value": ["t0"]}}
    assert ids(process(rows, {"document_deduplicator": {}}, one).kept) == ["row000", "row002", "row004"]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"specified_numeric_field_filter": {"field_key": "text.gone"}}, r"all 12 rows: AttributeError: 'str' object"),
        ({"specified_field_filter": {"field_key": "text.gone", "target_value": [1]}}, r"AttributeError: 'str' object"),
        ({"topk_specified_field_selector": {"field_key": STAT, "topk": 3}}, r"whole set of 12 rows: AssertionError"),
        ({"frequency_specified_field_selector": {"field_key": STAT, "topk": 3}}, r"whole set of 12 rows: Asser"),
        (
            {"range_specified_field_selector": {"field_key": STAT, "lower_rank": 1, "upper_rank": 2}},
            r"whole set of 12 rows: AssertionError",
        ),
        ({"tags_specified_field_selector": {"field_key": STAT, "target_tags": ["a"]}}, r"whole set of 12 rows: Asser"),
        ({"topk_specified_field_selector": {"field_key": "mixed", "topk": 3}}, r"whole set of 12 rows: ArrowInvalid"),
        ({"python_lambda_mapper": {"lambda_str": "lambda row: row['gone']"}}, r"all 12 rows: KeyError: 'gone'"),
        ({"python_lambda_mapper": {"lambda_str": "lambda row: exit(0)"}}, r"all 12 rows: SystemExit: 0"),
        ({"python_lambda_mapper": {"lambda_str": "lambda row: None"}}, r"failed on all 12 rows: "),
        ({"python_lambda_mapper": {"lambda_str": "lambda row: {'text': 5}"}}, r"failed on all 12 rows: "),
        ({"python_lambda_mapper": {"lambda_str": "row +"}}, r"failed while it was built: ValueError"),
        ({"python_file_mapper": {"file_path": "no/such/file.py"}}, r"failed while it was built: "),
        ({"image_shape_filter": {"any_or_all": "some"}}, r"failed while it was built: ValueError"),
        ({"remove_specific_chars_mapper": {"chars_to_remove": "[a-z"}}, r"remove_specific_chars_mapper"),
        ({"replace_content_mapper": {"pattern": "(", "repl": ""}}, r"'replace_content_mapper' with .* failed"),
    ],
)  # fmt: skip
def test_an_operator_that_always_raises_gives_one_error_with_its_name_arguments_and_the_fix(rows, process, entry, says):
    ((name, arguments),) = entry.items()
    with pytest.raises(ConfigError, match=says) as error:
        process(rows, entry)
    words = str(error.value)
    assert words.startswith(f"operator '{name}'") and "\n" not in words and len(words) < 1200
    assert all(json.dumps(value) in words for value in arguments.values()) and "remove it" in words


def test_only_rows_on_which_an_operator_raises_are_quarantined(rows, process):
    done = process(
        rows, {"python_lambda_mapper": {"lambda_str": "lambda row: {**row, 'text': row['text'] + row['tag'][2:]}"}}
    )
    (row,) = done.quarantine.to_pylist()
    assert (row["id"], row["reason"]) == ("row003", "operator_error")
    assert row["detail"].startswith("python_lambda_mapper: TypeError: 'NoneType' object is not subscriptable")


def plugin(name, **methods):
    """Register a filter as a plugin would."""
    registry()
    from data_juicer.ops.base_op import OPERATORS, Filter

    if name not in OPERATORS.modules:
        OPERATORS.modules[name] = type(
            "Plugin", (Filter,), {"_name": name, "__module__": "somewhere.plugin", **methods}
        )


def same(self, sample, *arguments, **more):
    return sample


def raising(self, sample):
    if sample["id"] in ("row002", "row007"):
        raise RuntimeError("two\nlines")
    return True


def test_rows_on_which_a_filters_decision_raises_are_quarantined(rows, process):
    plugin("raising_filter", compute_stats_single=same, process_single=raising)
    done = process(rows, {"raising_filter": {}})
    assert ids(done.quarantine) == ["row002", "row007"] and done.kept.num_rows == 10
    assert done.quarantine["detail"][0].as_py() == "raising_filter: RuntimeError: two lines"


@pytest.mark.parametrize(
    "methods",
    [
        {"compute_stats_single": same, "process_single": lambda self, sample: 1 / 0},
        {"compute_stats_single": lambda self, sample: None, "process_single": lambda self, sample: True},
        {"compute_stats_single": lambda self, sample: {}, "process_single": lambda self, sample: True},
        {"_batched_op": True, "compute_stats_batched": same, "process_batched": lambda self, samples: []},
        {"_batched_op": True, "compute_stats_batched": same, "process_batched": lambda self, samples: 5},
        {"_batched_op": True, "compute_stats_batched": lambda self, samples: {**samples, "__dj__stats__": []}},
        {"use_cuda": lambda self: 1 / 0, "is_batched_op": lambda self: 1 / 0},
    ],
)
def test_a_plugin_that_violates_its_interface_gives_one_error(rows, process, methods, request):
    name = f"broken_{request.node.callspec.indices['methods']}"
    plugin(name, **methods)
    with pytest.raises(OperatorError, match=f"operator '{name}' with .* failed "):
        process(rows, {name: {}})


def test_a_stat_that_is_not_a_number_rejects_the_row_without_an_error(rows, process):
    def stats(self, sample):
        sample["__dj__stats__"]["odd"] = float("nan")
        return sample

    plugin(
        "nan_filter",
        compute_stats_single=stats,
        process_single=lambda self, sample: self.get_keep_boolean(sample["__dj__stats__"]["odd"], 0.0, 1.0),
    )
    done = process(rows, {"nan_filter": {}})
    assert done.rejects.num_rows == 12 and done.rejects["reason"][0].as_py().startswith("value nan ")


def test_errors_that_are_not_an_operators_fault_propagate_unchanged():
    for error in (MemoryError(), KeyboardInterrupt(), EnvironmentFault("disk"), ConfigError("own")):
        with pytest.raises(type(error)) as raised, operator_context("x", "{}", "here"):
            raise error
        assert raised.value is error
        with pytest.raises(type(error)) as raised:
            attempt(lambda error=error: (_ for _ in ()).throw(error))
        assert raised.value is error
    import torch

    with pytest.raises(DeviceError, match="out of GPU memory in an operator"):
        attempt(lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))


def test_a_file_that_the_environment_withholds_fails_the_shard_and_blames_no_row(rows, process, tmp_path):
    def stats(self, sample):
        if sample["id"] == "row004":
            raise PermissionError(13, "Permission denied", str(tmp_path))
        return sample

    plugin("locked_filter", compute_stats_single=stats, process_single=lambda self, sample: True)
    with pytest.raises(EnvironmentFault, match="Permission denied"):
        process(rows, {"locked_filter": {}})


@pytest.mark.parametrize(
    ("process_list", "says"),
    [
        ([{"specified_numeric_field_filter": {"field_key": "similarity"}}], "field 'similarity', which neither"),
        ([{"general_field_filter": {"filter_condition": "similarity > 0.3 and id != 'a'"}}], "field 'similarity'"),
        ([{"suffix_filter": {"suffixes": ["txt"]}}], "reads the field '__dj__suffix__'"),
        ([{"words_num_filter": {"text_key": "alt"}}], "reads the field 'alt'"),
        ([{"text_length_filter": {}}, {"specified_field_filter": {"field_key": "tag", "target_value": [1]}}], "'tag'"),
        (
            [{"topk_specified_field_selector": {"field_key": STAT, "topk": 3}}],
            "a stat that no operator before it in the list writes: put words_num_filter before it",
        ),
        ([{"topk_specified_field_selector": {"topk": 3}}], "argument 'field_key' is missing"),
        ([{"specified_field_filter": {"field_key": "id"}}], "argument 'target_value' is missing"),
        ([{"random_selector": {"select_ratio": 0.0}}], "select_ratio = 0.0 would keep no row"),
        ([{"random_selector": {"select_num": 0}}], "select_num = 0: Input should be greater than 0"),
        ([{"words_num_filter": {"batch_size": 0}}], "batch_size = 0: use 1 or more"),
        ([{"words_num_filter": {"batch_size": "all"}}], "batch_size = 'all'"),
        ([{"clean_links_mapper": {"text_key": "id"}}], "text_key = 'id': a recipe only records"),
        ([{"words_num_filter": {"image_key": "id"}}], "image_key = 'id'"),
        ([{"image_shape_filter": {"any_or_all": "some"}}], "failed while it was built"),
    ],
)  # fmt: skip
def test_a_recipe_that_names_a_field_or_stat_of_no_row_is_refused_before_any_work(
    tiny_models, tmp_path, process_list, says
):
    seed = tmp_path / "seed.jsonl"
    seed.write_text('{"id": "a", "text": "<__dj__image>\\nan x <|__dj__eoc|>", "images": ["a.png"], "score": 1}\n')
    profile = tiny_profile(tiny_models, shards=1, seed=str(seed))
    recipe = Recipe.parse({"name": "test", "baseline": True, "process": process_list}, where="test")
    with pytest.raises(ConfigError, match=says):
        check_recipe(ResolvedRun(Settings(profile=profile, recipe=recipe, data_root=tmp_path / "data")))
    assert not (tmp_path / "data").exists()


def test_existing_fields_and_stats_are_accepted(tiny_models, tmp_path):
    seed = tmp_path / "seed.jsonl"
    seed.write_text('{"id": "a", "text": "<__dj__image>\\nan x <|__dj__eoc|>", "images": ["a.png"], "score": 1}\n')
    entries = [
        {"specified_numeric_field_filter": {"field_key": "score"}},
        {"words_num_filter": {}},
        {"topk_specified_field_selector": {"field_key": STAT, "topk": 3}},
        {"general_field_filter": {"filter_condition": "score >= 1 and __dj__stats__.image_width > 3"}},
    ]
    profile = tiny_profile(tiny_models, shards=1, seed=str(seed))
    recipe = Recipe.parse({"name": "test", "baseline": True, "process": entries}, where="test")
    assert check_recipe(ResolvedRun(Settings(profile=profile, recipe=recipe, data_root=tmp_path / "data"))) == []
