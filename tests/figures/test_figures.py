"""What a figure shows is what ``kvplan.plan`` answers, and plotly takes every word of it."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kvplan
from kvplan import figures
from kvplan.errors import InvalidInput
from kvplan.figures import Chart, Look
from kvplan.reproduce import quality, reproduce
from kvplan.validate.records import read

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests/records/ci-cpu.json"
GIB = 2**30


def gemma(**flags: Any) -> list[kvplan.Report]:
    """Gemma 3 12B as published and with fewer heads on an RTX 4090."""
    return list(kvplan.compare("gemma-3-12b", ["gqa:4"], gpu="rtx-4090", **flags).reports)


def trace(chart: Chart, name: str) -> dict[str, Any]:
    """The one trace of a name."""
    (found,) = (t for t in chart.traces if t.get("name") == name)
    return found


def every_chart(look: Look) -> list[Chart]:
    """One of each figure."""
    reports = gemma()
    llama = kvplan.plan("llama-3.1-8b", gpu="h100")
    return [
        figures.kv(reports, None, look),
        figures.frontier(reports, None, look),
        figures.capacity([llama], (1024, 8192), (1, 64), look),
        figures.memory(reports, look),
        figures.gpus([llama, llama.again(gpu="t4")], look),
        figures.schemes(kvplan.compare("llama-2-7b", ["cla:2", "mqa", "mla:latent=512,rope=64"]), look),
        figures.owners(kvplan.plan("gemma-3n-e4b"), look),
        figures.roofline(llama, (1, 64), look),
        figures.bounds([llama], (1, 64), look),
        figures.published(reproduce("mistral-7b"), look),
        figures.quality(quality("cla"), look),
        figures.measured([read(RECORD)], look),
    ]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_kv_is_what_plan_answers() -> None:
    """Every point of every line is the answer of an ordinary plan, to the byte."""
    chart = figures.kv(gemma(), (256, 2**17))

    for name, scheme in (("as published", None), ("gqa:4", "gqa:4")):
        line = trace(chart, name)
        for tokens, size in zip(line["x"], line["y"], strict=True):
            asked = kvplan.plan("gemma-3-12b", scheme=scheme, gpu="rtx-4090", context=tokens)
            assert asked.kv["bytes_per_gpu"] == size


def test_kv_by_hand() -> None:
    """Llama 3.1 8B keeps 2 x 32 layers x 8 heads x 128 x 2 bytes a token, whatever the figure's units are."""
    for look in (Look(), Look(units="GB")):
        line = trace(figures.kv([kvplan.plan("llama-3.1-8b")], (1024, 4096), look), "llama-3.1-8b")
        assert [131_072 * n for n in (1024, 2048, 4096)] == line["y"]


def test_lines_bend_at_windows() -> None:
    """Contexts are powers of two and W - 1, W, W + 1; past the window of 1,024 a token costs a sixth of what it did."""
    line = trace(figures.kv(gemma(), (256, 4096)), "as published")
    size = dict(zip(line["x"], line["y"], strict=True))

    assert [256, 512, 1023, 1024, 1025, 2048, 4096] == line["x"]
    before, after = size[1024] - size[1023], size[1025] - size[1024]
    assert 6 * after == before  # 48 layers, of which every sixth is global
    assert max(line["marker"]["size"]) == line["marker"]["size"][line["x"].index(1024)]


def test_the_cross_is_the_largest_context() -> None:
    """It stands at max_context, where one token more does not fit, and the room line is the pool."""
    report = gemma()[0]
    chart = figures.kv([report], (256, 2**17))
    (cross,) = (t for t in chart.traces if t.get("marker", {}).get("symbol") == "x-thin")
    limit = cross["x"][0]

    assert kvplan.plan("gemma-3-12b", gpu="rtx-4090", context=limit).fits
    assert not kvplan.plan("gemma-3-12b", gpu="rtx-4090", context=limit + 1).fits
    (room,) = (t for t in chart.traces if str(t.get("name")).startswith("room on NVIDIA"))
    at = room["x"].index(1024)
    assert report.again(context=1024).capacity.kv_pool_bytes == room["y"][at]


def test_the_frontier_is_max_batch() -> None:
    """Each point fits and one more sequence does not; the last is the largest context of one sequence."""
    report = kvplan.plan("llama-3.1-8b", gpu="h100")
    line = trace(figures.frontier([report], (1024, 2**20)), "llama-3.1-8b")

    for tokens, batch in zip(line["x"], line["y"], strict=True):
        assert report.again(context=tokens, batch=batch).fits
        assert not report.again(context=tokens, batch=batch + 1).fits
    assert 1 == line["y"][-1]
    assert report.capacity is not None
    assert report.capacity.max_context == line["x"][-1]


