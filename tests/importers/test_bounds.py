"""Every file is opened in one place, regular and within its bound, and no input takes more than 300 MB.

What honest files need stands beside each bound in the source; here files of just that size are read.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan.cli import app
from kvplan.errors import InvalidInput
from kvplan.importers import files
from kvplan.importers.safetensors import folder_weight_bytes
from tests.support import DATA, bombs, gguf_files

PACKAGE = Path(kvplan.__file__).parent
MOST = 300  # MB of a process, interpreter and all

# --- one opener --------------------------------------------------------------------------------------------------------

# file -> why it opens something by itself
EXCEPTIONS = {
    "importers/files.py": "the opener",
    "validate/allocator.py": "/proc, of which the system says what it holds",
    "validate/boundary.py": "/proc",
    "validate/measure.py": "the null device",
    "cli/machinery.py": "the null device",
    "validate/records.py": "kvplan's own source, of which it keeps a digest",
    "validate/parallel.py": "what its own ranks wrote into a folder that it made",
    "validate/llama_cpp.py": "a file that it writes into a folder that it made, for the engine to load",
    "sweeps/files.py": "chunks of its own, whose checksums are in its log",
    "app/show.py": "the page's own script",
}
OPENERS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "fdopen", "load", "open_file"}
LOADERS = {"json", "tomllib", "np", "pickle", "io", "os", "pathlib", "csv", "configparser", "zipfile"}


def opened(path: Path) -> list[str]:
    """Calls that open a file: ``open``, a path's own methods, loaders that take a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called, name = node.func, ""
        if isinstance(called, ast.Name) and called.id == "open":
            name = "open"
        elif isinstance(called, ast.Attribute) and called.attr in OPENERS:
            owner = ast.unparse(called.value)
            if called.attr != "load" or owner in LOADERS:
                name = f"{owner}.{called.attr}"
        if name:
            found.append(f"{node.lineno}: {name}")
    return found


def test_nothing_else_opens_a_file() -> None:
    """A walk over the source; an exception that opens nothing any more is one too many."""
    roots = [(PACKAGE, PACKAGE), (PACKAGE.parent / "app", PACKAGE.parent)]
    seen = {}
    for root, base in roots:
        for path in sorted(root.rglob("*.py")):
            calls = opened(path)
            if calls and "presets" not in path.parts:
                seen[path.relative_to(base).as_posix()] = calls
    assert {} == {name: calls for name, calls in seen.items() if name not in EXCEPTIONS}
    assert not set(EXCEPTIONS) - set(seen)


# --- what is no file ---------------------------------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def itself(path: Path) -> None:
    path.symlink_to(path.name)


def nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no room


def endless(path: Path) -> None:
    """A file of /proc, which says that it holds nothing: read until its bound, and no further."""
    path.symlink_to("/proc/self/mem")


WRONG = [fifo, zeros, folder, itself, nothing, terabyte, endless]


def as_config(place: Path) -> tuple[Path, list[str]]:
    return place / "config.json", ["plan", str(place)]


def as_json(place: Path) -> tuple[Path, list[str]]:
    return place / "a.json", ["plan", str(place / "a.json")]


def as_gguf(place: Path) -> tuple[Path, list[str]]:
    return place / "a.gguf", ["plan", str(place / "a.gguf")]


def as_sister(place: Path) -> tuple[Path, list[str]]:
    keys = {
        "block_count": 2,
        "embedding_length": 256,
        "context_length": 512,
        "vocab_size": 10,
        "feed_forward_length": 9,
    }
    gguf_files.write(place / "b-00001-of-00002.gguf", "llama", {**keys, "attention.head_count": 8})
    return place / "b-00002-of-00002.gguf", ["plan", str(place / "b-00001-of-00002.gguf")]


def as_index(place: Path) -> tuple[Path, list[str]]:
    bombs.config(place)
    return place / "model.safetensors.index.json", ["plan", str(place)]


def as_shard(place: Path) -> tuple[Path, list[str]]:
    bombs.config(place)
    return place / "model.safetensors", ["plan", str(place)]


def as_budgets(place: Path) -> tuple[Path, list[str]]:
    return place / "kvplan.toml", ["check", str(place / "kvplan.toml")]


def as_baseline(place: Path) -> tuple[Path, list[str]]:
    bombs.budget(place, '[[budget]]\nmodel="gpt2"\nwithin="1%"\n')
    return place / "kvplan-baseline.json", ["check", str(place / "kvplan.toml")]


def as_new_baseline(place: Path) -> tuple[Path, list[str]]:
    return as_baseline(place)[0], ["check", "--update", str(place / "kvplan.toml")]


def as_preset(place: Path) -> tuple[Path, list[str]]:
    (place / "models").mkdir()
    return place / "models" / "mine.toml", ["plan", "mine"]


