"""JSON Schemas of profiles and recipes, for editors. In: the settings classes, names of operators. Out: two texts.

``operators/schema.py`` writes them next to the YAML files; ``make schema`` runs it. The first line of each shipped YAML
names its schema, which the YAML language server of editors reads. Files are checked by the settings classes themselves,
when they are loaded; the schemas say the same as far as JSON Schema can.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bettersynth_assets.config.model import ConfigModel
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PROFILE, RECIPE = "profiles/profile.schema.json", "recipes/recipe.schema.json"


def profile_schema() -> dict[str, Any]:
    """The schema of a profile; one that extends another may leave out keys that are required otherwise."""
    schema = _schema(Profile, "A profile of Better Synth: where things run and with what models")
    definitions = schema["$defs"]
    models = definitions["Models"]
    models["properties"]["mgm"] = {**models["properties"]["base"], "description": "The old name of `base`."}
    models["required"].remove("base")
    models["oneOf"] = [{"required": ["base"]}, {"required": ["mgm"]}]
    whole = {"required": schema.pop("required"), "properties": {}}
    whole["required"].remove("name")  # the file's name, where it is left out
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Name or path of the profile that gives the keys that are left out here.",
    }
    # JSON Schema cannot take a requirement back: sections have none, and those of a whole profile are added to them.
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
    """Operators that editors offer in a recipe's lists."""

    process: Sequence[str] = ()
    """For ``process`` and ``caption.refilter``."""
    select: Sequence[str] = ()
    """For ``budget.select``."""


def recipe_schema(names: OperatorNames) -> dict[str, Any]:
    """The schema of a recipe, which offers these operators and allows any other: a recipe's own files add some."""
    schema = _schema(Recipe, "A recipe of Better Synth: what is done to the data")
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


def texts(names: OperatorNames) -> dict[str, str]:
    """Contents of the schemas' files by their path in a checkout."""
    schemas = {PROFILE: profile_schema(), RECIPE: recipe_schema(names)}
    return {file: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for file, schema in schemas.items()}


def _schema(model: type[ConfigModel], title: str) -> dict[str, Any]:
    schema = {"$schema": DIALECT, **model.model_json_schema(), "title": title}
    _tidy(schema)
    return schema


def _tidy(node: Any) -> None:
    """Take out titles that only repeat the key, and write descriptions in one line of Markdown."""
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
    """A section without required keys, nor any in the sections inside it."""
    name = section["$ref"].removeprefix("#/$defs/")
    loose = f"{name}Part"
    if loose not in definitions:
        found = definitions[loose] = copy.deepcopy(definitions[name])
        found.pop("required", None)
        found.pop("oneOf", None)
        for key, inner in found["properties"].items():
            if "$ref" in inner:
                found["properties"][key] = _relaxed(inner, definitions)
    return {**section, "$ref": f"#/$defs/{loose}"}
