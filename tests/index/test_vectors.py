"""Embeddings that were made elsewhere as a source of clips."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.index_clips import amg, embeddings, entry, fixed, parquet_of, table

from anechoic.errors import BadCaptions, IndexMismatch
from anechoic.index.sources.amg import AmgSource
from anechoic.index.sources.opening import open_source
from anechoic.index.sources.protocol import Columns
from anechoic.index.sources.vectors import VectorSource


def vector_rows(source: Any) -> list[tuple]:
    return [row for unit in source.units() for row in unit.rows()]


@pytest.mark.parametrize("kind", ["fixed", "list", "large", "half", "double"])
def test_embeddings_of_every_list_are_read_at_unit_norm(tmp_path: Path, kind: str) -> None:
    emb = embeddings(10)
    types = {
        "list": pa.list_(pa.float32()),
        "large": pa.large_list(pa.float32()),
        "half": pa.list_(pa.float16()),
        "double": pa.list_(pa.float64(), 8),
    }
    longer = [list(row) for row in (3 * emb).astype(np.float16 if kind == "half" else np.float64)]
    column = fixed(emb) if kind == "fixed" else pa.array(longer, types[kind])
    path = table(tmp_path / "e.parquet", {"embedding": column, "text": ["a"] * 10})
    source = VectorSource(path)
    clips, vectors = zip(*vector_rows(source), strict=True)
    assert (source.total, source.dim, source.embedder_name) == (10, 8, None)
    assert [clip.id for clip in clips] == [f"e/{i}" for i in range(10)]
    assert {vector.dtype for vector in vectors} == {np.dtype(np.float32)}
    if kind == "fixed":  # of unit norm: not one bit may move
        assert np.array_equal(np.stack(vectors), emb)
    assert np.abs(np.stack(vectors) - emb).max() < (1e-3 if kind == "half" else 1e-6)


def test_a_row_tells_all_that_is_known_of_its_clip(tmp_path: Path) -> None:
    columns = {
        "embedding": fixed(embeddings(1)),
        "caption": ["a horn"],
        "id": [7],
        "path": ["a/7.wav"],
        "start_s": [1.5],
        "seconds": [10.0],
        "info": pa.array([[("licence", "MIT")]], pa.map_(pa.string(), pa.string())),
        "bpm": [90],
        "audio": [{"bytes": b"RIFF", "path": "7.wav"}],
    }
    source = VectorSource(table(tmp_path / "e.parquet", columns, embedder="clap"))
    ((clip, _),) = vector_rows(source)
    assert (clip.id, clip.caption, clip.path) == ("7", "a horn", "a/7.wav")
    assert (clip.start_s, clip.seconds) == (1.5, 10.0)
    assert clip.info == {"licence": "MIT", "bpm": "90"}
    assert source.embedder_name == "clap"


def test_other_names_of_columns_may_be_given(tmp_path: Path) -> None:
    columns = {"vec": fixed(embeddings(2)), "prompt": ["a", "b"], "key": ["x", "y"]}
    path = table(tmp_path / "e.parquet", columns)
    source = open_source(path, columns=Columns(embedding="vec", caption="prompt", id="key"))
    assert [(c.id, c.caption) for c, _ in vector_rows(source)] == [("x", "a"), ("y", "b")]


def with_bad(value: float | list[float] | None) -> list[Any]:
    emb: list[Any] = embeddings(6).tolist()
    emb[2] = emb[4] = [value] * 8 if isinstance(value, float) else value
    return emb


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        (with_bad(np.nan), "'e/2', 'e/4' are NaN, infinite or have no direction"),
        (with_bad(np.inf), "'e/2', 'e/4' are NaN, infinite or have no direction"),
        (with_bad(0.0), "'e/2', 'e/4' are NaN, infinite or have no direction"),
        (with_bad([None, *[0.5] * 7]), "'e/2', 'e/4' are NaN"),
        (with_bad([1.0, 2.0]), "'e/2', 'e/4' have 2 values; expected 8"),
        (with_bad(None), "'e/2', 'e/4' have 0 values; expected 8"),
        (pa.array([[]] * 6, pa.list_(pa.float32())), "first embedding .* is empty"),
        ([1.0] * 6, "expected lists of floats in 'embedding'"),
        ([["a"]] * 6, "expected lists of floats in 'embedding'"),
    ],
)
def test_embeddings_that_are_none_are_named(
    tmp_path: Path, column: list[Any], complaint: str
) -> None:
    path = table(tmp_path / "e.parquet", {"embedding": column, "caption": ["a"] * 6})
    with pytest.raises(IndexMismatch, match=complaint):
        vector_rows(VectorSource(path))


@pytest.mark.parametrize(
    ("columns", "error", "complaint"),
    [
        ({"words": ["a", "b"]}, BadCaptions, "expected one called 'caption' or 'text'"),
        ({"caption": ["a", None]}, BadCaptions, "no caption in rows '1'"),
        ({"caption": ["a", "b"], "id": ["x", ""]}, IndexMismatch, "no 'id' in rows '1'"),
    ],
)
def test_rows_without_caption_or_id_are_refused(
    tmp_path: Path, columns: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    path = table(tmp_path / "e.parquet", {"embedding": fixed(embeddings(2)), **columns})
    with pytest.raises(error, match=complaint):
        vector_rows(VectorSource(path))


def test_files_of_different_embeddings_are_refused(tmp_path: Path) -> None:
    text = {"caption": ["a", "b"]}
    table(tmp_path / "a/0.parquet", {"embedding": fixed(embeddings(2)), **text})
    table(tmp_path / "a/1.parquet", {"embedding": fixed(embeddings(2, 4)), **text})
    with pytest.raises(IndexMismatch, match="different lengths"):
        VectorSource(tmp_path / "a")
    for part, embedder in enumerate(["clap", "magmel"]):
        columns = {"embedding": fixed(embeddings(2)), **text}
        table(tmp_path / f"b/{part}.parquet", columns, embedder=embedder)
    with pytest.raises(IndexMismatch, match=r"different embedders \('clap', 'magmel'\)"):
        VectorSource(tmp_path / "b")


def test_a_row_group_is_read_piece_by_piece(tmp_path: Path) -> None:
    emb = embeddings(20_000, dim=256)
    columns = {"embedding": fixed(emb), "caption": ["a"] * len(emb)}
    path = table(tmp_path / "e.parquet", columns, rows_in_group=len(emb))
    assert path.stat().st_size > 20e6
    (unit,) = VectorSource(path).units()
    del columns
    before = pa.total_allocated_bytes()
    for number, _ in enumerate(unit.rows()):
        if number % 1024 == 0:
            assert pa.total_allocated_bytes() - before < 8e6
        if number > 5000:
            break


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_parquet_that_is_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    path = parquet_of(tmp_path) / "1.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])
    with pytest.raises(IndexMismatch, match=r"1\.parquet' is cut off, damaged, or no Parquet"):
        open_source(path.parent)


# ---------------------------------------------------------------------------- AMG-audio


def test_the_authors_json_gives_embeddings_with_prompt_and_time(tmp_path: Path) -> None:
    emb = embeddings(2)
    late = entry(3 * emb[1], "wind", seconds_start=4, seconds_total=10, licence="CC0-1.0")
    source = AmgSource(amg(tmp_path / "a.json", {"1980": entry(emb[0], "drums"), "x": late}))
    (drums, first), (wind, second) = vector_rows(source)
    assert (drums.id, drums.caption, drums.start_s, drums.seconds) == ("1980", "drums", 0.0, 10.0)
    assert (wind.id, wind.start_s, wind.seconds) == ("x", 4.0, 6.0)
    assert wind.info == {"licence": "CC0-1.0"}
    assert np.array_equal(first, emb[0])
    assert np.abs(second - emb[1]).max() < 1e-7


EMB = embeddings(3)


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        (json.dumps({"a": entry(EMB[0] * np.nan)}), IndexMismatch, "NaN or Infinity at its start"),
        (
            json.dumps({"a": entry(EMB[0]), "b": entry(EMB[0] * np.inf)}),
            IndexMismatch,
            "NaN or Infinity after 'a'",
        ),
        (json.dumps({"a": entry(EMB[0] * 0)}), IndexMismatch, "'a' are NaN.* no direction"),
        (
            json.dumps({"a": entry(EMB[0]), "b": entry(EMB[0][:3])}),
            IndexMismatch,
            "another length than 8 for 'b'",
        ),
        (json.dumps({"a": {"embedding": ["x"]}}), IndexMismatch, "no list of numbers .* 'a'"),
        (json.dumps({"a": [0.1, 0.2]}), IndexMismatch, "no list of numbers .* 'a'"),
        (json.dumps({"a": entry(EMB[0], "")}), BadCaptions, "no prompt for 'a'"),
        (json.dumps({"a": {"embedding": [1.0]}}), BadCaptions, "no prompt for 'a'"),
        (
            json.dumps({"a": entry(EMB[0], seconds_total="ten")}),
            IndexMismatch,
            "'seconds_total' of 'a' is 'ten'",
        ),
        ("[1, 2]", IndexMismatch, "starts with b'\\['"),
        ("{}", IndexMismatch, "has no embeddings"),
        ("", IndexMismatch, "cut off or no JSON at its start"),
        ('{"a": ' + "[" * 100_000, IndexMismatch, "100001 levels deep, over the limit of 64"),
        ("PK", IndexMismatch, "starts with b'P'"),
        ('{"a": 1} {"b": 2}', IndexMismatch, "trailing garbage"),
    ],
)
def test_json_that_is_not_the_authors_is_refused(
    tmp_path: Path, text: str, error: type[Exception], complaint: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(error, match=complaint):
        vector_rows(AmgSource(path))


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 0.9999))
def test_json_that_is_cut_off_anywhere_is_refused(tmp_path_factory: Any, share: float) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.json"
    content = json.dumps({str(i): entry(EMB[i]) for i in range(3)})
    path.write_text(content[: int(share * len(content))])
    with pytest.raises(IndexMismatch, match="is cut off or no JSON"):
        vector_rows(AmgSource(path))


def test_json_is_read_piece_by_piece(tmp_path: Path) -> None:
    one = json.dumps(entry(embeddings(1, dim=64)[0]))
    path = tmp_path / "a.json"
    path.write_text("{" + ", ".join(f'"{i}": {one}' for i in range(20_000)) + "}")
    assert path.stat().st_size > 29e6
    (unit,) = AmgSource(path).units()
    tracemalloc.start()
    next(iter(unit.rows()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # `BATCH` entries and the buffers of the parser


@pytest.mark.parametrize(
    ("column", "values", "complaint"),
    [
        ("seconds", ["1.0", "soon", "2"], "row 1: 'seconds' is 'soon'"),
        ("seconds", [1.0, float("inf"), 2.0], "row 1: 'seconds' is 'inf'"),
        ("start_s", [0.0, 1.0, -1.0], "row 2: 'start_s' is '-1.0'"),
        ("info", [["a"], [], []], "row 0: 'info' is .*expected a map"),
    ],
)
def test_cells_of_another_kind_are_refused(
    tmp_path: Path, column: str, values: list[Any], complaint: str
) -> None:
    columns = {"embedding": fixed(embeddings(3)), "caption": list("abc"), column: values}
    with pytest.raises(IndexMismatch, match=complaint):
        vector_rows(VectorSource(table(tmp_path / "e.parquet", columns)))


def test_seconds_that_are_nan_are_not_known(tmp_path: Path) -> None:
    columns = {"caption": ["a", "b"], "seconds": [1.5, float("nan")]}
    path = table(tmp_path / "e.parquet", {"embedding": fixed(embeddings(2)), **columns})
    assert [clip.seconds for clip, _ in vector_rows(VectorSource(path))] == [1.5, 0.0]


def test_captions_in_bytes_and_of_several_are_read(tmp_path: Path) -> None:
    for captions in ([b"one"], [["", "one", "two"]]):
        columns = {"embedding": fixed(embeddings(1)), "caption": captions}
        path = table(tmp_path / "e.parquet", columns)
        assert [clip.caption for clip, _ in vector_rows(VectorSource(path))] == ["one"]
    columns = {"embedding": fixed(embeddings(1)), "caption": pa.array([float("nan")])}
    with pytest.raises(BadCaptions, match="no caption in rows '0'"):
        vector_rows(VectorSource(table(tmp_path / "e.parquet", columns)))
