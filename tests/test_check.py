"""`kvplan check`: each assertion can hold and can break, errors name file, table and key, and CI gets what it reads."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

import kvplan
from kvplan.budgets import ASSERTIONS, QUANTITIES, _plan_fields, check
from kvplan.cli import app
from kvplan.errors import InvalidInput, KvplanError, UnknownName

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests/data"
LLAMA = 'model = "llama-3.1-8b"\n'


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in process."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def written(folder: Path, *budgets: str, top: str = "") -> Path:
    """A budget file with these tables."""
    path = folder / "kvplan.toml"
    path.write_text(top + "".join(f"[[budget]]\n{budget}\n" for budget in budgets))
    return path


@pytest.mark.parametrize(
    ("assertion", "holds", "breaks", "predicted"),
    [
        # 32 layers x 2 x 8 heads x 128 x 2 bytes
        ("max_kv_bytes_per_token", '"128KiB"', "131071", "131,072"),
        ("kv_bytes_per_token", "131072", "131073", "131,072"),
        ("max_kv_bytes_per_sequence", '"1 GiB"', '"1GB"', "1,073,741,824"),
        ("max_kv_bytes", '"4GiB"', '"3.9 GiB"', "4,294,967,296"),
        ("max_kv_bytes_per_gpu", '"4GiB"', '"4095MiB"', "4,294,967,296"),
        # 8,193 tokens with the new one's own
        ("kv_bytes_read_per_step", str(4 * 8193 * 131072), "1", f"{4 * 8193 * 131072:,}"),
        ("parameters", "8030261248", "8030261247", "8,030,261,248"),
        ("max_parameters", '"8.1B"', '"8B"', "8,030,261,248"),
        ("min_active_parameters", '"8B"', '"8.1B"', "8,030,261,248"),
        ("max_weights_bytes", "16060522496", '"16 GB"', "16,060,522,496"),
        ("max_weights_bytes_per_gpu", '"15GiB"', '"14GiB"', "16,060,522,496"),
        # 2 x (parameters less the table) + 4 x 8,193 keys x 4,096 x 32 layers
        ("flops_per_token", str(2 * (8_030_261_248 - 128_256 * 4096 - 65 * 4096) + 4 * 8193 * 4096 * 32), "7", ""),
        ("max_decode_flops", '"80 GFLOP"', '"70G"', ""),
        ("max_prefill_flops", '"0.6 PFLOPs"', '"0.5P"', ""),
        # (79.65 - 14.96) GiB hold less than 65 sequences of 1 GiB, and 132,490 tokens of 4 sequences
        ("min_batch", "60", "65", ""),
        ("min_context", '"120k"', '"130k"', ""),
        ("min_free_bytes", '"58 GiB"', '"61 GiB"', ""),
        ("fits_on", '"h100"', '"t4"', ""),
    ],
)
def test_every_assertion_holds_and_breaks(
    assertion: str, holds: str, breaks: str, predicted: str, tmp_path: Path
) -> None:
    """Exit 0 where the bound is kept; exit 1 and a line with budget, key, predicted and allowed where it is not."""
    gpu = "" if assertion == "fits_on" else 'gpu = "h100"\n'
    for value, code in ((holds, 0), (breaks, 1)):
        path = written(tmp_path, f'name = "chat"\n{LLAMA}{gpu}context = "8k"\nbatch = 4\n{assertion} = {value}')
        got, stdout, stderr = run("check", str(path))
        assert (code, "") == (got, stderr), stdout
        line = stdout.splitlines()[0]
        assert line.startswith(f"{'✘' if code else '✔'} chat: {assertion}")
        assert predicted in line.partition(", allowed ")[0]
        assert ("1 of 1 assertions broken" in stdout) == bool(code)


def test_every_assertion_is_tested() -> None:
    """The list above holds each quantity at least once, and every keyword of a plan is a key of a budget."""
    marks = test_every_assertion_holds_and_breaks.pytestmark  # type: ignore[attr-defined]
    tested = {ASSERTIONS[case[0]][1] for mark in marks for case in mark.args[1] if case[0] in ASSERTIONS}
    assert set(QUANTITIES) == tested
    from kvplan.api import known_flags

    assert {*known_flags(), "scheme"} == set(_plan_fields())


def test_numbers_are_those_of_plan(tmp_path: Path) -> None:
    """The figures of findings, and their words, are an ordinary plan's."""
    path = written(tmp_path, f'{LLAMA}kv_dtype = "fp8"\nscheme = "cla:2"\ngpu = "l4"\ncontext = "32k"\nmin_batch = 1')
    capacity = kvplan.plan("llama-3.1-8b", kv_dtype="fp8", scheme="cla:2", gpu="l4", context="32k").capacity

    assert capacity
    finding = check(path).findings[0]
    assert ("llama-3.1-8b", "min_batch", "l4-24gb", capacity.max_batch, 1) == (
        finding.budget, finding.key, finding.gpu, finding.value, finding.bound
    )  # fmt: skip
    assert "predicted 11, allowed at least 1" in finding.message or str(capacity.max_batch) in finding.message


