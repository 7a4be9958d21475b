"""Custom operators from a recipe's files: filter, mapper and selector from outside the package, in the real stages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.stages.budget import BUDGETED_SET
from bettersynth_assets.stages.recipe_check import check_recipe, recipe_key
from bettersynth_assets_tests.helpers.operators import operators_key
from bettersynth_assets_tests.helpers.seed_stages import STAGES

pytestmark = pytest.mark.slow

PAGE = (PROJECT_ROOT / "docs" / "extending.md").read_text("utf-8")
SECTION = PAGE.partition("## Add an operator")[2].partition("\n## ")[0]
EXAMPLE, RECIPE, SPEC = re.findall(r"```(?:python|yaml)\n(.*?)```", SECTION, re.DOTALL)
FILTER = [{"word_length_filter": {"max_length": 3.9}}]
MAPPER = """
from data_juicer.ops.base_op import OPERATORS, Mapper

@OPERATORS.register_module("shout_mapper")
class ShoutMapper(Mapper):
    def process_single(self, sample):
        return {**sample, "text": sample["text"].replace("two dogs", "TWO DOGS")}
"""
SELECTOR = """
from data_juicer.ops.base_op import OPERATORS, Selector
from bettersynth_assets.operators.spec import OperatorSpec

@OPERATORS.register_module("every_third_selector")
class EveryThirdSelector(Selector):
    bettersynth_spec = OperatorSpec(name="every_third_selector", cost="caption", stats=())

    def process(self, dataset):
        return dataset.select(range(0, len(dataset), 3))
