"""Every view for many presets, run without a browser: what it shows is what the API answers."""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
import shlex
from array import array
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

import kvplan
from kvplan import page

pytest.importorskip("streamlit")
from streamlit.testing.v1 import AppTest

MAIN = str(Path(__file__).parents[2] / "app" / "main.py")
PRESETS = [row["name"] for row in page.listing("models")]
# one of each way of keeping a cache: GQA, windows, MLA, shared layers, states, an encoder, Falcon's MQA
SOME = (
    "llama-3.1-8b", "gemma-3-12b", "deepseek-v3", "gemma-3n-e4b", "qwen3-next-80b-a3b", "whisper-large-v3", "falcon-7b", "gpt-oss-20b",
)  # fmt: skip
GPU = "h200-141gb-sxm"
SMALL = (
    '{"model_type": "llama", "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4,'
    ' "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100}'
)


def opened(**fields: Any) -> AppTest:
    """The page under a link that holds these fields."""
    at = AppTest.from_file(MAIN, default_timeout=60)
    for name, value in fields.items():
        at.query_params[name] = str(value)
    at.run()
    return at


def shown(at: AppTest) -> dict[str, tuple[str, str]]:
    """Quantity -> (for people, exact) of the numbers on the page."""
    text = "".join(block.proto.body for block in at.get("html"))
    found = re.findall(r"<dt>(.*?)</dt><dd(?: title='(.*?)')?>(.*?)</dd>", text)
    return {html.unescape(name): (html.unescape(value), html.unescape(exact)) for name, exact, value in found}


