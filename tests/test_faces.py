"""What a person meets beside the numbers: every terminal's characters and width, pipes, full disks, broken presets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan.catalog import find_gpu, gpu_names, load, model_names, model_preset, preset_folders
from kvplan.cli import app
from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.listings import INDEX, list_gpus, list_models, model_index
from kvplan.render import column_widths, listing, memory_bar, spanned, table
from tests.support import CONFIGS

ROOT = Path(__file__).parents[1]
LLAMA = str(CONFIGS / "meta-llama__Meta-Llama-3.1-8B.json")
# a locale without UTF-8, as cron, containers and old consoles have it
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in process."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def shell(command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which `kvplan` is this checkout's."""
    keep = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "KVPLAN_PRESETS", "PYTHONIOENCODING")}
    line = f'kvplan() {{ "{sys.executable}" -m kvplan "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", line], capture_output=True, check=False, cwd=ROOT, env=keep | env)


def forget() -> None:
    """Drops what was found under another KVPLAN_PRESETS."""
    find_gpu.cache_clear()  # type: ignore[attr-defined]
    model_preset.cache_clear()
    kvplan.catalog._preset_spec.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of presets that KVPLAN_PRESETS names."""
    for kind in ("gpus", "models"):
        (tmp_path / kind).mkdir()
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))
    forget()
    yield tmp_path
    forget()


# --- characters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        f"plan {LLAMA} --gpu h100", f"plan {LLAMA} --gpu t4", f"plan {LLAMA} --gpu h100 --markdown", "--help", "plan -h",
        f"explain {LLAMA} max_batch --gpu h100", f"explain {LLAMA} --latex", f"compare {LLAMA} -s mqa --gpu h100",
        "gpus", "schemes", "formats", "schemes --papers", "plan llama-3.1-é", "gpus ×",
    ],
)  # fmt: skip
def test_a_terminal_without_utf_8_gets_ascii(arguments: str) -> None:
    """Nothing raises, everything is ASCII, and the answer is the same."""
    plain, rich = shell(f"kvplan {arguments}", **PLAIN), shell(f"kvplan {arguments}", PYTHONUTF8="1")

    assert rich.returncode == plain.returncode
    assert b"Traceback" not in plain.stderr
    assert (plain.stdout + plain.stderr).isascii()
    assert len(rich.stdout.splitlines()) == len(plain.stdout.splitlines())
    assert b"?" not in plain.stdout.replace(b"?" if "?" in rich.stdout.decode() else b"", b"")


def test_what_stands_for_what() -> None:
    """Bars of # = - . between |, x for ×, and the verdict without its mark."""
    lines = shell(f"kvplan plan {LLAMA} --gpu h100 -c 8k", **PLAIN).stdout.decode().splitlines()

    assert lines[0].endswith(" - llama - gqa:8 - 32 layers - 8.03B parameters")
    assert lines[1].startswith("fits on NVIDIA H100 SXM 80GB: 62.31 GiB free after 1 x 8,192 tokens")
    bar = next(line for line in lines if line.startswith("|"))
    assert re.fullmatch(r"\|#{15}=-\.{61}\|", bar)
    assert "does not fit on" in shell(f"kvplan plan {LLAMA} --gpu t4", **PLAIN).stdout.decode().splitlines()[1][:16]


