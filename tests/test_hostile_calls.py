"""What a caller, an environment or an unfinished sweep may hold: an answer or a KvplanError of one line, and nothing harmed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import kvplan
from kvplan import budgets
from kvplan.cli import app
from kvplan.errors import InvalidInput
from kvplan.sweeps.parts import Parts
from tests.support import bombs, gguf_files
from tests.support.attempts import attempt

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip


class Mute:
    """Something that cannot even say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


VALUES = [
    np.array([1, 2]), 10**5000, b"x", [1], {1: 2}, math.nan, math.inf, Mute(), itself(), "\x1b" * 3, "x" * 10**6, np.int64(3), -1,
    object(), True, Path("x"), set(), "",
]  # fmt: skip
FLAGS = sorted({*kvplan.api.known_flags(), "scheme"})
KEYS = [
    "model_type",
    "quantization_config",
    "torch_dtype",
    "num_hidden_layers",
    "sliding_window",
    "rope_scaling",
    "layer_types",
    "x",
]


def told(call: Any, *given: Any, **flags: Any) -> None:
    """The call ends in an answer or in a KvplanError."""
    _, message = attempt(lambda: call(*given, **flags))
    assert message.isprintable()
    assert len(message) <= 2000


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_value_of_any_kind_is_an_answer_or_one_line(value: Any) -> None:
    for flag in FLAGS:
        told(lambda **flags: kvplan.plan("llama-3.1-8b", **flags).to_text(), **{flag: value})
    for key in KEYS:
        told(lambda raw: kvplan.plan(raw).to_text(), {**LLAMA, key: value})
    for call in (
        kvplan.load,
        kvplan.plan,
        budgets.check,
        lambda v: kvplan.compare("gpt2", v),
        lambda v: kvplan.diff("gpt2", v),
    ):
        told(call, value)
    for call in (
        lambda v: kvplan.sweep(v, context="1k"),
        lambda v: kvplan.sweep("gpt2", context=v),
        lambda v: kvplan.sweep("gpt2", context="1k", where=v),
        lambda v: kvplan.fit("gpt2", context="1k", gpu=v),
        lambda v: kvplan.preflight(v, gpu="l4"),
        lambda v: kvplan.plan("gpt2", engine="vllm", gpu="l4", engine_options={v if v.__hash__ else "x": v}),
    ):
        told(call, value)


def test_several_configs_of_a_program_are_swept() -> None:
    """Dicts, twice the same: one model."""
    found = kvplan.sweep([LLAMA, dict(LLAMA), {**LLAMA, "num_hidden_layers": 16}], context="1k", columns="kv_bytes")
    assert [2 * 32 * 8 * 128 * 2 * 1024, 2 * 16 * 8 * 128 * 2 * 1024] == [row["kv_bytes"] for row in found.rows()]