def read(element: Any) -> str:
    """What Streamlit's Markdown of an element shows, where page.as_text made it."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", re.sub(r":color\[(\\?.)\]", r"\1", element.value))


def fine(at: AppTest) -> None:
    """Neither a traceback nor an error."""
    assert not at.exception
    assert [] == [error.value for error in at.error]


def expected(report: kvplan.Report) -> dict[str, tuple[str, str]]:
    return {name.strip(): (value, exact) for name, value, exact in report.rows()}


def test_explore_shows_every_preset_as_the_api_does() -> None:
    """One session walks through all presets."""
    at = opened(gpu=GPU, context=4096, batch=2)
    for name in PRESETS:
        at.selectbox(key="model").set_value(name).run()
        fine(at)
        assert expected(kvplan.plan(name, gpu=GPU, context=4096, batch=2)) == shown(at), name


@pytest.mark.parametrize("view", ["Compare", "Layers", "Capacity", "Roofline"])
@pytest.mark.parametrize("name", SOME)
def test_a_view_draws_what_the_api_answers(view: str, name: str) -> None:
    """Its pictures are there, each with its downloads, and the command below them names what was asked."""
    fields = {"row_schemes": "fp8"} if view == "Compare" else {}
    at = opened(view=view, model=name, gpu=GPU, context=4096, **fields)
    fine(at)
    assert at.get("plotly_chart")
    assert any(f" {name} " in code.value and f" {GPU}" in code.value for code in at.code)
    labels = [button.label for button in at.get("download_button")]
    assert {"CSV", "JSON", "HTML", "PNG"} <= set(labels)


def drawn(at: AppTest, i: int = 0) -> dict[str, Any]:
    """The i-th picture as it is sent to the browser."""
    figure: dict[str, Any] = json.loads(at.get("plotly_chart")[i].proto.spec)
    return figure


def plain(values: Any) -> list[Any]:
    """Numbers of a trace: plotly may send them as packed bytes."""
    if isinstance(values, dict):
        kinds = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
        return list(array(kinds[values["dtype"]], b64decode(values["bdata"])))
    return list(values)


@pytest.mark.parametrize("name", SOME)
def test_the_lines_of_compare_are_plans(name: str) -> None:
    """KV against context: each marker is what a plan at that context says; the table too."""
    at = opened(view="Compare", model=name, gpu=GPU, row_schemes="fp8", batch=2)
    fine(at)
    for trace, scheme in zip(drawn(at)["data"], (None, "fp8"), strict=False):
        points = list(zip(plain(trace["x"]), plain(trace["y"]), strict=True))
        assert len(points) > 1
        for context, size in points[:: max(len(points) // 4, 1)]:
            report = kvplan.plan(name, gpu=GPU, context=int(context), batch=2, scheme=scheme)
            assert report.kv["bytes_per_gpu"] == size
    table = at.dataframe[0].value
    reports = kvplan.compare(name, ["fp8"], gpu=GPU, context=8192, batch=2)
    assert [row.max_batch for row in reports.rows] == [None if n != n else n for n in table["max batch"]]
    assert [row.kv_ratio for row in reports.rows] == list(table["KV ×"])


@pytest.mark.parametrize("name", SOME)
def test_the_bars_of_layers_are_what_a_sequence_takes(name: str) -> None:
    """What the layers keep adds up to one sequence."""
    at = opened(view="Layers", model=name, context=4096)
    fine(at)
    assert kvplan.plan(name, context=4096).kv["bytes_per_sequence"] == sum(at.dataframe[0].value["bytes"])


@pytest.mark.parametrize("name", SOME)
def test_the_table_of_gpus_is_what_plans_say(name: str) -> None:
    """Green and amber fit, red does not, for every GPU on file."""
    at = opened(view="Capacity", model=name, gpu=GPU, context=4096, batch=8)
    fine(at)
    body = next(block.proto.body for block in at.get("html") if 'class="scroll"' in block.proto.body)
    rows = re.findall(r"<td>([^<]*)</td><td class=(\w+)>", body)
    found = {html.unescape(label): verdict for label, verdict in rows}
    for row in page.listing("gpus"):
        assert kvplan.plan(name, gpu=row["name"], context=4096, batch=8).fits == (found[row["label"]] != "no"), row[
            "name"
        ]


def test_capacity_draws_a_map_per_engine() -> None:
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.query_params["view"], at.query_params["gpu"] = "Capacity", GPU
    at.query_params["engines"] = ["vllm", "transformers"]
    at.run()
    fine(at)
    said = [h.value for h in at.main.subheader if h.value.startswith("Engine ")]
    assert ["Engine ideal", "Engine vllm", "Engine transformers"] == said
    assert 3 == len(at.get("plotly_chart"))


@pytest.mark.parametrize("by", ["engines", "GPUs"])
def test_engines_and_gpus_stand_side_by_side(by: str) -> None:
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.query_params["view"], at.query_params["gpu"], at.query_params["by"] = "Compare", GPU, by
    rows = {"engines": ["ideal", "transformers", "vllm"], "GPUs": ["l4", "h100", "h200"]}[by]
    at.query_params[f"row_{by}"] = rows
    at.run()
    fine(at)
    asked = [
        kvplan.plan(
            "llama-3.1-8b", context=8192, **({"engine": name, "gpu": GPU} if by == "engines" else {"gpu": name})
        )
        for name in rows
    ]
    if by == "engines":
        assert [report.capacity.max_context for report in asked] == list(at.dataframe[0].value["max context"])
    else:
        body = next(block.proto.body for block in at.get("html") if 'class="scroll"' in block.proto.body)
        for report in asked:
            assert f"{report.capacity.max_context:,}" in body
    assert len(at.get("plotly_chart")) >= 3


def test_the_pages_of_papers_and_records() -> None:
    """All rows on file, and those that a filter leaves."""
    at = opened(view="Papers")
    fine(at)
    assert len(page.published()) == len(at.dataframe[0].value)
    at = opened(view="Papers", rows="mqa cla")
    fine(at)
    assert 0 < len(at.dataframe[0].value) < len(page.published())
    assert all("cla" in str(list(row)).lower() for row in at.dataframe[0].value.itertuples())
    at = opened(view="Validation", cases="cla int4")
    fine(at)
    rows = at.dataframe[0].value
    wanted = [
        row for record in page.measured() for row in record["rows"] if "cla" in row["case"] and "int4" in row["case"]
    ]
    assert 0 < len(wanted) == len(rows)
    for view, field in (("Papers", "rows"), ("Validation", "cases")):
        at = opened(view=view, **{field: "no such words anywhere"})
        fine(at)
        assert any("contains that" in info.value for info in at.info)


GPU_RECORD: dict[str, Any] = {
    "record": 1, "suite": "gpu", "git": "", "date": "2026-11-28T04:17:58Z", "torch": "2.11.0+cu130", "device": "cuda",
    "device_name": "NVIDIA <b>T0", "cuda": "13.0", "driver": "580.1",
    "notes": {
        "facts": {
            "device/memory": {"value": 3 * 2**30, "unit": "bytes", "basis": "measured", "source": "torch"},
            "rate/copy": {"value": 2.5e12, "unit": "bytes/s", "basis": "measured", "source": "15 copies"},
            "rate/matmul": {"value": 7.9e14, "unit": "FLOP/s", "basis": "measured", "source": "15 products"},
            "time/launch": {"value": 0.0052, "unit": "seconds", "basis": "measured", "source": "a clock"},
            "device/driver": {"value": "580.1", "unit": "", "basis": "measured", "source": "the driver's tool"},
        },
    },
    "rows": [
        {"case": case, "plan": {}, "quantity": quantity, "predicted": predicted, "measured": measured, "verdict": verdict,
         "note": note, "stage": "ends", "ratio": None}
        for case, quantity, predicted, measured, verdict, note in (
            ("mha", "kv.bytes", 4096, 4096, "exact", ""), ("gqa", "kv.bytes", 1024, 1024, "exact", ""),
            ("gqa", "cuda peak", None, 9, "reported", ""), ("mqa", "max batch", 2024, 2088, "wrong", "16 <attempts> of it"),
            ("offload", "run", None, None, "failed", "RuntimeError: not on the same device"),
        )
    ],
}  # fmt: skip
CPU_RECORD: dict[str, Any] = {
    "record": 1, "suite": "ci", "git": "b5614c838ac3c34a", "date": "2026-11-24T21:55:02Z", "torch": "2.13.0+cpu", "device": "cpu",
    "rows": [{name: value for name, value in row.items() if name != "stage"} for row in GPU_RECORD["rows"][:1]],
}  # fmt: skip


def validation(monkeypatch: pytest.MonkeyPatch, *records: dict[str, Any], **fields: Any) -> AppTest:
    """The page of validation where these records are on file."""
    monkeypatch.setattr(page, "measured", lambda: records)
    at = opened(view="Validation", **fields)
    fine(at)
    return at


def test_a_record_of_a_gpu_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, driver and CUDA of the device, no empty commit, and how many rows say what; a CPU's as before."""
    gpu, cpu, *_ = [read(caption) for caption in validation(monkeypatch, GPU_RECORD, CPU_RECORD).main.caption]
    assert (
        "suite gpu on NVIDIA <b>T0, 2026-11-28T04:17:58Z, driver 580.1, CUDA 13.0, torch 2.11.0+cu130: 5 rows shown,"
        " 2 exact, 1 reported, 1 wrong, 1 failed"
    ) == gpu
    assert ("suite ci on cpu, 2026-11-24T21:55:02Z, torch 2.13.0+cpu, commit b5614c838ac3: 1 row shown, 1 exact") == cpu