def test_several_gpus_are_asked_one_by_one(tmp_path: Path) -> None:
    """fits_on names each; what no GPU changes is asserted once."""
    path = written(tmp_path, f'{LLAMA}fits_on = ["h100", "t4", "l4"]\nmin_batch = 2\nmax_kv_bytes_per_token = "1MiB"')
    found = [(f.key, f.gpu, f.holds) for f in check(path).findings]

    assert [
        ("fits_on", "h100-80gb-sxm", True),
        ("fits_on", "t4-16gb", False),
        ("fits_on", "l4-24gb", True),
        ("max_kv_bytes_per_token", None, True),
        ("min_batch", "h100-80gb-sxm", True),
        ("min_batch", "t4-16gb", False),
        ("min_batch", "l4-24gb", True),
    ] == found
    assert "binding" in check(path).broken[0].message


def test_defaults_and_configs_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[defaults] hold for every budget that does not say otherwise; a config's path is from the file's folder."""
    (tmp_path / "sub").mkdir()
    shutil.copy(DATA / "configs/google__gemma-2-9b.json", tmp_path / "sub/mine.json")
    path = written(
        tmp_path / "sub",
        'name = "a"\nmodel = "mine.json"\nkv_bytes_per_sequence = 1',
        'name = "b"\nmodel = "mine.json"\ncontext = "2k"\nkv_bytes_per_sequence = 1',
        'name = "c"\nlayers = 4\nhidden = 256\nheads = 4\nkv_bytes_per_sequence = 1',
        top='[defaults]\ncontext = "1k"\nkv_dtype = "fp8"\n',
    )
    monkeypatch.chdir("/")
    # 42 layers x 2 x 8 heads x 256, and 4 layers x 2 x 256, a byte each
    assert [1024 * 172_032, 2048 * 172_032, 1024 * 2_048] == [f.value for f in check(path).findings]


def test_unbounded_limits_are_kept(tmp_path: Path) -> None:
    """Where nothing grows with the context, any min_context holds."""
    path = written(tmp_path, 'model = "mamba-2.8b"\ngpu = "h100"\nmin_context = "1G"')
    names = [name for name in ("mamba-2.8b", "falcon-mamba-7b", "mamba2-2.7b") if name in kvplan.catalog.model_names()]
    path.write_text(path.read_text().replace("mamba-2.8b", names[0]))
    finding = check(path).findings[0]
    assert (True, "unbounded", None) == (finding.holds, finding.predicted, finding.value)


# --- the baseline --------------------------------------------------------------------------------------------------------


def test_update_then_check_then_drift(tmp_path: Path) -> None:
    """--update writes the figures; a change beyond the percentage breaks them, one within does not."""
    budget = f'name = "chat"\n{LLAMA}gpu = "h100"\ncontext = {{}}\nwithin = "{{}}"'
    path = written(tmp_path, budget.format(8192, "1%"))
    baseline = tmp_path / "kvplan-baseline.json"

    code, stdout, _ = run("check", str(path))
    assert 1 == code
    assert "kvplan check --update writes it" in stdout
    code, stdout, _ = run("check", str(path), "--update")
    assert (0, True) == (code, "1 of 1 budgets written" in stdout)
    assert 131_072 == json.loads(baseline.read_text())["budgets"]["chat"]["kv_bytes_per_token"]
    assert 0o644 == stat.S_IMODE(baseline.stat().st_mode)
    assert [path.name, baseline.name] == sorted((p.name for p in tmp_path.iterdir()), reverse=True)
    before = baseline.read_bytes()
    assert "is up to date" in run("check", str(path), "--update")[1]
    assert before == baseline.read_bytes()

    path = written(tmp_path, budget.format(8192 + 64, "2%"))  # 0.8 % more, and 62 sequences instead of 63
    assert 0 == run("check", str(path))[0]
    path = written(tmp_path, budget.format(8192 + 64, "0.5%"))
    code, stdout, _ = run("check", str(path))
    assert 1 == code
    broken = [line for line in stdout.splitlines() if line.startswith("✘")]
    assert any("kv_bytes_per_sequence" in line and "+0.781%" in line and "± 0.5%" in line for line in broken)
    assert not any("kv_bytes_per_token" in line for line in broken)
    assert not any("parameters" in line for line in broken)
    path = written(tmp_path, budget.format(8192, "0%").replace('"h100"', '"l4"'))
    assert "batch@l4-24gb" in run("check", str(path))[1]  # a figure that the baseline lacks


def test_the_edge_of_a_percentage_is_exact(tmp_path: Path) -> None:
    """1 % of 1,000 is 10: 1,010 is within, 1,011 is not, and 990 is, 989 is not."""
    path = written(tmp_path, f'name = "a"\n{LLAMA}within = "1%"')
    run("check", str(path), "--update")
    baseline = tmp_path / "kvplan-baseline.json"
    data = json.loads(baseline.read_text())
    now = data["budgets"]["a"]["kv_bytes_per_token"]
    low, high = -(-now * 100 // 101), now * 100 // 99  # the least and the largest baseline that holds it
    for value, holds in ((low - 1, False), (low, True), (high, True), (high + 1, False)):
        data["budgets"]["a"]["kv_bytes_per_token"] = value
        baseline.write_text(json.dumps(data))
        assert holds == (not check(path).broken), value


def test_update_needs_something_to_keep(tmp_path: Path) -> None:
    """And drops budgets that are gone; what is no baseline is bad input, and never overwritten."""
    path = written(tmp_path, f'{LLAMA}max_kv_bytes = "1PiB"')
    with pytest.raises(InvalidInput, match="within"):
        check(path, update=True)
    path = written(tmp_path, f'name = "a"\n{LLAMA}within = "0%"', f'name = "b"\n{LLAMA}within = "0%"')
    check(path, update=True)
    path = written(tmp_path, f'name = "b"\n{LLAMA}within = "0%"')
    assert "1 dropped" in check(path, update=True).updated
    (tmp_path / "kvplan-baseline.json").write_text("{")
    with pytest.raises(InvalidInput, match="baseline"):
        check(path)
    with pytest.raises(InvalidInput, match="overwrites no other file"):
        check(path, update=True)
    assert "{" == (tmp_path / "kvplan-baseline.json").read_text()


def test_another_baseline(tmp_path: Path) -> None:
    """Its path is from the file's folder; a folder that is not there is one line."""
    path = written(tmp_path, f'{LLAMA}within = "0%"', top='baseline = "figures/base.json"\n')
    code, _, stderr = run("check", str(path), "--update")
    assert (2, 1) == (code, len(stderr.splitlines()))
    (tmp_path / "figures").mkdir()
    assert 0 == run("check", str(path), "--update")[0]
    assert (tmp_path / "figures/base.json").exists()


