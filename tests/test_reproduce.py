"""Published numbers, asked again: every counted row comes out, and a wrong one does not."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from kvplan.catalog import preset_folders
from kvplan.errors import InvalidInput, UnknownName
from kvplan.reproduce import (
    OUTCOMES,
    Row,
    as_dicts,
    markdown,
    paper_file,
    papers,
    quality,
    reproduce,
    text,
)

# Rows of the collected data that are independent tests and exact, or exact after rounding as printed: all must come out.
REQUIRED_TEXT = """
cla-1b-H128-GQA4 cla-1b-H128-GQA2 cla-1b-H64-MQA cla-1b-H46-MQA cla-1b-H256-MQA-CLA2 cla-1b-H90-MQA-CLA2
cla-1b-H64-MQA-CLA2 cla-1b-H256-GQA4-CLA2 cla-1b-H128-GQA4-CLA2 cla-1b-H128-GQA2-CLA2 cla-1b-H128-MQA-CLA4
cla-1b-H128-MQA-CLA2-DenseFront cla-1b-H128-MQA-CLA2-DenseBack cla-3b-H128-MQA cla-3b-H128-MQA-CLA2 cla-3b-H64-MQA
cla-3b-H32-MQA cla-fig2-cla3-10layers mlkv-heads-MHA-144 mlkv-measured-MHA-144 mlkv-measured-GQA-48 mlkv-heads-MLKV-48
mlkv-measured-MLKV-48 mlkv-measured-MQA-12 mlkv-measured-MLKV-12 mlkv-heads-MLKV-6 mlkv-heads-MLKV-4
mlkv-measured-MLKV-4 mlkv-heads-MLKV-2 mlkv-heads-MLKV-1 mlkv-measured-MLKV-1 mlkv-6x-claim mlkv-params-160m
lckv-kvlayers-w2-22L lckv-prefill-iters yoco-fig8-1.2B yoco-fig8-13B yoco-fig8-65B dsv2-small-mla dsv2-small-mha
dsv2-93.3pct isca-v3 isca-qwen72 isca-llama405 isca-flops-v3 ds-fig1b-v1 ds-v4flash-7pct jamba15-Mixtral-8x7B
jamba15-LLaMA-3.1-8B jamba15-Mixtral-8x22B jamba15-Mistral-Large-2 jamba15-Jamba-1.5-Mini jamba15-Jamba-1.5-Large
vllm-slots-OPT-13B vllm-slots-OPT-175B flexgen-1.2TB pope-ctx-multihead-512 pope-ctx-optimized-mqa-512 pope-3TB
scissor-OPT-175B nsa-8192 nsa-16384 nsa-32768 nsa-65536 infini-mem kvquant-7b-128k-nuq4 kvquant-7b-128k-nuq4-1%
kvquant-7b-128k-nuq3-1% kvquant-7b-128k-nuq2 kvquant-7b-128k-nuq2-1% skvq-g128 skvq-g64 skvq-g32 zipcache-group
minicache-formula mooncake-320KB sb-quiz-256 sb-8gib sb-worked-params sb-70b-int8 cs336-mem-b1-k40 cs336-mem-b64-k40
cs336-mem-b256-k40 cs336-mem-b64-k8 cs336-thr-b64-k40 cs336-thr-b64-k8 cs336-thr-b256-k8 kvpress-330GB kipply-52b
swiftkv-2way swiftkv-4way swiftkv-8way swiftkv-16way cachedattn-LLaMA-65B cachedattn-LLaMA-70B cachedattn-Falcon-40B
mha-llmviewer-qproj
"""
REQUIRED = REQUIRED_TEXT.split()


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return reproduce()


def test_every_required_number_is_reproduced(rows: list[Row]) -> None:
    """The 97 independent ones, by the ordinary public functions."""
    outcomes = {row.id: row.outcome for row in rows}

    assert 97 == len(set(REQUIRED))
    assert [] == [name for name in REQUIRED if outcomes.get(name) not in ("exact", "rounds")]


def test_counts_per_outcome(rows: list[Row]) -> None:
    """Nothing differs; the counts change with the files only."""
    assert {
        "exact": 208,
        "rounds": 28,
        "within": 13,
        "upper bound": 33,
        "wrong in paper": 11,
        "shown": 50,
    } == Counter(row.outcome for row in rows)
    assert [] == [row for row in rows if row.outcome == "DIFFERS"]


def test_mlkv_measurements() -> None:
    """115 of the 116 lines equal 2 m g 64 x 4 bytes x batch x 2,047; MLKV-1 at batch 1,100 held 2,045 tokens."""
    measured = [row for row in reproduce("mlkv") if row.id.startswith("csv-")]
    shape = {"MHA-144": 144, "GQA-48": 48, "MLKV-48": 48, "MQA-12": 12, "MLKV-12": 12, "MLKV-6": 6, "MLKV-4": 4,
             "MLKV-2": 2, "MLKV-1": 1}  # fmt: skip

    assert {"exact": 115, "shown": 1} == Counter(row.outcome for row in measured)
    for row in measured:
        found = re.fullmatch(r"csv-(.+)-(\d+)", row.id)
        assert found is not None
        tokens = 2045 if row.outcome == "shown" else 2047
        by_hand = 2 * shape[found[1]] * 64 * 4 * int(found[2]) * tokens / 2**20
        assert by_hand == row.published == row.computed
    assert ["csv-MLKV-1-1100"] == [row.id for row in measured if row.outcome == "shown"]


def test_cla_bytes_per_token() -> None:
    """The issue's six of the 1B family."""
    computed = {row.id: row.computed for row in reproduce("cla")}

    assert [163_840, 20_480, 10_240, 5_120, 3_584, 2_560] == [
        computed[f"cla-1b-H128-{name}"] for name in ("MHA", "GQA2", "MQA", "MQA-CLA2", "MQA-CLA3", "MQA-CLA4")
    ]


