"""Chunks as Parquet, CSV and JSON lines: typed columns, empty or null where there is no answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from kvplan.errors import InvalidInput
from kvplan.importers.files import open_file
from kvplan.sweeps.columns import COLUMNS, Words
from kvplan.text import cell, json_escaped
from kvplan.version import __version__

__all__ = [
    "FORMATS",
    "encoded",
    "format_of",
    "header",
    "joined",
    "lines",
    "one",
    "schema",
    "table",
    "unpacked",
    "write",
]

FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
ROW_GROUP = 2**18
LEVEL = 1  # of zstd: the bytes are sorted by place already, more effort buys little
_TYPES = {
    "whole": pa.int64(),
    "whole?": pa.int64(),
    "real": pa.float64(),
    "truth": pa.bool_(),
    "text": pa.dictionary(pa.int32(), pa.string()),
}


def format_of(path: Path) -> str:
    """The format that a file's name asks for. Raises InvalidInput for another one."""
    if path.suffix.lower() not in FORMATS:
        raise InvalidInput("output", str(path), "a file that ends in .parquet, .csv, .jsonl or .ndjson")
    return FORMATS[path.suffix.lower()]


def schema(names: Sequence[str]) -> pa.Schema:
    """The types of the columns, and what each one says, as metadata."""
    fields = [
        pa.field(name, _TYPES[COLUMNS[name].kind], metadata={"description": COLUMNS[name].says}) for name in names
    ]
    return pa.schema(fields, metadata={"kvplan_version": __version__})


def table(columns: dict[str, Any]) -> pa.Table:
    """Columns of a chunk as an Arrow table."""
    return pa.Table.from_arrays(
        [_array(name, values) for name, values in columns.items()], schema=schema(list(columns))
    )


def _array(name: str, values: Any) -> pa.Array:
    kind = COLUMNS[name].kind
    if isinstance(values, Words):
        codes = pa.array(values.codes, mask=values.codes < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(values.words, type=pa.string()))
    if kind == "whole?":
        missing = ~np.isfinite(values)
        return pa.array(np.where(missing, 0, values).astype("i8"), mask=missing)
    if kind == "truth":
        return pa.array(values == 1, mask=values < 0)
    return pa.array(values, mask=np.isnan(values)) if kind == "real" else pa.array(values)


def encoded(columns: dict[str, Any], kind: str) -> bytes:
    """A chunk in one of the formats: CSV without its header; npz for a chunk that is ranked again."""
    if kind == "npz":
        return packed(columns)
    rows = table(columns)
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        with _writer(sink, rows.schema) as writer:
            writer.write_table(rows, row_group_size=ROW_GROUP)
        return bytes(sink.getvalue())
    return b"".join(lines(rows, kind))


def lines(rows: pa.Table, kind: str) -> Iterator[bytes]:
    """Rows as text, some at a time: CSV without its header, or JSON lines."""
    for batch in rows.to_batches(max_chunksize=2**16):
        part = pa.Table.from_batches([batch])
        if kind == "csv":
            sink = pa.BufferOutputStream()
            options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
            pyarrow.csv.write_csv(_plain(part), sink, options)
            yield bytes(sink.getvalue())
        else:
            yield _json(part)


def header(names: Sequence[str], kind: str) -> bytes:
    """What stands before the rows of a text file."""
    return (",".join(names) + "\n").encode() if kind == "csv" else b""


def _plain(rows: pa.Table) -> pa.Table:
    """Text as text: the CSV writer takes no dictionaries."""
    rows = _worded(rows, lambda word: str(cell(word)))
    fields = [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in rows.schema]
    return rows.cast(pa.schema(fields))


def _worded(rows: pa.Table, drawn: Callable[[str], str]) -> pa.Table:
    """The same rows with each word of their dictionaries as a format draws it."""
    columns = []
    for column in rows.columns:
        if pa.types.is_dictionary(column.type):
            column = column.combine_chunks()
            words = pa.array([drawn(word) for word in column.dictionary.to_pylist()], type=pa.string())
            column = pa.DictionaryArray.from_arrays(column.indices, words)
        columns.append(column)
    return pa.Table.from_arrays(columns, names=rows.column_names)


def _json(rows: pa.Table) -> bytes:
    """JSON lines, joined column by column."""
    if not rows.num_rows:
        return b""
    rows = _worded(rows, lambda word: json_escaped(json.dumps(word), str.isascii))
    pieces: list[Any] = []
    for i, name in enumerate(rows.column_names):
        column = rows.column(name).combine_chunks()
        pieces.append(("{" if i == 0 else ", ") + json.dumps(name) + ": ")
        pieces.append(pc.fill_null(column.cast(pa.string()), "null"))
    joined_ = pc.binary_join_element_wise(*pieces, "}", "")
    return ("\n".join(joined_.to_pylist()) + "\n").encode()


def _writer(sink: Any, types: pa.Schema) -> pq.ParquetWriter:
    """Keys as dictionaries; values with their bytes sorted by place, which lets zstd see how little they vary."""
    keys = [name for name in types.names if COLUMNS[name].key or COLUMNS[name].kind == "text"]
    split = [name for name in types.names if name not in keys and COLUMNS[name].kind != "truth"]
    return pq.ParquetWriter(
        sink,
        types,
        compression="zstd",
        compression_level=LEVEL,
        use_dictionary=keys,
        use_byte_stream_split=split,
    )


def joined(parts: Iterable[Path], names: Sequence[str], kind: str, out: BinaryIO) -> None:
    """One file of many parts, streamed: small ones become row groups of up to ROW_GROUP rows."""
    if kind != "parquet":
        out.write(header(names, kind))
        for part in parts:
            with open_file(part, "output")[0] as source:
                while data := source.read(2**22):
                    out.write(data)
        return
    with _writer(out, schema(names)) as writer:
        held: list[pa.Table] = []
        rows = 0
        for part in parts:
            # one thread: several would decode several columns at once, and hold them
            read = pq.read_table(part, partitioning=None, use_threads=False)
            if held and rows + read.num_rows > ROW_GROUP:
                writer.write_table(one(held), row_group_size=ROW_GROUP)
                held, rows = [], 0
            held.append(read)
            rows += read.num_rows
        if held:
            writer.write_table(one(held), row_group_size=ROW_GROUP)


def write(columns: dict[str, Any] | None, names: Sequence[str], kind: str, out: BinaryIO) -> int:
    """A whole file of the columns of one chunk, None for no rows at all; returns how many rows it has."""
    rows = table(columns) if columns is not None else schema(names).empty_table()
    if kind == "parquet":
        with _writer(out, rows.schema) as writer:
            writer.write_table(rows, row_group_size=ROW_GROUP)
    else:
        out.write(header(names, kind))
        out.writelines(lines(rows, kind))
    return int(rows.num_rows)


def one(tables: list[pa.Table]) -> pa.Table:
    """Tables of the same columns as one."""
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def packed(columns: dict[str, Any]) -> bytes:
    """Columns of a chunk as they are, infinities included: what is ranked again later."""
    sink = io.BytesIO()
    parts = {}
    for name, values in columns.items():
        parts[name] = values.codes if isinstance(values, Words) else values
        if isinstance(values, Words):
            parts[f"{name}/words"] = np.array(values.words, dtype="U")
    np.savez(sink, **parts)
    return sink.getvalue()


def unpacked(path: Path) -> dict[str, Any]:
    """What ``packed`` wrote."""
    with np.load(path, allow_pickle=False) as held:
        return {
            name: Words(held[name], tuple(held[f"{name}/words"].tolist())) if f"{name}/words" in held else held[name]
            for name in held
            if "/" not in name
        }
