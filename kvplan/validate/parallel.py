"""Tensor and pipeline parallel for real: every rank a process, its bytes against the prediction for that rank.

The parent starts ``torchrun`` (gloo on CPUs, NCCL on GPUs); each rank runs its heads of its stage's layers, and rank 0
compares: the last stage's logits with the whole model's in one process, then bytes of every rank.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kvplan.errors import Unsupported
from kvplan.planner import on_gpu
from kvplan.validate.cases import SHAPE, Case
from kvplan.validate.checks import TOLERANCE, built
from kvplan.validate.measure import storage_bytes
from kvplan.validate.records import Row
from kvplan.validate.transformer import Ranks

__all__ = ["parallel_cases", "run_parallel"]

# scheme -> shapes of the grid (tp, pp). With 2 KV heads over 4 ranks and 1 over 2, heads are copied.
GRIDS: dict[str, tuple[tuple[int, int], ...]] = {
    "mha": ((2, 1), (4, 1), (1, 2), (2, 2), (1, 4)),
    "gqa:2": ((2, 1), (4, 1), (2, 2)),
    "mqa": ((2, 1), (4, 1)),
    "cla:2": ((2, 1), (1, 2), (2, 2)),
    "cla:3+window:8": ((2, 1), (1, 2)),
    "lckv:w=2": ((2, 1), (4, 1)),
    "yoco:window=8": ((2, 1), (1, 2)),
    "owners:0_0_0_3_3_3": ((1, 2), (2, 2)),
    "window:8@2:1": ((4, 1), (1, 2)),
    "mla:latent=24,rope=8": ((2, 1), (4, 1), (2, 2)),
    "tpa:q=3,k=2,v=2": ((2, 1), (4, 1)),
    "lowrank:k=24,v=20": ((2, 1),),
    "linear": ((2, 1), (2, 2)),
    "int4:g=16": ((2, 1), (4, 1)),
    "budget:8": ((2, 1),),
}


def parallel_cases(processes: int, schemes: Collection[str] = ()) -> list[Case]:
    """The configurations that take as many processes; of some schemes alone where they are named."""
    return [
        Case(
            {**SHAPE, "scheme": None if scheme == "mha" else scheme, "dtype": "fp32", "batch": 2, "tp": tp, "pp": pp},
            13,
        )
        for scheme, grids in GRIDS.items()
        for tp, pp in grids
        if tp * pp == processes and (not schemes or scheme in schemes)
    ]


def run_parallel(processes: int, device: str, schemes: Collection[str] = ()) -> list[Row]:
    """Rows of every configuration (of these schemes) of so many processes. Raises Unsupported where torchrun fails."""
    if device == "cuda" and torch.cuda.device_count() < processes:
        note = f"{processes} ranks need as many GPUs; {torch.cuda.device_count()} are here"
        return [Row(f"{processes} ranks on GPUs", {}, "run", None, None, "skipped", note)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", "kvplan.validate.parallel", device, str(place), *schemes]
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
        if done.returncode or not place.exists():
            lines = (
                [line for line in done.stderr.splitlines() if "Error" in line]
                or done.stderr.splitlines()
                or ["no message"]
            )
            raise Unsupported(f"torchrun with {processes} processes failed: {lines[-1][:300]}")
        return [Row(**row) for row in json.loads(place.read_text())]


# --- in a rank -------------------------------------------------------------------------------------------------------


class Rank:
    """One process: its place in the grid, and the model it holds."""

    def __init__(self, case: Case, device: str) -> None:
        self.tp, self.pp = int(case.plan["tp"]), int(case.plan["pp"])
        self.stage, within = divmod(dist.get_rank(), self.tp)
        groups = [dist.new_group(list(range(s * self.tp, (s + 1) * self.tp))) for s in range(self.pp)]
        self.case, self.device = case, device
        # where layers lie is kvplan's choice; what they take there is not asked
        whole = built(case, device)
        self.stages = whole.answer(case.context).stages
        ranks = Ranks(self.tp, within, groups[self.stage])
        self.made = built(case, device, ranks=ranks, layers=self.stages[self.stage].layers)
        self.model, self.reference = self.made.model, whole.model

    def run(self, tokens: Tensor, first: bool) -> Tensor | None:
        """Logits on the last stage: hidden states come from the stage before and go to the one behind."""
        m = self.model
        if self.stage:
            x = self._receive(dist.get_rank() - self.tp)
        else:
            x = torch.nn.functional.embedding(tokens if first else tokens[:, None], m.embedding)
        x = m.prompt(x) if first else m.through(x)
        if self.stage + 1 < self.pp:
            shape = torch.tensor(x.shape, device=x.device)
            dist.send(shape, dist.get_rank() + self.tp)
            dist.send(x.contiguous(), dist.get_rank() + self.tp)
            return None
        return m.logits(x)

    def _receive(self, source: int) -> Tensor:
        shape = torch.zeros(3, dtype=torch.long, device=self.device)
        dist.recv(shape, source)
        x = torch.zeros(*shape.tolist(), dtype=self.model.dtype, device=self.device)
        dist.recv(x, source)
        return x


@torch.no_grad()
def check(case: Case, device: str) -> Iterator[Row]:
    """The rows of one configuration; every rank takes part, what rank 0 yields counts."""
    rank = Rank(case, device)
    case_tokens = torch.randint(
        0,
        rank.made.spec.vocab,
        (int(case.plan["batch"]), case.context + case.steps),
        generator=torch.Generator().manual_seed(7),
    ).to(device)
    model = rank.model
    model.forget()
    wanted = [rank.reference.prefill(case_tokens[:, : case.context])]
    got = [rank.run(case_tokens[:, : case.context], True)]
    held = [storage_bytes(model.cache_tensors())]
    for i in range(case.steps):
        wanted.append(rank.reference.step(case_tokens[:, case.context + i]))
        got.append(rank.run(case_tokens[:, case.context + i], False))
    held.append(storage_bytes(model.cache_tensors()))
    error = 0.0
    if got[0] is not None:
        made, right = torch.stack([g for g in got if g is not None], 1), torch.stack(wanted, 1)
        error = float(((made - right).norm() / right.norm()).item())
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (rank.stage, error, held))
    worst = max(error for _, error, _ in everyone)
    asked = {**case.plan, "context": case.context}
    limit = TOLERANCE["fp32"]
    if not worst <= limit:
        yield Row(
            case.name, asked, "correct", limit, worst, "failed", "logits of all ranks together, and of one process"
        )
        return
    yield Row(case.name, asked, "correct", limit, worst, "exact", "logits of all ranks together, and of one process")
    for moment, context in enumerate((case.context, case.context + case.steps)):
        answer = rank.made.answer(context)
        asked = {**case.plan, "context": context}
        fullest = max(bytes_[moment] for _, _, bytes_ in everyone)
        right = fullest == answer.bytes_per_gpu
        yield Row(case.name, asked, "kv.bytes_per_gpu", answer.bytes_per_gpu, fullest, "exact" if right else "wrong")
        for number, (stage, _, bytes_) in enumerate(everyone):
            size = answer.settings.batch * on_gpu(answer.spec, answer.stages[stage].lean.at(context))
            verdict = "exact" if size == bytes_[moment] else "wrong"
            yield Row(case.name, asked, f"kv bytes of rank {number}", size, bytes_[moment], verdict)


def main(device: str, place: str, *schemes: str) -> None:
    """What torchrun starts: every configuration of this many processes, or those of some schemes."""
    torch.set_num_threads(1)
    if device == "cuda":
        # before NCCL looks for a device, so that no two ranks take the first
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    rows = [row for case in parallel_cases(dist.get_world_size(), schemes) for row in check(case, device)]
    if dist.get_rank() == 0:
        Path(place).write_text(json.dumps([row._asdict() for row in rows]))
    dist.barrier(device_ids=[torch.cuda.current_device()] if device == "cuda" else None)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