def test_lckv_batches_are_a_bound_and_never_an_equality() -> None:
    """All cells of the table on file lie below what fits, most far below."""
    cells = [row for row in reproduce("lckv") if "maxbatch" in row.id]

    assert 23 == len(cells)
    for row in cells:
        assert "upper bound" == row.outcome
        assert row.published is not None
        assert row.computed is not None
        assert row.published < row.computed


@pytest.mark.parametrize(
    ("name", "published", "right"),
    [
        ("jamba15-LLaMA-3.1-405B", 252, 126),
        ("scissor-BLOOM", 950, 980),
        ("scissor-OPT-175B-text", 950, 1152),
        ("isca-llama405-mult", 7.28, 7.344),
        ("kipply-4gpu", 23000, 26702.9),
        ("sb-70b-bf16", 324, 327.68),
        ("seed-cla3-10", 3, 4),
        ("seed-flops", 6_031_104_000, 1_207_959_552),
        ("seed-mem", 786_432, 1_572_864),
    ],
)
def test_wrong_numbers_are_kept(rows: list[Row], name: str, published: float, right: float) -> None:
    """What the paper printed, what is right, and the reason."""
    row = next(row for row in rows if row.id == name)

    assert ("wrong in paper", published) == (row.outcome, row.published)
    assert pytest.approx(right, rel=1e-4) == row.computed
    assert row.note


def test_everything_shown_or_wrong_says_why(rows: list[Row]) -> None:
    """A row that is not counted carries its reason, and every row its place and how well it is known."""
    for row in rows:
        assert row.where
        assert row.confidence
        if row.outcome in ("shown", "wrong in paper"):
            assert row.note, row.id


def test_not_counted_is_what_may_not_be(rows: list[Row]) -> None:
    """None of the required numbers hides among those that are only shown."""
    assert not set(REQUIRED) & {row.id for row in rows if row.outcome not in ("exact", "rounds")}


# --- a wrong value must be seen --------------------------------------------------------------------------------------