"""
Make = Callable[..., Pipeline]


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Make:
    """Return a pipeline of a recipe file with these files next to it."""

    def make(files: dict[str, str], *, trusted: bool = True, **sections: Any) -> Pipeline:
        folder = tmp_path / "my recipes"
        folder.mkdir(exist_ok=True)
        for name, source in files.items():
            (folder / name).write_text(source)
        values = {"baseline": True, "custom_operators": [*files], **sections}
        (folder / "mine.yaml").write_text(yaml.safe_dump(values))
        profile = settings.profile.model_copy(update={"trusted_code": trusted})
        there = replace(settings, profile=profile, recipe=load_recipe(str(folder / "mine.yaml")))
        return Pipeline((*STAGES, BUDGETED_SET), ResolvedRun(there), log=lambda line: None)

    return make


def rows_of(manifests: list[Manifest], table: str = "kept") -> list[dict[str, Any]]:
    return [row for manifest in manifests for row in manifest.table(table).to_pylist()]


def refused(pipeline: Pipeline) -> str:
    with pytest.raises(ConfigError) as error:
        check_recipe(ResolvedRun(pipeline.settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_documented_filter_rejects_with_value_and_reason(run: Make) -> None:
    sections = {key: value for key, value in yaml.safe_load(RECIPE).items() if key != "custom_operators"}
    assert sections["process"] == FILTER
    pipeline = run({"word_length_filter.py": EXAMPLE + SPEC}, **sections)
    assert check_recipe(ResolvedRun(pipeline.settings)) == []
    manifests = pipeline.ensure_all("filtered_set")
    kept, rejects = rows_of(manifests), rows_of(manifests, "rejects")
    assert len(kept) == 24 and all(manifest.lost == 0 for manifest in manifests)
    for row in rejects:
        assert (row["operator"], row["value"]) == ("word_length_filter", 4.0)
        assert row["reason"] == "mean word length 4.00 > max_length 3.9"
        assert row["limit"] == '{"max_length": 3.9}'
    assert len(rejects) == 6
    assert spec_of("word_length_filter").cost == "caption"


def test_custom_mappers_and_selectors_run_in_the_other_lists(run: Make) -> None:
    files = {"word_length_filter.py": EXAMPLE, "mapper.py": MAPPER, "selector.py": SELECTOR}
    pipeline = run(
        files,
        baseline=False,
        process=[{"shout_mapper": {}}],
        caption={"policy": "low_score_only", "low_score": -1.0, "refilter": FILTER},
        budget={"exposures": 8, "select": [{"every_third_selector": {}}]},
    )
    rows = rows_of(pipeline.ensure_all("filtered_set"))
    assert [row["caption"] for row in rows if "caption_edited" in row["flags"]] == ["TWO DOGS"] * 6
    refiltered = rows_of(pipeline.ensure_all("recaptioned_set"))
    budgeted = pipeline.ensure("budgeted_set")
    assert sorted(budgeted.table("kept")["id"].to_pylist()) == sorted(row["id"] for row in refiltered)[::3]
    gone = {(row["operator"], row["reason"]) for row in budgeted.table("rejects").to_pylist()}
    assert gone == {("every_third_selector", "refused by every_third_selector")}


def test_a_changed_operator_file_is_imported_again_and_only_its_stage_is_rebuilt(run: Make) -> None:
    sections = {"process": FILTER, "budget": {"exposures": 8, "select": [{"every_third_selector": {}}]}}
    files = {"word_length_filter.py": EXAMPLE, "selector.py": SELECTOR}
    first = run(files, **sections)
    first.ensure_all("filtered_set")
    first.ensure("budgeted_set")
    again = run(files, **sections)
    again.ensure("budgeted_set")
    assert again.materialized == []
    selector = run({**files, "selector.py": SELECTOR.replace(", 3)", ", 2)")}, **sections)
    selector.ensure("budgeted_set")
    assert {manifest.stage for manifest in selector.materialized} == {"budgeted_set"}
    # The same length and modification time, which Python's bytecode cache compares.
    path = Path(first.settings.recipe.custom_operators[0])
    state = path.stat()
    changed = run({**files, "word_length_filter.py": EXAMPLE.replace("> self.max", "< self.max")}, **sections)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(rows_of(changed.ensure_all("filtered_set"))) == 6


def test_keys_contain_the_code_of_custom_operators_and_are_unchanged_for_others(run: Make) -> None:
    pipeline = run({"word_length_filter.py": EXAMPLE}, process=FILTER)
    check_recipe(ResolvedRun(pipeline.settings))
    profile = pipeline.settings.profile
    assert [*operators_key(FILTER, profile)] == ["word_length_filter.code"]
    assert operators_key([{"words_num_filter": {}}], profile) == {}
    before = recipe_key(pipeline.settings)
    run({"word_length_filter.py": EXAMPLE + "# more"}, process=FILTER)
    assert recipe_key(pipeline.settings) != before


def test_a_recipe_with_code_is_refused_without_trust_and_its_code_does_not_run(run: Make, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n{EXAMPLE}"
    pipeline = run({"mine.py": code}, trusted=False, process=FILTER)
    words = refused(pipeline)
    assert re.fullmatch(
        r"recipe 'mine': custom_operators runs the code of .*mine\.py: remove it, or set `trusted_code: true` in the "
        r"profile if you trust the recipe as you would trust a program",
        words,
    )
    with pytest.raises(ConfigError, match="custom_operators runs the code of"):
        pipeline.ensure_all("filtered_set")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_package", r"cannot be imported: ModuleNotFoundError: No module named .* \(line 1\): correct"),
        ("def broken(:", r"cannot be imported: SyntaxError: invalid syntax \(mine\.py, line 1\)"),
        ("\nraise SystemExit(0)", r"cannot be imported: SystemExit: 0 \(line 2\)"),
        ("x = 1", r"registers no operator: decorate a class with @OPERATORS\.register_module"),
        (
            EXAMPLE.replace('"word_length_filter"', '"words_num_filter"'),
            r"registers 'words_num_filter', which already exists",
        ),
        (
            EXAMPLE.replace('"word_length_filter"', '"words_num_filter", force=True'),
            r"registers 'words_num_filter', which already exists: choose another name",
        ),
    ],
)
def test_an_unusable_operator_file_is_named_with_the_cause(source: str, says: str, run: Make) -> None:
    stock = registry().modules["words_num_filter"]
    words = refused(run({"mine.py": source}, process=[{"words_num_filter": {}}]))
    assert re.match(r"recipe 'mine': custom_operators: /.*/my recipes/mine\.py " + says, words), words
    assert registry().modules["words_num_filter"] is stock
    assert "word_length_filter" not in registry().modules


def test_a_missing_file_and_a_name_registered_by_two_files_are_refused(run: Make, tmp_path: Path) -> None:
    pipeline = run({"one.py": EXAMPLE, "two.py": EXAMPLE})
    assert re.search(r"two\.py registers 'word_length_filter', which already exists", refused(pipeline))
    Path(pipeline.settings.recipe.custom_operators[1]).unlink()
    assert re.search(r"custom_operators: no file /.*/two\.py: use the path of a Python file", refused(pipeline))


def test_recipes_in_one_process_do_not_see_each_others_operators(run: Make) -> None:
    long = run({"a.py": EXAMPLE}, process=FILTER)
    other = run({"b.py": EXAMPLE.replace("> self.max_length:", "<= self.max_length:")}, process=FILTER)
    assert len(rows_of(long.ensure_all("filtered_set"))) == 24
    assert len(rows_of(other.ensure_all("filtered_set"))) == 6
    first_again = Pipeline(STAGES, ResolvedRun(long.settings), log=lambda line: None)
    assert len(rows_of(first_again.ensure_all("filtered_set"))) == 24
    check_recipe(ResolvedRun(run({}, process=[{"words_num_filter": {"min_num": 1}}]).settings))
    assert "word_length_filter" not in registry().modules
    assert "did you mean" in refused(run({}, process=FILTER))
