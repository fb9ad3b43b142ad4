"""JSON and tables from outside: what is over a limit or damaged is refused in one sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anechoic.errors import BadCaptions, BadSetting
from anechoic.parsing import (
    caption_of,
    number_of,
    parse_json,
    parse_object,
    parse_record,
    read_rows,
    text_of,
)


def rows(path: Path) -> list[Any]:
    return list(read_rows(path, "captions", BadCaptions))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 100_000, "not JSON|nested 1000 levels"),
        ("[" * 100_000 + "]" * 100_000, "nested 1000 levels deep, over the limit of 64"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested 70 levels deep, over the limit of 64"),
        ("9" * 5000, "a number of 5000 digits, over the limit of 300"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        (b'"\xff"', "not UTF-8"),
        ("", "not JSON"),
    ],
)
def test_json_over_a_limit_or_damaged_is_refused(text: str | bytes, complaint: str) -> None:
    with pytest.raises(BadCaptions, match=complaint):
        parse_json(text, "it", BadCaptions)


def test_json_within_the_limits_is_parsed() -> None:
    value = {"a": [[[[{"b": ["\U0001f600", -(10**299)]}]]]] * 10, "c": None}
    assert parse_json(json.dumps(value), "it", BadCaptions) == value


def test_an_object_is_expected() -> None:
    with pytest.raises(BadCaptions, match="is not a JSON object"):
        parse_object("null", "it", BadCaptions)


def test_the_environment_raises_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANECHOIC_MAX_DIGITS", "400")
    assert parse_json("9" * 350, "it", BadCaptions) == int("9" * 350)
    monkeypatch.setenv("ANECHOIC_MAX_DIGITS", "many")
    with pytest.raises(BadSetting, match="ANECHOIC_MAX_DIGITS is 'many'"):
        parse_json("9" * 350, "it", BadCaptions)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", 'file,caption\n1,"open\n2,b\n' + "x" * 2**20, "begins in line 2 .* its quotes"),
        ("a.csv", 'file,caption\n1,a\n2,"open\n', "begins in line 3 .* its quotes"),
        ("a.csv", "file,file\n1,2\n", "column 'file' twice"),
        ("a.csv", "file,caption\n1\n", "expected 2 columns, but there are 1"),
        ("a.jsonl", '{"file": "' + "x" * 2**20 + '"}', "over the limit of 1048576"),
        ("a.jsonl", "null\n", "line 1 is not a JSON object"),
        ("a.parquet", "PAR1", "not a Parquet file"),
        ("a.txt", "", "expected captions in a .csv, .jsonl or .parquet file"),
    ],
)
def test_a_table_that_is_damaged_is_refused(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadCaptions, match=complaint):
        rows(tmp_path / name)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_of_too_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    match suffix:
        case ".csv":
            path.write_text("a\n" + "1\n" * 5)
        case ".jsonl":
            path.write_text('{"a": "1"}\n' * 5)
        case _:
            pq.write_table(pa.table({"a": ["1"] * 5}), path)
    assert rows(path) == [{"a": "1"}] * 5
    monkeypatch.setenv("ANECHOIC_MAX_ROWS", "4")
    with pytest.raises(BadCaptions, match="have 5 rows, over the limit of 4"):
        rows(path)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.truncate(3 << 30)  # sparse
    with pytest.raises(BadCaptions, match="over the limit of 1073741824"):
        rows(path)


def test_text_in_cells_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"a": bad}), tmp_path / "a.parquet")
    with pytest.raises(BadCaptions, match="not a Parquet file, or damaged"):
        rows(tmp_path / "a.parquet")


def test_cells_are_read_as_captions_and_numbers() -> None:
    assert [text_of(cell) for cell in (None, float("nan"), b"a", 5)] == ["", "", "a", "5"]
    assert [caption_of(cell) for cell in (["", "b", "c"], float("nan"), [])] == ["b", "", ""]
    assert [number_of(cell, "it", BadCaptions) for cell in (None, float("nan"), "1.5")] == [
        0,
        0,
        1.5,
    ]
    for cell in ("soon", -1, float("inf"), 10**400, [1]):
        with pytest.raises(BadCaptions, match=r"it is .*expected a number of seconds"):
            number_of(cell, "it", BadCaptions)


@dataclass(frozen=True)
class Part:
    name: str
    share: float


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    count: int | None
    kind: Literal["a", "b"]
    limits: dict[str, float]
    more: Any = None


GOOD = {"parts": [{"name": "x", "share": 1}], "count": 3, "kind": "a", "limits": {"copy": 0.5}}


def test_a_record_has_the_types_that_it_declares() -> None:
    made = parse_record(Whole, GOOD, "it", BadCaptions)
    assert made == Whole((Part("x", 1.0),), 3, "a", {"copy": 0.5})
    assert parse_record(Whole, {**GOOD, "count": None}, "it", BadCaptions).count is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"parts": {}}, "Whole.parts is '{}'"),
        ({"parts": [{"name": "x", "share": "much"}]}, r"Whole.parts\[0\].share is 'much'"),
        ({"parts": [{"name": "x", "share": float("nan")}]}, r"share is 'nan'"),
        ({"parts": [{"name": 5, "share": 1}]}, "name is '5', expected str"),
        ({"parts": [{"name": "x"}]}, "missing .* 'share'"),
        ({"count": True}, "count is 'True', expected int"),
        ({"count": 1.5}, "count is '1.5', expected int"),
        ({"kind": "c"}, "kind is 'c'"),
        ({"limits": {"copy": []}}, "limits.copy is"),
        ({"another": 1}, "unexpected .* 'another'"),
    ],
)
def test_a_record_of_other_types_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadCaptions, match=rf"it has another content .*{complaint}"):
        parse_record(Whole, {**GOOD, **change}, "it", BadCaptions)
    with pytest.raises(BadCaptions, match="it has another content"):
        parse_record(Whole, [change], "it", BadCaptions)