def user_paper(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str, name: str = "mine") -> str:
    papers_folder = folder / "papers"
    papers_folder.mkdir(exist_ok=True)
    head = 'schema = 1\ntitle = "T"\nurl = "https://example.org"\nchecked = 2026-01-01\n'
    (papers_folder / f"{name}.toml").write_text(head + body)
    monkeypatch.setenv("KVPLAN_PRESETS", str(folder))
    return name


ROW = """
[[row]]
id = "a"
quantity = "KV per token"
ask = { model = "llama-3.1-8b", kv_dtype = "bf16" }
unit = "bytes"
where = "Table 1"
"""


@pytest.mark.parametrize(
    ("extra", "outcome"),
    [
        ("published = 131072", "exact"),
        ("published = 131073", "DIFFERS"),
        ('published = 131000\nrounding = "3 digits"', "rounds"),
        ('published = 132000\nrounding = "3 digits"', "DIFFERS"),
        ('published = 131100\nrounding = "3 digits"', "rounds"),
        ('published = 131072\nstatus = "wrong-in-paper"', "DIFFERS"),
        ('published = 130000\nstatus = "wrong-in-paper"', "wrong in paper"),
        ('published = 130000\nstatus = "wrong-in-paper"\nright = 131072', "wrong in paper"),
        ('published = 130000\nstatus = "wrong-in-paper"\nright = 131000', "DIFFERS"),
        ('published = 131071\nstatus = "upper-bound"', "upper bound"),
        ('published = 131073\nstatus = "upper-bound"', "DIFFERS"),
        ('published = 130000\nstatus = "within"\nwithin = 1', "within"),
        ('published = 129000\nstatus = "within"\nwithin = 1', "DIFFERS"),
        ('published = 1\nstatus = "shown"\nnote = "n"', "shown"),
        ('published = 0.125\nover = { model = "llama-3.1-8b", scheme = "mha", kv_dtype = "fp32" }', "exact"),
        (
            'published = 0.875\njoin = "saved"\nover = { model = "llama-3.1-8b", scheme = "mha", kv_dtype = "fp32" }',
            "exact",
        ),
        (
            'published = 65536\njoin = "difference"\nover = { model = "llama-3.1-8b", scheme = "gqa:4" }',
            "exact",
        ),
        ('published = 8192\nroom = "1GiB"', "exact"),
        ("published = 8192\nroom = 1073741825\nwhole = true", "exact"),
        ("published = 262144\ntimes = 4\nper = 2", "exact"),
        ('published = 1048576\ntake = "capacity.max_batch"', "DIFFERS"),
        ('published = 1048576\ntake = "term kv/nothing"', "DIFFERS"),
    ],
)
def test_judgement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: str, outcome: str) -> None:
    """Llama-3.1-8B holds 131,072 bytes per token; each line is what a file may say of it."""
    name = user_paper(monkeypatch, tmp_path, ROW + extra)

    assert [outcome] == [row.outcome for row in reproduce(name)]


def test_a_planted_wrong_value_differs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy of the CLA file with one digit changed: that row differs, and no other."""
    shipped = (preset_folders("papers")[-1] / "cla.toml").read_text()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "cla.toml").write_text(shipped.replace("published = 3584", "published = 3585"))
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))

    assert ["cla-1b-H128-MQA-CLA3"] == [row.id for row in reproduce("cla") if row.outcome == "DIFFERS"]


def test_a_planted_measurement_differs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same for one line of the CSV."""
    shipped = preset_folders("papers")[-1]
    shutil.copytree(shipped, tmp_path / "papers")
    path = tmp_path / "papers" / "mlkv_measurements.csv"
    path.write_text(path.read_text().replace(",1151.4375,8.", ",1151.5,8."))
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))

    assert ["csv-MHA-144-8"] == [row.id for row in reproduce("mlkv") if row.outcome == "DIFFERS"]