@pytest.mark.parametrize("engine", ["ideal", "transformers"])
def test_cells_fit_as_plan_says(engine: str) -> None:
    """Each cell is a plan: its verdict, and the share of memory that its report adds up to."""
    report = kvplan.plan("llama-3.1-8b", gpu="rtx-4090", engine=engine)
    chart = figures.capacity([report], (1024, 2**16), (1, 64))

    assert 7 * 7 == len(chart.rows)
    assert {True, False} == {row["fits"] for row in chart.rows}
    shares = [share for line in chart.traces[0]["z"] for share in line]
    for row, share in zip(chart.rows, shares, strict=True):
        asked = kvplan.plan("llama-3.1-8b", gpu="rtx-4090", engine=engine, context=row["context"], batch=row["batch"])
        assert asked.capacity is not None
        assert (asked.fits, asked.capacity.max_batch) == (row["fits"], row["max_batch"])
        assert (row["batch"] <= row["max_batch"]) == row["fits"]
        if row["fits"]:
            assert 100 * sum(size for _, size in asked.memory()) / asked.capacity.usable_bytes == share
        else:
            assert share is None


@pytest.mark.parametrize(
    "flags",
    [
        {"gpu": "rtx-4090"}, {"gpu": "h100", "tp": 2, "batch": 3}, {"gpu": "h100", "pp": 4}, {"memory": "80GiB"}, {},
        {"gpu": "h100", "engine": "transformers", "context": "32k"}, {"gpu": "h100", "kv_dtype": "int2:g=32,residual=128"},
        {"gpu": "h100", "scheme": "offload:cpu=0.7,disk=0.1", "batch": 5}, {"gpu": "h100", "block_size": 16, "context": 1000},
    ],
)  # fmt: skip
def test_the_bar_adds_up(flags: dict[str, Any]) -> None:
    """Stores sum to the report's cache, and all parts to what the engine may use where it fits."""
    report = kvplan.plan("gemma-3-12b", **flags)
    parts = {row["part"]: row["bytes"] for row in figures.memory([report]).rows}
    known = dict(report.memory())

    assert known["KV cache"] == sum(size for part, size in parts.items() if part.startswith("kv/"))
    assert known["weights"] == parts["weights"]
    if report.capacity is not None:
        used = sum(known.values())
        assert report.capacity.usable_bytes - used == parts.get("free", -parts.get("too much", 0))


def test_gpus_say_what_plan_says() -> None:
    """Fits, tight (under a tenth free) or not, in words; the smallest that fits comes first."""
    report = kvplan.plan("llama-3.1-8b", context=8192)
    chart = figures.gpus([report.again(gpu=name) for name in ("h100", "t4", "l4", "rtx-4080")])

    assert ["l4-24gb", "h100-80gb-sxm", "t4-16gb", "rtx-4080-16gb"] == [row["gpu"] for row in chart.rows]
    for row in chart.rows:
        asked = kvplan.plan("llama-3.1-8b", context=8192, gpu=row["gpu"])
        assert asked.fits == (row["verdict"] != "no")
        assert (row["free_bytes"] >= 0) == asked.fits
    words = chart.traces[0]["cells"]["values"][1]
    assert {"✔ fits", "✘ no"} <= {*words}
    l4 = report.again(gpu="l4")
    assert l4.capacity is not None
    assert "tight" == figures.gpus([l4.again(context=l4.capacity.max_context)]).rows[0]["verdict"]


def test_schemes_are_the_comparisons_rows() -> None:
    """CLA-2 keeps half and reads all: it lies on the published model's column, half as high."""
    compared = kvplan.compare("llama-2-7b", ["cla:2", "gqa:8"], context=4096)
    chart = figures.schemes(compared)
    base, cla, gqa = trace(chart, "as published (mha)"), trace(chart, "cla:2"), trace(chart, "gqa:8")

    assert base["x"] == cla["x"]
    assert 2 * cla["y"][0] == base["y"][0] == 4 * gqa["y"][0]
    assert [row._asdict() for row in compared.rows] == [
        {k: v for k, v in row.items() if k != "label"} for row in chart.rows
    ]


