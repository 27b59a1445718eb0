"""What runs on a GPU, without one: the allocator's counters are played by the sizes of tensors that lie on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from kvplan.cli import app
from kvplan.validate import boundary, checks, suite, suites
from kvplan.validate.allocator import Cuda, Host, Phase, cuda_blocks, cuda_bytes, cuda_segments
from kvplan.validate.boundary import Attempt, Boundary, attempt
from kvplan.validate.cases import SHAPE, Case, ci_cases
from kvplan.validate.checks import built
from kvplan.validate.gpu import device as first_stage
from kvplan.validate.measure import Ceilings, out_of_memory
from kvplan.validate.records import BAD, Record, Row, environment, read
from kvplan.validate.transformer import Transformer

MIB = 2**20


def sizes(model: Transformer) -> list[int]:
    """Bytes of the storages that a model's caches hold, the marks of its budgets among them."""
    victims = [store.victim for store in model.stores.values() if store.victim is not None]
    return [t.untyped_storage().nbytes() for t in (*model.cache_tensors(), *victims)]


def stats(live: list[int], reserved: int, peak: int) -> dict[str, int]:
    """``torch.cuda.memory_stats()`` as far as it is read here (its keys: torch/cuda/memory.py)."""
    return {
        "allocated_bytes.all.current": sum(map(cuda_bytes, live)),
        "allocated_bytes.all.peak": sum(map(cuda_bytes, live)) + peak,
        "requested_bytes.all.current": sum(live),
        "reserved_bytes.all.current": reserved,
        "reserved_bytes.all.peak": reserved + peak,
        "inactive_split_bytes.all.current": 0,
    }


# --- counters --------------------------------------------------------------------------------------------------------


def test_a_phase_reads_the_allocator_and_starts_a_new_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences of current amounts; the peak over what was there before."""
    calls: list[str] = []
    amounts = iter([stats([1000], 2 * MIB, 0), stats([1000, 100], 2 * MIB, 4096)])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: next(amounts))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    before = Cuda().phase()
    found = Cuda().phase().since(before)
    assert (512, 100, 0, 512 + 4096) == (found.allocated, found.requested, found.reserved, found.peak)
    assert ["synchronize", "reset"] * 2 == calls


class Played(Host):
    """Counters that are those of a model's caches, of which the last read is off by so many bytes."""

    def __init__(self, slack: int = 0, missing: int = 0) -> None:
        super().__init__()
        self.slack, self.missing, self.reads = slack, missing, 0
        self.models: list[Transformer] = []

    def phase(self) -> Phase:
        live = [size for model in self.models for size in sizes(model)]
        if self.reads == 0:  # of a cache that was emptied again
            live = []
        last, self.reads = self.reads, self.reads + 1
        return Phase(sum(map(cuda_bytes, live)) + self.slack * last, sum(live) - self.missing * last, 0, 0)


def counted(case: Case, monkeypatch: pytest.MonkeyPatch, slack: int = 0, missing: int = 0) -> dict[str, str]:
    """Verdicts of a case whose counters are played."""
    memory = Played(slack, missing)
    made = built(case, "cpu")
    memory.models.append(made.model)
    tokens = torch.zeros(int(case.plan["batch"]), case.context + case.steps, dtype=torch.long)
    rows, _ = checks._bytes(case, made, tokens, memory)
    return {row.quantity: row.verdict for row in rows}


