"""What a profile, a recipe or the environment may hold, and what their errors say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from bettersynth_assets.config.address import address
from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.config.settings import check_data_root, load_settings
from bettersynth_assets.engine.job import PipelineJob
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from toolkit.models import ARCHITECTURES

RECIPE = "process: [{words_num_filter: {min_num: 4}}]\ncaption: {policy: replace}\n"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_has_the_name_of_its_file(path: Path) -> None:
    assert load_recipe(path.stem).name == path.stem


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_profile_loads_and_names_its_shards_in_order(path: Path) -> None:
    profile = load_profile(path.stem)
    names = profile.shard_names()
    assert (len(names), names[0]) == (profile.shards, "shard-00000")
    assert names == sorted(names)


def test_an_unknown_recipe_names_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match=r"recipe 'third_plaice' not found: did you mean 'third_place'\?"):
        load_recipe("third_plaice")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RECIPE.replace("process", "proces"), r"unknown key 'proces': did you mean 'process'\?"),
        (RECIPE.replace("policy", "polcy"), r"unknown key 'caption.polcy': did you mean 'policy'\?"),
        (RECIPE.replace("replace", "always"), r"caption.policy = 'always': .*'replace'"),
        (RECIPE + "budget: {order: random}", r"budget.order = 'random': .*'keep'"),
        ("[1, 2]", "expected a mapping of keys, found list"),
        ("process: [", "is not a valid recipe: line 1, column 11"),
        ("process: []\nbaseline: true\nprocess: []", "duplicate key 'process' in lines 1 and 3"),
        (RECIPE + "budget: {exposures: 1e2.5}", "budget.exposures = '1e2.5'"),
        ("caption: {low_score: .inf}", r"caption.low_score.* = inf: .*finite number"),
        ("process: []", "nothing is synthesised.*baseline: true"),
        ("process: [{a: {}, b: {}}]\nbaseline: true", "each operator is one"),
    ],
)
def test_the_error_of_an_invalid_recipe_names_the_fault_and_its_place(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        load_recipe(write(tmp_path / "mine.yaml", text))
    assert "mine.yaml" in str(error.value)


def test_a_recipe_without_synthesis_is_accepted_if_its_name_says_baseline(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path / "mine.yaml", "baseline: true")).caption is None


def test_settings_come_from_the_environment_and_cannot_be_changed(tmp_path: Path) -> None:
    env = {"BETTERSYNTH_SEED": str(tmp_path / "seed.jsonl"), "BETTERSYNTH_DATA": str(tmp_path / "data")}
    settings = load_settings(env, recipe=write(tmp_path / "mine.yaml", RECIPE))
    assert (settings.recipe.name, settings.profile.name) == ("mine", "miniature")
    assert settings.profile.seed == str(tmp_path / "seed.jsonl")
    assert settings.recipe_root == tmp_path / "data/miniature/mine"
    with pytest.raises(ValidationError, match="frozen"):
        settings.profile.shards = 9  # type: ignore[misc]


@pytest.mark.parametrize("exposures", [0, -5])
def test_a_budget_below_one_is_refused(exposures: int, tmp_path: Path) -> None:
    recipe = write(tmp_path / "mine.yaml", f"{RECIPE}budget: {{exposures: {exposures}}}")
    with pytest.raises(ConfigError, match=f"budget = {exposures}: .* set `budget` to 1 or more"):
        load_settings({}, recipe=recipe)


def test_the_recipes_number_of_exposures_overrides_the_profiles(tmp_path: Path) -> None:
    recipe = write(tmp_path / "mine.yaml", f"{RECIPE}budget: {{exposures: 77}}")
    assert load_settings({}, recipe=recipe).budget == 77
    settings = load_settings({})
    assert settings.budget == settings.profile.budget


@pytest.mark.parametrize("line", ["shards: 0", "shards: 2\nbudget: x", "shards: 2\nlimits: {max_bad_line_share: 2}"])
def test_a_profile_value_out_of_range_is_refused_by_name(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{line.split()[-2].strip('{').rstrip(':')} = "):
        load_profile(write(tmp_path / "mine.yaml", line))


@pytest.mark.slow
def test_a_profile_that_extends_another_differs_only_in_its_own_keys(tmp_path: Path) -> None:
    base, own = load_profile("mgm-2b"), load_profile("mgm-2b-llava")
    assert own.models == base.models.model_copy(update={"captioner": "llava-hf/llava-1.5-7b-hf"})
    assert own.gpu == base.gpu.model_copy(update={"caption_batch": 64})
    assert address(load_profile("mgm-2b-llava-vllm").models.captioner).name == own.models.captioner
    assert (own.name, own.training, own.shards) == ("mgm-2b-llava", base.training, base.shards)
    mine = load_profile(write(tmp_path / "mine.yaml", "extends: mgm-2b-llava\nshards: 3\ngpu: {devices: [1]}\n"))
    assert (mine.name, mine.shards, mine.models) == ("mine", 3, own.models)
    assert mine.gpu == own.gpu.model_copy(update={"devices": [1]})


def test_the_old_name_of_models_base_is_accepted_but_not_both_names_together(tmp_path: Path) -> None:
    mine = load_profile(write(tmp_path / "mine.yaml", "extends: miniature\nmodels: {mgm: weights/mine}"))
    assert mine.models.base == "weights/mine"
    with pytest.raises(ConfigError, match=r"mine\.yaml: models: `mgm` is the old name of `base`: give only `base`"):
        load_profile(write(tmp_path / "mine.yaml", "extends: miniature\nmodels: {mgm: a, base: b}"))


def test_a_profile_loads_its_extensions_and_names_one_that_fails(tmp_path: Path) -> None:
    name = f"model-of-{tmp_path.name}"
    own = tmp_path / "own.py"
    own.write_text(f"from toolkit.models import ARCHITECTURES\nARCHITECTURES.register({name!r}, object())\n")
    text = f"extends: miniature\nextensions: [{str(own)!r}]"
    assert load_profile(write(tmp_path / "mine.yaml", text)).extension_files() == [str(own)]
    assert name in ARCHITECTURES.names()
    with pytest.raises(ConfigError, match=r"mine\.yaml: extensions = \['nope\.py'\]: .*nope\.py' is not a file"):
        load_profile(write(tmp_path / "mine.yaml", "extends: miniature\nextensions: [nope.py]"))
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"broken\.py cannot be imported: ZeroDivisionError"):
        load_profile(write(tmp_path / "mine.yaml", text.replace("own.py", "broken.py")))


def test_a_worker_process_loads_the_extensions_of_its_settings(tmp_path: Path) -> None:
    name = f"model-of-{tmp_path.name}"
    own = tmp_path / "own.py"
    own.write_text(f"from toolkit.models import ARCHITECTURES\nARCHITECTURES.register({name!r}, object())\n")
    settings = load_settings({})
    profile = settings.profile.model_copy(update={"extensions": [str(own)]})
    job = PipelineJob(stages=(), leased=frozenset(), run=ResolvedRun(replace(settings, profile=profile)))
    assert name not in ARCHITECTURES.names()
    job.pipeline()
    assert name in ARCHITECTURES.names()


def test_a_recipes_number_may_be_written_as_in_json(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "mine.yaml", "caption: {low_score: 3e-1}\nprocess: [{a: {b: 1e-3}}]"))
    assert recipe.caption is not None and recipe.caption.low_score == 0.3
    assert recipe.process == [{"a": {"b": 0.001}}]


def test_extends_is_listed_among_the_valid_keys_of_a_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'extend': did you mean 'extends'\?"):
        load_profile(write(tmp_path / "mine.yaml", "extend: miniature"))
    with pytest.raises(ConfigError, match=r"extends = \['miniature'\]: give the name or the path of one profile"):
        load_profile(write(tmp_path / "mine.yaml", "extends: [miniature]"))
    with pytest.raises(ConfigError, match="duplicate key 'gpu' in lines 2 and 3"):
        load_profile(write(tmp_path / "mine.yaml", "extends: miniature\ngpu: {}\ngpu: {}"))


def test_a_profile_that_extends_itself_or_a_missing_profile_is_refused(tmp_path: Path) -> None:
    one = tmp_path / "one.yaml"
    one.write_text(f"extends: {write(tmp_path / 'two.yaml', f'extends: {one}')}")
    with pytest.raises(ConfigError, match=r"one.yaml extends itself"):
        load_profile(str(one))
    with pytest.raises(ConfigError, match=r"profile 'mgm-3b' not found"):
        load_profile(write(tmp_path / "mine.yaml", "extends: mgm-3b"))


def test_the_error_of_an_unusable_data_root_names_its_variable_and_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    causes = {
        tmp_path / "file": f"{tmp_path / 'file'} is not a folder",
        tmp_path / "file" / "data": f"{tmp_path / 'file'} is not a folder",
        tmp_path / "dangling": f"{tmp_path / 'dangling'} is a link to {tmp_path / 'none'}, which does not exist",
        Path("/proc/nope"): "/proc is not writable",
        Path("/dev/null/x"): "/dev/null is not a folder",
    }
    for root, cause in causes.items():
        with pytest.raises(ConfigError) as error:
            check_data_root(root)
        assert str(error.value) == (
            f"BETTERSYNTH_DATA = {str(root)!r} cannot be used: {cause}; set it to a writable folder"
        )


def test_a_data_root_may_be_new_and_may_be_read_only_for_readers(tmp_path: Path) -> None:
    check_data_root(tmp_path / "a" / "b", writing=True)
    check_data_root(tmp_path, writing=True)
    assert not list(tmp_path.iterdir())
    check_data_root(Path("/proc"))
    with pytest.raises(ConfigError, match="/proc is not writable; set it to a writable folder"):
        check_data_root(Path("/proc"), writing=True)