def test_latin_1_keeps_what_it_has() -> None:
    """Only what the encoding lacks is replaced."""
    done = shell(f"kvplan plan {LLAMA} --gpu h100", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")

    assert 0 == done.returncode
    text = done.stdout.decode("latin-1")
    assert " · llama" in text
    assert "1 × 8,192" in text
    assert "|####" in text


def test_json_is_the_same_in_every_encoding() -> None:
    """Where characters lack, JSON escapes them instead of replacing them."""
    plain, rich = (shell(f"kvplan plan {LLAMA} --gpu h100 --json", **env) for env in (PLAIN, {"PYTHONUTF8": "1"}))

    assert plain.stdout.isascii()
    assert json.loads(rich.stdout) == json.loads(plain.stdout)
    assert not rich.stdout.isascii()


# --- where it goes -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["plan llama-3.1-8b", "plan llama-3.1-8b --json", "gpus", "--help", "--version"])
def test_a_full_disk_is_one_line(arguments: str) -> None:
    """`kvplan … > /dev/full`: exit code 2 and one line, whatever was to be written."""
    done = shell(f"kvplan {arguments} > /dev/full")

    assert (2, b"kvplan: cannot write the answer: No space left on device\n") == (done.returncode, done.stderr)


def test_a_closed_stdout_is_one_line() -> None:
    """`kvplan … >&-` has nowhere to write to, and says so; without stderr nothing strays to stdout."""
    done = shell("kvplan plan llama-3.1-8b >&-")

    assert (2, b"kvplan: cannot write the answer: stdout is closed\n") == (done.returncode, done.stderr)
    done = shell("kvplan plan llama-9 2>&-")
    assert (2, b"", b"") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", ["rtx-pro-6000-96gb-server", "rtx-pro-6000-96gb-workstation"])
def test_a_pipe_gets_one_line_per_row(name: str) -> None:
    """`kvplan gpus | grep NAME` finds name and memory on one line, however narrow the terminal is."""
    lines = shell(f"kvplan gpus | grep {name}", COLUMNS="40").stdout.decode().splitlines()

    assert 1 == len(lines)
    assert [name, "95.59", "GiB"] == lines[0].split()[:3]


@pytest.mark.parametrize("command", ["models", "gpus", "formats", "engines", "schemes"])
def test_piped_listings_break_no_row(command: str) -> None:
    """A header, and as many lines as rows."""
    rows = json.loads(run(command, "--json")[1])

    assert 1 + len(rows) == len(run(command)[1].splitlines())


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("command", ["models", "gpus", "formats", "engines", "schemes"])
def test_names_never_break(command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal every name of every listing stands whole on a line, and from 80 columns on no line is too long."""
    lines = terminal(monkeypatch, width, command)
    words = {word for line in lines for word in line.split()}
    rows = json.loads(run(command, "--json")[1])

    for row in rows:
        assert set(row.get("notation", row["name"]).split()) <= words
    if width >= 80:
        assert max(map(len, lines)) <= width


def terminal(monkeypatch: pytest.MonkeyPatch, width: int, *arguments: str) -> list[str]:
    """Lines that a command prints on a terminal of a width."""
    shown: list[tuple[str, ...]] = []

    def on_a_terminal(header: Any, rows: Any, columns: int | None, color: bool) -> str:
        assert columns is None  # the runner is a pipe
        shown.append(tuple(text := listing(header, rows, width, color).splitlines()))
        return "\n".join(text)

    monkeypatch.setattr("kvplan.render.listing", on_a_terminal)
    assert 0 == run(*arguments)[0]
    return list(shown[0])


def test_columns_share_the_width() -> None:
    """The widest gives way first; names stay, numbers stay with their units, and only then does the line get longer."""
    rows = [("a-name-of-thirty-characters-xx", "12.5 GiB", "words " * 20), ("b", "1 GiB", "short")]

    for width in (60, 80):
        widths = column_widths(rows, width)
        assert [30, 8] == widths[:2]
        assert spanned(widths) == width
    # beyond that: a number of 60 digits cannot be broken
    assert [1, 60] == column_widths([("a", "9" * 60)], 40)


def test_brackets_are_notation() -> None:
    """Rich's markup is not kvplan's: what stands in brackets or between colons is printed."""
    header, row = ("name", "what"), ("window:W[@L:G]", "[bold]x[/bold] :smile: [/]")

    for drawn in (
        table("", header, [row], 80, False),
        listing(header, [row], 40, False),
        listing(header, [row], None, False),
    ):
        assert {*row[0].split(), *row[1].split()} <= set(drawn.split()), drawn
    assert "[@L:G]" in run("schemes", "window")[1]


# --- the report's own drawing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("gpu", ["h100", "t4", "rtx-4090"])
def test_the_legend_breaks_between_items(gpu: str, width: int) -> None:
    """Every item stands whole on a line; the bar keeps to its width."""
    report = kvplan.plan(LLAMA, gpu=gpu, context="32k")
    bar, *legend = (line.plain for line in memory_bar(report, width))
    items = [item for line in legend for item in line.strip().split("  ")]

    assert len(bar) == width
    assert max(map(len, legend)) <= width
    assert ["weights", "KV", "overhead"] == [item.split()[1] for item in items[:3]]
    text = report.to_text(width).splitlines()
    assert all(line in text for line in legend)
    if width == 120:
        assert 1 == len(legend)


def test_what_is_missing_is_said() -> None:
    """Where it does not fit, nothing is free: the legend says how much is missing, the same as the verdict."""
    report = kvplan.plan(LLAMA, gpu="t4")
    assert report.capacity
    short = sum(size for _, size in report.memory()) - report.capacity.usable_bytes
    text = report.to_text(80)

    assert short > 0
    missing = re.search(r"missing (\S+ \S+)", text)
    assert missing
    assert f"{missing[1]} too much" in " ".join(text.split())
    assert "free 0 B" not in text
    assert "░" not in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_exact_numbers_are_never_cut(width: int) -> None:
    """Whatever the sizes, every exact number is printed in full."""
    report = kvplan.plan(LLAMA, gpu="h100", context=2**38, batch=2**30)
    text = report.to_text(width)

    words = text.split()
    for _, shown, exact in report.rows():
        assert shown.split()[0] in words
        if exact[:1].isdigit():
            assert exact.split()[0] in words
    assert "…" not in text


# --- listings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["models", "gpus", "formats", "engines", "schemes"])
def test_nothing_found_is_exit_code_1_either_way(command: str) -> None:
    """Text and JSON agree: exit code 1, and a line on stderr; JSON is still JSON."""
    text, as_json = run(command, "no such thing"), run(command, "no such thing", "--json")

    assert (1, "") == text[:2]
    assert (1, "[]\n") == as_json[:2]
    assert text[2] == as_json[2]
    assert 1 == len(text[2].splitlines())
    assert "'no such thing'" in text[2]


def test_the_index_is_what_the_specs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """presets/models/index.json is no second truth: `python tests/make_index.py` writes what the planner computes."""
    monkeypatch.delenv("KVPLAN_PRESETS", raising=False)
    stored = json.loads((preset_folders("models")[-1] / INDEX).read_text(encoding="utf-8"))

    assert model_index() == stored, "run python tests/make_index.py"
    assert list(model_names()) == list(stored)


def test_the_index_is_used_and_not_trusted_blindly(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A listing builds no spec of an indexed model; a user's config under a shipped name is computed."""
    asked: list[object] = []
    monkeypatch.setattr("kvplan.listings.load", lambda name: (asked.append(name), load(name))[1])
    list_models()
    assert [] == asked

    text = (preset_folders("models")[-1] / "gpt2.toml").read_text()
    (folder / "models/gpt2.toml").write_text(text.replace('"n_layer": 12', '"n_layer": 3'))
    forget()
    row = next(row for row in list_models() if row["name"] == "gpt2")
    assert ["gpt2"] == asked
    assert 3 == row["layers"]
    assert 3 * 2 * 768 * 2 == row["kv_bytes_per_token"]


def test_listing_models_is_quick() -> None:
    """Building two hundred specs takes 1.5 s; the best of three starts stays within three of a listing that builds none."""

    def best(command: str) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            assert 0 == shell(f"kvplan {command}").returncode
            times.append(time.perf_counter() - start)
        return min(times)

    assert best("models") < 3 * best("engines")


# --- one setting, one value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--context 8k --max-model-len 4k", "--context: got '4k', allowed: one value (8k was given too)"),
        ("-c 8k -c4k", "--context"),
        ("--gpu h100 -g l4", "--gpu: got 'l4'"),
        ("-b 1 --max-num-seqs=2 -b 1", "--batch"),
        ("-s mqa -s gqa:8", "--scheme"),
        ("--gpu-memory-utilization 0.9 --gpu-memory-utilization 0.8", "--gpu-memory-utilization"),
        ("--json --markdown", "output: got '--json --markdown'"),
    ],
)
def test_two_values_for_one_setting_are_an_error(flags: str, says: str) -> None:
    """The last one would silently win."""
    code, out, err = run("plan", LLAMA, *flags.split())

    assert (2, "") == (code, out)
    assert 1 == len(err.splitlines())
    assert says in err


