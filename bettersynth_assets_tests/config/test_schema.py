"""The JSON Schemas that editors use: current, and in agreement with what profiles and recipes may hold."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
import yaml

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.schema import PROFILE, RECIPE, profile_schema, recipe_schema, texts

FILES = sorted([*PROJECT_ROOT.glob("profiles/*.yaml"), *PROJECT_ROOT.glob("recipes/*.yaml")])
MODELS = {"clip": "a/b", "watermark": "a/b", "captioner": "a/b", "base": "a/b"}
STAGE = {"global_batch": 16, "per_device_batch": 16, "learning_rate": 0.001}
TRAINING = {"seeds": [0], "stage_1": STAGE, "stage_2": STAGE}
WHOLE = {"shards": 1, "budget": 1, "models": MODELS, "training": TRAINING}


def faults(schema: dict[str, Any], values: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(values)]


@pytest.mark.parametrize("file", [PROFILE, RECIPE])
def test_the_schemas_are_current(file: str) -> None:
    assert (PROJECT_ROOT / file).read_text(encoding="utf-8") == texts()[file], "run `make schema`"


@pytest.mark.parametrize("schema", [profile_schema(), recipe_schema()], ids=["profile", "recipe"])
def test_the_schemas_are_schemas(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_names_its_schema_and_agrees_with_it(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None and (path.parent / named[1]).is_file()
    schema = profile_schema() if path.parent.name == "profiles" else recipe_schema()
    assert faults(schema, yaml.safe_load(text)) == []


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
def test_a_profile_is_judged_as_when_it_is_loaded(values: Any, words: list[str]) -> None:
    found = faults(profile_schema(), values)
    assert [*map(bool, found)] == [] if not words else all(any(word in fault for fault in found) for word in words)


def test_the_descriptions_of_fields_are_in_the_schemas() -> None:
    gpu = profile_schema()["$defs"]["Gpu"]["properties"]
    assert gpu["compiled"]["description"].startswith("Compile CLIP's layers: some ten seconds")
    assert gpu["clip_batch"]["default"] == 64
    assert recipe_schema()["$defs"]["CaptionSection"]["properties"]["sampling"]["description"]