# --- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budget = [", "file: got 'kvplan.toml', allowed: a readable TOML file"),
        ("", "budget: missing, allowed: tables [[budget]], at least one"),
        ("schema = 2\n[[budget]]", "schema: got 2, allowed: 1"),
        ("budgets = 3\n[[budget]]", "unknown key in {}: 'budgets'; nearest: budget"),
        (f"[defaults]\nkv_dtyp = 'fp8'\n[[budget]]\n{LLAMA}", "unknown key in {}, [defaults]: 'kv_dtyp'; nearest: kv_dtype"),
        (f"[[budget]]\n{LLAMA}max_kv_byte_per_token = 3", "(llama-3.1-8b): 'max_kv_byte_per_token'; nearest: max_kv_bytes_per_token"),
        (f"[[budget]]\n{LLAMA}max_context = 3", "'max_context'; nearest: "),
        (f"[[budget]]\n{LLAMA}", "assertion: missing, allowed: at least one of fits_on"),
        (f"[[budget]]\nname = 'chat'\n{LLAMA}max_kv_bytes = '40Gib/s'", "[[budget]] 1 (chat): max_kv_bytes: got '40Gib/s', allowed: bytes"),
        (f"[[budget]]\n{LLAMA}max_kv_bytes = true", "max_kv_bytes: got True"),
        (f"[[budget]]\n{LLAMA}max_parameters = 8.1e9", "max_parameters: got 8100000000.0, allowed: a whole number, or one with M, B or T"),
        (f"[[budget]]\n{LLAMA}max_flops_per_token = '3 GiB'", "max_flops_per_token: got '3 GiB', allowed"),
        (f"[[budget]]\n{LLAMA}min_batch = 3", "gpu: missing, allowed: one for min_batch"),
        (f"[[budget]]\n{LLAMA}min_batch = '8x'\ngpu = 'l4'", "min_batch: got '8x', allowed: a whole number"),
        (f"[[budget]]\n{LLAMA}within = 1", "within: got 1, allowed: a percentage in quotes"),
        (f"[[budget]]\n{LLAMA}fits_on = 'l4'\ngpu = 'l4'", "gpu: got 'l4', allowed: left out beside fits_on"),
        (f"[[budget]]\n{LLAMA}fits_on = []", "fits_on: got [], allowed: the name of a GPU"),
        (f"[[budget]]\n{LLAMA}fits_on = 'l5'", "unknown GPU in {}, [[budget]] 1 (llama-3.1-8b): 'l5'"),
        (f"[[budget]]\n{LLAMA}dtype = 5\nwithin = '0%'", "dtype: got 5, allowed: a text in quotes"),
        (f"[[budget]]\n{LLAMA}context = 1.5\nwithin = '0%'", "context: got 1.5, allowed: a whole number, or a text such as"),
        (f"[[budget]]\n{LLAMA}context = 'x'\nwithin = '0%'", "[[budget]] 1 (llama-3.1-8b): context: got 'x'"),
        (f"[[budget]]\n{LLAMA}scheme = 'gqa:5'\nwithin = '0%'", "gqa:5"),
        (f"[[budget]]\n{LLAMA}gpu_memory_utilization = 3\nwithin = '0%'", "gpu_memory_utilization: got 3"),
        ("[[budget]]\nmodel = 'nope'\nwithin = '0%'", "unknown model in {}, [[budget]] 1 (nope): 'nope'"),
        ("[[budget]]\nmodel = 'nope.json'\nwithin = '0%'", "nope.json', allowed: an existing file or folder"),
        ("[[budget]]\nwithin = '0%'", "model: missing"),
        (f"[[budget]]\n{LLAMA}within = '0%'\n[[budget]]\n{LLAMA}within = '0%'",
         "[[budget]] 2 (llama-3.1-8b): name: got 'llama-3.1-8b', allowed: a name that"),
        (f"[[budget]]\nname = 4\n{LLAMA}within = '0%'", "name: got 4, allowed: a text"),
        (f"[[budget]]\n{LLAMA}engine_options = 'x'\nwithin = '0%'", "engine_options: got 'x', allowed: a table"),
    ],
)  # fmt: skip
def test_bad_files_are_one_clear_line(text: str, says: str, tmp_path: Path) -> None:
    """Exit code 2; the line names the file, the table, the key, what stands there and what may."""
    path = tmp_path / "kvplan.toml"
    path.write_text(text)
    code, stdout, stderr = run("check", str(path))

    assert (2, "") == (code, stdout), stdout
    assert 1 == len(stderr.splitlines())
    assert str(path) in stderr
    assert says.replace("{}", str(path)) in stderr