def tables(at: AppTest) -> list[list[tuple[str, ...]]]:
    """The rows of each table of the document, its head first, as they are read."""
    bodies = [block.proto.body for block in at.get("html") if "<table" in block.proto.body]
    cells = r"<t[hd][^>]*>(.*?)</t[hd]>"
    return [[tuple(map(html.unescape, re.findall(cells, row))) for row in body.split("<tr>")[1:]] for body in bodies]


@pytest.mark.parametrize(("units", "memory"), [("GiB", ("3", "GiB")), ("GB", ("3.22", "GB"))])
def test_the_facts_of_a_gpu_are_a_table(units: str, memory: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a heading that names the device, in people's numbers; a record without facts has neither."""
    at = validation(monkeypatch, GPU_RECORD, CPU_RECORD, units=units)
    (table,) = tables(at)
    assert [
        ("path", "value", "unit", "source"),
        ("device/memory", *memory, "torch"),
        ("rate/copy", "2.5", "TB/s", "15 copies"),
        ("rate/matmul", "790", "TFLOP/s", "15 products"),
        ("time/launch", "5.2", "ms", "a clock"),
        ("device/driver", "580.1", "", "the driver's tool"),
    ] == table
    assert 1 == sum(head.value.startswith("Measured of ") for head in at.subheader)
    at = validation(monkeypatch, CPU_RECORD)
    assert not tables(at)
    assert ["What engines printed"] == [head.value for head in at.main.subheader]


def test_rows_that_say_no_are_seen_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its note in full above the picture, escaped, and at the head of the table, which has stages where rows have."""
    at = validation(monkeypatch, GPU_RECORD, CPU_RECORD)
    (said,) = [block.proto.body for block in at.get("html") if "verdict no" in block.proto.body]
    assert 2 == said.count("✘")
    assert "wrong · mqa · max batch: predicted 2,024, measured 2,088 (NVIDIA &lt;b&gt;T0, stage ends)" in said
    assert "<small>16 &lt;attempts&gt; of it</small>" in said
    assert "failed · offload · run (NVIDIA" in said
    assert "RuntimeError: not on the same device" in said
    rows = at.dataframe[0].value
    assert ["wrong", "failed", "exact", "exact", "reported", "exact"] == list(rows["verdict"])
    assert [*["ends"] * 5, ""] == list(rows["stage"])
    assert [*["NVIDIA <b>T0"] * 5, "cpu"] == list(rows["device"])


def test_a_record_without_a_no_has_no_such_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a heading nor a column of stages; a filter that leaves no bad row takes both away too."""
    for at in (validation(monkeypatch, CPU_RECORD), validation(monkeypatch, GPU_RECORD, cases="mha")):
        assert "Rows that say no" not in [head.value for head in at.subheader]
        assert not [block for block in at.get("html") if "verdict no" in block.proto.body]
    at = validation(monkeypatch, CPU_RECORD)
    assert "stage" not in at.dataframe[0].value


def test_the_validation_page_names_the_records_on_file() -> None:
    """The command below it prints one of them, and the page says of each where it was made."""
    at = opened(view="Validation")
    fine(at)
    (line,) = [code.value for code in at.code if "kvplan validate --show" in code.value]
    path = Path(MAIN).parents[1] / re.findall(r"--show (\S+)", line)[0]
    assert json.loads(path.read_bytes())["date"] in "".join(map(read, at.caption))
    assert sum(len(record["rows"]) for record in page.measured()) == len(at.dataframe[0].value)


def test_a_link_reproduces_a_page() -> None:
    """Every field of the sidebar, from the address to the numbers."""
    fields = {
        "model": "llama-3.1-8b", "context": 5000, "batch": 6, "layers": "cla:2", "heads": "mqa", "kv_dtype": "fp8_e4m3",
        "weight_dtype": "int4", "gpu": "l4-24gb", "tp": 2, "units": "GB",
    }  # fmt: skip
    at = opened(**fields)
    fine(at)
    report = kvplan.plan(
        "llama-3.1-8b",
        context=5000,
        batch=6,
        scheme="mqa+cla:2",
        kv_dtype="fp8_e4m3",
        weight_dtype="int4",
        gpu="l4-24gb",
        tp=2,
    )
    assert {name.strip(): (value, exact) for name, value, exact in report.rows(page.UNITS["GB"])} == shown(at)
    assert any("kvplan plan llama-3.1-8b --context 5000 --batch 6 --scheme mqa+cla:2" in code.value for code in at.code)


def test_the_link_below_a_page_opens_it_again() -> None:
    """Scheme, formats, engine, options, GPUs: what the link holds gives the same numbers."""
    first = opened(
        scheme="mqa+cla:2+q8_0", engine="llama.cpp", options="kv_unified=true", gpu="h100", tp=2, batch=3, context="12k",
        units="GB", term="kv/global",
    )  # fmt: skip
    fine(first)
    again = AppTest.from_file(MAIN, default_timeout=60)
    for name, values in parse_qs(link(first)).items():
        again.query_params[name] = values
    again.run()
    fine(again)
    assert not again.warning
    assert shown(first) == shown(again)
    report = kvplan.plan(
        "llama-3.1-8b", scheme="mqa+cla:2+q8_0", engine="llama.cpp", engine_options={"kv_unified": True},
        gpu="h100-80gb-sxm", tp=2, batch=3, context="12k",
    )  # fmt: skip
    assert {name.strip(): (value, exact) for name, value, exact in report.rows(page.UNITS["GB"])} == shown(again)
    assert "tp 2 × pp 1 × dp 1: 2 GPUs" in map(read, again.caption)


def link(at: AppTest) -> str:
    """The query of the link below the page."""
    found = next(m.value for m in at.markdown if m.value.startswith("[Link to what you see]"))
    return found.partition("?")[2].partition(")")[0]


def test_a_pasted_config_is_in_the_link() -> None:
    at = opened(source="config.json")
    at.text_area(key="pasted").set_value(SMALL).run()
    fine(at)
    again = AppTest.from_file(MAIN, default_timeout=60)
    for name, values in parse_qs(link(at)).items():
        again.query_params[name] = values
    again.run()
    fine(again)
    assert shown(at) == shown(again)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"context": "abc"}, "context: got 'abc'"),
        ({"context": "-5"}, "context: got '-5'"),
        ({"context": "9" * 30}, "context: got"),
        ({"batch": "0"}, "batch: got '0'"),
        ({"tp": "two"}, "tp: got 'two'"),
        ({"foo": "3"}, "foo is no field"),
        ({"model": "../../etc/passwd"}, "unknown model '../../etc/passwd'"),
        ({"model": "llama-3.1-9b"}, "nearest: llama-3.1"),
        ({"gpu": "<script>alert(1)</script>"}, "unknown gpu"),
        ({"view": "Nowhere"}, "unknown view 'Nowhere'"),
        ({"scheme": "cla:2+cla:3"}, "scheme"),
        ({"scheme": "nonsense"}, "nonsense"),
        ({"context": "2**48"}, "from 1 to 2**48"),
        ({"gpu": ":material/home:"}, "unknown gpu ':material/home:'"),
        ({"engines": "x" * 2000}, "engines: got 'xxx"),
        ({"cases": "\x00"}, "cases: got '\\x00'"),
        ({"paper": "nobody"}, "unknown paper 'nobody'"),
        ({"n_layers": "many"}, "n_layers: got 'many'"),
    ],
)
def test_a_hand_edited_link_gets_one_sentence(fields: dict[str, str], said: str) -> None:
    at = opened(**fields)
    assert not at.exception
    assert not at.error
    assert any(said in read(warning) for warning in at.warning), [w.value for w in at.warning]
    assert 1 == len(at.warning)
    assert "\n" not in at.warning[0].value
    assert "KV per token" in shown(at)


