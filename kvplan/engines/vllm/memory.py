"""From the memory of a GPU to the room for blocks: what vLLM measures when it starts, estimated where nobody can say.

``v1/worker/gpu_worker.py`` and ``utils/mem_utils.py`` of 0.33: requested = ceil(total × gpu_memory_utilization); off go
weights, context and libraries, persistent buffers, the peak of a profile run of max_num_batched_tokens, and since
0.20 the estimate of CUDA graphs.
"""

from __future__ import annotations

from math import ceil

from kvplan.engines.policy import Budget, Case, Line, Room
from kvplan.engines.vllm.layers import batched_tokens, heads_on_rank, sequences
from kvplan.engines.vllm.policy import is_v0, plan_of
from kvplan.engines.vllm.v0 import block_bytes
from kvplan.engines.vllm.versions import Rules, rules
from kvplan.num import ceildiv
from kvplan.specs import Attention, Dense, Factored, Latent, MoE

__all__ = ["capture_sizes", "room"]

MIB = 2**20
SOURCE = "vllm, v1/worker/gpu_worker.py and utils/mem_utils.py"
# Bytes per row of the sampler's profile run: logits in the model's dtype, an fp32 copy, a sorted copy, int64 indices.
SAMPLER_ROW = 2 + 4 + 4 + 8
MOE_CHUNK = 32768  # tokens that the fused experts work on at once
GRAPH_BYTES = 4 * MIB  # of one captured graph beside the activations of the first
LATENT_WORKSPACE = 65536  # rows of the chunked-prefill workspace of MLA at most
KEPT_PEAKS = 512  # per spec
NCCL_BYTES = 512 * MIB  # published: 0.1 to 1.5 GiB per rank


def room(case: Case, budget: Budget) -> Room:
    """Bytes for the pool on this stage, and what vLLM keeps back; explicit sizes need no GPU."""
    known = rules(case.version)
    given = case.option("kv_cache_memory_bytes", 0)
    override = case.option("num_gpu_blocks_override", 0)
    if override:
        size = block_bytes(case, known) if is_v0(case) else plan_of(case).block_bytes
        return Room(override * size)
    if given:
        return Room(int(given))
    if budget.memory_bytes is None or budget.weights is None:
        return Room(None)
    requested = ceil(budget.memory_bytes * budget.utilization)
    kept = _kept(case, budget.runtime_bytes, known)
    return Room(requested - budget.weights - sum(line.size for line in kept), kept)


def _kept(case: Case, runtime: int, known: Rules) -> tuple[Line, ...]:
    """What is taken of the requested share beside weights and blocks; all of it estimated."""
    compute = case.formats.compute.element_bits // 8
    layers = _layer_peak(case, known, compute)
    peak, why = max(layers, _sampler_peak(case, known))
    lines = [
        _estimate("engine/context and libraries", runtime, "CUDA context and kernels, ± 50 %"),
        _estimate("engine/activation peak", peak, f"{why}, 0.5 to 2 times that"),
    ]
    if known.graphs and not case.option("enforce_eager", False):
        sizes = capture_sizes(case, known)
        if sizes:
            first = layers[0] * sizes[-1] // max(batched_tokens(case, known), 1)
            graphs = 2 * (first + (len(sizes) - 1) * GRAPH_BYTES)
            why = f"2 modes × ({first:,} of the first + {len(sizes) - 1} graphs × {GRAPH_BYTES:,}), 0.2 to 3 times that"
            lines.append(_estimate("engine/cuda graphs", graphs, why))
    table = _rope(case, compute)
    if table:
        length = case.spec.max_context or case.context
        lines.append(_estimate("engine/rope table", table, f"{length:,} positions × rotary dims × {compute} bytes"))
    workspace = _workspace(case, known, compute)
    if workspace:
        lines.append(
            _estimate("engine/attention workspace", workspace, "buffers of the attention backend; depends on it")
        )
    if case.tp > 1 or case.pp > 1:
        lines.append(_estimate("engine/nccl and all-reduce", NCCL_BYTES, "0.1 to 1.5 GiB per rank"))
    return tuple(lines)


def _estimate(path: str, size: int, formula: str) -> Line:
    return Line(path, size, 0, formula, SOURCE, basis="estimated")


def capture_sizes(case: Case, known: Rules) -> list[int]:
    """Batch sizes that CUDA graphs are captured for: 1, 2, 4, every 8 up to 248, every 16 from 256 on.

    The largest is min(2 × max_num_seqs × tokens per decode step, 512), 1024 on Blackwell, and max_num_batched_tokens.
    """
    step = 1 + case.option("num_speculative_tokens", 0)
    most = 1024 if case.architecture.startswith("Blackwell") else 512
    largest = min(2 * sequences(case, known) * step, most, batched_tokens(case, known))
    return [size for size in (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)) if size <= largest]


