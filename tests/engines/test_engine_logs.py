"""Lines that engines printed, row by row through the public API, and a judge that a wrong number does not pass."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan import engine_logs
from kvplan.cli import app
from kvplan.engine_logs import OUTCOMES, Row, judge, log_engines, log_rows, predicted, reproduce
from kvplan.errors import InvalidInput, UnknownName

ROWS = [(engine, row) for engine in log_engines() for row in log_rows(engine)]
# the judge looks after the others: a row that is said to disagree must not agree
AGREE = [(engine, row) for engine, row in ROWS if row["disagrees"] is None]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return reproduce()


@pytest.mark.parametrize(("engine", "row"), AGREE, ids=[f"{engine}-{row['id']}" for engine, row in AGREE])
def test_a_printed_number_comes_out(engine: str, row: dict[str, Any]) -> None:
    """Asked by `kvplan.plan` and read from its report, without the judging module's own way of asking."""
    ask = json.loads(json.dumps(row["ask"], default=float))
    ends = [None] if row["between"] is None else [row["between"]["low"], row["between"]["high"]]
    answers = []
    for end in ends:
        words = {"engine": engine, "engine_version": row["version"], **ask}
        if end is not None:
            words["engine_options"] = {**words.get("engine_options", {}), row["between"]["option"]: end}
        report = kvplan.plan(words.pop("model", None), **words)
        kind, _, name = row["read"].partition(".")
        if kind == "lines":
            value: Any = sum(term.value for term in report.terms if term.path.startswith(name) and term.unit == "bytes")
        else:
            value = (report.engine["facts"] if kind == "facts" else report.kv)[name]
        answers.append(value / row["scale"])
    # half of the last printed place, and what a double loses
    step = 0.5 * 10 ** -row["decimals"] + 1e-9 * abs(float(row["value"]))
    printed = float(row["value"])

    assert min(answers) - step <= printed <= max(answers) + step


def test_nothing_differs_and_full_logs_come_out(rows: list[Row]) -> None:
    """Grade A: everything that decides stands in the log. At least 95 % of these must come out."""
    assert [] == [(row.id, row.printed, row.predicted, row.note) for row in rows if row.outcome == "DIFFERS"]
    for engine in log_engines():
        full = Counter(row.outcome for row in rows if row.engine == engine and row.grade == "A")
        assert full["exact"] + full["within input rounding"] >= 0.95 * full.total(), engine


def test_a_rounded_input_leaves_little_room(rows: list[Row]) -> None:
    """Predictions at both ends of an input lie within one per cent, so that "within" says something."""
    for row in rows:
        if row.outcome == "within input rounding":
            low, high = sorted(row.predicted)
            assert high - low <= 0.01 * high, row.id


def test_what_disagrees_says_why_and_cannot_be_most(rows: list[Row]) -> None:
    off = [row for row in rows if row.outcome == "disagrees"]

    assert [] == [row.id for row in off if len(row.note) < 20]
    assert len(off) <= len(rows) // 5


def test_ids_are_unique_and_sorted_and_every_row_has_its_line_and_source() -> None:
    for engine in log_engines():
        ids = [row["id"] for row in log_rows(engine)]
        assert sorted(set(ids)) == ids
        assert [] == [row["id"] for row in log_rows(engine) if not (row["source"] and row["line"])]


# --- the judge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "decimals", "answers", "outcome"),
    [
        ("384.00", 2, [Fraction(384)], "exact"),
        ("384.01", 2, [Fraction(384)], "DIFFERS"),
        ("2.13", 2, [Fraction(2125, 1000)], "exact"),  # ties away from zero
        ("2.12", 2, [Fraction(2125, 1000)], "exact"),  # ties to even
        ("2.14", 2, [Fraction(2135, 1000)], "exact"),
        ("2.13", 2, [Fraction(2135, 1000)], "DIFFERS"),  # neither
        ("5", 0, [Fraction(549, 100)], "exact"),
        ("6", 0, [Fraction(549, 100)], "DIFFERS"),
        ("100", 0, [Fraction(90), Fraction(110)], "within input rounding"),
        ("100", 0, [Fraction(110), Fraction(90)], "within input rounding"),
        ("100", 0, [Fraction(100), Fraction(100)], "exact"),
        ("111", 0, [Fraction(90), Fraction(110)], "DIFFERS"),
        ("89", 0, [Fraction(90), Fraction(110)], "DIFFERS"),
        ("110", 0, [Fraction(90), Fraction(1096, 10)], "within input rounding"),
    ],
)
def test_the_rule_of_rounding(value: str, decimals: int, answers: list[Fraction], outcome: str) -> None:
    assert outcome == judge({"value": Decimal(value), "decimals": decimals}, tuple(answers))