def test_a_link_whose_config_cannot_be_read_shows_no_other_model() -> None:
    """One sentence says what is wrong with it, another that there is none; there are no numbers of a preset."""
    for fields in (
        {"config": "AAAA"},
        {"config": "AAAA", "source": "config.json"},
        {"config": "", "model": "qwen3-8b"},
    ):
        at = opened(**fields)
        assert not at.exception
        assert {} == shown(at)
        assert ["config: got" in read(warning) for warning in at.warning] == [True]
        assert {
            "config.json: missing, allowed: a published one, pasted or uploaded; the address of this page holds none"
        } == {read(error) for error in at.error}
        assert "config" not in at.query_params


@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        ("{", "config.json: got '{'"),
        ("[1, 2]", "config.json: got [1, 2]"),
        ("{}", "model_type"),
        ('{"model_type": "llama", "num_hidden_layers": 1e999}', "num_hidden_layers"),
        ('{"a":' * 60_000, "config.json"),
        ('{"model_type": "llama", "num_hidden_layers": -3}', "num_hidden_layers"),
        ('{"model_type": "llama", "hidden_size": 1' + "0" * 400 + "}", "hidden_size"),
        ("MZ\\x00\\x01", "config.json"),
        ('{"model_type": "nobody-knows"}', "nobody-knows"),
    ],
)
def test_a_bad_config_gets_one_sentence(pasted: str, said: str) -> None:
    at = opened(source="config.json")
    at.text_area(key="pasted").set_value(pasted).run()
    assert not at.exception
    assert any(said in read(error) for error in at.error), [error.value for error in at.error]
    assert all("\n" not in error.value for error in at.error)


