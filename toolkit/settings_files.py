"""Strict reader of settings files (recipes, profiles, training plans). In: a YAML or JSON file. Out: plain values.

YAML is read as by PyYAML's safe loader, except where that loader would silently return an unintended value:

- A duplicate key is an error that names both lines; PyYAML keeps the last value.
- ``3e-1`` is a number, as in YAML 1.2 and JSON; in YAML 1.1 it is a string.
- ``yes``, ``no``, ``on``, ``off``, ``1:30`` and ``017`` are errors, because YAML 1.1 and 1.2 read different values.
- ``2026-11-26`` is a string, because no setting is a date. ``.nan`` is an error.
- Aliases that refer to themselves, or that expand a small file to very many values, are errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MOST_VALUES = 100_000
"""Maximum number of values in a file; the values of an alias count at each use."""

_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+")
_NAN = re.compile(r"\.nan", re.IGNORECASE)
_TWO_READINGS = (
    (re.compile(r"yes|no|on|off", re.IGNORECASE), "true or false"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"), "one number"),
    (re.compile(r"[-+]?0[0-7_]+"), "the number without leading zeros"),
)
_PLAIN = "tag:yaml.org,2002:"


class SettingsFileError(ValueError):
    """A file that is not valid YAML or JSON, or that is ambiguous between YAML versions; the message is one line."""


class _Loader(yaml.SafeLoader):
    """``SafeLoader`` with the floats of YAML 1.2 and without timestamps."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_PLAIN}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_PLAIN}float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789"))


def read_settings_file(path: Path) -> Any:
    """Read a ``.json`` file as JSON and any other as YAML.

    Raises:
        SettingsFileError: the content is invalid or ambiguous.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    return parse_json(content) if path.suffix == ".json" else parse_yaml(content)


def parse_yaml(content: bytes | str) -> Any:
    """Parse one YAML document to plain values; None for an empty one. Raises as ``read_settings_file``."""
    return deepcopy(_parse_yaml(content))


# A process reads the same recipes and profiles many times, and parsing takes some 20 ms for each.
@lru_cache(maxsize=128)
def _parse_yaml(content: bytes | str) -> Any:
    try:
        loader = _Loader(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_values(node, {}, ())
            for scalar in _checked_scalars(node, set()):
                _refuse_two_readings(scalar)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise SettingsFileError("values are nested too deeply") from None
    except yaml.YAMLError as error:
        raise SettingsFileError(_in_one_line(error)) from None


def parse_json(content: bytes | str) -> Any:
    """Parse a JSON document strictly to plain values. Raises as ``read_settings_file``."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            # The JSON parser reports no lines here, the YAML parser does. In JSON, tabs occur between values only.
            parse_yaml(text.replace("\t", " "))
            raise SettingsFileError(f"one of the keys {', '.join(map(repr, found))} is duplicated: remove one")
        return found

    def constant(name: str) -> float:
        raise SettingsFileError(f"{name} is not a valid JSON number")

    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise SettingsFileError(f"is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise SettingsFileError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise SettingsFileError("values are nested too deeply") from None


def _count_values(node: Node, counted: dict[int, int], above: tuple[int, ...]) -> int:
    """Return the number of values below a node, with its aliases expanded."""
    if id(node) in above:
        raise SettingsFileError(f"line {_line(node)}: an alias refers to the value that contains it")
    if id(node) not in counted:
        inside = (*above, id(node))
        counted[id(node)] = total = 1 + sum(_count_values(child, counted, inside) for child in _children(node))
        if total > MOST_VALUES:
            raise SettingsFileError(f"line {_line(node)}: aliases expand to more than {MOST_VALUES} values")
    return counted[id(node)]


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, SequenceNode):
        yield from node.value


def _checked_scalars(node: Node, seen: set[int]) -> Iterator[ScalarNode]:
    """Yield each scalar below a node once; raise if a mapping has duplicate keys."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, ScalarNode):
        yield node
    if isinstance(node, MappingNode):
        first: dict[tuple[str, str], Node] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            if other := first.get((key.tag, key.value)):
                lines = f"{_line(other)} and {_line(key)}"
                raise SettingsFileError(f"duplicate key {key.value!r} in lines {lines}: remove one")
            first[key.tag, key.value] = key
    for child in _children(node):
        yield from _checked_scalars(child, seen)


def _refuse_two_readings(node: ScalarNode) -> None:
    if node.style is not None:  # quoted
        return
    for pattern, fix in _TWO_READINGS:
        if pattern.fullmatch(node.value):
            raise SettingsFileError(
                f"line {_line(node)}: {node.value} differs between YAML 1.1 and 1.2: write {fix}, or quote it"
            )
    if _NAN.fullmatch(node.value):
        raise SettingsFileError(f"line {_line(node)}: {node.value} is not a number: write a number or null")
    if _FLOAT.fullmatch(node.value) and abs(float(node.value)) == float("inf"):
        raise SettingsFileError(f"line {_line(node)}: {node.value} is too large for a number: quote it if it is text")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _in_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if "'\\t'" in problem:
        problem = "found a tab where YAML requires spaces"
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return " ".join(f"{where}{problem}".split())