def as_gpu(place: Path) -> tuple[Path, list[str]]:
    (place / "gpus").mkdir()
    return place / "gpus" / "mine.toml", ["plan", "gpt2", "--gpu", "mine"]


def as_paper(place: Path) -> tuple[Path, list[str]]:
    (place / "papers").mkdir()
    return place / "papers" / "mine.toml", ["reproduce", "mine"]


def as_record(place: Path) -> tuple[Path, list[str]]:
    return place / "r.json", ["validate", "--show", str(place / "r.json")]


def as_preflight_config(place: Path) -> tuple[Path, list[str]]:
    return place / "c.json", [
        "preflight",
        "--gpu",
        "l4",
        "--config",
        str(place / "c.json"),
        "--",
        "vllm",
        "serve",
        "a/b",
    ]


def as_manifest(place: Path) -> tuple[Path, list[str]]:
    (place / "x.csv.parts").mkdir()
    return place / "x.csv.parts" / "sweep.json", ["sweep", "gpt2", "-c", "1k", "-o", str(place / "x.csv")]


def as_lock(place: Path) -> tuple[Path, list[str]]:
    (place / "x.csv.parts").mkdir()
    return place / "x.csv.parts" / "lock", ["sweep", "gpt2", "-c", "1k", "-o", str(place / "x.csv")]


READERS = [
    as_config, as_json, as_gguf, as_sister, as_index, as_shard, as_budgets, as_baseline, as_new_baseline, as_preset, as_gpu,
    as_paper, as_record, as_preflight_config, as_manifest, as_lock,
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_what_is_no_readable_file_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reader: Callable[..., tuple[Path, list[str]]],
    make: Callable[[Path], None],
) -> None:
    """Pipes are not waited for, devices not read, files not read beyond their bound."""
    path, words = reader(tmp_path)
    make(path)
    before = os.lstat(path)
    monkeypatch.setenv("KVPLAN_PRESETS", str(tmp_path))
    result = CliRunner().invoke(app, words)
    if reader is as_lock and make is terabyte:
        assert 0 == result.exit_code  # a lock of whatever size is one
        return
    said = f"{result.exit_code} {result.output!r} {result.exception!r}"
    assert 2 == result.exit_code, said
    assert 1 == len(result.stderr.splitlines()), said
    assert not result.stdout, said
    assert path.name in result.stderr or str(tmp_path.name) in result.stderr, said
    after = os.lstat(path)
    assert (before.st_mode, before.st_size) == (after.st_mode, after.st_size)


@pytest.mark.parametrize(
    "words", [["plan"], ["check"], ["validate", "--show"], ["sweep", "gpt2", "-c", "1k", "-o"]], ids=str
)
@pytest.mark.parametrize(
    "path", ["a\0b.json", "./\0", "a\udcff.json", "x" * 300 + ".json", "x/" * 3000 + "a.json", "~nobody/a.json"]
)
def test_what_is_no_path_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*words, path + (".csv" if words[-1] == "-o" else "")])
    if words[-1] == "-o" and path == "a\udcff.json":
        return  # a name that this system can have
    assert 2 == result.exit_code, f"{result.output!r} {result.exception!r}"
    assert 1 == len(result.stderr.splitlines())


def test_a_file_of_its_bound_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    assert b"x" * 100 == files.read_bytes(path, "file", 100)
    with pytest.raises(InvalidInput, match=r"100 bytes.*at most 99 bytes"):
        files.read_bytes(path, "file", 99)


ASKED = """
from typer.testing import CliRunner
from kvplan.cli import app
for words in {commands!r}:
    result = CliRunner().invoke(app, words)
    print(result.exit_code, len(result.stderr.splitlines()), type(result.exception).__name__, words, ascii(result.stderr))
"""


