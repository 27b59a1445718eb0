"""Text from outside is printable in every output: control characters shown, one line where one line is meant, no markup.

The property walks every command and every format with names that a stranger chose: of folders, of what stands in a
config.json, a GGUF header, a budget file, a preset, a paper, and of the words of the command itself.
"""

from __future__ import annotations

import csv
import io
import json
import re
import string
import subprocess
import unicodedata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import kvplan
from kvplan import catalog
from kvplan.cli import COMMANDS, app, machinery
from kvplan.errors import InvalidInput, KvplanError, MissingExtra, UnknownName, UnreadKeys, Unsupported
from kvplan.specs import replace
from kvplan.text import code, markdown, printable, shell, shorten, to_csv, to_json
from tests.support import gguf_files

# What terminals, Markdown, GitHub, spreadsheets and shells act on.
MARKS = [
    "\x1b[2J", "\x1b]0;pwn\x07", "\n", "\r", "\x9b31m", "\u202e", "\u2028", "\x00", "\x7f", "\u200b", "\ud800",
    "::error::", "##[error]", "[red]", "<img src=x>", "![x](http://a/b)", "|", "`", "$(id)", "'", '"', "=1+1", "**", "\\",
    "%0A", "é", "漢",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(MARKS) | st.characters(max_codepoint=0x2FFF), min_size=1, max_size=12).map("".join)
ALL = "".join(MARKS)


def is_shown(text: str) -> bool:
    return text.replace("\n", "").isprintable()


# --- one text ----------------------------------------------------------------------------------------------------------