def test_what_cannot_be_asked_differs_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An unknown scheme is a row that fails, not an end of the run."""
    body = ROW.replace('kv_dtype = "bf16"', 'scheme = "no-such-scheme"') + "published = 1\n"
    (row,) = reproduce(user_paper(monkeypatch, tmp_path, body))

    assert ("DIFFERS", None) == (row.outcome, row.computed)
    assert "unknown scheme" in row.note


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("[[row]]\n", "id"),
        (ROW, "published"),
        (ROW + "published = true", "published"),
        (ROW + 'published = "1"', "published"),
        (ROW + 'published = 1\nstatus = "maybe"', "status"),
        (ROW + "published = 1\nsurprise = 2", "surprise"),
        (ROW + 'published = 1\ntake = "__class__"', "take"),
        (ROW + 'published = 1\njoin = "ratio"', "over"),
        (ROW + 'published = 1\njoin = "power"', "join"),
        (ROW + 'published = 1\nrounding = "roughly"', "rounding"),
        (ROW + "published = 1\nwithin = 3", "within"),
        (ROW + 'published = 1\nstatus = "within"', "within"),
        (ROW.replace('unit = "bytes"', 'unit = "furlongs"') + "published = 1", "unit"),
        (ROW.replace('model = "llama-3.1-8b"', 'shape = "none"') + "published = 1", "shape"),
        (ROW + "published = 1" + ROW + "published = 1", "row.id"),
        ("row = 3", "row"),
        ("shape = 3", "shape"),
        ("[[measured]]\n", "id"),
        ("[[quality]]\n", "set"),
        ("[[row]", "paper"),
    ],
)
def test_a_bad_file_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, field: str) -> None:
    """The vocabulary is closed: what it does not hold is refused by name."""
    name = user_paper(monkeypatch, tmp_path, body)
    with pytest.raises(InvalidInput) as caught:
        paper_file(name)

    assert field == caught.value.field


MEASURED = """
[[measured]]
id = "m"
quantity = "q"
file = "m.csv"
where = "w"
confidence = "c"
model_column = "model"
batch_column = "batch"
column = "bytes"
unit = "bytes"
take = "kv.bytes"
context = 1
asks = { a = { name = "A", ask = { model = "llama-3.1-8b" } } }
"""


def test_bad_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is not there, and a model that nobody asks for."""
    name = user_paper(monkeypatch, tmp_path, MEASURED)
    with pytest.raises(InvalidInput, match=r"measured\.file"):
        reproduce(name)
    (tmp_path / "papers" / "m.csv").write_text("model,batch,bytes\na,2,262144\nb,1,1\n")
    with pytest.raises(InvalidInput, match=r"measured\.asks"):
        reproduce(name)


def test_unknown_paper() -> None:
    """The error names the nearest ones."""
    with pytest.raises(UnknownName, match="unknown paper 'mlkw'; nearest: mlkv"):
        reproduce("mlkw")


# --- quality ---------------------------------------------------------------------------------------------------------


def test_quality_of_cla_and_its_pareto_rows() -> None:
    """Table 1: MQA-CLA2 and CLA3 hold the small end, as the paper says; MHA the large one."""
    table = [row for row in quality("cla") if row.set == "1B, one learning rate"]
    best = [(row.name.removeprefix("cla-1b-"), row.memory_bytes, row.printed) for row in table if row.pareto]

    assert 20 == len(table)
    assert [
        ("H64-MQA-CLA2", 2560, "13.89"),
        ("H128-MQA-CLA3", 3584, "13.77"),
        ("H90-MQA-CLA2", 3600, "13.73"),
        ("H128-MQA-CLA2", 5120, "13.60"),
        ("H256-MQA-CLA2", 10240, "13.51"),
        ("H128-GQA4-CLA2", 20480, "13.48"),
        ("H128-GQA4", 40960, "13.36"),
        ("H128-MHA", 163840, "13.15"),
    ] == best


def test_quality_where_more_is_better() -> None:
    """MLKV's averages: MLKV-6 beats the larger MLKV-12, and MQA-12 the larger MLKV-48."""
    table = {row.name: row for row in quality("mlkv") if row.better == "higher"}

    assert 9 == len(table)
    assert 2 * 12 * 64 * 4 == table["mlkv-heads-MQA-12"].memory_bytes
    assert {"MHA-144", "GQA-48", "MQA-12", "MLKV-6", "MLKV-4", "MLKV-2", "MLKV-1"} == {
        name.removeprefix("mlkv-heads-") for name, row in table.items() if row.pareto
    }