@pytest.mark.parametrize(
    "flags", ["-c 8k --max-model-len 8192", "--json --json", "-b 2 -b 2", "-c 8k -b 8k", "--gpu l4 --gpu l4"]
)
def test_the_same_value_twice_is_fine(flags: str) -> None:
    """Saying it again changes nothing."""
    assert 0 == run("plan", LLAMA, *flags.split())[0]


def test_other_commands_refuse_too() -> None:
    """And what may be repeated still may; help is help."""
    assert 2 == run("compare", LLAMA, "-s", "mqa", "--json", "--csv")[0]
    assert 2 == run("explain", LLAMA, "-c", "1k", "-c", "2k")[0]
    assert 0 == run("compare", LLAMA, "-s", "mqa", "-s", "gqa:4", "-e", "ideal", "-e", "transformers")[0]
    assert 0 == run("plan", "--json", "--markdown", "--help")[0]


# --- the user's own presets ----------------------------------------------------------------------------------------------


@pytest.fixture
def own(folder: Path) -> Path:
    """A folder of presets: one good, the others broken in ways that people break them."""
    text = (preset_folders("gpus")[-1] / "l4-24gb.toml").read_text().replace('"l4"', '"only-mine"')
    files = {
        "mine": text.replace("l4-24gb", "mine"),
        "a-broken": "name = [",
        "binary": "\0",
        "aliases": text.replace('["only-mine"]', "4"),
        "nameless": re.sub(r"(?m)^name = .*\n", "", text, count=1),
        "typo": text.replace("vendor =", "vendro ="),
        "My Card": text.replace("only-mine", "my-alias"),
    }
    for name, content in files.items():
        (folder / f"gpus/{name}.toml").write_text(content)
    os.mkfifo(folder / "gpus/pipe.toml")
    (folder / "models/bad.toml").write_text(
        "schema = 1\nname = 'bad'\nlabel = 'x'\nsource = 'x'\nchecked = 2026-01-01\nconfig = '{\"a\": '\n"
    )
    return folder


