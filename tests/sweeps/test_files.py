"""Parquet, CSV and JSON lines: the same rows, typed, with nothing where there is no answer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.sweeps import sweep
from kvplan.sweeps.columns import COLUMNS

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

GRID: dict[str, Any] = {
    "context": "1..64k",
    "batch": "1,2,100",
    "gpu": "none,rtx-4090",
    "kv_dtype": "bf16,int2:g=32,residual=128",
    "columns": list(COLUMNS),
    "chunk": 20,
}
TEXT = "dictionary<values=string, indices=int32, ordered=0>"
TYPES = {"whole": "int64", "whole?": "int64", "real": "double", "truth": "bool", "text": TEXT}


def asked() -> Any:
    return sweep(["llama-3.1-8b", "mamba-130m"], **GRID)


def test_parquet(tmp_path: Path) -> None:
    """Typed columns that say what they are; dictionary keys, values with their bytes by place; zstd."""
    path = tmp_path / "grid.parquet"
    asked().to_parquet(path)
    rows = pq.read_table(path)
    assert asked().rows() == rows.to_pylist()
    assert {name: TYPES[column.kind] for name, column in COLUMNS.items()} == {f.name: str(f.type) for f in rows.schema}
    for field in rows.schema:
        assert COLUMNS[field.name].says == field.metadata[b"description"].decode()
    group = pq.ParquetFile(path).metadata.row_group(0)
    for i in range(group.num_columns):
        column = group.column(i)
        kind = COLUMNS[column.path_in_schema]
        assert "ZSTD" == column.compression
        assert (kind.key or kind.kind == "text") == any("DICTIONARY" in name for name in column.encodings)
        if not kind.key and kind.kind not in ("text", "truth"):
            assert "BYTE_STREAM_SPLIT" in column.encodings
    assert ["grid.parquet"] == [p.name for p in tmp_path.iterdir()]


def test_csv(tmp_path: Path) -> None:
    """The standard reader gives back every value; nothing stands where there is no answer."""
    path = tmp_path / "grid.csv"
    asked().to_csv(path)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [{n: written(n, v) for n, v in row.items()} for row in asked().rows()] == [
        {n: float(v) if v and COLUMNS[n].kind == "real" else v for n, v in row.items()} for row in found
    ]
    assert b"".join(asked().lines("csv")) == path.read_bytes()


def written(name: str, value: Any) -> Any:
    if value is None:
        return ""
    if COLUMNS[name].kind == "truth":
        return "true" if value else "false"
    return value if COLUMNS[name].kind == "real" else str(value)


def test_jsonl(tmp_path: Path) -> None:
    """Every line is JSON and equals its row."""
    path = tmp_path / "grid.jsonl"
    asked().to_jsonl(path)
    assert asked().rows() == [json.loads(line) for line in path.read_text().splitlines()]
    assert b"".join(asked().lines("jsonl")) == path.read_bytes()


@pytest.mark.parametrize("name", ["grid.parquet", "grid.csv", "grid.jsonl", "grid.ndjson"])
def test_output_and_top(tmp_path: Path, name: str) -> None:
    """``output`` writes at once; ranked rows are the ranked rows, infinite ones first."""
    grid = {**GRID, "top": 9, "by": "max_context"}
    found = sweep(["llama-3.1-8b", "mamba-130m"], output=tmp_path / name, **grid)
    rows = sweep(["llama-3.1-8b", "mamba-130m"], **grid).rows()
    assert 9 == len(rows) == found.rows_written
    assert {"mamba-130m"} == {row["model"] for row in rows}
    text = (tmp_path / name).read_bytes()
    if name.endswith("parquet"):
        assert rows == pq.read_table(tmp_path / name).to_pylist()
    elif name.endswith("csv"):
        assert text == b"".join(sweep(["llama-3.1-8b", "mamba-130m"], **grid).lines("csv"))
    else:
        assert rows == [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["grid.parquet", "grid.csv", "grid.jsonl"])
def test_no_row_is_a_file_without_rows(tmp_path: Path, name: str) -> None:
    """A condition that nothing meets is an answer: types and header stay."""
    for extra in ({}, {"top": 3, "by": "kv_bytes"}):
        sweep("llama-3.1-8b", columns="kv_bytes,fits,binding", where="kv_bytes < 0", output=tmp_path / name, **extra)
        if name.endswith("parquet"):
            rows = pq.read_table(tmp_path / name)
            assert 0 == rows.num_rows
            assert ["int64", "int64", "bool", TYPES["text"]] == [str(f.type) for f in rows.schema]
        else:
            assert (b"context,kv_bytes,fits,binding\n" if name.endswith("csv") else b"") == (
                tmp_path / name
            ).read_bytes()


def test_many_small_chunks_become_large_row_groups(tmp_path: Path) -> None:
    """What a condition leaves of each chunk is joined."""
    sweep("llama-3.1-8b", context="1..4000:1", batch="1..4:1", columns="kv_bytes", chunk=100, output=tmp_path / "a.parquet",
          where="batch == 2")  # fmt: skip
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert (4000, 1) == (metadata.num_rows, metadata.num_row_groups)


@pytest.mark.parametrize("name", ["grid.txt", "grid", "no/grid.csv"])
def test_bad_files(tmp_path: Path, name: str) -> None:
    """Another format, or a folder that is not there: one line."""
    with pytest.raises(InvalidInput, match=r"^output: "):
        sweep("llama-3.1-8b", output=tmp_path / name)
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(InvalidInput, match="this is a folder"):
        sweep("llama-3.1-8b", output=tmp_path / "x.csv")
