"""How fast `kvplan.sweep` evaluates a grid, and what a file of 100 million points costs.

    python tests/benchmarks/bench_sweep.py [--file-points 100M] [--runs 9]

Targets: gemma-3-12b (local and global layers), engine ideal, eight columns, no file, one core: at least 20 million points
per second and at least 60 % of the same arithmetic written by hand in NumPy at the same layout, median of 9 taken in
turns; 100 million points of eight columns to Parquet in less than 350 MB resident and less than 2 GB on disk. Rates are
per second of CPU time of this process, which is what one core does when nobody else wants it; wall time is beside it.
Reports, asserts nothing but that both sides computed the same.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import kvplan
from kvplan.units import parse_count

MODEL, GPU = "gemma-3-12b", "h100-80gb-sxm"
CONTEXTS, BATCHES = range(1024, 1024 + 4096 * 64, 64), range(1, 1025)
VALUES = (
    "kv_bytes_per_sequence",
    "kv_bytes",
    "kv_bytes_read_per_step",
    "prefill_flops",
    "decode_flops",
    "used_bytes_per_gpu",
    "decode_step_s",
    "tokens_per_s",
)
CHUNK, BLOCK = 2**18, 2**14


def by_sweep() -> Iterator[dict[str, Any]]:
    """The grid through the formulas of a plan."""
    yield from kvplan.sweep(MODEL, context=CONTEXTS, batch=BATCHES, gpu=GPU, columns=VALUES, chunk=CHUNK).chunks()


def by_hand() -> Iterator[dict[str, Any]]:
    """The same columns in the same chunks and blocks, every constant of this one model and GPU written out.

    Whole numbers are written as int64 and sums are folded as far as they go: what somebody would write who needed
    these eight columns of gemma-3-12b on this GPU and nothing else.
    """
    # 48 layers, every sixth one global; 8 KV heads of 256, 16 query heads, bf16; hidden 3840, MLP 15360, vocabulary 262208
    local, whole, window, entry = 40, 8, 1024, 2 * 8 * 256 * 2
    linear = 48 * (3840 * (16 + 2 * 8) * 256 + 16 * 256 * 3840 + 3 * 3840 * 15360)
    logits = 3840 * 262208
    report = kvplan.plan(MODEL, gpu=GPU)  # facts of the GPU and bytes of the weights: not part of what is measured
    answer = report.answer
    assert answer.weights is not None
    weights, streamed = answer.weights.total, answer.weights.streamed
    runtime = answer.settings.runtime_bytes
    assert answer.settings.gpu is not None
    peak = answer.settings.gpu.tflops["bf16"] * 1e12
    bandwidth = float(answer.settings.gpu.bandwidth_bytes_per_s)
    batch = np.array(BATCHES, dtype="f8")[None, :]
    contexts = np.array(CONTEXTS, dtype="f8")
    rows = CHUNK // batch.size
    sampled = batch * (262208 * 6)
    once = np.maximum(2 * linear * batch / peak, (streamed - answer.weights.logits) / bandwidth)
    once = once + np.maximum(2 * logits * batch / peak, answer.weights.logits / bandwidth)
    for start in range(0, len(contexts), rows):
        context = contexts[start : start + rows, None]
        count = context.size * batch.size
        names = ("context", "batch", *VALUES[:3], VALUES[5])
        out = {name: np.empty(count, dtype="i8" if name in names else "f8") for name in ("context", "batch", *VALUES)}
        held = np.minimum(context, window) * (local * entry) + context * (whole * entry)
        read = np.minimum(context + 1, window) * (local * entry) + (context + 1) * (whole * entry)
        head = np.minimum(context, window)
        pairs = whole * (context * (context + 1) / 2) + local * (head * (head + 1) / 2 + (context - head) * window)
        prefill = 2 * context * linear + 2 * logits + 4.0 * pairs * 16 * 256
        keys = local * np.minimum(context + 1, window) + whole * (context + 1)
        attention = 4.0 * keys * 16 * 256
        decode = 2 * linear + 2 * logits + attention
        slope = np.maximum(attention / peak, read / bandwidth)
        views = {name: values.reshape(context.size, batch.size) for name, values in out.items()}
        views["context"][...] = context.astype("i8")
        views["batch"][...] = batch.astype("i8")
        views["kv_bytes_per_sequence"][...] = held.astype("i8")
        height = BLOCK // batch.size
        for top in range(0, context.size, height):
            part = slice(top, top + height)
            np.multiply(held[part], batch, out=views["kv_bytes"][part], casting="unsafe")
            np.multiply(read[part], batch, out=views["kv_bytes_read_per_step"][part], casting="unsafe")
            np.multiply(prefill[part], batch, out=views["prefill_flops"][part])
            np.multiply(decode[part], batch, out=views["decode_flops"][part])
            tokens = np.minimum(context[part] * batch, 8192)
            tokens *= (2 * 3840 + 3 * 15360) * 2
            used = np.maximum(tokens, sampled)
            used += held[part] * batch
            np.add(used, weights + runtime, out=views["used_bytes_per_gpu"][part], casting="unsafe")
            seconds = views["decode_step_s"][part]
            np.multiply(slope[part], batch, out=seconds)
            np.add(seconds, once, out=seconds)
            np.divide(batch, seconds, out=views["tokens_per_s"][part])
        yield out


def agree() -> None:
    """Both sides give the same: whole numbers equal, floats to 1e-12."""
    for ours, theirs in zip(by_sweep(), by_hand(), strict=True):
        assert list(ours) == list(theirs)
        for name, values in ours.items():
            if values.dtype.kind == "f" and name != "used_bytes_per_gpu":
                np.testing.assert_allclose(values, theirs[name], rtol=1e-12, err_msg=name)
            else:
                np.testing.assert_array_equal(values, theirs[name], err_msg=name)


def measured(chunks: Iterator[dict[str, Any]]) -> tuple[float, float]:
    """(million points per second of CPU, of wall time) of walking through all chunks."""
    cpu, wall, points = time.process_time(), time.perf_counter(), 0
    for columns in chunks:
        points += len(columns["kv_bytes"])
    return points / (time.process_time() - cpu) / 1e6, points / (time.perf_counter() - wall) / 1e6


def throughput(runs: int) -> None:
    """Both sides in turns."""
    agree()
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(measured(by_sweep()))
        theirs.append(measured(by_hand()))
    points = len(CONTEXTS) * len(BATCHES)
    cpu, hand = (statistics.median(rate for rate, _ in side) for side in (ours, theirs))
    wall = statistics.median(rate for _, rate in ours)
    ratio = statistics.median(a / b for (a, _), (b, _) in zip(ours, theirs, strict=True))
    print(f"{MODEL} on {GPU}, {points:,} points, eight columns and two keys, no file; load {os.getloadavg()[0]:.1f}")
    print(f"kvplan.sweep: {cpu:.1f} million points per CPU second (target: 20), {wall:.1f} per second of wall time")
    print(f"by hand:      {hand:.1f} million points per CPU second")
    print(f"median of {runs} ratios: {ratio:.2f} (target: at least 0.60)")


def grid(points: int) -> dict[str, Any]:
    """The axes of a grid of about so many points, for the API."""
    rows = max(points // len(BATCHES), 1)
    return {"context": range(64, 64 + 64 * rows, 64), "batch": BATCHES, "gpu": GPU, "columns": VALUES}


def write_file(points: int, folder: Path) -> None:
    """In a process of its own: the sweep to Parquet, time and peak memory."""
    start, cpu = time.perf_counter(), time.process_time()
    kvplan.sweep(MODEL, **grid(points), output=folder / "grid.parquet")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"kvplan.sweep to Parquet: {took:.0f} s of wall time, {cpu:.0f} s of CPU; peak {peak / 1e6:.0f} MB resident (target: 350)"
    )


def write_memory(points: int, folder: Path) -> None:
    """In a process of its own: the same columns, already in memory chunk by chunk, to Parquet; only writing is timed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spent = busy = 0.0
    asked = kvplan.sweep(MODEL, **grid(points))
    writer = None
    for columns in asked.chunks():
        rows = pa.table({n: v.astype("i8") if n == "used_bytes_per_gpu" else v for n, v in columns.items()})
        start, cpu = time.perf_counter(), time.process_time()
        if writer is None:
            writer = pq.ParquetWriter(
                folder / "memory.parquet",
                rows.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=["context", "batch"],
                use_byte_stream_split=list(VALUES),
            )
        writer.write_table(rows)
        spent, busy = spent + time.perf_counter() - start, busy + time.process_time() - cpu
    assert writer is not None
    writer.close()
    size = (folder / "memory.parquet").stat().st_size
    print(
        f"the same columns from memory to Parquet: {spent:.0f} s of wall time, {busy:.0f} s of CPU, {size / 1e9:.2f} GB"
    )


def file(points: int) -> None:
    """Both ways of writing, one after the other, and what lies on disk meanwhile."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        child = subprocess.Popen([sys.executable, __file__, "--write", str(points), name])
        peak = 0
        while child.poll() is None:
            sizes = []
            for path in folder.rglob("*"):
                try:
                    sizes.append(path.stat().st_size)
                except OSError:  # removed meanwhile
                    continue
            peak = max(peak, sum(sizes))
            time.sleep(0.5)
        assert child.returncode == 0
        size = (folder / "grid.parquet").stat().st_size
        print(f"{size / 1e9:.2f} GB on disk (target: 2 GB); {peak / 1e9:.2f} GB while parts are joined")
        subprocess.run([sys.executable, __file__, "--write-memory", str(points), name], check=True)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--file-points", default="100000000", help="0: no file")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--write-memory", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write or args.write_memory:
        points, folder = args.write or args.write_memory
        (write_file if args.write else write_memory)(int(points), Path(folder))
        return
    throughput(args.runs)
    points = parse_count(args.file_points, "--file-points", least=0)
    if points:
        print(f"{points // len(BATCHES) * len(BATCHES):,} points of the same columns to a file:", flush=True)
        file(points)


if __name__ == "__main__":
    main()