def test_a_broken_file_answers_for_itself_alone(own: Path) -> None:
    """Names and aliases of other presets are found past it, the user's first."""
    assert "l4-24gb" == find_gpu("l4").name
    assert "mine" == find_gpu("only-mine").name
    assert "My Card" == find_gpu("my card").name
    assert 0 == run("plan", "gpt2", "--gpu", "l4")[0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a-broken", r"/a-broken.toml: preset: got 'a-broken.toml', allowed: a readable TOML file \(.*\)"),
        ("binary", r"a readable TOML file"),
        ("pipe", r"/pipe.toml: preset: got 'pipe.toml', allowed: a regular file"),
        ("aliases", r"aliases: got 4, allowed: a list of names"),
        ("nameless", r"nameless.toml: name: missing, allowed: small letters"),
        ("typo", r"'vendro'; nearest: vendor"),
    ],
)
def test_a_broken_file_that_is_asked_for_says_what_is_wrong(own: Path, name: str, says: str) -> None:
    """One readable line that names file, key and what is allowed."""
    with pytest.raises(KvplanError) as caught:
        find_gpu(name)

    text = str(caught.value)
    assert re.search(says, text), text
    assert len(text) < 300
    assert "\n" not in text


def test_an_unknown_name_says_what_was_not_searched(own: Path) -> None:
    """The alias may have been in a file that cannot be read."""
    with pytest.raises(UnknownName, match=r"not searched: \S+a-broken.toml"):
        find_gpu("hers")