@pytest.mark.parametrize(
    ("model", "scheme", "reads"),
    [
        ("llama-2-7b", None, list(range(32))),
        ("llama-2-7b", "cla:2", [i - i % 2 for i in range(32)]),
        # Gemma 3n: of 35 layers the last 15 read the last local (18) or global (19) layer before them; every fifth is global
        ("gemma-3n-e4b", None, [*range(20), *(19 if i % 5 == 4 else 18 for i in range(20, 35))]),
        # YOCO: the second half reads one cache
        ("llama-2-7b", "yoco:window=1024", [*range(16), *([16] * 16)]),
    ],
)
def test_the_owner_map(model: str, scheme: str | None, reads: list[int]) -> None:
    """Rows name the owner of each layer's KV; drawn lines join the two; what layers keep adds up to the sequence."""
    report = kvplan.plan(model, scheme=scheme, context=4096)
    chart = figures.owners(report)

    assert reads == [row["reads"] for row in chart.rows]
    assert report.kv["bytes_per_sequence"] == sum(row["bytes"] for row in chart.rows)
    drawn = set()
    for line in chart.traces:
        if line.get("mode") == "lines" and line["x"] != [None]:
            drawn |= {(line["x"][i], line["x"][i + 1]) for i in range(0, len(line["x"]), 3)}
    assert set(enumerate(reads)) == drawn


def test_lckv_reads_upwards() -> None:
    """LCKV-2 on 32 layers: 29 in the middle read layer 30, which keeps for them; three layers keep."""
    rows = figures.owners(kvplan.plan("llama-2-7b", scheme="lckv:w=2")).rows

    assert {0, 30, 31} == {row["layer"] for row in rows if row["bytes"]}
    assert [*range(1, 31)] == [row["layer"] for row in rows if row["reads"] == 30]


def test_windows_are_seen_in_the_owner_map() -> None:
    """Gemma 3: local layers have a marker of their own and keep 1,024 of 32k tokens."""
    chart = figures.owners(kvplan.plan("gemma-3-12b", context="32k"))
    by_layer = {row["layer"]: row for row in chart.rows}

    assert ("window", 1024) == (by_layer[0]["looks"], by_layer[0]["limit"])
    assert "full" == by_layer[5]["looks"]
    assert 32 * by_layer[0]["bytes"] == by_layer[5]["bytes"]
    assert {"looks at window 1k", "looks at every token"} <= {t.get("name") for t in chart.traces}


def test_the_roofline_is_the_bounds() -> None:
    """Rate x time is the work, no point lies above the roof, and the bound is that of the report."""
    report = kvplan.plan("llama-3.1-8b", gpu="h100")
    gpu = report.answer.settings.gpu
    assert gpu is not None
    for row in figures.roofline(report, (1, 256)).rows:
        times = report.again(batch=row["batch"]).answer.times
        assert times is not None
        bound = getattr(times, row["phase"])
        assert (bound.seconds, bound.side) == (row["seconds"], row["bound"])
        assert sum(w.flops for w in bound.work) == pytest.approx(row["flops_per_s"] * row["seconds"])
        roof = min(gpu.tflops["bf16"] * 1e12, row["flops_per_byte"] * gpu.bandwidth_bytes_per_s)
        assert row["flops_per_s"] <= roof * (1 + 1e-9)
    rows = figures.bounds([report], (1, 256)).rows
    decode = report.again(batch=256).answer.times
    assert decode is not None
    assert decode.tokens_per_s == pytest.approx(
        next(r["tokens_per_s"] for r in rows if r["batch"] == 256 and r["tokens_per_s"])
    )


def test_published_rows_are_reproduces() -> None:
    """As many points as rows with two numbers, each where they are; a wrong one in a paper is marked apart."""
    rows = reproduce("cla-claims") + reproduce("mistral-7b")
    chart = figures.published(rows)
    points = {(x, y) for t in chart.traces if t.get("mode") == "markers" for x, y in zip(t["x"], t["y"], strict=True)}

    assert {(float(r.published), float(r.computed)) for r in rows if r.published and r.computed} == points
    assert [row._asdict() for row in rows] == list(chart.rows)
    wrong = [t for t in chart.traces if str(t.get("name")).startswith("wrong in paper")]
    assert "x" == wrong[0]["marker"]["symbol"]


def test_measured_counts_every_row() -> None:
    """Points that lie on each other are counted, rows of no prediction left out; a planted fault is marked."""
    record = read(RECORD)
    rows = [row for row in record["rows"] if row["quantity"] != "correct"]
    chart = figures.measured([record])

    assert len(rows) == len(chart.rows)
    shown = sum(int(str(t["name"]).rsplit("(", 1)[1][:-1]) for t in chart.traces if "(" in str(t.get("name")))
    assert sum(bool(row["predicted"] and row["measured"]) for row in rows) == shown
    row = {**rows[0], "measured": 3 * rows[0]["predicted"], "verdict": "wrong"}
    planted = figures.measured([{**record, "rows": [row]}])
    assert "x" == trace(planted, "wrong (1)")["marker"]["symbol"]