def test_a_file_may_hold_infinity_where_nobody_reads_it(tmp_path: Path) -> None:
    """As published configs do (nvidia's Nemotron 3 Super: time_step_limit), and Python's json writes it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "time_step_limit": [0.0, math.inf]}))
    assert kvplan.plan(path).kv == kvplan.plan(LLAMA).kv
    path.write_text(json.dumps({**LLAMA, "hidden_size": math.inf}))
    with pytest.raises(InvalidInput, match="hidden_size: got inf"):
        kvplan.plan(path)


def test_a_tensor_of_a_split_model_lies_in_one_file(tmp_path: Path) -> None:
    """A second file that is the first again would count all of it twice."""
    keys = {
        "block_count": 2,
        "embedding_length": 256,
        "context_length": 512,
        "vocab_size": 10,
        "feed_forward_length": 9,
    }
    first = gguf_files.write(
        tmp_path / "a-00001-of-00002.gguf",
        "llama",
        {**keys, "attention.head_count": 8},
        [gguf_files.tensor("token_embd.weight", (256, 10))],
    )
    (tmp_path / "a-00002-of-00002.gguf").symlink_to(first.name)
    with pytest.raises(InvalidInput, match=r"token_embd.weight: got 'twice'"):
        kvplan.plan(first)


@pytest.mark.parametrize(
    "environment",
    [{"COLUMNS": n} for n in ("0", "-1", "1000000000", "x")]
    + [{"TERMINAL_WIDTH": "x"}, {"TERM": "\x1b"}, {"HOME": ""}],
    ids=str,
)
@pytest.mark.parametrize("words", [["plan", "gpt2", "-g", "l4"], ["--help"], ["models", "gpt2"]], ids=str)
def test_no_environment_is_a_traceback(environment: dict[str, str], words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvplan", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert len(done.stdout) < 100_000


# --- budgets ---------------------------------------------------------------------------------------------------------------


def test_what_all_plans_of_a_file_take_is_bounded(tmp_path: Path) -> None:
    """Layers of all models: 24 plans of 1,024 layers pass, 25 do not; a GPU named twice is one."""
    (tmp_path / "big.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 1024}))
    tables = [
        f'[[budget]]\nname = "{i}"\nmodel = "big.json"\ncontext = {1000 + i}\nmax_kv_bytes = "1TiB"\n'
        for i in range(25)
    ]
    bombs.budget(tmp_path, "".join(tables[:24]))
    assert 24 == len(budgets.check(tmp_path / "kvplan.toml").findings)
    bombs.budget(tmp_path, "".join(tables))
    with pytest.raises(InvalidInput, match=r"25,600 layers.*at most 25,000"):
        budgets.check(tmp_path / "kvplan.toml")
    bombs.budget(
        tmp_path,
        f'[[budget]]\nmodel = "gpt2"\nfits_on = [{", ".join([chr(34) + "l4" + chr(34)] * 900)}]\n',
    )
    assert 1 == len(budgets.check(tmp_path / "kvplan.toml").findings)


@pytest.mark.parametrize(
    "where", ["../base.json", "/tmp/kvplan-no-such-folder/base.json", "link.json", "folder/../../x.json"]
)
def test_update_makes_no_file_outside_of_the_folder_and_overwrites_none_but_a_baseline(
    tmp_path: Path, where: str
) -> None:
    """Not through a link either; a baseline of kvplan that lies elsewhere may be rewritten."""
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (home / "link.json").symlink_to(tmp_path / "precious")
    path = home / "kvplan.toml"
    path.write_text(f'baseline = "{where}"\n[[budget]]\nmodel = "gpt2"\nwithin = "1%"\n')
    with pytest.raises(InvalidInput, match="baseline"):
        budgets.check(path, update=True)
    assert ["home"] == sorted(p.name for p in tmp_path.iterdir())
    (tmp_path / "precious").write_text('{"mine": 1}')
    with pytest.raises(InvalidInput, match="baseline"):
        budgets.check(path, update=True)
    assert '{"mine": 1}' == (tmp_path / "precious").read_text()
    if where in ("../base.json", "link.json"):
        target = tmp_path / ("base.json" if where == "../base.json" else "precious")
        target.write_text('{"schema": 1, "budgets": {}}')
        assert "1 of 1 budgets written" in budgets.check(path, update=True).updated
        assert "gpt2" in json.loads(target.read_text())["budgets"]


# --- unfinished sweeps -------------------------------------------------------------------------------------------------------

SWEEP = ["sweep", "gpt2", "-c", "1k"]


def test_a_sweep_harms_nothing_that_lies_in_its_place(tmp_path: Path) -> None:
    """A folder that is a link or somebody else's, a lock that leads elsewhere."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "lock").write_text("precious")
    (victim / "doc").write_text("mine")
    (tmp_path / "a.csv.parts").symlink_to(victim)
    assert 2 == CliRunner().invoke(app, [*SWEEP, "-o", str(tmp_path / "a.csv")]).exit_code
    (tmp_path / "b.csv.parts").mkdir()
    (tmp_path / "b.csv.parts" / "lock").symlink_to(victim / "lock")
    assert 2 == CliRunner().invoke(app, [*SWEEP, "-o", str(tmp_path / "b.csv")]).exit_code
    (tmp_path / "c.csv.parts").mkdir()
    (tmp_path / "c.csv.parts" / "lock").write_text("precious")
    (tmp_path / "c.csv.parts" / "doc").write_text("mine")
    assert 2 == CliRunner().invoke(app, [*SWEEP, "-o", str(tmp_path / "c.csv")]).exit_code
    for folder in (victim, tmp_path / "c.csv.parts"):
        assert ("precious", "mine") == ((folder / "lock").read_text(), (folder / "doc").read_text())


def test_only_what_a_sweep_made_is_removed(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "a.csv", {"asked": "x"}, "csv")
    others = ["2024-report.doc", "1.txt", "notes.new", "00000001.csv.old"]
    for name in [*others, "00000000.csv", "00000001.csv.new", "whole.csv.new"]:
        (parts.folder / name).write_text("x")
    parts.remove()
    assert sorted(others) == sorted(path.name for path in parts.folder.iterdir())


@pytest.mark.parametrize(
    "change",
    [{"rows": "x"}, {"rows": -5}, {"rows": True}, {"chunk": math.inf}, {"chunk": -1}, {"cells": {"a": "b"}}, {"points": {"a": None}},
     {"points": []}, {"sha256": 3}, {"rows": 1e308}],
    ids=str,
)  # fmt: skip
def test_a_line_of_the_log_that_nobody_wrote_so_is_asked_again(tmp_path: Path, change: dict[str, Any]) -> None:
    entry = {"chunk": 0, "rows": 1, "sha256": "0" * 64, "cells": {}, "points": {}}
    parts = Parts(tmp_path / "a.csv", {"asked": "x"}, "csv")
    for line in (json.dumps(entry | change), json.dumps([1]), "[" * 100_000, "1" * 5000):
        (parts.folder / "chunks.jsonl").write_text(line + "\n")
        assert {} == parts.finished()
    parts.close()
