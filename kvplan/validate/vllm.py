"""vLLM's own planning code run on random models, against what engine ``vllm`` says of them.

The functions come from ``vllm.v1.core.kv_cache_planning``, the specs from ``vllm.v1.kv_cache_interface``, shapes of states
and the alignment of hybrid blocks from vLLM too; none of it needs a GPU. Only what a model's layers are is read from
its configuration here, by hand. Needs ``pip install vllm==0.33.0`` (or its wheel on the path, with what it imports).
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from importlib import import_module, metadata
from types import SimpleNamespace
from typing import Any
from unittest import mock

from kvplan.api import plan
from kvplan.errors import InvalidInput, MissingExtra
from kvplan.validate.records import Row

__all__ = ["QUANTITIES", "cases", "compare", "measured", "predicted", "versions"]

QUANTITIES = (
    "num_gpu_blocks",
    "block_size",
    "bytes_per_block",
    "blocks_per_request",
    "needed_bytes",
    "kv_cache_size_tokens",
    "max_concurrency",
    "estimated_max_model_len",
    "group_sizes",
    "group_block_sizes",
)
KINDS = ("dense", "window", "heads", "chunk", "latent", "sparse", "delta", "mamba2", "mamba", "kimi")
GIB = 2**30


def versions() -> dict[str, str]:
    """The version that answers. Raises MissingExtra without it."""
    try:
        return {"vllm": metadata.version("vllm")}
    except metadata.PackageNotFoundError:
        raise MissingExtra("kvplan validate --reference vllm", "vllm", "or pip install vllm==0.33.0") from None


# --- random models ---------------------------------------------------------------------------------------------------


def cases(count: int, seed: int) -> list[dict[str, Any]]:
    """Arguments of ``kvplan.plan``: models of each kind of layers, pools and flags around the edges of blocks."""
    rng = random.Random(seed)
    return [_case(rng, rng.choice(KINDS)) for _ in range(count)]


def _case(rng: random.Random, kind: str) -> dict[str, Any]:
    tp, pp = rng.choice((1, 1, 2, 4)), rng.choice((1, 1, 1, 2))
    config = CONFIGS[kind](rng, pp)
    window = config.get("sliding_window") or config.get("attention_chunk_size") or 1024
    batched = rng.choice((1, 16, 512, 2048, 8192, 16384))
    length = max(
        1, rng.choice((window, window + batched, 8192, 40960, 131072, rng.randint(1, 200000))) + rng.randint(-2, 2)
    )
    options: dict[str, Any] = {
        "kv_cache_memory_bytes": int(rng.choice((1, 4, 24, 70)) * GIB * rng.uniform(0.3, 1.0)),
        "max_num_batched_tokens": batched,
    }
    if rng.random() < 0.3:
        options["block_size"] = rng.choice((16, 32, 64, 128, 256))
    if rng.random() < 0.2:
        options["async_scheduling"] = rng.random() < 0.5
    if rng.random() < 0.2:
        options["num_gpu_blocks_override"] = rng.randint(1, 20000)
    if kind in ("window", "heads", "chunk"):
        options["disable_hybrid_kv_cache_manager"] = rng.random() < 0.3
    if kind in ("delta", "mamba2", "mamba", "kimi"):
        options["enable_prefix_caching"] = rng.random() < 0.5
        options["num_speculative_tokens"] = rng.choice((0, 0, 1, 3))
        if rng.random() < 0.05:
            options["disable_hybrid_kv_cache_manager"] = True  # which vLLM refuses beside states
        if rng.random() < 0.5:
            options["mamba_ssm_cache_dtype"] = rng.choice(("float32", "bfloat16"))
    if kind not in ("mamba", "mamba2", "chunk") and rng.random() < 0.25:
        options["num_speculative_layers"] = rng.randint(1, 3)
    if kind in ("dense", "latent") and rng.random() < 0.3:
        options["decode_context_parallel_size"] = rng.choice((2, 4))
        tp, config["num_key_value_heads"] = 8, rng.choice((1, 2)) if kind == "dense" else 16
    dtypes = ("bf16", "fp8") if kind not in ("sparse",) else ("bf16", "fp8_ds_mla")
    return {
        "model": config,
        "context": length,
        "tp": tp,
        "pp": pp,
        "kv_dtype": rng.choice(dtypes),
        "engine": "vllm",
        "engine_options": options,
    }


def _base(rng: random.Random, pp: int, kind: str) -> dict[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": pp * rng.randint(4, 20),
        "hidden_size": 1024,
        "intermediate_size": 512,
        "num_attention_heads": 16,
        "num_key_value_heads": rng.choice((1, 2, 4, 8, 16)),
        "head_dim": rng.choice((64, 128, 256)),
        "vocab_size": 1000,
        "max_position_embeddings": 1048576,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": True,
    }


def _dense(rng: random.Random, pp: int) -> dict[str, Any]:
    return _base(rng, pp, "qwen3")


def _pattern(rng: random.Random, layers: int, one: str, other: str) -> list[str]:
    """Every few layers another kind, or any mixture with both."""
    every = rng.randint(2, 6)
    if rng.random() < 0.7:
        made = [other if i % every == every - 1 else one for i in range(layers)]
    else:
        made = [rng.choice((one, other)) for _ in range(layers)]
    return [one, *made[1:-1], other]


def _window(rng: random.Random, pp: int) -> dict[str, Any]:
    config = _base(rng, pp, "gemma3_text") | {"sliding_window": rng.choice((1, 17, 128, 512, 1024, 4096))}
    return config | {
        "layer_types": _pattern(rng, config["num_hidden_layers"], "sliding_attention", "full_attention"),
        "query_pre_attn_scalar": 128,
    }


def _heads(rng: random.Random, pp: int) -> dict[str, Any]:
    config = _window(rng, pp) | {"model_type": "gemma4_text", "global_head_dim": rng.choice((128, 192, 256, 512))}
    return config | {
        "num_global_key_value_heads": rng.choice((1, 2, 4, 8)),
        "num_kv_shared_layers": 0,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": False,
    }


def _chunk(rng: random.Random, pp: int) -> dict[str, Any]:
    config = _base(rng, pp, "llama4_text") | {"attention_chunk_size": rng.choice((64, 1024, 8192))}
    kinds = _pattern(rng, config["num_hidden_layers"], "chunked_attention", "full_attention")
    return config | {
        "layer_types": kinds,
        "no_rope_layers": [int(kind == "chunked_attention") for kind in kinds],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 512,
        "interleave_moe_layer_step": 1,
    }


def _latent(rng: random.Random, pp: int) -> dict[str, Any]:
    return _base(rng, pp, "deepseek_v3") | {
        "kv_lora_rank": rng.choice((256, 512)),
        "qk_rope_head_dim": rng.choice((32, 64)),
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "q_lora_rank": 512,
        "num_key_value_heads": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 64,
        "first_k_dense_replace": 1,
    }


def _sparse(rng: random.Random, pp: int) -> dict[str, Any]:
    latent = _latent(rng, pp) | {"model_type": "deepseek_v32", "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    return latent | {"index_head_dim": 128, "index_n_heads": 4, "index_topk": 2048}


def _delta(rng: random.Random, pp: int) -> dict[str, Any]:
    config = _base(rng, pp, "qwen3_next")
    return config | {
        "layer_types": _pattern(rng, config["num_hidden_layers"], "linear_attention", "full_attention"),
        "linear_num_key_heads": rng.choice((8, 16)),
        "linear_num_value_heads": rng.choice((16, 32)),
        "linear_key_head_dim": 128,
        "linear_value_head_dim": rng.choice((64, 128)),
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
    }


def _mamba2(rng: random.Random, pp: int) -> dict[str, Any]:
    config = _base(rng, pp, "granitemoehybrid")
    heads = rng.choice((16, 32, 64))
    return config | {
        "layer_types": _pattern(rng, config["num_hidden_layers"], "mamba", "attention"),
        "head_dim": None,
        "mamba_n_heads": heads,
        "mamba_d_head": 2 * config["hidden_size"] // heads,
        "mamba_d_state": rng.choice((64, 128)),
        "mamba_n_groups": rng.choice((1, 2, 8)),
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 512,
    }


def _mamba(rng: random.Random, pp: int) -> dict[str, Any]:
    config = _base(rng, pp, "jamba")
    period = rng.choice((2, 4))
    return config | {
        "head_dim": None,
        "num_hidden_layers": pp * period * rng.randint(1, 4),
        "attn_layer_period": period,
        "attn_layer_offset": rng.randrange(period),
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": 64,
    }


def _kimi(rng: random.Random, pp: int) -> dict[str, Any]:
    config = _latent(rng, pp) | {"model_type": "kimi_linear", "q_lora_rank": None}
    kinds = _pattern(rng, config["num_hidden_layers"], "linear", "full")
    heads = rng.choice((16, 32))
    return config | {
        "linear_attn_config": {
            "full_attn_layers": [i + 1 for i, kind in enumerate(kinds) if kind == "full"],
            "kda_layers": [i + 1 for i, kind in enumerate(kinds) if kind == "linear"],
            "head_dim": 128,
            "num_heads": heads,
            "short_conv_kernel_size": 4,
        },
        "num_experts": 4,
        "num_experts_per_token": 2,
        "num_shared_experts": 1,
        "moe_layer_freq": 1,
    }


CONFIGS = {
    "dense": _dense,
    "window": _window,
    "heads": _heads,
    "chunk": _chunk,
    "latent": _latent,
    "sparse": _sparse,
    "delta": _delta,
    "mamba2": _mamba2,
    "mamba": _mamba,
    "kimi": _kimi,
}


# --- vLLM's answer ---------------------------------------------------------------------------------------------------


class _Layers:
    """The layers of a configuration as vLLM's specs, by hand: names in order, and the states that blocks align with."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.c, self.o = asked["model"], asked["engine_options"]
        self.tp = asked["tp"]
        torch = import_module("torch")
        self.api = import_module("vllm.v1.kv_cache_interface")
        self.shapes = import_module("vllm.model_executor.layers.mamba.mamba_utils").MambaStateShapeCalculator
        self.bf16, self.fp32, self.u8 = torch.bfloat16, torch.float32, torch.uint8
        self.dtype = self.bf16 if asked["kv_dtype"] == "bf16" else self.u8
        self.packed = asked["kv_dtype"] == "fp8_ds_mla"

    def heads(self, count: int) -> int:
        return max(1, count // self.tp)

    def attention(self, i: int, block: int) -> dict[str, Any]:
        """The specs of one attention layer."""
        c, api = self.c, self.api
        name = f"model.layers.{i}.self_attn"
        kind = (c.get("layer_types") or [""] * (i + 1))[i]
        if "kv_lora_rank" in c:
            size = c["kv_lora_rank"] + c["qk_rope_head_dim"]
            content = {"state_content_bytes": 656} if self.packed else {}
            latent = api.MLAAttentionSpec(
                block_size=block, num_kv_heads=1, head_size=size, dtype=self.dtype, max_tp_shards=1, **content
            )
            found = {f"{name}.attn": latent}
            if "index_head_dim" in c:
                width = c["index_head_dim"] + 4 * (c["index_head_dim"] // 128)
                found[f"{name}.indexer.k_cache"] = api.MLAAttentionSpec(
                    block_size=block,
                    num_kv_heads=1,
                    head_size=width,
                    dtype=self.u8,
                    max_tp_shards=1,
                    cache_role=api.SparseCacheRole.INDEXER,
                )
            return found
        heads, width = c["num_key_value_heads"], c["head_dim"] or c["hidden_size"] // c["num_attention_heads"]
        if "global_head_dim" in c and kind == "full_attention":
            heads, width = c["num_global_key_value_heads"], c["global_head_dim"]
        common = {
            "block_size": block,
            "num_kv_heads": self.heads(heads),
            "head_size": width,
            "head_size_v": width,
            "dtype": self.dtype,
        }
        if kind == "sliding_attention":
            return {f"{name}.attn": api.SlidingWindowSpec(**common, sliding_window=c["sliding_window"])}
        if kind == "chunked_attention":
            return {
                f"{name}.attn": api.ChunkedLocalAttentionSpec(**common, attention_chunk_size=c["attention_chunk_size"])
            }
        return {f"{name}.attn": api.FullAttentionSpec(**common)}

    def recurrent(self, i: int) -> bool:
        c = self.c
        if "linear_attn_config" in c:
            return i + 1 in c["linear_attn_config"]["kda_layers"]
        if "attn_layer_period" in c:
            return bool(i % c["attn_layer_period"] != c["attn_layer_offset"])
        return (c.get("layer_types") or [""] * (i + 1))[i] in ("linear_attention", "mamba")

    def state(self) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
        """Shapes and dtypes of one layer's state, by vLLM's own calculator."""
        c, drafts = self.c, self.o.get("num_speculative_tokens", 0)
        asked = self.o.get("mamba_ssm_cache_dtype", "auto")
        default = self.fp32 if "linear_attn_config" in c else self.bf16
        dtype = {"auto": default, "float32": self.fp32, "bfloat16": self.bf16}[asked]
        if "linear_attn_config" in c:
            kda = c["linear_attn_config"]
            made = self.shapes.kda_state_shape(
                self.tp, kda["num_heads"], kda["head_dim"], conv_kernel_size=4, num_spec=drafts
            )
        elif "linear_num_key_heads" in c:
            made = self.shapes.gated_delta_net_state_shape(
                self.tp,
                c["linear_num_key_heads"],
                c["linear_num_value_heads"],
                c["linear_key_head_dim"],
                c["linear_value_head_dim"],
                c["linear_conv_kernel_dim"],
                drafts,
            )
        elif "mamba_n_heads" in c:
            made = self.shapes.mamba2_state_shape(
                self.tp,
                c["mamba_n_heads"] * c["mamba_d_head"],
                c["mamba_n_groups"],
                c["mamba_n_heads"],
                c["mamba_d_head"],
                c["mamba_d_state"],
                c["mamba_d_conv"],
                drafts,
            )
        elif "attn_layer_period" in c:
            inner = c["mamba_expand"] * c["hidden_size"]
            made = self.shapes.mamba1_state_shape(self.tp, inner, c["mamba_d_state"], c["mamba_d_conv"])
        else:
            return None
        return tuple(made), (self.bf16, dtype)


def _config(asked: dict[str, Any], state: bool) -> SimpleNamespace:
    """What of a VllmConfig the planning code reads."""
    o = asked["engine_options"]
    chunked = "attention_chunk_size" in asked["model"]
    batches = asked["pp"] + 1 if o.get("async_scheduling", True) else asked["pp"]
    mode = "align" if state and o.get("enable_prefix_caching", True) else "none"
    layout = import_module("vllm.v1.kv_cache_layout").KVCacheLayout.LBNHC
    block = o.get("block_size", 64 if "index_head_dim" in asked["model"] else 16)
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(
            disable_hybrid_kv_cache_manager=o.get("disable_hybrid_kv_cache_manager", chunked),
            max_num_batched_tokens=o["max_num_batched_tokens"],
        ),
        model_config=SimpleNamespace(
            max_model_len=asked["context"],
            original_max_model_len=asked["context"],
            supports_kv_cache_grouping=False,
            dtype=import_module("torch").bfloat16,
            use_mla="kv_lora_rank" in asked["model"],
            architecture="Any",
        ),
        cache_config=SimpleNamespace(
            num_gpu_blocks_override=o.get("num_gpu_blocks_override"),
            prefix_cache_retention_interval=None,
            mamba_cache_mode=mode,
            mamba_block_size=None,
            mamba_page_size_padded=None,
            block_size=block,
            cache_dtype="auto" if asked["kv_dtype"] == "bf16" else asked["kv_dtype"],
            kv_cache_dtype_skip_layers=[],
            get_resolved_kv_cache_layout=lambda: layout,
        ),
        parallel_config=SimpleNamespace(
            decode_context_parallel_size=o.get("decode_context_parallel_size", 1), tensor_parallel_size=asked["tp"]
        ),
        attention_config=SimpleNamespace(hisparse_config=None),
        compilation_config=SimpleNamespace(static_forward_context={}),
        kv_transfer_config=None,
        speculative_config=None,
        num_prefill_lookahead_tokens=0,
        num_speculative_tokens=o.get("num_speculative_tokens", 0),
        max_in_flight_tokens=batches * o["max_num_batched_tokens"],
    )


def _align(config: SimpleNamespace, layers: _Layers, state: tuple[tuple[Any, ...], tuple[Any, ...]]) -> None:
    """Lets vLLM choose the block of a hybrid model, with a backend whose kernels take multiples of 16."""
    c = layers.c
    multiple = import_module("vllm.v1.attention.backend").MultipleOf
    platform = import_module("vllm.platforms.interface").Platform
    backend = type(
        "Backend",
        (),
        {
            "get_supported_kernel_block_sizes": staticmethod(lambda *_: [multiple(16)]),
            "customize_spec": staticmethod(lambda spec: spec),
        },
    )
    aligning: Any = type(
        "Aligning", (platform,), {"_find_non_ssm_backends": classmethod(lambda cls, config: [backend])}
    )
    width = c["head_dim"] or c["hidden_size"] // c["num_attention_heads"]
    if config.model_config.use_mla:
        config.model_config.get_num_kv_heads = lambda parallel: 1
        config.model_config.get_head_size = lambda: c["kv_lora_rank"] + c["qk_rope_head_dim"]
    else:
        config.model_config.get_num_kv_heads = lambda parallel: layers.heads(c["num_key_value_heads"])
        config.model_config.get_head_size = lambda: width
    model = type(
        "Model",
        (),
        {
            "get_mamba_state_shape_from_config": staticmethod(lambda config: state[0]),
            "get_mamba_state_dtype_from_config": staticmethod(lambda config: state[1]),
        },
    )
    registry = SimpleNamespace(ModelRegistry=SimpleNamespace(resolve_model_cls=lambda *_, **__: (model, "")))
    with (
        mock.patch.dict("sys.modules", {"vllm.model_executor.models": registry}),
        mock.patch("vllm.config.vllm.set_current_vllm_config", nullcontext),
    ):
        aligning._align_hybrid_block_size(config, backend)


def _specs(asked: dict[str, Any], config: SimpleNamespace, layers: _Layers) -> list[dict[str, Any]]:
    """The specs of each pipeline stage."""
    cache, state = config.cache_config, layers.state()
    if state is not None:
        _align(config, layers, state)
        if cache.mamba_cache_mode == "none":
            cache.mamba_block_size = asked["context"]
    count = asked["model"]["num_hidden_layers"]
    stages: list[dict[str, Any]] = [{} for _ in range(asked["pp"])]
    for i in range(count):
        stage = stages[i * asked["pp"] // count]
        if layers.recurrent(i):
            assert state is not None
            stage[f"model.layers.{i}.mamba"] = layers.api.MambaSpec(
                shapes=state[0],
                dtypes=state[1],
                block_size=cache.mamba_block_size,
                page_size_padded=cache.mamba_page_size_padded,
                mamba_cache_mode=cache.mamba_cache_mode,
                num_speculative_blocks=config.num_speculative_tokens,
                num_prefill_checkpoint_blocks=int("mamba_n_heads" in asked["model"]),
            )
        else:
            stage |= layers.attention(i, cache.block_size)
    full = [i for i in range(count) if not layers.recurrent(i) and _attends(asked["model"], i)]
    for draft in range(asked["engine_options"].get("num_speculative_layers", 0)):
        for name, spec in layers.attention(full[-1], cache.block_size).items():
            stages[-1][f"draft.{draft}.{name}"] = spec
    return stages


def _attends(config: dict[str, Any], i: int) -> bool:
    """Whether the layer looks at all tokens."""
    return (config.get("layer_types") or [""] * (i + 1))[i] not in ("sliding_attention", "chunked_attention")


def measured(asked: dict[str, Any]) -> dict[str, Any] | None:
    """QUANTITIES as vLLM plans them; None where it refuses to plan the layers together."""
    core = import_module("vllm.v1.core.kv_cache_planning")
    utils = import_module("vllm.v1.core.kv_cache_utils")
    builder = core.DefaultKVCacheConfigBuilder()
    layers = _Layers(asked)
    config = _config(asked, layers.state() is not None)
    specs = _specs(asked, config, layers)
    try:
        groups = core.get_global_kv_cache_groups(config, specs)
    except (NotImplementedError, ValueError):
        return None
    projected = [core._project_kv_cache_groups_to_worker(groups, stage) for stage in specs]
    pages = [core._pool_bytes_per_block_from_builder(builder, config, stage) for stage in projected]
    override = config.cache_config.num_gpu_blocks_override
    rooms = [override * page if override else asked["engine_options"]["kv_cache_memory_bytes"] for page in pages]
    needed = [core._max_memory_usage_bytes_from_groups(builder, config, stage) for stage in projected]
    lengths = [
        core._estimate_max_model_len_from_groups(builder, config, stage, room - page)
        for stage, room, page in zip(projected, rooms, pages, strict=True)
    ]
    blocks = min(room // page for room, page in zip(rooms, pages, strict=True))
    made = builder.get_kv_cache_config_from_groups(config, projected[0], blocks)
    starts = all(room > page for room, page in zip(rooms, pages, strict=True)) and all(
        length >= asked["context"] for length in lengths
    )
    if starts:  # the whole flow, with its checks
        blocks = core.get_kv_cache_configs(config, specs, rooms, groups)[0].num_blocks
    tokens, concurrency = utils.get_kv_cache_capacity(config, made)
    return {
        "num_gpu_blocks": blocks,
        "block_size": config.cache_config.block_size,
        "bytes_per_block": max(pages),
        "blocks_per_request": max(n // page for n, page in zip(needed, pages, strict=True)),
        "needed_bytes": max(needed),
        "kv_cache_size_tokens": tokens,
        "max_concurrency": concurrency,
        "estimated_max_model_len": min(lengths),
        "group_sizes": ",".join(str(len(group.layer_names)) for group in groups),
        "group_block_sizes": ",".join(str(group.kv_cache_spec.block_size) for group in groups),
    }


def predicted(asked: dict[str, Any]) -> dict[str, Any] | None:
    """QUANTITIES as kvplan says them; None where it says that vLLM refuses."""
    try:
        facts = plan(**asked).engine["facts"]
    except InvalidInput as error:
        if error.field != "engine_version":
            raise
        return None
    return {name: facts[name] for name in QUANTITIES}


def compare(count: int = 500, seed: int = 0) -> list[Row]:
    """Rows of random models, one per quantity: kvplan's against vLLM's own. Raises MissingExtra without vLLM."""
    versions()
    rows = []
    for i, asked in enumerate(cases(count, seed)):
        says, has = predicted(asked), measured(asked)
        name = f"vllm {seed}.{i} {asked['model']['model_type']}"
        if says is None or has is None:
            verdict = "exact" if says is has else "wrong"
            said = [None if side is None else side["num_gpu_blocks"] for side in (says, has)]
            rows.append(Row(name, asked, "engine.facts", said[0], said[1], verdict, "refused"))
            continue
        for quantity in QUANTITIES:
            a, b = says[quantity], has[quantity]
            verdict = "exact" if a == b else "wrong"
            if isinstance(a, str):
                rows.append(Row(name, asked, f"engine.facts.{quantity}", None, None, verdict, f"{a} | {b}"))
            else:
                rows.append(Row(name, asked, f"engine.facts.{quantity}", a, b, verdict))
    return rows
