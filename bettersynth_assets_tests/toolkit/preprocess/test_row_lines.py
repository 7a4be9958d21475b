"""Rows are located in bytes and parsed strictly."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from toolkit.preprocess.row_lines import RowError, read_line, spans


def rows(data: bytes) -> list[tuple[int, bytes]]:
    return [(number, data[start:end].strip()) for number, start, end in spans(data, len(data))]


def reason(raw: bytes) -> str:
    with pytest.raises(RowError) as error:
        read_line(raw)
    return error.value.reason


def test_lines_end_only_at_a_newline_regardless_of_captions() -> None:
    captions = ["line\u2028separator", "next\x85line", "nul\0inside", "cr\r\nlf", "form\ffeed", "plain"]
    data = b"".join(json.dumps({"id": "x", "text": text}, ensure_ascii=False).encode() + b"\n" for text in captions)
    found = rows(data)
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 6]
    assert [read_line(raw)["text"] for _, raw in found] == captions


def test_unescaped_control_characters_are_kept_in_captions() -> None:
    assert read_line(b'{"id": "x", "text": "a\0b\tc"}')["text"] == "a\0b\tc"


def test_crlf_a_byte_order_mark_and_a_last_line_without_newline_are_accepted() -> None:
    data = b'\xef\xbb\xbf{"id": "1"}\r\n\r\n{"id": "2"}\r\n{"id": "3"}'
    assert [(number, read_line(raw)["id"]) for number, raw in rows(data)] == [(1, "1"), (3, "2"), (4, "3")]


def test_blank_lines_contain_no_row_but_are_counted_as_lines() -> None:
    assert [number for number, _ in rows(b'\n{"id": "1"}\n  \n{"id": "2"}\n\n')] == [2, 4]


def test_the_elements_of_a_json_array_are_found_in_any_layout() -> None:
    elements = [{"id": "1", "text": 'a ] } , " [ {'}, {"id": "2", "deep": [[1, {"a": []}]]}, {"id": "3\\"}]
    for indent in (None, 1, 4):
        data = json.dumps(elements, indent=indent).encode()
        assert [json.loads(raw) for _, raw in rows(data)] == elements
    assert rows(b" [ ] ") == []


def test_a_bad_element_of_an_array_does_not_affect_its_neighbours() -> None:
    data = b'[{"id": "1"}, 17, {"id": "2", "text": "\xff"}, {"id": "3",}, {"id": "4"}]'
    found = rows(data)
    assert len(found) == 5
    assert [reason(raw) for _, raw in found[1:4]] == ["not_an_object", "invalid_utf8", "invalid_json"]
    assert read_line(found[4][1]) == {"id": "4"}


@pytest.mark.parametrize("data", [b'[{"id": "1"}, {"id": "2"}', b'[{"id": "1"}}, {"id": "2"}]', b'[{"id": "1"}] {}'])
def test_an_array_that_does_not_close_where_the_file_ends_is_refused(data: bytes) -> None:
    with pytest.raises(RowError, match="invalid_json"):
        rows(data)


def test_a_jsonl_file_whose_first_line_is_an_array_is_still_read_line_by_line() -> None:
    found = rows(b'[1, 2]\n{"id": "2"}\n')
    assert [number for number, _ in found] == [1, 2]
    assert reason(found[0][1]) == "not_an_object"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"id": "1", "text": "caf\xe9"}', "invalid_utf8"),
        (b'{"id": "1", "text": "\\ud83d alone"}', "invalid_utf8"),
        (b'{"id": "1", "meta": [{"\\ud83d": 1}]}', "invalid_utf8"),
        (b'{"id": "\\udc00"}', "invalid_utf8"),
        (b'{"\\ud83d": 1, "\\ud83d": 2}', "duplicate_key"),
        (b'{"id": "1", "text": "cut', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"id": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b'["id", "1"]', "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"id": "1", "id": "2"}', "duplicate_key"),
        (b'{"id": "1", "meta": {"a": 1, "a": 1}}', "duplicate_key"),
        (b'{"id": "1", "score": NaN}', "nan"),
        (b'{"id": "1", "score": [-Infinity]}', "nan"),
        (b"{}", "bad_id"),
        (b'{"id": null, "text": null, "images": [null]}', "bad_id"),
        (b'{"id": " "}', "bad_id"),
        (b'{"id": true}', "bad_id"),
        (b'{"id": 1.5}', "bad_id"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(raw: bytes, expected: str) -> None:
    assert reason(raw) == expected


def test_a_complete_surrogate_pair_and_a_numeric_id_are_valid() -> None:
    assert read_line(b'{"id": 17, "text": "\\ud83d\\ude00"}') == {"id": "17", "text": "\U0001f600"}
    assert read_line(b'{"id": 17.0}') == {"id": "17"}  # as a table library writes a column with nulls


def test_the_detail_of_every_refused_line_can_be_stored_as_utf_8() -> None:
    with pytest.raises(RowError) as error:
        read_line(b'{"\\ud83d": 1, "\\ud83d": 2}')
    assert error.value.detail.encode() == b"duplicate keys in one object: \\ud83d"


def test_null_counts_as_absent_at_any_depth() -> None:
    raw = (
        b'{"id": "1", "image": null, "conversations": null, "text": "a", "meta": {"a": null, "b": [null, {"c": null}]}}'
    )
    assert read_line(raw) == {"id": "1", "text": "a", "meta": {"b": [None, {}]}}


def test_a_row_without_id_gets_the_documented_one_in_every_format() -> None:
    expected = hashlib.sha256("images/1.jpg\na café".encode()).hexdigest()[:24]
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "a café"}]
    rows: list[dict[str, Any]] = [
        {"text": "<__dj__image>\na café <|__dj__eoc|>", "images": ["images/1.jpg"]},
        {"id": None, "text": "<image> a café", "images": "images/1.jpg"},
        {"image": "images/1.jpg", "conversations": turns},
        {"image": "images/1.jpg", "conversations": turns, "text": None, "images": None, "similarity": 0.3},
    ]
    assert [read_line(json.dumps(row).encode())["id"] for row in rows] == [expected] * 4
    others = [{**rows[0], "images": ["images/2.jpg"]}, {**rows[0], "text": "<image>a cafe"}]
    assert len({expected, *(read_line(json.dumps(row).encode())["id"] for row in others)}) == 3
