"""An untrusted recipe cannot run code, call an address or write a file, at any depth of its arguments."""

from __future__ import annotations

import inspect

import pytest

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.catalog import all_specs
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.operators.recipe_lists import OTHER_ROWS, check_operators
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.trust import check_trust, code_reason, unusable, warning
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import scored_table, tiny_profile

UNREVIEWED = "is not among the reviewed operators"


def test_every_operator_of_the_registry_is_reviewed():
    modules = {name: kind for name, kind in registry().modules.items() if not kind.__module__.startswith("somewhere")}
    specs = all_specs()
    assert modules.keys() >= specs.keys()
    assert not [name for name, spec in specs.items() if spec.pure and (spec.needs_trust or spec.unusable)]
    for name, kind in modules.items():
        kinds = {base.__name__ for base in kind.__mro__}
        synthesises = name in specs and specs[name].synthesises
        if kinds & {*OTHER_ROWS} or name.startswith("ray_") or synthesises or unusable(name):
            continue
        reason = code_reason(name, kind)
        assert reason != UNREVIEWED, name
        assert (reason is None) == (name in specs and specs[name].pure), name


def test_pure_operators_take_no_address_and_no_free_arguments_and_run_no_program():
    pure = [name for name, spec in all_specs().items() if spec.pure]
    assert len(pure) > 70
    evaluates = {"remove_repeat_sentences_mapper"}  # behind its `tokenizer`, which is refused
    for name in pure:
        kind = registry().modules[name]
        parameters = {key for base in kind.__mro__ if "__init__" in vars(base)
                      for key in inspect.signature(vars(base)["__init__"]).parameters}  # fmt: skip
        free = {"model_params", "api_endpoint", "api_model", "save_dir", "api_key", "endpoint_url"}
        assert not parameters & free, name
        source = inspect.getsource(inspect.getmodule(kind))
        for call in ("subprocess", "requests.", "urlopen", "os.system", "pickle.", " exec(", "torch.load"):
            assert call not in source, (name, call)
        assert (" eval(" in source) == (name in evaluates), name


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"python_lambda_mapper": {"lambda_str": "lambda row: row"}}, "runs code of the recipe: remove"),
        ({"python_file_mapper": {"file_path": "x.py"}}, "runs a Python file"),
        ({"image_ohem_selector": {"score_file": "x.py", "topk": 1}}, "runs a Python file"),
        ({"download_file_mapper": {"download_field": "x"}}, "downloads from addresses"),
        ({"s3_download_file_mapper": {}}, "downloads from addresses"),
        ({"s3_upload_file_mapper": {}}, "uploads files"),
        ({"llm_quality_score_filter": {"api_endpoint": "/chat"}}, "sends rows to an address"),
        ({"optimize_qa_mapper": {}}, "sends rows to an address"),
        ({"llm_perplexity_filter": {"model_params": {"trust_remote_code": True}}}, "free arguments to a model"),
        ({"text_tagging_by_prompt_mapper": {}}, "free arguments to a model"),
        ({"general_fused_op": {"fused_op_list": [{"python_lambda_mapper": {}}]}}, "runs other operators"),
        ({"remove_repeat_sentences_mapper": {"tokenizer": "lambda text: [text]"}}, "tokenizer = 'lambda.* is code"),
        ({"text_chunk_mapper": {"tokenizer": "gpt-4o"}}, "names a tokenizer that would be downloaded"),
        ({"image_watermark_filter": {"hf_watermark_model": "https://host/model"}}, "https://host/model' is an address"),
        ({"image_watermark_filter": {"hf_watermark_model": "x/model.PKL"}}, "pickles are never loaded"),
        ({"image_watermark_filter": {"trust_remote_code": 1}}, "trust_remote_code = 1 is refused"),
        ({"video_duration_filter": {}}, "reads video"),
        ({"audio_size_filter": {}}, "reads audio"),
        ({"image_blur_mapper": {"save_dir": "/"}}, "changes images"),
    ],
)  # fmt: skip
def test_unsafe_operators_and_arguments_are_refused_by_name(entry, says):
    with pytest.raises(ConfigError, match=says):
        check_operators([entry])


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_params": {"trust_remote_code": True}},
        {"deep": [{"er": {"trust_remote_code": "yes"}}]},
        {"model_params": {"weights": {"model_path": "a.pt"}}},
    ],
)
def test_some_arguments_are_refused_at_any_depth_regardless_of_trust(arguments):
    with pytest.raises(ConfigError, match="is refused"):
        check_trust("llm_perplexity_filter", registry().modules["llm_perplexity_filter"], arguments, trusted_code=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"sampling": [{"api_key": "s3cret"}]}, r"sampling\[0\]\.api_key names an address or holds a secret"),
        ({"a": {"base_url": "//host"}}, r"a\.base_url names"),
        ({"a": {"hf_model": "s3://bucket/x"}}, r"a\.hf_model = 's3://bucket/x' is an address"),
    ],
)
def test_nested_addresses_and_keys_need_trust_and_secrets_are_not_shown(arguments, says):
    kind = registry().modules["words_num_filter"]
    with pytest.raises(ConfigError, match=says) as error:
        check_trust("words_num_filter", kind, arguments, trusted_code=False)
    assert "s3cret" not in str(error.value)
    check_trust("words_num_filter", kind, arguments, trusted_code=True)


def test_text_that_resembles_an_address_is_accepted():
    check_operators([{"replace_content_mapper": {"pattern": "https?://\\S+", "repl": "http://x"}}])
    check_operators([{"pii_redaction_mapper": {"mask_secrets": True, "mask_urls": True}}])


def test_a_trusted_profile_runs_code_and_captions_are_still_checked(tmp_path, tiny_models):
    table, profile = scored_table(tmp_path, 4), tiny_profile(tiny_models, trusted_code=True)
    code = "lambda row: {**row, 'text': row['text'].replace('two dogs', '<image> two cats').replace('square', 'box')}"
    built = build_operators([{"python_lambda_mapper": {"lambda_str": code}}], profile)
    done = run_process(table, built, stage="s", image_root=tmp_path, rescore=lambda paths, texts: [0.5] * len(texts))
    assert [(row["id"], row["reason"]) for row in done.quarantine.to_pylist()] == [("row001", "reserved_token")]
    assert done.kept["caption"][0].as_py() == "a red box on the left of a blue circle"


def test_a_plugins_operator_runs_with_a_warning_unless_it_calls_an_address():
    from data_juicer.ops.base_op import Filter

    def calling(self, api_endpoint="", *arguments, **more):
        super(Filter, self).__init__(*arguments, **more)

    quiet = type("Quiet", (Filter,), {"__module__": "plugin.of_mine"})
    assert "'quiet_filter' comes from a plugin (plugin.of_mine)" in warning("quiet_filter", quiet)
    check_trust("quiet_filter", quiet, {}, trusted_code=False)
    with pytest.raises(ConfigError, match="sends rows to an address"):
        check_trust("calling_filter", type("Calling", (quiet,), {"__init__": calling}), {}, trusted_code=False)
    assert warning("words_num_filter", registry().modules["words_num_filter"]) is None


def test_a_models_code_is_never_run_regardless_of_how_the_argument_is_given(tmp_path):
    registry()
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}')
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ConfigError, match="custom Python code, which is never run"):
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert not (tmp_path / "ran").exists()