def test_a_pasted_config_is_planned() -> None:
    """Layers x 2 x KV heads x head_dim x 2 bytes, as the text says."""
    at = opened(source="config.json")
    at.text_area(key="pasted").set_value(SMALL).run()
    fine(at)
    assert f"{3 * 2 * 2 * 16 * 2:,} B" == shown(at)["KV per token"][1]


def test_an_uploaded_config_is_planned() -> None:
    at = opened(source="config.json")
    at.file_uploader(key="file").set_value(("config.json", SMALL.encode(), "application/json")).run()
    fine(at)
    assert f"{3 * 2 * 2 * 16 * 2:,} B" == shown(at)["KV per token"][1]


def test_impossible_settings_get_one_sentence() -> None:
    """A scheme that does not apply, a tp that does not divide, an option nobody knows."""
    at = opened(model="falcon-7b", tp=16)
    assert ["tp: got 16" in read(error) for error in at.error] == [True]
    at = opened(heads="gqa:7")
    assert 1 == len(at.error)
    assert "gqa:7" in read(at.error[0])
    assert not at.exception
    at = opened(tp=3, gpu=GPU)
    assert ["tp: got 3" in read(error) for error in at.error] == [True]
    at = opened(engine="vllm", options="nonsense=1", gpu=GPU)
    assert at.error
    assert all("nonsense" in read(error) for error in at.error)
    at = opened(source="numbers", n_heads=7, n_kv_heads=3)
    assert 1 == len(at.error)
    assert not at.exception