def test_equal_points_do_not_beat_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two models of one size and one quality are both on the front."""
    body = (
        ROW + "published = 131072" + ROW.replace('"a"', '"b"') + "published = 131072\n"
        '[[quality]]\nset = "s"\nmetric = "m"\nbetter = "lower"\ntraining = "t"\nwhere = "w"\n[quality.values]\n'
    )
    name = user_paper(monkeypatch, tmp_path, body + "a = 1.0\nb = 1.0\n")

    assert [True, True] == [row.pareto for row in quality(name)]
    name = user_paper(monkeypatch, tmp_path, body + "c = 1.0\n")
    with pytest.raises(InvalidInput, match="the id of a row that asks"):
        quality(name)


def test_quality_is_data_with_its_budget_and_source() -> None:
    """Every value says what was trained and where it is printed."""
    everything = quality()

    assert {"cla", "gqa", "kvquant", "mlkv", "streaming-llm"} == {row.paper for row in everything}
    for row in everything:
        assert row.training
        assert row.where
        assert row.better in ("lower", "higher")


# --- renderings ------------------------------------------------------------------------------------------------------


def test_summary_and_rows_as_text() -> None:
    """One line per paper, or one per row; nothing runs past the width."""
    summary, one = text(width=110), text("scissorhands", width=100)

    assert all(name in summary for name in papers())
    assert "wrong in paper" in one
    assert "scissor-BLOOM: 70 layers x 14,336 give 980 GiB" in one
    assert max(len(line) for line in summary.splitlines()) <= 110
    assert "H128-MQA-CLA2" in text("cla", width=120, with_quality=True)


def test_markdown() -> None:
    """The summary links its sources and ends in the totals; a paper's rows carry their place."""
    lines = markdown().splitlines()
    last = [cell.strip() for cell in lines[-1].strip("|").split("|")]

    assert len(lines) == 3 + len(papers())
    assert ["all", f"{len(papers())} sources", "208", "28", "13", "33", "11", "50", "0"] == last
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert "](https://arxiv.org/abs/2405.12981)" in markdown()
    assert "| KV, BLOOM | 950 | 980 | GiB | wrong in paper | Table 1" in markdown("scissorhands")
    assert r"| \*" in markdown("cla", with_quality=True)


def test_rows_as_json() -> None:
    """Plain dicts, outcomes from the closed list."""
    found = json.loads(json.dumps(as_dicts(reproduce("jamba"))))

    assert {
        "paper",
        "id",
        "quantity",
        "published",
        "unit",
        "computed",
        "outcome",
        "note",
        "where",
        "confidence",
    } == set(found[0])
    assert {row["outcome"] for row in found} <= set(OUTCOMES)
    assert json.dumps(as_dicts(quality("jamba"))) == "[]"


@pytest.mark.parametrize("name", papers())
def test_every_file_names_its_source(name: str) -> None:
    """Title and address, and no row that asks for a number it then states."""
    found = paper_file(name)

    assert found.title
    assert found.url
    assert found.rows
    assert name == found.name


@pytest.mark.parametrize(
    "row",
    ['ask = "x"', "ask = { layers = 1 }\ntake = 3", "asks = [1]", 'ask = { layers = 1 }\nover = 5\njoin = "ratio"'],
)
def test_a_users_broken_row_is_one_line(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in KVPLAN_PRESETS, the answer is an InvalidInput that names the row."""
    (tmp_path / "papers").mkdir()
    head = (
        'schema = 1\ntitle = "t"\nurl = "u"\nchecked = 2026-11-21\n[[row]]\nid = "r"\nquantity = "q"\nunit = "bytes"\n'
    )
    (tmp_path / "papers/mine.toml").write_text(head + 'published = 1\nwhere = "w"\n' + row + "\n")
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))
    with pytest.raises(InvalidInput):
        reproduce("mine")