def plain_row() -> tuple[str, dict[str, Any]]:
    return next((engine, row) for engine, row in AGREE if row["between"] is None)


def written(folder: Path, engine: str, *rows: dict[str, Any]) -> None:
    (folder / "engine_logs").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, default=float) + "\n" for row in rows)
    (folder / "engine_logs" / f"{engine}.jsonl").write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: {"value": row["value"] + Decimal(1).scaleb(-row["decimals"])},
        lambda row: {"value": row["value"] - Decimal(1).scaleb(-row["decimals"])},
        lambda row: {"scale": 1000 * row["scale"]},
        lambda row: {"ask": {**row["ask"], "engine": "nobody's"}},
        lambda row: {"read": "facts.nothing"},
        lambda row: {"disagrees": "it is said not to agree, and does"},
    ],
)
def test_a_wrong_row_differs(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, row = plain_row()
    row = {**row, "value": Decimal(str(row["value"]))}
    written(tmp_path, engine, row | change(row))
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))

    (judged,) = reproduce(engine)
    assert "DIFFERS" == judged.outcome
    result = CliRunner().invoke(app, ["reproduce", "engines"])
    assert 1 == result.exit_code
    assert row["id"] in result.stdout


def test_a_row_that_is_said_to_disagree_and_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, row = plain_row()
    written(tmp_path, engine, row | {"value": 2 * row["value"], "disagrees": "somebody printed twice as much"})
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))

    (judged,) = reproduce(engine)
    assert ("disagrees", "somebody printed twice as much") == (judged.outcome, judged.note)


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"decimals": -1}, {"decimals": True}, {"value": "x"}, {"between": {"low": 1}}, {"ask": []}],
)
def test_a_malformed_row_is_refused(change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, row = plain_row()
    written(tmp_path, engine, row | change)
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))

    with pytest.raises(InvalidInput):
        log_rows(engine)


def test_a_line_that_is_no_json_and_an_engine_without_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engine_logs").mkdir()
    (tmp_path / "engine_logs" / "x.jsonl").write_text("{\n")
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))

    with pytest.raises(InvalidInput, match="line 1"):
        log_rows("x")
    with pytest.raises(UnknownName, match="engine log"):
        log_rows("nobody")


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_the_command_prints_counts_rows_and_json() -> None:
    run = CliRunner().invoke
    table, every = run(app, ["reproduce", "engines"]), run(app, ["reproduce", f"engines/{ROWS[0][0]}"])
    data, marked = run(app, ["reproduce", "engines", "--json"]), run(app, ["reproduce", "engines", "--markdown"])

    assert [0, 0, 0, 0] == [result.exit_code for result in (table, every, data, marked)]
    assert {row["id"] for _, row in ROWS} == {row["id"] for row in json.loads(data.stdout)}
    assert ROWS[0][1]["id"] in every.stdout
    assert marked.stdout.startswith("| engine | grade | rows | exact | within input rounding | disagrees | DIFFERS |")
    for engine in log_engines():
        assert engine in table.stdout
    assert 2 == run(app, ["reproduce", "engines/nobody"]).exit_code


def test_counts_add_up(rows: list[Row]) -> None:
    lines = [line.split("|")[1:-1] for line in engine_logs.markdown(rows).splitlines()[2:]]
    counts = [[int(cell.strip() or 0) for cell in line[2:]] for line in lines]

    assert len(rows) == counts[-1][0] == sum(line[0] for line in counts[:-1])
    for line in counts:
        assert line[0] == sum(line[1:])
    assert 4 == len(OUTCOMES)


def test_prediction_is_in_the_printed_unit() -> None:
    """Llama-3.1-8B, 4,096 cells of f16: 32 layers x 2 x 8 heads x 128 x 2 bytes x 4,096 = 512 MiB."""
    row = {
        "ask": {"model": "llama-3.1-8b", "context": 4096, "engine_options": {"ctx_size": 4096, "parallel": 1}},
        "version": None, "read": "lines.kv/global", "scale": 2**20, "between": None,
    }  # fmt: skip

    assert (Fraction(512),) == predicted("llama.cpp", row)
