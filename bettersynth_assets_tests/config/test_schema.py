"""The JSON Schemas for editors are current and agree with the validation of profiles, recipes and experiments."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
import yaml

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.schema import (
    EXPERIMENT,
    PROFILE,
    RECIPE,
    OperatorNames,
    experiment_schema,
    profile_schema,
    recipe_schema,
    texts,
)
from bettersynth_assets.operators.schema import operator_names

FILES = sorted(
    file for folder in ("profiles", "recipes", "experiments") for file in (PROJECT_ROOT / folder).glob("*.yaml")
)
MODELS = {"clip": "a/b", "watermark": "a/b", "captioner": "a/b", "base": "a/b"}
STAGE = {"global_batch": 16, "per_device_batch": 16, "learning_rate": 0.001}
TRAINING = {"seeds": [0], "stage_1": STAGE, "stage_2": STAGE}
WHOLE = {"shards": 1, "budget": 1, "models": MODELS, "training": TRAINING}


def faults(schema: dict[str, Any], values: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(values)]


OPERATORS = OperatorNames(process=["text_length_filter"], select=["document_deduplicator"])


@pytest.mark.parametrize("file", [PROFILE, RECIPE, EXPERIMENT])
def test_the_schemas_are_current(file: str) -> None:
    assert (PROJECT_ROOT / file).read_text(encoding="utf-8") == texts(operator_names())[file], "run `make schema`"


def test_the_schema_offers_exactly_the_operators_that_a_list_can_contain() -> None:
    names = operator_names()
    offered = {"image_shape_filter", "clip_score_filter", "clean_links_mapper", "document_deduplicator"}
    assert offered <= {*names.process} and offered - {*names.select} == {"clean_links_mapper"}
    refused = {"caption_mapper", "video_duration_filter", "image_blur_mapper", "ray_document_deduplicator"}
    assert not refused & {*names.process}
    properties = recipe_schema(names)["$defs"]["Operator"]["properties"]
    assert [*properties] == names.process and len(properties) > 50


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"text_length_filter": {"min_len": 3}}, None),
        ({"text_length_filter": None}, None),
        ({"a_filter_of_mine": {"any": 1}}, None),
        ({"text_length_filter": 3}, "3 is not valid under any of the given schemas"),
        ({"text_length_filter": {}, "a_filter_of_mine": {}}, "has too many properties"),
        ("text_length_filter", "'text_length_filter' is not of type 'object'"),
    ],
)
def test_an_entry_of_a_recipes_list_is_one_known_or_custom_operator(entry: Any, words: str | None) -> None:
    found = faults(recipe_schema(OPERATORS), {"process": [entry]})
    assert found == [] if words is None else [words in fault for fault in found] == [True]
    for recipe in ({"caption": {"refilter": [entry]}}, {"budget": {"select": [entry]}}):
        assert bool(faults(recipe_schema(OPERATORS), recipe)) == (words is not None)


@pytest.mark.parametrize("schema", [profile_schema(), recipe_schema(OPERATORS), experiment_schema()])
def test_the_schemas_are_valid_json_schemas(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_names_its_schema_and_agrees_with_it(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None and (path.parent / named[1]).is_file()
    schemas = {"profiles": profile_schema(), "recipes": recipe_schema(OPERATORS), "experiments": experiment_schema()}
    assert faults(schemas[path.parent.name], yaml.safe_load(text)) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (WHOLE, []),
        ({**WHOLE, "models": {**MODELS, "base": 1}}, ["1 is not of type 'string'"]),
        ({key: value for key, value in WHOLE.items() if key != "budget"}, ["'budget' is a required property"]),
        ({"extends": "miniature"}, []),
        ({"extends": "miniature", "models": {"mgm": "a/b"}, "training": {"stage_2": {"max_steps": 3}}}, []),
        ({"extends": "miniature", "gpu": {"dtyp": 1}}, ["('dtyp' was unexpected)"]),
        ({**WHOLE, "training": {"seeds": [0], "stage_1": STAGE}}, ["'stage_2' is a required property"]),
        ({**WHOLE, "gpu": {"clip_batch": 0}}, ["0 is not valid under any of the given schemas"]),
    ],
)
def test_the_schema_judges_a_profile_as_loading_it_does(values: Any, words: list[str]) -> None:
    found = faults(profile_schema(), values)
    assert [*map(bool, found)] == [] if not words else all(any(word in fault for fault in found) for word in words)


def test_the_descriptions_of_fields_are_in_the_schemas() -> None:
    gpu = profile_schema()["$defs"]["Gpu"]["properties"]
    assert gpu["compiled"]["description"].startswith("Compile CLIP's layers.")
    assert gpu["clip_batch"]["default"] == 64
    assert recipe_schema(OPERATORS)["$defs"]["CaptionSection"]["properties"]["sampling"]["description"]