def planted(
    quantity: str, predicted: float | None, measured: float | None, verdict: str, note: str = ""
) -> dict[str, Any]:
    """A row of a record as ``kvplan validate`` writes it."""
    ratio = measured / predicted if predicted and measured is not None else None
    return {
        "case": "mqa", "plan": {}, "quantity": quantity, "predicted": predicted, "measured": measured, "verdict": verdict,
        "note": note, "stage": "ends", "ratio": ratio,
    }  # fmt: skip


def test_measured_leaves_out_what_is_no_prediction() -> None:
    """Bounds of times and rates, and what was measured alone, are no points; zeros are counted and have no place."""
    rows = [
        planted("kv.bytes", 1024, 1024, "exact"), planted("flops.decode.total", 50, 51, "reported"),
        planted("max batch", 65, 65, "exact"), planted("engine/prefill_storage", 0, 0, "exact"),
        planted("seconds of a decode step", 0.004, 0.03, "reported"), planted("tokens per second", 2331.0, 1316.3, "reported"),
        planted("copy, bytes/s", 3.35e12, 2.98e12, "reported"), planted("matmul bf16, FLOP/s", 9e14, 8e14, "reported"),
        planted("cuda peak", None, 4096, "reported"), planted("correct", 1e-4, 1e-7, "within"),
    ]  # fmt: skip
    chart = figures.measured([{"device": "cuda", "device_name": "NVIDIA H100", "rows": rows}])
    points = {(x, y) for t in chart.traces if t.get("mode") == "markers" for x, y in zip(t["x"], t["y"], strict=True)}

    assert {(1024, 1024), (50, 51), (65, 65)} == points
    assert ["kv.bytes", "flops.decode.total", "max batch", "engine/prefill_storage"] == [
        r["quantity"] for r in chart.rows
    ]
    assert {"NVIDIA H100"} == {row["device"] for row in chart.rows}
    assert "4 numbers, 3 equal to the last digit" in subtitle(chart)


def test_measured_shows_what_says_no() -> None:
    """It is drawn last, over the others; a run that failed has no point but is said; notes stand under the pointer."""
    rows = [
        planted("max batch", 2024, 2088, "wrong", "16 attempts <of a kind>; " + "and so on " * 9),
        planted("run", None, None, "failed", "RuntimeError"),
        *(planted(quantity, 7, 7, "exact", "unseen") for quantity in ("kv.bytes", "cuda reserved")),
    ]
    chart = figures.measured([{"device": "cuda", "rows": rows}])
    marks = chart.traces[-1]

    assert ("wrong (1)", [2024.0], [2088.0]) == (marks["name"], marks["x"], marks["y"])
    assert marks["marker"]["line"]["color"] == Look().theme.ink
    assert "16 attempts &lt;of a kind&gt;;" in marks["text"][0]
    assert all(len(line) < 60 for line in marks["text"][0].split("<br>"))
    assert not any("unseen" in text for t in chart.traces for text in t.get("text", []))
    assert "rows that say no: 1 wrong, 1 failed" in subtitle(chart)


def subtitle(chart: Chart) -> str:
    """What stands below the title, in one line."""
    return " ".join(re.sub("<[^>]*>", " ", chart.layout["annotations"][0]["text"]).split())