def test_listings_leave_broken_files_out_and_say_so(own: Path) -> None:
    """Everything else is listed; one line per broken file on stderr."""
    code, out, err = run("gpus", "--json")
    broken = {"a-broken", "binary", "aliases", "nameless", "typo", "pipe"}

    assert 0 == code
    assert set(gpu_names()) - broken == {row["name"] for row in json.loads(out)}
    assert len(broken) == len(err.splitlines())
    assert all(any(f"{name}.toml" in line for line in err.splitlines()) for name in broken)
    with pytest.raises(KvplanError):
        list_gpus()
    code, out, err = run("models", "--json")
    assert 0 == code
    assert "bad.toml" in err or "preset bad" in err


def test_a_config_that_is_no_json_is_one_line(own: Path) -> None:
    """In a user's own model preset too."""
    with pytest.raises(InvalidInput, match="preset bad: config"):
        load("bad")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets KVPLAN_PRESETS means something by it."""
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path / "no-such"))

    for arguments in (["gpus"], ["models", "--json"], ["plan", "gpt2-unheard-of"], ["plan", LLAMA, "--gpu", "unheard"]):
        code, out, err = run(*arguments)
        assert (2, "") == (code, out)
        assert 1 == len(err.splitlines())
        assert "KVPLAN_PRESETS" in err
        assert "no-such" in err


# --- completion ------------------------------------------------------------------------------------------------------------


def completed(line: str) -> list[str]:
    """What bash would offer at the end of a line."""
    code = "import sys; sys.argv = ['kvplan']; from kvplan.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"_KVPLAN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))},
    )  # fmt: skip
    assert "" == done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kvplan pla", ["plan"]),
        ("kvplan plan tinyl", ["tinyllama-1.1b"]),
        ("kvplan explain tinyl", ["tinyllama-1.1b"]),
        ("kvplan plan x --gpu l40", ["l40", "l40-48gb", "l40s", "l40s-48gb"]),
        ("kvplan plan x -e l", ["llama.cpp", "lmdeploy"]),
        ("kvplan compare x --engine tr", ["transformers"]),
        ("kvplan plan x --kv-dtype mxfp", ["mxfp8", "mxfp6", "mxfp4"]),
        ("kvplan plan x --scheme sand", ["sandwich"]),
        ("kvplan compare x -s mqa+cl", ["mqa+cla"]),
        ("kvplan plan x --dtype ", ["bf16", "fp16", "fp32"]),
        ("kvplan plan x --logits ", ["last", "all"]),
        ("kvplan frobnicate x", []),
    ],
)
def test_a_shell_is_offered_values(line: str, offered: list[str]) -> None:
    """Names, aliases and the last member of a chain."""
    found = completed(line)

    assert set(offered) == set(found) if "l40" not in line else set(offered) <= set(found)


# --- words -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan"], "model: missing, allowed: "),
        (["explain", LLAMA, "max_batch"], "gpu: missing, allowed: "),
        (
            ["plan", "gpt2", "--layers", "20"],
            "layers: got '20', allowed: only without a model ('gpt2' was named already)",
        ),
        (["plan", LLAMA, "--memory", "0"], "memory: got '0', allowed: at least 1 MiB; give a unit, e.g. 80GiB"),
        (["plan", LLAMA, "--memory", "1048575"], "at least 1 MiB"),
    ],
)
def test_messages_say_what_to_do(arguments: list[str], says: str) -> None:
    """What is missing is called missing; what is too small asks for its unit."""
    code, out, err = run(*arguments)

    assert (2, "") == (code, out)
    assert says in err


def test_a_mebibyte_is_memory() -> None:
    """Plain bytes are allowed from there on."""
    assert 2**20 == kvplan.plan(LLAMA, memory=2**20).to_dict()["inputs"]["memory_bytes"]
    assert 1 == run("plan", LLAMA, "--memory", "1048576")[0]


@pytest.mark.parametrize("gpu", [5, ["h100"], {"h100": 1}, b"h100", ()])
def test_what_is_no_name_is_no_gpu(gpu: Any) -> None:
    """A KvplanError of the field gpu, from Python too."""
    for ask in (lambda: find_gpu(gpu), lambda: kvplan.plan(LLAMA, gpu=gpu)):
        with pytest.raises(InvalidInput) as caught:
            ask()
        assert "gpu" == caught.value.field