@pytest.mark.parametrize("each", list(ci_cases())[::6], ids=lambda c: c.name)
def test_counters_of_every_kind_of_cache(each: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requested bytes exactly; blocks of 512 exactly where a part is one tensor."""
    verdicts = counted(each, monkeypatch)
    assert "exact" == verdicts["cuda requested"]
    assert verdicts["cuda allocated"] in ("exact", "within")
    if "int" not in each.name and "kivi" not in each.name and "q8" not in each.name and "q4" not in each.name:
        assert "exact" == verdicts["cuda allocated"]


def test_counters_that_are_off_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block too many, or one byte too few, of a cache of small tensors; what was there before does not count."""
    case = Case({**SHAPE, "scheme": "cla:2", "dtype": "fp32", "batch": 2}, 13)
    assert "wrong" == counted(case, monkeypatch, slack=512)["cuda allocated"]
    assert "wrong" == counted(case, monkeypatch, missing=1)["cuda requested"]


def test_the_rest_of_a_block_stays_with_a_large_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers' K and V of 1.25 MiB each: up to 1 MiB more for each, and no more."""
    case = Case({**SHAPE, "layers": 2, "scheme": None, "dtype": "fp32", "batch": 64}, 80, 1)
    assert "exact" == counted(case, monkeypatch)["cuda allocated"]
    assert "within" == counted(case, monkeypatch, slack=4 * MIB)["cuda allocated"]
    assert "wrong" == counted(case, monkeypatch, slack=4 * MIB + 512)["cuda allocated"]


def test_blocks_and_segments() -> None:
    """Nothing is allocated for nothing; exactly 1 MiB is small; 10 MiB and more have a segment of their own."""
    assert (0, 0) == cuda_blocks([0])
    assert (MIB, MIB) == cuda_blocks([MIB - 1])
    assert (MIB + 512, 2 * MIB + 512) == cuda_blocks([MIB + 1])
    assert {} == cuda_segments([0, 0])
    assert {20 * MIB: 1} == cuda_segments([10 * MIB - 512])
    assert {10 * MIB: 1} == cuda_segments([10 * MIB])
    # 11.5 MiB leave 0.5 in their 12: no more than 1 MiB is left over, so nothing is split off for the next
    assert {12 * MIB: 1, 20 * MIB: 1} == cuda_segments([11 * MIB + MIB // 2, MIB + 512])


# --- where memory ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("\"index_cuda\" not implemented for 'Float8_e5m2'"), False),
    ],
)
def test_running_out_is_told_from_breaking(error: Exception, ran_out: bool) -> None:
    """A kernel that reads beyond its memory is a bug, not the end of a search."""
    assert ran_out == out_of_memory(error)


ASKED = {**SHAPE, "scheme": "cla:2", "dtype": "fp32", "batch": 3, "context": 4000}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[Transformer]:
    """A device of 8 GiB, 600 MiB of which contexts hold; what is alive on it are the weights and caches of one model."""
    models: list[Transformer] = []

    def weights() -> list[int]:
        return [p.untyped_storage().nbytes() for m in models for p in {id(p): p for p in m.parameters()}.values()]

    def reserved() -> int:
        caches = [size for m in models for size in sizes(m)]
        return sum(size * n for held in (weights(), caches) for size, n in cuda_segments(held).items())

    def now() -> dict[str, int]:
        found = stats([*weights(), *(size for m in models for size in sizes(m))], reserved(), 5 * MIB)
        return found | {
            "inactive_split_bytes.all.current": found["reserved_bytes.all.current"]
            - found["allocated_bytes.all.current"]
        }

    def build(case: Case, device: str) -> Any:
        made = built(case, "cpu")
        models.append(made.model)
        return made

    monkeypatch.setattr(boundary, "built", build)
    monkeypatch.setattr(boundary, "seconds", lambda work, device, warm, runs: [work(i) for i in range(warm)] and 0.25)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_stats", now)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * 2**30 - 600 * MIB - reserved(), 8 * 2**30))
    return models


def test_an_attempt_tells_weights_caches_and_the_rest_apart(device: list[Transformer]) -> None:
    """3 owners, K and V each, of 3 x 4000 x 64 floats: segments of 4 MiB; the peak lies 5 MiB over what stays."""
    found = attempt(ASKED, "cuda", None)
    each = 3 * 4000 * 64 * 4
    weights = [p.untyped_storage().nbytes() for p in device[0].parameters()]
    assert found.ran
    assert sum(map(cuda_bytes, weights)) == found.weights
    assert 6 * each == found.caches
    assert {20 * MIB: 1} == cuda_segments([each] * 6)
    assert 20 * MIB == found.segments
    assert 600 * MIB == found.outside
    assert 5 * MIB == found.beside
    filled = sum(size * n for size, n in cuda_segments(weights).items())
    assert (0.25, 8 * 2**30, filled - found.weights) == (found.step, found.total, found.spare)


@pytest.mark.parametrize("where", ["built", "seconds"])
def test_an_attempt_that_runs_out_anywhere_did_not_run(
    where: str, device: list[Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While weights are made, or in a step; another error stays one."""

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(boundary, where, fail)
    assert Attempt(False) == attempt(ASKED, "cuda", None)

    def break_(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(boundary, where, break_)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        attempt(ASKED, "cuda", None)


@pytest.mark.parametrize(("limit", "verdict"), [(0, "exact"), (-20, "wrong")])
def test_a_search_on_a_gpu(limit: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that take what is predicted, weights, 600 MiB and 1 MiB a sequence end where it says; if earlier, wrong."""
    weights, outside, each, total = 100 * MIB, 600 * MIB, MIB, 8 * 2**30
    one = 6 * 2 * 4096 * 16 * 4 * 4  # six layers' K and V of 4,096 tokens, 4 heads of 16, fp32

    def run(asked: dict[str, Any], device: str, budget: int | None) -> Attempt:
        n = int(asked["batch"])
        made = cuda_segments([one // 12 * n] * 12)
        segments = sum(size * count for size, count in made.items())
        if weights + outside + segments + each * (n - limit * 8) > total:
            return Attempt(False)
        return Attempt(True, weights, one * n, each * n, outside, segments, 0, 0.01, total)

    monkeypatch.setattr(boundary, "run", run)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (total, total))
    found = boundary.boundary({**SHAPE, "scheme": None, "dtype": "fp32", "context": 4096}, "cuda", "batch")
    fits = [
        n for n in range(1, 1000)
        if weights + outside + sum(s * c for s, c in cuda_segments([one // 12 * n] * 12).items()) + each * n <= total
    ]  # fmt: skip
    assert (fits[-1], verdict) == (found.row.predicted, found.row.verdict)
    assert "contexts, libraries and workspaces 629,145,600 B" in found.row.note
    assert ["exact", "exact"] == [row.verdict for row in found.rows]


# --- suites ----------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line and exit code 2, and no record."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    place = tmp_path / "gpu.json"
    result = CliRunner().invoke(app, ["validate", "--suite", "full", "--device", "cuda", "--record", str(place)])
    assert 2 == result.exit_code
    assert f"--device: got 'cuda', allowed: cpu: torch {torch.__version__} sees no CUDA device here" in result.stderr
    assert 1 == len(result.stderr.strip().splitlines())
    assert not place.exists()


@pytest.mark.parametrize(
    ("error", "verdict", "note"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "skipped", "out of memory: OutOfMemoryError: CUDA out of memory."),
        (RuntimeError("CUDA error: device-side assert triggered\nmore"), "failed", "device-side assert triggered (broken"),
        (AssertionError(), "failed", "AssertionError (broken, line"),
    ],
)  # fmt: skip
def test_a_case_that_breaks_is_a_row(
    error: Exception, verdict: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others still run, and the summary counts it."""

    def broken(*_: Any) -> None:
        raise error

    given_back: list[str] = []
    monkeypatch.setattr(suite, "check", broken)
    monkeypatch.setattr(suite, "give_back", given_back.append)
    (row,) = suite.attempt(Case({**SHAPE, "scheme": None, "dtype": "fp32", "batch": 2}, 3), "cuda")
    assert verdict == row.verdict
    assert note in row.note
    assert ["cuda"] == given_back


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Record:
    """A record in a file, of a device that has nothing to give back."""
    monkeypatch.setattr(suites, "give_back", lambda device: None)
    return Record(environment("cpu", "full"), tmp_path / "gpu.json")


def test_the_overhead_of_a_process_is_in_the_record(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process takes outside torch before and after its first product, and its workspace; measured once."""
    taken = {"context": (100, 0), "matmul": (107, 32), "attention": (110, 32)}
    monkeypatch.setattr(suites, "firsts", lambda allocator: taken)
    suites._device_overhead(record, "cuda")
    wanted = {"context_bytes": 100, "workspace_bytes": 32, "library_bytes": 7}
    assert record.path is not None
    assert wanted == read(record.path)["notes"]["overhead"]
    taken["context"] = (200, 0)
    suites._device_overhead(record, "cuda")
    assert wanted == record.notes["overhead"]
    assert not record.rows


def test_an_overhead_that_cannot_be_measured_is_a_row(
    record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that breaks before it says anything."""
    broken = tmp_path / "firsts.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(first_stage, "Path", lambda _: broken)
    monkeypatch.setattr(suites, "Cuda", Host)
    suites._device_overhead(record, "cuda")
    (row,) = record.rows
    assert ("failed", "RuntimeError: the process that takes a first tensor ended with code 3") == (
        row.verdict,
        row.note,
    )


def test_full_goes_on_where_it_was_killed(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of full on a GPU is in the file when the next begins, and is not run again."""
    done: list[str] = []
    stop_after = 20

    def step(name: str) -> None:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(name)

    def check(case: Case, device: str) -> list[Row]:
        step(case.name)
        return [Row(case.name, case.plan, "correct", 1, 1, "exact")]

    def ranks(processes: int, device: str) -> list[Row]:
        step(f"{processes} ranks")
        return [Row(f"{processes} ranks on GPUs", {}, "run", None, None, "skipped", "one GPU")]

    def search(asked: dict[str, Any], device: str, axis: str, budget: int | None) -> Boundary:
        name = boundary._name({"batch": 1, "context": 4096} | asked, axis)
        step(name)
        return Boundary(Row(name, asked, f"max {axis}", 4, 4, "exact"), {**asked, axis: 4}, Attempt(True, step=1e3))

    def clock(asked: dict[str, Any], device: str, ceilings: Ceilings, *, prompt: bool) -> list[Row]:
        step(f"{asked['scheme']} {asked['batch']} {asked['context']}")
        return [Row(f"time: {done[-1]}", asked, "seconds of a decode step", 1e-9, 1.0, "reported")]

    def context() -> dict[str, int]:
        step("context")
        return {"context_bytes": 1}

    def measured(device: str, dtype: torch.dtype) -> Ceilings:
        step("ceilings")
        return Ceilings(1e12, 1e15)

    monkeypatch.setattr(suites, "ci_cases", lambda: list(ci_cases())[:12])
    monkeypatch.setattr(suite, "check", check)
    for name, fake in (("run_parallel", ranks), ("boundary", search), ("timed", clock), ("_context", context)):
        monkeypatch.setattr(suites, name, fake)
    monkeypatch.setattr(suites.Ceilings, "measured", measured)
    while True:
        try:
            suites.run_suite("full", record, "cuda", 1)
            break
        except KeyboardInterrupt:
            stop_after += 7
            record = Record(record.about, record.path, resume=True)
    # 12 + 8 configurations, 2 numbers of ranks, 7 + 4 searches, 7 x 3 times, the overhead and the ceilings once
    assert 12 + 8 + 2 + 11 + 21 + 2 == len(done) == len(set(done))
    assert record.path is not None
    assert len(record.rows) == len(read(record.path)["rows"])
    assert not [row for row in record.rows if row.verdict in BAD]


def test_a_ceiling_that_was_beaten_is_measured_again(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine copies slowly for a while: the higher ceiling stays, and a bound that it still beats is wrong."""
    found = iter([Ceilings(1.0, 9.0), Ceilings(8.0, 2.0)])
    monkeypatch.setattr(suites.Ceilings, "measured", lambda device, dtype: next(found))
    bound = {1.0: "wrong", 8.0: "reported"}
    monkeypatch.setattr(
        suites,
        "timed",
        lambda asked, device, ceilings, prompt: [Row("time", asked, "seconds", 1, 2, bound[ceilings.copy])],
    )
    suites._timed(record, suites.asked_of("cpu", "mha"), "cpu", prompt=False)
    assert ["reported"] == [row.verdict for row in record.rows]
    assert [8.0, 9.0] == list(record.notes["ceilings"].values())
