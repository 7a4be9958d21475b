"""JSON Schemas of profiles, recipes and experiments. In: settings classes, operator names. Out: schemas as text.

``make schema`` runs ``operators/schema.py``, which writes them next to the YAML files. The first line of each shipped
YAML file names its schema for the YAML language server. The settings classes validate the files when they are loaded;
the schemas express the same rules as far as JSON Schema allows.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bettersynth_assets.config.experiment import Experiment
from bettersynth_assets.config.model import ConfigModel
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PROFILE, RECIPE = "profiles/profile.schema.json", "recipes/recipe.schema.json"
EXPERIMENT = "experiments/experiment.schema.json"


def profile_schema() -> dict[str, Any]:
    """Return the schema of a profile. A profile that extends another may leave out required keys."""
    schema = _schema(Profile, "A profile of Better Synth: machine, data, models and training settings of a run")
    definitions = schema["$defs"]
    models = definitions["Models"]
    models["properties"]["mgm"] = {**models["properties"]["base"], "description": "The old name of `base`."}
    models["required"].remove("base")
    models["oneOf"] = [{"required": ["base"]}, {"required": ["mgm"]}]
    whole = {"required": schema.pop("required"), "properties": {}}
    whole["required"].remove("name")  # the file's name, where it is left out
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Name or path of the profile from which missing keys are taken.",
    }
    # JSON Schema cannot revoke a requirement, so sections require no keys, and `else` adds the required keys.
    for key, section in list(schema["properties"].items()):
        if "$ref" in section:
            strict = section["$ref"]
            whole["properties"][key] = {"$ref": strict}
            schema["properties"][key] = _relaxed(section, definitions)
    schema["if"] = {"required": ["extends"]}
    schema["else"] = whole
    return schema


@dataclass(frozen=True, kw_only=True)
class OperatorNames:
    """Names of operators that editors suggest in a recipe's lists."""

    process: Sequence[str] = ()
    """For ``process`` and ``caption.refilter``."""
    select: Sequence[str] = ()
    """For ``budget.select``."""


def recipe_schema(names: OperatorNames) -> dict[str, Any]:
    """Return the schema of a recipe. It suggests the given operators and allows others, which recipes can register."""
    schema = _schema(Recipe, "A recipe of Better Synth: how the training set is made from the seed")
    definitions = schema["$defs"]
    for key, known in (("Operator", names.process), ("SelectOperator", names.select)):
        arguments = {"$ref": "#/$defs/Arguments"}
        definitions[key] = {
            "description": "One operator: its name and its arguments.",
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "properties": dict.fromkeys(known, arguments),
            "additionalProperties": arguments,
        }
    caption, budget = definitions["CaptionSection"], definitions["BudgetSection"]
    definitions["Arguments"] = schema["properties"]["process"]["items"]["additionalProperties"]
    for properties, key in ((schema["properties"], "process"), (caption["properties"], "refilter")):
        properties[key]["items"] = {"$ref": "#/$defs/Operator"}
    budget["properties"]["select"]["items"] = {"$ref": "#/$defs/SelectOperator"}
    schema["required"].remove("name")
    if not schema["required"]:
        del schema["required"]
    return schema


def experiment_schema() -> dict[str, Any]:
    """Return the schema of an experiment."""
    schema = _schema(Experiment, "An experiment of Better Synth: which recipes are compared, and how it is decided")
    schema["required"].remove("name")
    schema["oneOf"] = [{"required": ["arms"]}, {"required": ["curve"]}]
    return schema


def texts(names: OperatorNames) -> dict[str, str]:
    """Return the content of each schema file by its path in a checkout."""
    schemas = {PROFILE: profile_schema(), RECIPE: recipe_schema(names), EXPERIMENT: experiment_schema()}
    return {file: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for file, schema in schemas.items()}


def _schema(model: type[ConfigModel], title: str) -> dict[str, Any]:
    schema = {"$schema": DIALECT, **model.model_json_schema(), "title": title}
    _tidy(schema)
    return schema


def _tidy(node: Any) -> None:
    """Remove titles that repeat the key, and convert descriptions to one line of Markdown."""
    if isinstance(node, list):
        for inner in node:
            _tidy(inner)
    elif isinstance(node, dict):
        if (isinstance(node.get("title"), str) and "description" in node) or "type" in node:
            node.pop("title", None)
        if isinstance(node.get("description"), str):
            node["description"] = " ".join(node["description"].replace("``", "`").split())
        for inner in node.values():
            _tidy(inner)


def _relaxed(section: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a section without required keys, recursively."""
    name = section["$ref"].removeprefix("#/$defs/")
    loose = f"{name}Part"
    if loose not in definitions:
        definition = definitions[loose] = copy.deepcopy(definitions[name])
        definition.pop("required", None)
        definition.pop("oneOf", None)
        for key, inner in definition["properties"].items():
            if "$ref" in inner:
                definition["properties"][key] = _relaxed(inner, definitions)
    return {**section, "$ref": f"#/$defs/{loose}"}