def test_what_may_not_be_read_or_written_is_one_line(tmp_path: Path) -> None:
    """Folders and files of mode 000, and folders that cannot be written to. Root gives away what lets it in all the same."""
    shut = tmp_path / "shut"
    shut.mkdir()
    bombs.config(shut)
    (tmp_path / "shut.gguf").write_bytes(b"GGUF")
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    bombs.budget(read_only, '[[budget]]\nmodel="gpt2"\nwithin="1%"\n')
    for path, mode in ((shut, 0), (tmp_path / "shut.gguf", 0), (read_only, 0o555)):
        path.chmod(mode)
    commands = [
        ["plan", f"{shut}"],
        ["plan", f"{shut}/config.json"],
        ["plan", f"{shut}.gguf"],
        ["check", f"{shut}/kvplan.toml"],
        ["check", "--update", f"{read_only}/kvplan.toml"],
        ["check", f"{read_only}/kvplan.toml", "--junit", f"{read_only}/x.xml"],
        ["sweep", "gpt2", "-c", "1k", "-o", f"{read_only}/x.csv"],
        ["sweep", "gpt2", "-c", "1k", "-o", f"{shut}/x.csv"],
        ["plot", "memory", "gpt2", "-g", "l4", "-o", f"{read_only}/x.csv"],
        ["validate", "--show", f"{shut}/r.json"],
        ["preflight", "--gpu", "l4", "--config", f"{shut}", "--", "vllm", "serve", "a/b"],
    ]
    as_others = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything, and nothing here takes that away")
        as_others = [
            "setpriv",
            "--bounding-set",
            "-dac_override,-dac_read_search",
            "--inh-caps",
            "-dac_override,-dac_read_search",
        ]
    code = ASKED.format(commands=commands)
    done = subprocess.run([*as_others, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    for path in (shut, read_only):
        path.chmod(0o755)
    assert "" == done.stderr
    lines = done.stdout.splitlines()
    assert len(commands) == len(lines)
    assert [] == [line for line in lines if not line.startswith("2 1 SystemExit")]


def test_a_step_summary_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer stands above it, and is the exit code."""
    bombs.budget(tmp_path, '[[budget]]\nmodel="gpt2"\nmax_kv_bytes="1GiB"\n')
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "no" / "where", tmp_path / "pipe", "/dev/full", "a\0"):
        monkeypatch.setitem(os.environ, "GITHUB_STEP_SUMMARY", str(target)) if "\0" not in str(target) else None
        result = CliRunner().invoke(app, ["check", "--github", str(tmp_path / "kvplan.toml")])
        assert (0, 1) == (result.exit_code, len(result.stderr.splitlines())), result.output


# --- bombs -------------------------------------------------------------------------------------------------------------

MEASURED = """
import sys
sys.argv = ["kvplan", *sys.argv[1:]]
from kvplan.cli import main
try:
    main()
finally:
    with open("/proc/self/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM"))
    sys.stderr.write(f"{int(peak.split()[1]) // 1000} MB\\n")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("name", bombs.BOMBS)
def test_no_input_takes_more_memory_than_this(tmp_path: Path, name: str) -> None:
    """An answer or one line, and the process never holds more than 300 MB; how long it takes, the benchmark says."""
    words = bombs.BOMBS[name](tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    *said, peak = done.stderr.splitlines()
    assert int(peak.split()[0]) <= MOST, (peak, said)
    assert done.returncode in (0, 1, 2), (done.stdout, said)
    if done.returncode == 2:
        assert 1 == len(said), said
        assert said[0].isprintable()


# --- honest files stay far below ---------------------------------------------------------------------------------------


def test_published_files_need_a_part_of_their_bounds() -> None:
    """The largest configs on file, and the index of the largest checkpoints, as it would be written."""
    for path in (DATA / "configs").glob("*.json"):
        data = path.read_bytes()
        assert len(data) * 2 < files.CONFIG_LIMIT
        assert files.weigh(data) * 4 < files.OBJECT_LIMIT, path.name


def experts(shards: int) -> dict[str, str]:
    """Tensors of Kimi K2's experts in NVFP4: 60 layers of 384 experts of 3 matrices of 4 tensors."""
    parts = ("weight", "weight_scale", "weight_scale_2", "input_scale")
    names = (
        f"language_model.model.layers.{layer}.mlp.experts.{expert}.{matrix}.{part}"
        for layer in range(1, 61)
        for expert in range(384)
        for matrix in ("gate_proj", "up_proj", "down_proj")
        for part in parts
    )
    return {name: f"model-{i * shards // 276_480 + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)}


def test_the_largest_checkpoints_are_read_from_index_and_headers(tmp_path: Path) -> None:
    """276,480 tensors of 8 bytes: from the index alone, then from the headers of its shards."""
    mapped = experts(64)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 8 * 276_480}, "weight_map": mapped}, indent=2)
    )
    found = folder_weight_bytes(tmp_path)
    assert (8 * 276_480, "metadata.total_size of model.safetensors.index.json") == (found.bytes, found.source)
    headers: dict[str, dict[str, object]] = {}
    for name, shard in mapped.items():
        end = 8 * len(headers.setdefault(shard, {}))
        headers[shard][name] = {"dtype": "F8_E4M3", "shape": [1, 8], "data_offsets": [end + 2**30, end + 2**30 + 8]}
    for shard, header in headers.items():
        data = json.dumps(header).encode()
        (tmp_path / shard).write_bytes(len(data).to_bytes(8, "little") + data)
    found = folder_weight_bytes(tmp_path)
    assert (8 * 276_480, "tensor headers of 64 safetensors files") == (found.bytes, found.source)