def _sampler_peak(case: Case, known: Rules) -> tuple[int, str]:
    """What sampling holds at once for every sequence of a full step."""
    rows = min(batched_tokens(case, known), sequences(case, known))
    vocab = case.spec.vocab
    return rows * vocab * SAMPLER_ROW, f"sampler: {rows:,} rows × {vocab:,} × {SAMPLER_ROW} bytes"


def _layer_peak(case: Case, known: Rules, compute: int) -> tuple[int, str]:
    """The largest of what one layer of a profile run holds at once, to first order: attention, an MLP, or experts."""
    tokens, hidden = batched_tokens(case, known), case.spec.hidden
    memo: dict[object, tuple[int, str]] = case.spec.__dict__.setdefault("_vllm_peaks", {})
    key = (tokens, compute, case.tp, case.layers, _workspace_rows(case, known))
    if key in memo:
        return memo[key]
    found = [(0, "no layers")]
    for index in case.layers:
        layer = case.spec.layers[index]
        for mlp in layer.mlps:
            width = ceildiv(mlp.width, case.tp)
            if isinstance(mlp, Dense):
                size = tokens * (hidden + 3 * width) * compute
                found.append((size, f"MLP: {tokens:,} tokens × ({hidden} + 3 × {width}) × {compute} bytes"))
            elif isinstance(mlp, MoE):
                chunk, wide = min(tokens, MOE_CHUNK), max(2 * width, hidden) + width
                size = (tokens * 2 * hidden + chunk * mlp.active * wide) * compute
                each = f"{tokens:,} tokens × 2 × {hidden} + {chunk:,} × {mlp.active} experts × {wide}"
                found.append((size, f"experts: ({each}) × {compute} bytes"))
        for mixer in layer.mixers:
            if isinstance(mixer, Attention):
                local = ceildiv(mixer.heads, case.tp) + 2 * heads_on_rank(mixer.kv_heads, case.tp)
                size = tokens * (2 * hidden + local * mixer.key_dim) * compute
                each = f"{tokens:,} tokens × (2 × {hidden} + {local} × {mixer.key_dim})"
                found.append((size, f"attention: {each} × {compute} bytes"))
            elif isinstance(mixer, Latent):
                local, wide = ceildiv(mixer.heads, case.tp), mixer.nope_dim + mixer.rope_dim + mixer.value_dim
                rows = _workspace_rows(case, known)
                each = f"{rows:,} rows × {local} heads × {wide}"
                found.append((rows * local * wide * compute, f"latents expanded: {each} × {compute} bytes"))
    if len(memo) >= KEPT_PEAKS:
        memo.clear()
    memo[key] = max(found)
    return memo[key]


def _rope(case: Case, compute: int) -> int:
    """The table of cosines and sines, once per kind of layer; rotary dims are taken to be all of a key's."""
    memo: dict[str, int] = case.spec.__dict__
    if "_vllm_rotary" not in memo:
        dims = set()
        for layer in case.spec.layers:
            for mixer in layer.mixers:
                if isinstance(mixer, Attention) and mixer.cached:
                    dims.add((mixer.window is None, mixer.key_dim))
                elif isinstance(mixer, Latent):
                    dims.add((True, mixer.rope_dim))
                elif isinstance(mixer, Factored):
                    dims.add((True, mixer.dim))
        memo["_vllm_rotary"] = sum(width for _, width in dims)
    return (case.spec.max_context or case.context) * memo["_vllm_rotary"] * compute


def _workspace(case: Case, known: Rules, compute: int) -> int:
    """FlashInfer's buffer (394 MiB) where it is the default, and the rows that MLA gathers in chunked prefill."""
    memo: dict[str, Latent | None] = case.spec.__dict__
    if "_vllm_latent" not in memo:
        memo["_vllm_latent"] = next(
            (m for layer in case.spec.layers for m in layer.mixers if isinstance(m, Latent)), None
        )
    latent = memo["_vllm_latent"]
    size = 394 * MIB if case.architecture.startswith("Blackwell") and latent is None else 0
    if latent is not None:
        size += _workspace_rows(case, known) * (latent.kv_rank + latent.rope_dim) * compute
    return size


def _workspace_rows(case: Case, known: Rules) -> int:
    """Latents that one pass of a chunked prefill expands."""
    return min(max(8 * case.context, 4 * sequences(case, known) * 64), LATENT_WORKSPACE)
