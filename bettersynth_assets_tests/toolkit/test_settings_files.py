"""Settings in YAML and JSON: what is accepted, and what is refused with its line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from toolkit.settings_files import SettingsFileError, parse_json, parse_yaml, read_settings_file


def test_a_change_of_a_parsed_value_does_not_change_the_next_one() -> None:
    parse_yaml("a: [1]")["a"].append(2)
    assert parse_yaml("a: [1]") == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-1", 0.3),
        ("-2E+3", -2000.0),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("0o17", "0o17"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("12e4567x", "12e4567x"),
        ("'3e-1'", "3e-1"),
        ("'yes'", "yes"),
        ('"017"', "017"),
        ("true", True),
        ("~", None),
        ("2026-11-26", "2026-11-26"),
        ("{a: &x [1, 2], b: *x}", {"a": [1, 2], "b": [1, 2]}),
        ("base: &b {p: 1, q: 2}\nown: {<<: *b, q: 3}", {"base": {"p": 1, "q": 2}, "own": {"p": 1, "q": 3}}),
        ("\ufeffa: é", {"a": "é"}),
        ("", None),
        ("# nothing", None),
    ],
)
def test_yaml_values_have_the_expected_types(text: str, value: object) -> None:
    found = parse_yaml(text.encode())
    assert found == value and type(found) is type(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("process: []\nbudget: {}\nprocess: []", "duplicate key 'process' in lines 1 and 3: remove one"),
        ("a:\n  - f: {min_num: 400, min_num: 1}", "duplicate key 'min_num' in lines 2 and 2: remove one"),
        ('a: 1\n"a": 2', "duplicate key 'a' in lines 1 and 2: remove one"),
        ("&k a: 1\n*k : 2", "duplicate key 'a' in lines 1 and 1: remove one"),
        ("b: &b {}\na:\n  <<: *b\n  <<: *b", "duplicate key '<<' in lines 3 and 4: remove one"),
        ("a:\n  b: yes", "line 2: yes differs between YAML 1.1 and 1.2: write true or false, or quote it"),
        ("lang: NO", "line 1: NO differs between YAML 1.1 and 1.2: write true or false, or quote it"),
        ("on: 1", "line 1: on differs between YAML 1.1 and 1.2: write true or false, or quote it"),
        ("t: 1:30", "line 1: 1:30 differs between YAML 1.1 and 1.2: write one number, or quote it"),
        ("n: 017", "line 1: 017 differs between YAML 1.1 and 1.2: write the number without leading zeros, "
         "or quote it"),
        ("n: .NaN", "line 1: .NaN is not a number: write a number or null"),
        ("rev: 12e4567", "line 1: 12e4567 is too large for a number: quote it if it is text"),
        ("a: 1\n\tb: 2", "line 2, column 1: found a tab where YAML requires spaces"),
        ("a: 1\n---\na: 2", "line 2, column 1: but found another document"),
        ("a: !!python/name:os.system x", "line 1, column 4: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/name:os.system'"),
        ("a: &a [*a]", "line 1: an alias refers to the value that contains it"),
        ("[" * 3000, "values are nested too deeply"),
        ("a: [1", "line 1, column 6: expected ',' or ']', but got '<stream end>'"),
    ],
)  # fmt: skip
def test_ambiguous_or_invalid_yaml_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(SettingsFileError) as error:
        parse_yaml(text)
    assert str(error.value) == words


def test_aliases_cannot_expand_a_small_file_without_limit() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(SettingsFileError, match="aliases expand to more than 100000 values"):
        parse_yaml("\n".join(levels))


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(SettingsFileError, match=r"invalid (continuation|start) byte"):
        parse_yaml(b"a: \xff\xfe\xfa")
    with pytest.raises(SettingsFileError, match=r"is not UTF-8 \(byte 6\)"):
        parse_json(b'{"a": \xff}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n\t"seed": 1,\n\t"b": {},\n\t"seed": 2\n}', "duplicate key 'seed' in lines 2 and 4: remove one"),
        ('{"a": NaN}', "NaN is not a valid JSON number"),
        (
            '{"a": 1,\n}',
            "line 1, column 8: Illegal trailing comma before end of object"
            if sys.version_info >= (3, 13)
            else "line 2, column 1: Expecting property name enclosed in double quotes",
        ),
    ],
)
def test_json_is_read_as_strictly_as_yaml(text: str, words: str) -> None:
    with pytest.raises(SettingsFileError) as error:
        parse_json(text)
    assert str(error.value) == words


def test_json_files_are_read_as_json_and_others_as_yaml(tmp_path: Path) -> None:
    values = {"path": "a/😀/\ttab", "rate": 1e-05, "yes": "no"}
    (tmp_path / "plan.json").write_text(json.dumps(values))
    assert read_settings_file(tmp_path / "plan.json") == values
    (tmp_path / "plan.yaml").write_text("rate: 1e-5")
    assert read_settings_file(tmp_path / "plan.yaml") == {"rate": 1e-5}