def test_plain_numbers() -> None:
    at = opened(
        source="numbers", n_layers=4, n_hidden=64, n_heads=4, n_kv_heads=2, n_head_dim=16, n_ffn=128, n_vocab=100
    )
    fine(at)
    assert f"{4 * 2 * 2 * 16 * 2:,} B" == shown(at)["KV per token"][1]


def test_plain_numbers_of_a_link_are_taken_as_they_are() -> None:
    """2048 is no "2k", which the box for it could not read; numbers alone ask about no preset."""
    asked = {"n_layers": 4, "n_hidden": 2048, "n_heads": 16, "n_kv_heads": 2, "n_head_dim": 1024, "n_vocab": 65536}
    for fields in (asked, {"source": "numbers", **asked}):
        at = opened(**fields)
        fine(at)
        assert not at.warning
        assert f"{4 * 2 * 2 * 1024 * 2:,} B" == shown(at)["KV per token"][1]
        assert any("--hidden 2048 " in code.value and "--vocab 65536" in code.value for code in at.code)
        again = AppTest.from_file(MAIN, default_timeout=60)
        for name, values in parse_qs(link(at)).items():
            again.query_params[name] = values
        assert shown(at) == shown(again.run())


def test_of_a_field_given_twice_the_last_counts_and_too_many_rows_are_said() -> None:
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.query_params["context"], at.query_params["gpu"] = ["4k", "16k"], ["l4-24gb", "h100"]
    at.run()
    fine(at)
    assert expected(kvplan.plan("llama-3.1-8b", context="16k", gpu="h100-80gb-sxm")) == shown(at)
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.query_params["view"], at.query_params["row_schemes"] = "Compare", [f"window:{n}" for n in range(1, 9)]
    at.run()
    fine(at)
    assert ["row_schemes: got" in read(warning) for warning in at.warning] == [True]


LONG = json.loads(SMALL) | {"words": [f"{n * 7919 % 99991:x}" for n in range(9000)]}


def pasted(text: str, at: AppTest | None = None) -> AppTest:
    """The page after this text was pasted, over what stood there."""
    at = at or opened(source="config.json")
    return at.text_area(key="pasted").set_value(text).run()


def reopened(at: AppTest) -> AppTest:
    """What the address bar opens in a new session."""
    again = AppTest.from_file(MAIN, default_timeout=60)
    for name, values in at.query_params.items():
        again.query_params[name] = values
    return again.run()


def carried(at: AppTest) -> str | None:
    """The config of the address bar."""
    found = at.query_params.get("config")
    return found[-1] if isinstance(found, list) else found


def test_the_address_holds_the_config_that_is_shown() -> None:
    """Pasted over, broken, too long, uploaded, left for a preset: never another one."""
    other = SMALL.replace('"num_hidden_layers": 3', '"num_hidden_layers": 5')
    at = pasted(SMALL)
    assert page.packed(json.loads(SMALL)) == carried(at)
    assert shown(at) == shown(reopened(at)) != {}
    at = pasted(other, reopened(at))
    assert page.packed(json.loads(other)) == carried(at)
    assert shown(at) == shown(reopened(at)) != shown(pasted(SMALL))
    at.file_uploader(key="file").set_value(("config.json", SMALL.encode(), "application/json")).run()
    assert page.packed(json.loads(SMALL)) == carried(at)
    at = pasted("{", pasted(other))
    assert "config" not in at.query_params
    assert {} == shown(at)
    at = pasted(other)
    at.segmented_control(key="source").set_value("preset").run()
    assert "config" not in at.query_params
    assert shown(at) == shown(reopened(at)) == shown(opened())


