"""vLLM 0.33 and the releases before it: a pool of blocks that groups of layers share."""

from __future__ import annotations

from kvplan.engines import Engine, Option
from kvplan.engines.policy import Policy
from kvplan.engines.vllm.memory import room
from kvplan.engines.vllm.policy import admits, caches, most, pool, states
from kvplan.engines.vllm.versions import NEWEST, VERSIONS, parse, rules

__all__ = ["ENGINE", "at"]

DTYPES = ("auto", "float32", "float16", "bfloat16")
# vLLM's names of cache formats, and the format whose elements each stores; scales are the layout's own.
CACHE_NAMES = (
    ("bfloat16", "bf16"),
    ("float16", "fp16"),
    ("fp8", "fp8_e4m3"),
    ("fp8_e4m3", "fp8_e4m3"),
    ("fp8_e5m2", "fp8_e5m2"),
    ("fp8_inc", "fp8_e4m3"),
    ("fp8_ds_mla", "fp8_s128"),
    ("fp8_per_token_head", "fp8_e4m3"),
    ("int8_per_token_head", "i8"),
    ("int4_per_token_head", "int4"),
    ("nvfp4", "nvfp4"),
    ("nvfp4_ds_mla", "nvfp4"),
)

OPTIONS = (
    Option("max_model_len", "count", "tokens of a request (--context)", common="context"),
    Option("block_size", "count", "tokens of a block, where nothing makes it longer", common="block_size"),
    Option(
        "gpu_memory_utilization",
        "share",
        "share of the GPU's memory for weights, activations and blocks",
        common="gpu_memory_utilization",
    ),
    Option(
        "kv_cache_dtype",
        "word",
        "format of the cache",
        ("auto", *(name for name, _ in CACHE_NAMES)),
        common="kv_dtype",
    ),
    Option("kv_cache_memory_bytes", "bytes", "size of the pool per GPU, whatever the GPU"),
    Option("num_gpu_blocks_override", "count", "blocks of the pool, whatever the GPU"),
    Option("max_num_batched_tokens", "count", "tokens of one step (default: by the GPU's memory)"),
    Option("max_num_seqs", "count", "sequences of one step (default: by the GPU's memory)"),
    Option("enable_prefix_caching", "flag", "blocks outlive requests; recurrent layers keep more states"),
    Option("disable_hybrid_kv_cache_manager", "flag", "windows and chunks are kept like full attention"),
    Option("decode_context_parallel_size", "count", "ranks that a sequence's blocks are split over"),
    Option("num_speculative_tokens", "count", "tokens drafted per step", least=0),
    Option("num_speculative_layers", "count", "draft layers (MTP, EAGLE) shaped like the model's last one", least=0),
    Option("async_scheduling", "flag", "a batch is scheduled while another runs"),
    Option("use_v2_model_runner", "flag", "VLLM_USE_V2_MODEL_RUNNER"),
    Option("mamba_cache_dtype", "word", "dtype of convolution states", DTYPES),
    Option("mamba_ssm_cache_dtype", "word", "dtype of recurrent states", DTYPES),
    Option("mamba_cache_mode", "word", "what prefix caching keeps of states", ("none", "align", "all")),
    Option("mamba_block_size", "count", "tokens of a Mamba-2 chunk, for mode all"),
    Option("gdn_prefill_backend", "word", "kernels of gated delta layers", ("triton", "flashinfer")),
    Option("attention_backend", "text", "e.g. FLASHINFER_MLA; says the block size of latent attention"),
    Option("enforce_eager", "flag", "no CUDA graphs"),
    Option("swap_space", "number", "GiB of host memory per GPU (V0)"),
    Option("use_v1", "flag", "VLLM_USE_V1: which engine of 0.8 to 0.10 runs"),
)


def at(version: str) -> Engine:
    """The engine of one release. Raises InvalidInput for what is no release whose rules are known."""
    parse(version)
    known = rules(version)
    summary = "a pool of blocks: windows and states share it in groups" if known.v1 else "V0: blocks of all layers"
    return ENGINE._replace(version=version.strip(), utilization=known.utilization, summary=summary)


ENGINE = Engine(
    name="vllm",
    version=NEWEST,
    summary="a pool of blocks: windows and states share it in groups",
    utilization=rules(NEWEST).utilization,
    source="vllm wheels 0.6.4.post1 to 0.33.0: v1/core, v1/kv_cache_interface.py, worker/cache_engine.py",
    paged=True,
    options=OPTIONS,
    ignores=(
        "layouts that pack pages of several sizes into one block (DeepSeek-V4 and its kin): their groups are not planned",
        "caches that vllm has no layers for are kept like full attention: budgets, pooled entries, landmarks",
        "models that plan groups of their own (Qwen4, Inkling) follow the common rules here",
    ),
    policy=Policy(caches, room, pool, admits, states, most),
    cache_names=CACHE_NAMES,
    versions=VERSIONS,
    runs_on=("NVIDIA", "AMD", "Intel", "Google"),
)