@pytest.mark.parametrize("path", sorted(RECORD.parent.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_is_a_legible_picture(path: Path) -> None:
    """Few series, whatever its quantities are, and every row that predicts something is in one of them."""
    record = read(path)
    chart = figures.measured([record])
    names = [str(t["name"]) for t in chart.traces]

    assert len(names) <= 9  # the diagonal is one
    assert len(names) == len(set(names))
    assert not [row for row in chart.rows if "second" in row["quantity"] or row["quantity"].endswith("/s")]
    shown = sum(int(name.rsplit("(", 1)[1][:-1]) for name in names[1:])
    assert shown == sum(bool(row["predicted"] and row["measured"]) for row in chart.rows)
    assert shown > len(record["rows"]) / 2
    assert 360 - chart.layout["margin"]["l"] - chart.layout["margin"]["r"] > 200
    assert 320 < chart.layout["height"] < 700


# --- looks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [Look(), Look(True, "GB", 400), Look(False, "GiB", 1200, 600, False)])
def test_plotly_takes_every_word(look: Look) -> None:
    """Plotly checks each property of each figure; what it keeps is what was said, and it is JSON."""
    pytest.importorskip("plotly")
    for chart in every_chart(look):
        figure = chart.figure()
        assert len(chart.traces) == len(figure.data)
        assert look.theme.ground == figure.layout.paper_bgcolor
        assert figure.layout.height > 100
        json.dumps(chart.to_dict(), allow_nan=False)
        assert figure.layout.margin.autoexpand is False
        width, margin = look.width or 400, figure.layout.margin
        assert width - margin.l - margin.r > 200, chart.name  # a plot is left at 400 pixels


def test_the_legend_and_the_title_have_room() -> None:
    """Long names break, and the margin below holds a line for each."""
    schemes = ["streaming:sinks=4,window=1020+int4:g=32+owners:" + "_".join(str(i - i % 2) for i in range(32))]
    chart = figures.kv(list(kvplan.compare("llama-2-7b", schemes).reports), (1024, 4096))
    name = str(chart.traces[-1]["name"])

    assert name.count("<br>") >= 2
    assert all(len(line) * 11 * 0.6 < 400 for line in name.split("<br>"))
    assert chart.layout["margin"]["b"] >= 52 + 19 * (name.count("<br>") + 2)


def test_colours_are_never_alone() -> None:
    """Eleven lines differ in dash or marker where they share a colour."""
    look = Look()
    pairs = [(look.line(i)["color"], look.line(i)["dash"], look.marker(i)["symbol"]) for i in range(40)]

    assert 40 == len(set(pairs))


@pytest.mark.parametrize("units", ["GiB", "GB"])
def test_units(units: str) -> None:
    """Ticks and hovers are in the units asked for; data stay bytes, and hovers are exact to the byte."""
    chart = figures.kv([kvplan.plan("llama-3.1-8b")], (2**16, 2**20), Look(units=units))
    line = trace(chart, "llama-3.1-8b")

    assert all(text.endswith("iB") == (units == "GiB") for text in chart.layout["yaxis"]["ticktext"])
    assert f"({131_072 * 2**20:,} B)" in line["text"][-1]
    other = {"GiB": " GB", "GB": "GiB"}[units]
    assert other not in json.dumps(chart.to_dict())
    assert other not in json.dumps([chart.to_dict() for chart in every_chart(Look(units=units))])
    with pytest.raises(InvalidInput, match="units: got 'GHz', allowed: GiB or GB"):
        figures.kv([kvplan.plan("llama-3.1-8b")], None, Look(units="GHz"))


def test_rows_as_csv_and_json() -> None:
    """Both hold the same rows."""
    chart = figures.frontier([kvplan.plan("llama-3.1-8b", gpu="h100")], (1024, 4096))
    lines = list(csv.DictReader(io.StringIO(chart.to_csv())))

    assert [str(row["max_batch"]) for row in chart.rows] == [line["max_batch"] for line in lines]
    assert list(chart.rows) == json.loads(chart.to_json())["rows"]


def test_what_cannot_be_drawn_is_one_line() -> None:
    """A map of what fits needs a GPU, a roofline one with rates."""
    report = kvplan.plan("llama-3.1-8b")
    for draw in (
        lambda: figures.capacity([report]),
        lambda: figures.roofline(report),
        lambda: figures.bounds([report]),
    ):
        with pytest.raises(InvalidInput, match="gpu: missing"):
            draw()


def test_labels_tell_lines_apart() -> None:
    """What differs, and nothing else; equal questions are numbered."""
    plan = kvplan.plan
    assert ["as published", "cla:2"] == figures.labels([plan("llama-2-7b"), plan("llama-2-7b", scheme="cla:2")])
    gpus = [plan("llama-2-7b", gpu=gpu) for gpu in ("h100", "t4")]
    assert ["h100-80gb-sxm", "t4-16gb"] == figures.labels(gpus)
    assert ["bf16", "fp8_e4m3"] == figures.labels([plan("llama-2-7b", kv_dtype=d) for d in ("bf16", "fp8")])
    assert ["tp 1", "tp 2"] == figures.labels([plan("llama-2-7b", tp=tp) for tp in (1, 2)])
    assert 2 == len(set(figures.labels([plan("llama-2-7b"), plan("llama-2-7b")])))


def test_drawing_imports_nothing_heavy() -> None:
    """A chart is plain data: plotly, numpy and pandas stay out until it is rendered."""
    script = (
        "import sys, kvplan\nfrom kvplan import figures\nfigures.kv([kvplan.plan('llama-3.1-8b')])\n"
        "sys.exit(' '.join({'plotly', 'numpy', 'pandas', 'kaleido', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)

    assert "" == done.stderr.strip()