def test_a_config_too_long_for_the_address_is_said_to_be() -> None:
    """Beside the controls and beside the link, neither of which then means another model."""
    at = pasted(json.dumps(LONG), pasted(SMALL))
    fine(at)
    assert shown(pasted(SMALL)) == shown(at)
    assert "config" not in at.query_params
    assert ["too long for an address" in info.value for info in at.sidebar.info] == [True]
    assert [
        "whoever opens it is asked for it" in m.value for m in at.markdown if m.value.startswith("[Link to what")
    ] == [True]
    assert "config=" not in link(at)
    again = reopened(at)
    assert {} == shown(again)
    assert all("the address of this page holds none" in read(error) for error in again.error)


@pytest.mark.parametrize("view", ["Explore", "Compare", "Layers", "Capacity", "Roofline"])
def test_no_view_shows_a_preset_where_the_address_asks_for_a_config(view: str) -> None:
    at = opened(view=view, source="config.json", model="qwen3-8b", gpu=GPU)
    assert not at.exception
    assert at.error
    assert not at.get("plotly_chart")
    assert not [block for block in at.get("html") if re.search('class="(numbers|heading|verdict)', block.proto.body)]


def test_a_config_in_a_link_is_the_model_without_a_word_about_its_source() -> None:
    word = page.packed(json.loads(SMALL))
    at = opened(config=word)
    fine(at)
    assert shown(pasted(SMALL)) == shown(at)
    at = opened(config=word, source="preset")  # who says both is told which one it is
    assert ["config, where source is preset" in read(warning) for warning in at.warning] == [True]


def test_exact_numbers_stand_beside_the_rounded_ones() -> None:
    at = opened(gpu=GPU, exact="true")
    fine(at)
    assert "<small>131,072 B</small>" in "".join(block.proto.body for block in at.get("html"))


def commands() -> dict[str, dict[str, Any]]:
    """Links of pages whose command is run."""
    return {
        "explore": {"context": "6k", "batch": 3, "scheme": "mqa+cla:2", "kv_dtype": "fp8", "gpu": GPU, "tp": 2},
        "explore, engine": {"engine": "llama.cpp", "options": "kv_unified=true n_gpu_layers=99", "gpu": GPU},
        "explore, numbers": {"source": "numbers", "n_window": 512, "n_layers": 4},
        "compare": {"view": "Compare", "gpu": GPU, "batch": 2, "kv_dtype": "int4"},
        "compare, engines": {"view": "Compare", "by": "engines", "gpu": GPU},
        "compare, GPUs": {"view": "Compare", "by": "GPUs", "batch": 2},
        "layers": {"view": "Layers", "scheme": "lckv:w=2", "context": 3000},
        "capacity": {"view": "Capacity", "gpu": GPU, "batch": 4, "context": 3000},
        "capacity, no GPU": {"view": "Capacity", "batch": 4, "context": 3000},
        "roofline": {"view": "Roofline", "gpu": GPU, "batch": 4},
        "roofline, no GPU": {"view": "Roofline"},
        "papers": {"view": "Papers", "paper": "cla"},
    }


@pytest.mark.parametrize("name", commands())
def test_the_command_below_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken by the command line as it stands, and `plan` answers the page's numbers."""
    from kvplan.cli import main

    at = opened(**commands()[name])
    fine(at)
    line = next(code.value for code in at.code if code.value.startswith("kvplan "))
    words = shlex.split(line)[1:]
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    monkeypatch.setattr("sys.argv", ["kvplan", *words, *(["--json"] if words[0] == "plan" else [])])
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None, 1), line
    if words[0] == "plan":
        answer = json.loads(out.getvalue())
        numbers = shown(at) or shown(opened(**commands()[name] | {"view": "Explore"}))
        assert f"{answer['kv']['bytes_per_sequence']:,} B" == numbers["KV per sequence"][1]
    elif words[0] == "plot":
        assert (tmp_path / words[-1]).stat().st_size > 1000