def test_no_file(tmp_path: Path) -> None:
    """Said as it is; and typed errors in Python."""
    assert "No such file" in run("check", str(tmp_path / "none.toml"))[2]
    assert 2 == run("check", str(tmp_path))[0]
    with pytest.raises(KvplanError):
        kvplan.check(tmp_path / "none.toml")
    with pytest.raises(UnknownName):
        kvplan.check(written(tmp_path, f"{LLAMA}colour = 3"))


# --- what CI reads -------------------------------------------------------------------------------------------------------

BROKEN = f"""# a comment
[defaults]
context = "8k"

[[budget]]
name = "a|b, c: 100%"
{LLAMA}fits_on = "t4"
max_kv_bytes_per_token = 1

[[budget]]
name = "fine"
{LLAMA}kv_bytes_per_token = 131072
"""


def test_annotations_stand_at_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One `::error` per broken assertion with file, line and an escaped title; a summary table where GitHub wants one."""
    (tmp_path / "ci").mkdir()
    path = tmp_path / "ci/kvplan.toml"
    path.write_text(BROKEN)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, stdout, _ = run("check", str(path), "--github")
    commands = [line for line in stdout.splitlines() if line.startswith("::")]

    assert 1 == code
    assert 2 == len(commands)
    lines = BROKEN.splitlines()
    for command, key in zip(commands, ("fits_on", "max_kv_bytes_per_token"), strict=True):
        number = next(i for i, line in enumerate(lines, 1) if line.startswith(key))
        assert command.startswith(f"::error file=ci/kvplan.toml,line={number},title=kvplan%3A a|b%2C c%3A 100%25::")
        assert f"a|b, c: 100%25: {key}" in command
    summary = (tmp_path / "summary.md").read_text()
    assert "2 of 3 assertions broken, in 1 budget of kvplan.toml" in summary
    assert "| ✔ | fine | kv_bytes_per_token |" in summary
    assert "a\\|b, c: 100%" in summary
    path.write_text("[[budget]]\nx = 1")
    code, stdout, _ = run("check", str(path), "--github")
    assert 2 == code
    assert stdout.startswith("::error file=ci/kvplan.toml,title=kvplan::")


def test_a_file_laid_out_otherwise_has_no_lines(tmp_path: Path) -> None:
    """Inline tables and headers within texts: no line rather than a wrong one."""
    path = tmp_path / "kvplan.toml"
    path.write_text('budget = [{model = "llama-3.1-8b", max_kv_bytes = 1}]')
    assert [None] == [f.line for f in check(path).findings]
    path.write_text(f'[[budget]]\nname = """x\n[[budget]]\n"""\n{LLAMA}max_kv_bytes = 1')
    assert [None] == [f.line for f in check(path).findings]
    path.write_text(f"[[budget]]\n{LLAMA}max_kv_bytes = 1\n[budget.engine_options]\n[other]\nmax_kv_bytes = 1")
    with pytest.raises(UnknownName, match="other"):
        check(path)


def test_junit(tmp_path: Path) -> None:
    """A test case per assertion, a failure per broken one, in XML that parses whatever the names are."""
    path = tmp_path / "kvplan.toml"
    path.write_text(BROKEN.replace("fine", '<fine> \\u0001 & \\"co\\"'))
    assert 1 == run("check", str(path), "--junit", str(tmp_path / "report.xml"))[0]
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()[0]

    assert ("3", "2", "0") == (suite.get("tests"), suite.get("failures"), suite.get("errors"))
    assert ["fits_on on t4-16gb", "max_kv_bytes_per_token", "kv_bytes_per_token"] == [c.get("name") for c in suite]
    assert [1, 1, 0] == [len(case) for case in suite]
    assert "allowed at most 1 B" in str(suite[1][0].get("message"))
    assert '<fine> \\x01 & "co"' == suite[2].get("classname")
    code, _, stderr = run("check", str(path), "--junit", str(tmp_path / "no/report.xml"))
    assert (2, 1) == (code, len(stderr.splitlines()))


def test_json_and_markdown(tmp_path: Path) -> None:
    """Every finding, with its numbers."""
    path = tmp_path / "kvplan.toml"
    path.write_text(BROKEN)
    data = json.loads(run("check", str(path), "--json")[1])

    assert check(path).to_dict() == data
    assert [False, False, True] == [finding["holds"] for finding in data["findings"]]
    assert (131_072, 1) == (data["findings"][1]["value"], data["findings"][1]["bound"])
    assert 3 + 2 == sum(line.startswith("|") for line in run("check", str(path), "--markdown")[1].splitlines())


def test_the_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/data/kvplan.toml is read, holds after an update, and is found without being named."""
    shutil.copy(DATA / "kvplan.toml", tmp_path)
    (tmp_path / "configs").mkdir()
    shutil.copy(DATA / "configs/google__gemma-3-12b-it.json", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)

    assert 0 == run("check", "--update")[0]
    assert 0 == run("check")[0]
    # printed elsewhere: 128 Ki tokens of Gemma 3 12B keep 8,925,478,912 bytes
    kept = json.loads((tmp_path / "kvplan-baseline.json").read_text())["budgets"]["long documents"]
    assert 8_925_478_912 == kept["kv_bytes_per_sequence"]