@given(st.text() | HOSTILE, st.integers(20, 300))
@example("a" * 10_000, 20)
@example("\x1b" * 10_000, 300)
def test_printable_is_one_bounded_line_that_says_what_was_there(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    if text.isprintable() and len(text) <= limit and ":" not in text and "#" not in text:
        assert text == shown


@given(HOSTILE)
def test_shell_gives_the_word_back(text: str) -> None:
    """Bash reads the very bytes: what is pasted is one word, and nothing in it runs."""
    word = text.replace("\0", "").replace("\ud800", "")
    line = shell(["printf", "%s", word])
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert word.encode("utf-8", "surrogateescape") == done.stdout


def test_shell_of_an_undecodable_byte_is_that_byte() -> None:
    assert b"a\xff" == subprocess.run(["bash", "-c", "printf %s " + shell(["a\udcff"])], capture_output=True).stdout
    assert shell(["\ud800"]).isprintable()


@given(
    st.recursive(HOSTILE | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(HOSTILE, inner))
)
def test_json_is_printable_and_the_same_data(value: Any) -> None:
    text = to_json(value)
    assert is_shown(text)
    assert value == json.loads(text)


@given(st.lists(st.lists(HOSTILE | st.integers(), min_size=1, max_size=3), min_size=1, max_size=3))
def test_csv_has_a_line_per_row_and_no_formula(rows: list[list[Any]]) -> None:
    text = to_csv(rows)
    assert len(rows) == len(text.splitlines())
    assert is_shown(text)
    for row in csv.reader(io.StringIO(text)):
        assert not any(cell[:1] in ("=", "@") or re.match(r"[+-](?!\d)", cell) for cell in row)


# Markup of CommonMark and GitHub that would do something: each piece is escaped somewhere in front of what it needs.
@given(HOSTILE)
@example("2**48")
@example("- [x](y)")
@example("1. a")
@example("# a")
@example("a_b_ _c_")
def test_markdown_leaves_no_markup(text: str) -> None:
    shown = markdown(text)
    assert shown.isprintable()
    bare = re.sub(r"\\[\\`*\[\]<|~$&_#+\-=>.):]", "", shown)
    assert not set(bare) & set("`*[]<|~$\\")
    assert not re.match(r"\s*([#+\-=>]\s|\d+[.)]\s)", bare)
    assert not re.search(r"://|www\.", bare)  # which GitHub links
    unescaped = re.sub(r"\\([\\`*\[\]<|~$&_#+\-=>.):])", r"\1", shown)
    assert printable(text) == unescaped


@given(HOSTILE)
def test_code_spans_end_where_they_should(text: str) -> None:
    span = code(text)
    fence = re.match("`+", span)[0]
    assert span.endswith(fence)
    assert fence not in re.sub("`" * (len(fence) + 1) + "+", "", span[len(fence) : -len(fence)])


# --- errors ------------------------------------------------------------------------------------------------------------


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


VALUES = [
    *(ALL, deep(100_000), {"a": deep(5000)}, [10**5000], 10**5000, [ALL] * 5, {ALL: ALL}),
    *(b"\x1b", None, "a" * 10**6, {"x"}, float("nan")),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_an_error_is_one_printable_line_whatever_it_speaks_of(value: Any) -> None:
    for error in (
        KvplanError(f"a\n{value if isinstance(value, str) else ''}"),
        KvplanError(),
        InvalidInput(ALL, value, ALL, ALL),
        InvalidInput("a" * 10**5, value, "b" * 10**5, "c" * 10**5),
        UnknownName(ALL, str(value)[:200] if isinstance(value, str) else ALL, [ALL, "b"], ALL),
        UnknownName("kind", "x" * 10**6, [f"{ALL}{i}" for i in range(20)]),
        UnreadKeys(ALL, ALL, [ALL, "k" * 10_000, *(f"key{i}" for i in range(10_000))]),
        Unsupported(ALL),
        MissingExtra(ALL, "x", ALL),
    ):
        assert str(error).isprintable()
        assert 0 < len(str(error)) <= 2000
        assert len(repr(shorten(value))) < 400


# --- specs, whoever makes them -----------------------------------------------------------------------------------------


@given(HOSTILE)
def test_a_spec_holds_printable_texts_alone(text: str) -> None:
    spec = kvplan.load("gpt2")
    for changed in (replace(spec, name=text, notes=(text, "a")), spec._replace(weight_source=text)):
        assert all(map(str.isprintable, (changed.name, changed.weight_source, *changed.notes)))
    assert spec == replace(spec, name="other", notes=(text,))._replace(name=spec.name, notes=spec.notes)


# --- every command -----------------------------------------------------------------------------------------------------

PYTHIA = {
    "num_hidden_layers": 6, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 50304,
    "max_position_embeddings": 512, "model_type": "gpt_neox",
}  # fmt: skip
GGUF_KEYS = {
    "block_count": 2, "embedding_length": 256, "context_length": 8192, "vocab_size": 1000, "feed_forward_length": 512,
    "attention.head_count": 8, "attention.head_count_kv": 2,
}  # fmt: skip


def quoted(text: str) -> str:
    """A TOML string; the format has no surrogates."""
    return json.dumps(text.replace("\ud800", ""), ensure_ascii=True).replace("\\u007f", "\\u007F")


class Given:
    """Files of a stranger who put a text wherever one can stand."""

    def __init__(self, place: Path, text: str) -> None:
        name = "".join(char for char in text if char not in "/\0\ud800")[:40] or "x"
        name = name if name.strip(".") else "x"
        self.text = text.replace("\0", "").replace("\ud800", "") or "x"  # no word of a command holds those
        self.folder = place / name
        self.folder.mkdir()
        config = {**PYTHIA, "_name_or_path": text, "torch_dtype": "bfloat16", text: text, "architectures": [text]}
        config["quantization_config"] = {"quant_method": text, text: text}
        (self.folder / "config.json").write_text(json.dumps(config))
        self.other = place / "other.json"
        ignored = {
            "quant_method": "compressed-tensors",
            "config_groups": {text: {"weights": None}},
            "ignore": [f"re:({text}"],
        }
        self.other.write_text(json.dumps({**PYTHIA, "model_type": "gpt_neox", "quantization_config": ignored}))
        self.wrong = place / "wrong.json"
        self.wrong.write_text(json.dumps({**PYTHIA, "model_type": text}))
        self.gguf = gguf_files.write(
            place / "a.gguf", "llama", {**GGUF_KEYS, f"attention.sliding_window{self.text}": 5}, name=self.text
        )  # fmt: skip
        self.presets = place / "presets"
        self._presets()
        self.budgets = place / "kvplan.toml"
        budget = "\n".join(
            f"[[budget]]\nname = {quoted(text + which)}\nmodel = {quoted(str(model))}\n{asked}"
            for which, model, asked in (("", "gpt2", 'max_kv_bytes = "1KiB"'), ("b", self.folder, 'fits_on = "l4"\nweight_dtype = "fp8"'))
        )  # fmt: skip
        self.budgets.write_text(budget)
        self.record = place / "record.json"
        self.record.write_text(
            json.dumps({"record": 1, "date": text, "device": text, "rows": [], "notes": {}, text: text})
        )

    def _presets(self) -> None:
        for kind in ("models", "gpus", "papers"):
            (self.presets / kind).mkdir(parents=True)
        label, source = quoted(self.text), quoted(f"example.invalid {self.text}")
        (self.presets / "models" / "mine.toml").write_text(
            f'schema = 1\nname = "mine"\nlabel = {label}\nsource = {source}\nattention = {label}\naliases = [{label}]\n'
            f"checked = 2026-11-21\nconfig = {quoted(json.dumps(PYTHIA))}\n"
        )
        (self.presets / "gpus" / "mine-24gb.toml").write_text(
            f'schema = 1\nname = "mine-24gb"\nvendor = {label}\nlabel = {label}\nkind = "workstation"\nmemory_bytes = 25757220864\n'
            f'memory_basis = "exact"\nmemory_label = {label}\nmemory_source = {source}\nbandwidth_bytes_per_s = 1008000000000\n'
            f"bandwidth_source = {source}\nchecked = 2026-11-21\n[tflops]\nbf16 = 165\nsource = {source}\n"
        )
        (self.presets / "papers" / "mine.toml").write_text(
            f"schema = 1\ntitle = {label}\nurl = {source}\nchecked = 2026-11-21\n[[row]]\nid = {label}\nquantity = {label}\n"
            'ask = { model = "gpt2", context = 1024 }\ntake = "kv.bytes"\npublished = 330\nunit = "GB"\nrounding = "2 digits"\n'
            f'where = {label}\nconfidence = "read"\nnote = {label}\n'
        )


def asked(g: Given) -> list[list[str]]:
    """Every command in every format, about files of the stranger, and with the stranger's words as values."""
    folder, gguf, other, t = str(g.folder), str(g.gguf), str(g.other), g.text
    formats = [[], ["--json"], ["--markdown"]]
    flags = ("--gpu", "--engine", "--scheme", "--context", "--kv-dtype", "--memory", "--logits", "--engine-option")
    wheres = [
        *(["--where", "kv_bytes > 1", *how] for how in ([], ["--csv"], ["--jsonl"])),
        ["--where", f"model == {t!r}"],
    ]
    serve = ["--config", folder, "--", "vllm", "serve", "a/b", "--x", t, f"--{t}", t]
    tables = [*formats, ["--csv"]]
    return [
        *(["plan", model, *how] for model in (folder, gguf, other, "mine", str(g.wrong)) for how in formats),
        *(["plan", folder, "--gpu", "mine-24gb", "-e", e, "--weight-dtype", "fp8", *how] for e in ("vllm", "llama.cpp") for how in formats),
        *(["compare", folder, "-s", "mqa", *how] for how in tables),
        *(["diff", folder, gguf, *how] for how in tables),
        *(["fit", gguf, "-c", "1k", "-b", "1", "-g", "mine-24gb", *how] for how in tables),
        *(["fit", folder, "-c", "1k", "-b", "1", "-g", "l4", "--weight-dtype", "fp8", *how] for how in tables),
        *(["explain", model, *how] for model in (folder, gguf) for how in ([], ["--latex"])),
        *(["sweep", folder, "-c", "1k", *how] for how in wheres),
        *(["sweep", gguf, "-c", "1k", "-o", str(g.budgets.parent / f"x.{kind}")] for kind in ("csv", "jsonl")),
        *(["plot", "memory", gguf, "-g", "mine-24gb", "-o", str(g.folder / f"x.{kind}")] for kind in ("csv", "json")),
        *(["check", str(g.budgets), *how, *more] for how in formats for more in ([], ["--github"])),
        ["check", str(g.budgets), "--junit", str(g.budgets.parent / "junit.xml")],
        *([kind, *how] for kind in ("models", "gpus") for how in ([], ["--json"], ["mine"])),
        *([kind, t] for kind in ("models", "gpus", "schemes", "formats", "engines")),
        *(["reproduce", "mine", *how] for how in formats),
        ["reproduce", t],
        ["reproduce", "--markdown"],
        *(["preflight", "--gpu", "mine-24gb", *how, *serve] for how in ([], ["--json"])),
        ["preflight", "--gpu", t, "--", "vllm", "serve", t],
        ["preflight", "--gpu", "l4", "--", t, t],
        ["validate", "--show", str(g.record)],
        *(["plan", "gpt2", flag, t] for flag in flags),
        ["plan", t],
        ["plan", f"./{t}.json"],
        ["plan", "gpt2", f"--{t}"],
        [t],
        ["explain", "gpt2", t],
        ["sweep", "gpt2", "--where", t],
        ["sweep", "gpt2", "-c", t],
        ["sweep", "gpt2", "--columns", t],
        ["plot", t, "gpt2", "-o", "x.csv"],
        ["plot", "memory", "gpt2", "-o", f"{t}.csv/x.csv"],
        ["check", t],
        ["app", f"--{t}"],
    ]  # fmt: skip


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(HOSTILE)
@example(ALL)
def test_every_command_prints_what_can_be_seen(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """stdout, stderr and every file written; JSON and XML read back; no exception but an exit."""
    place = tmp_path_factory.mktemp("stranger")
    g = Given(place, text)
    commands = asked(g)
    assert {words[0] for words in commands} >= set(COMMANDS) - {"app"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVPLAN_PRESETS", str(g.presets))
        patch.setenv("GITHUB_STEP_SUMMARY", str(place / "summary.md"))
        patch.chdir(place)
        _forget()
        for words in commands:
            result = CliRunner().invoke(app, words)
            said = f"{words!a}: {result.stdout[-300:]!a} {result.stderr[-300:]!a}"
            assert result.exception is None or isinstance(result.exception, SystemExit), said
            assert result.exit_code in (0, 1, 2, 3), said
            assert is_shown(result.stdout), said
            assert is_shown(result.stderr), said
            if result.exit_code == 2 and not result.stdout and "--github" not in words:
                assert 1 == len(result.stderr.splitlines()), said
            if "--github" not in words:  # whose runner takes such lines for commands
                lines = (result.stdout + result.stderr).splitlines()
                assert not [line for line in lines if line.lstrip().startswith("::") or "##[" in line], said
            if "--json" in words and "--github" not in words and result.exit_code < 2 and result.stdout:
                json.loads(result.stdout)
    _forget()
    written = [path for path in place.iterdir() if path.is_file() and path.suffix in (".csv", ".jsonl", ".md", ".xml")]
    assert len(written) >= 4
    for path in [*written, *(path for path in g.folder.iterdir() if path.name.startswith("x."))]:
        assert is_shown(path.read_text()), path.name
        if path.suffix == ".xml":
            ElementTree.fromstring(path.read_text())


def _forget() -> None:
    """What is remembered of presets."""
    catalog.find_gpu.cache_clear()
    catalog.model_preset.cache_clear()
    catalog._preset_spec.cache_clear()


def test_colours_are_the_only_sequences_that_a_terminal_gets(tmp_path: Path) -> None:
    """Rich's own select graphic rendition; a name's are shown."""
    g = Given(tmp_path, "\x1b[31mred\x1b]0;x\x07")
    for model in (g.folder, g.gguf):
        for drawn in (kvplan.plan(str(model)).to_text(80, True), kvplan.compare(str(model), ["mqa"]).to_text(80, True)):
            bare = re.sub(r"\x1b\[[0-9;]*m", "", drawn)
            assert is_shown(bare)
            assert r"\x1b[31mred" in bare.replace("\n", "")


def test_what_fit_prints_can_be_pasted(tmp_path: Path) -> None:
    """The command names the model as it was given, whatever the file calls itself, in quotes that bash reads."""
    place = tmp_path / "a b\x1b$(id)`id`'"
    place.mkdir()
    gguf = gguf_files.write(place / "a.gguf", "llama", GGUF_KEYS, name="; rm -rf /")
    found = kvplan.fit(str(gguf), context="1k", gpu="l4")
    printed = next(line for line in found.to_text(1000).splitlines() if line.startswith("kvplan plan "))
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {printed}"], capture_output=True, text=True, check=True)
    words = done.stdout.split("\n")
    assert ["kvplan", "plan", str(gguf)] == words[:3]
    result = CliRunner().invoke(app, words[1:-1])
    assert (0, "") == (result.exit_code, result.stderr)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "iso8859-15"])
def test_no_encoding_makes_markup_of_what_only_looks_like_it(tmp_path: Path, encoding: str) -> None:
    """Wide and small forms of ASCII's marks decompose to them: a terminal that lacks them gets a question mark."""
    marks = [
        chr(n)
        for n in range(0x80, 0x30000)
        if (c := unicodedata.normalize("NFKD", chr(n))) != chr(n) and not c.isalnum()
    ]
    name = "".join(char for char in marks if any(c in string.punctuation for c in unicodedata.normalize("NFKD", char)))
    wide = (
        "\uff1a\uff1aerror\uff1a\uff1ax ##\uff3berror] \uff0a\uff0aa\uff0a\uff0a \uff1cb\uff1e \uff40 \uff04(id) \uff5c"
    )
    for i, text in enumerate((wide, name[:150], name[150:300])):
        path = tmp_path / f"{i}.json"
        path.write_text(json.dumps(PYTHIA | {"_name_or_path": text}))
        spec = replace(kvplan.load(str(path)), name=text)
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="kvplan")
        machinery._never_fail_on_a_character()
        for drawn in (kvplan.plan(spec).to_text(), kvplan.plan(spec).to_markdown()):
            start = out.buffer.tell()
            out.write(drawn)
            out.flush()
            written = out.buffer.getvalue()[start:].decode(encoding)  # type: ignore[attr-defined]
            before = {mark: drawn.count(mark) for mark in ":#[*<`$|"}
            after = {mark: written.count(mark) for mark in before}
            bars = sum(drawn.count(bar) for bar in "█▓▒░▕▏●")  # drawn by kvplan, and in ASCII's place
            assert all(after[mark] <= before[mark] + bars for mark in before), (after, before)
            assert not [line for line in written.splitlines() if line.lstrip().startswith("::") or "##[" in line]