# --- the action ----------------------------------------------------------------------------------------------------------


def step(name: str) -> dict[str, Any]:
    """A step of action.yml."""
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    found: dict[str, Any] = next(s for s in steps if s["name"] == name)
    return found


def acted(name: str, folder: Path, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a step as a GitHub runner does: its variables filled in, its script in bash -eo pipefail."""
    found = step(name)
    env = {key: values[text.removeprefix("${{ ").removesuffix(" }}")] for key, text in found["env"].items()}
    assert "${{" not in found["run"]  # inputs are no part of the script
    script = folder / "step.sh"
    script.write_text(found["run"])
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "PYTHONPATH")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        capture_output=True, text=True, check=False, cwd=folder / "repository",
        env=keep | env | {"RUNNER_TEMP": str(folder), "GITHUB_ACTIONS": "true", "PYTHONUTF8": "1",
                          "GITHUB_WORKSPACE": str(folder / "repository"), "GITHUB_STEP_SUMMARY": str(folder / "summary")},
    )  # fmt: skip


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """A runner's temporary folder with kvplan where the install step puts it, and a repository beside it."""
    (tmp_path / "kvplan/bin").mkdir(parents=True)
    command = tmp_path / "kvplan/bin/kvplan"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m kvplan "$@"\n')
    command.chmod(0o755)
    (tmp_path / "repository").mkdir()
    return tmp_path


@pytest.mark.parametrize(("bound", "code"), [("131072", 0), ("131071", 1), ("'many'", 2)])
def test_the_action_fails_where_a_budget_is_broken(bound: str, code: int, runner: Path) -> None:
    """The step's own script, in bash: exit code, annotations, summary and the report that was asked for."""
    written(runner / "repository", f'name = "chat"\n{LLAMA}max_kv_bytes_per_token = {bound}')
    done = acted("Check budgets", runner, {"inputs.file": "kvplan.toml", "inputs.junit": "report.xml"})

    assert code == done.returncode, done.stderr
    assert ("::error file=kvplan.toml," in done.stdout) == (code > 0)
    assert (code < 2) == (runner / "repository/report.xml").exists() == (runner / "summary").exists()
    done = acted("Check budgets", runner, {"inputs.file": "kvplan.toml", "inputs.junit": ""})
    assert code == done.returncode


def test_the_action_takes_inputs_as_words(runner: Path) -> None:
    """A file's name with blanks, quotes or a command in it is a name."""
    name = "my $(touch hacked) 'budgets'.toml"
    written(runner / "repository", f"{LLAMA}max_kv_bytes_per_token = 131072").rename(runner / "repository" / name)
    done = acted("Check budgets", runner, {"inputs.file": name, "inputs.junit": ""})

    assert 0 == done.returncode, done.stderr
    assert [name] == os.listdir(runner / "repository")
    assert 2 == acted("Check budgets", runner, {"inputs.file": "--help.toml", "inputs.junit": ""}).returncode


def test_the_action_installs_its_own_checkout(runner: Path) -> None:
    """An environment in RUNNER_TEMP, and pip install of the action's path into it."""
    fake = runner / "python"
    inner = '#!/bin/sh\necho "$@" >> "$RUNNER_TEMP/calls"\n'
    fake.write_text(f'{inner}[ "$2" != venv ] || cp "$0" "$3/bin/python"\n')
    fake.chmod(0o755)
    done = acted(
        "Install kvplan", runner, {"github.action_path": "/the/action", "steps.python.outputs.python-path": str(fake)}
    )

    assert 0 == done.returncode, done.stderr
    venv, pip = (runner / "calls").read_text().splitlines()
    assert f"-m venv {runner}/kvplan" == venv
    assert pip.startswith("-m pip install")
    assert pip.endswith(" /the/action")
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert "composite" == action["runs"]["using"]
    # what is installed is the distribution beside action.yml
    assert 'name = "kvplan"' in (ROOT / "pyproject.toml").read_text()
    assert (3, 11) <= tuple(map(int, action["inputs"]["python-version"]["default"].split(".")))


def test_six_lines_to_paste() -> None:
    """The README's workflow is six lines of YAML that check out, and run this action."""
    text = (ROOT / "README.md").read_text()
    block = next(b for b in text.split("```yaml\n")[1:] if "kvplan" in b).split("```")[0]
    workflow = yaml.safe_load(block)

    assert 6 == len(block.splitlines())
    steps = next(iter(workflow["jobs"].values()))["steps"]
    assert steps[0]["uses"].startswith("actions/checkout@")
    assert steps[1]["uses"].partition("@")[0].endswith("/kvplan")
    assert set(steps[1].get("with", {})) <= set(yaml.safe_load((ROOT / "action.yml").read_text())["inputs"])
    assert True in workflow or "on" in workflow  # YAML 1.1 reads `on` as true


@pytest.mark.parametrize(
    "figure", ["1" + "0" * 400, "1" + "0" * 5000, "-1" + "0" * 31, "true", "1.5", "1e400", "NaN", '"1"', "[1]"]
)
def test_a_baseline_with_what_is_no_figure_is_one_line(tmp_path: Path, figure: str) -> None:
    """Integers that no float holds were a traceback when they were shown."""
    path = written(tmp_path, f'name = "a"\n{LLAMA}within = "1%"')
    (tmp_path / "kvplan-baseline.json").write_text(f'{{"schema": 1, "budgets": {{"a": {{"parameters": {figure}}}}}}}')
    code, stdout, stderr = run("check", str(path))
    assert (2, "", 1) == (code, stdout, len(stderr.splitlines()))
    assert "kvplan-baseline.json: baseline" in stderr
