"""llama.cpp itself, asked for random models: what it logs of its caches, against what engine ``llama.cpp`` says.

A model is metadata and no tensors: the library creates it from a GGUF header (``llama_model_init_from_user``) with
``no_alloc``, so that full-size contexts cost no memory. kvplan reads the same header. Compared are the log lines of
every cache (cells, layers, sequences, streams, K and V in MiB) and the bytes they sum to. Needs ``llama-cpp-python``
0.3.36; other versions have other rules.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.api import plan
from kvplan.errors import MissingExtra
from kvplan.validate.records import Row

__all__ = ["Case", "Refused", "answer", "ask", "cases", "compare", "judged", "recorded", "version", "write_header"]

VERSION = "0.3.36"
MIB = 2**20
GGML_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
FLASH = {"auto": -1, "off": 0, "on": 1}
STATE = re.compile(r"^llama_dsv4_comp_state: .* layers = (\d+), size = .*$", re.MULTILINE)
SIZE = re.compile(r"size = +([0-9.]+) MiB")
LINE = re.compile(
    r"^(llama_kv_cache|llama_memory_recurrent): size = +([0-9.]+) MiB \( *(\d+) cells, +(\d+) layers, .*$", re.MULTILINE
)


class Case(NamedTuple):
    """A model by its GGUF keys, and a context by llama.cpp's own option names."""

    metadata: dict[str, Any]
    options: dict[str, Any]
    config: dict[str, Any] | None = None  # the same model as a config.json, where kvplan reads no such GGUF


class Refused(Exception):
    """The library made no model or no context of a case; the text is its last word."""


def version() -> str:
    """The version of llama-cpp-python. Raises MissingExtra without it."""
    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        what = "kvplan validate --reference llama.cpp"
        raise MissingExtra(what, "llama-cpp", f"or pip install llama-cpp-python=={VERSION}") from None


# --- models ----------------------------------------------------------------------------------------------------------


def cases(count: int, seed: int) -> list[Case]:
    """Random cases, architectures in turn: heads, widths, windows, states, cells around paddings, every cache type."""
    rng = random.Random(seed)
    names = sorted((*MODELS, *CONFIGURED))
    return [_case(rng, names[i % len(names)]) for i in range(count)]


def _case(rng: random.Random, name: str) -> Case:
    config = None
    if name in CONFIGURED:
        values, blocks, config = CONFIGURED[name](rng)
    else:
        values, blocks = MODELS[name](rng)
    common: dict[str, Any] = {
        "vocab_size": rng.choice((512, 1000, 4096)),
        "context_length": rng.choice((2048, 8192, 131072)),
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "logit_scale": 1.0,
    }
    keys: dict[str, Any] = {"general.architecture": name, "tokenizer.ggml.model": "no_vocab"}
    keys |= {f"{name}.{key}": value for key, value in (common | values).items()}
    options = _options(rng, blocks, name)
    if name == "kimi-linear" and options["parallel"] in (3, 7):
        options["parallel"] = 4  # its graph aborts where the sequences do not divide a micro-batch
    return Case(keys, options, config)


def _options(rng: random.Random, width: int, name: str) -> dict[str, Any]:
    """A context around the paddings; quantised types where their blocks divide every head of ``width``."""
    parallel = rng.choice((1, 1, 2, 3, 4, 7))
    near = rng.choice((256, 1024, 2048, 4096, 8192, 20480, 65536))
    options: dict[str, Any] = {
        "ctx_size": max(parallel, near + rng.choice((-257, -256, -33, -1, 0, 0, 1, 31, 256, rng.randint(-200, 999)))),
        "parallel": parallel,
        "kv_unified": rng.random() < 0.5,
        "swa_full": rng.random() < 0.2,
        "batch_size": rng.choice((2048, 2048, 512, 300)),
        "ubatch_size": rng.choice((512, 512, 64, 100, 2048)),
        "flash_attn": rng.choice(("auto", "on", "off")),
    }
    plain, packed = ["f32", "f16", "bf16"], ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"]
    kinds = plain + (packed if width % 32 == 0 else [])
    key = options["cache_type_k"] = rng.choice(kinds)
    value = options["cache_type_v"] = key if name in LATENT else rng.choice(kinds)
    if value in packed and options["flash_attn"] == "off":
        options["flash_attn"] = "on"
    if rng.random() < 0.2:
        options["n_rs_seq"] = rng.randint(1, 4)
    return options


def _heads(rng: random.Random, width: int | None = None) -> tuple[dict[str, Any], int]:
    """Layers, hidden size and grouped attention, and what every head's width is a multiple of."""
    size = width or rng.choice((32, 40, 64, 80, 96, 128, 256))
    kv_heads = rng.choice((1, 2, 4, 8))
    heads = kv_heads * rng.choice((1, 2, 4))
    keys = {
        "block_count": rng.randint(1, 9),
        "embedding_length": heads * size,
        "feed_forward_length": 256,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
    }
    return keys, size


def _windowed(every: int) -> Callable[[random.Random], tuple[dict[str, Any], int]]:
    def model(rng: random.Random) -> tuple[dict[str, Any], int]:
        keys, size = _heads(rng)
        keys["block_count"] = rng.randint(every, 3 * every + 1)
        keys["attention.sliding_window"] = rng.choice((128, 512, 1024, 4096, rng.randint(1, 3000)))
        return keys, size

    return model


def _exaone4(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys, size = _windowed(4)(rng)
    keys["block_count"] = rng.choice((8, 64))  # the library knows windows of the 64-layer model alone
    return keys, size


def _gemma3n(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys, size = _windowed(5)(rng)
    keys["block_count"] = rng.randint(22, 34)  # the library lets the first 20 own KV, whatever there is
    keys["feed_forward_length"] = [256] * keys["block_count"]
    keys["attention.shared_kv_layers"] = keys["block_count"] - 20
    keys["embedding_length_per_layer_input"] = 64
    return keys, size


def _gemma4(rng: random.Random) -> tuple[dict[str, Any], int]:
    """Local and global layers with heads of their own; the last ones share."""
    keys, size = _heads(rng, rng.choice((64, 128)))
    layers = keys["block_count"] = rng.choice((6, 12, 18))
    pattern = [i % 6 != 5 for i in range(layers)]
    wide = rng.choice((1, 2))
    keys |= {
        "attention.sliding_window": rng.choice((512, 1024, rng.randint(1, 2000))),
        "attention.sliding_window_pattern": pattern,
        "attention.key_length": 2 * size,
        "attention.value_length": 2 * size,
        "attention.key_length_swa": size,
        "attention.value_length_swa": size,
        "attention.head_count": 8,
        "attention.head_count_kv": [4 if flag else wide for flag in pattern],
        "attention.shared_kv_layers": rng.choice((0, layers - 6)),
        "rope.dimension_count": 2 * size,
        "rope.dimension_count_swa": size,
        "embedding_length_per_layer_input": 0,
        "rope.freq_base_swa": 10000.0,
    }
    return keys, size


def _experts() -> dict[str, Any]:
    return {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 64}


def _gpt_oss(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys, size = _windowed(2)(rng)
    return keys | _experts(), size


def _llama4(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys, size = _heads(rng)
    keys["block_count"] = rng.choice((4, 8, 12))
    keys["interleave_moe_layer_step"] = 1
    return keys | _experts(), size


def _mimo2(rng: random.Random) -> tuple[dict[str, Any], int]:
    """Keys wider than values, and another number of KV heads in window layers."""
    keys, _ = _heads(rng)
    layers = keys["block_count"] = rng.randint(4, 13)
    pattern = [int(i > 0 and (i + 1) % 6 > 0) for i in range(layers)]  # the one that its class builds
    keys |= {
        "attention.key_length": 96,
        "attention.value_length": 64,
        "attention.head_count": 8,
        "attention.head_count_kv": [4 if flag else 2 for flag in pattern],
        "attention.sliding_window": rng.choice((128, 500)),
        "attention.sliding_window_pattern": pattern,
        "rope.dimension_count": 32,
        "rope.freq_base_swa": 10000.0,
        "leading_dense_block_count": 1,
        "feed_forward_length": 256,
    }
    return keys | _experts(), 32


def _deci(rng: random.Random) -> tuple[dict[str, Any], int]:
    """Layers whose attention was cut out."""
    keys, size = _heads(rng)
    layers = keys["block_count"] = rng.randint(4, 9)
    gone = [rng.random() < 0.4 for _ in range(layers)]
    gone[0] = False
    heads, kv_heads = keys["attention.head_count"], keys["attention.head_count_kv"]
    keys["attention.head_count"] = [0 if flag else heads for flag in gone]
    keys["attention.head_count_kv"] = [0 if flag else kv_heads for flag in gone]
    keys["feed_forward_length"] = [256] * layers
    return keys, size


def _latent(rng: random.Random) -> tuple[dict[str, Any], int]:
    rank, rope = rng.choice((64, 256, 512)), rng.choice((32, 64))
    keys = {
        "block_count": rng.randint(1, 7),
        "embedding_length": 256,
        "feed_forward_length": 256,
        "attention.head_count": rng.choice((2, 8, 16)),
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": 128 + rope,
        "attention.value_length_mla": 128,
        "attention.kv_lora_rank": rank,
        "attention.q_lora_rank": 64,
        "rope.dimension_count": rope,
        "leading_dense_block_count": 1,
        "expert_shared_count": 1,
        "expert_gating_func": 2,
        "expert_weights_scale": 1.0,
    }
    return keys | _experts(), 32


def _indexed(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys, blocks = _latent(rng)
    keys |= {
        "attention.indexer.head_count": 4,
        "attention.indexer.key_length": rng.choice((64, 128)),
        "attention.indexer.top_k": 64,
    }
    return keys, blocks


def _ssm(rng: random.Random, hidden: int, groups: int | None = None) -> dict[str, Any]:
    inner = 2 * hidden
    keys = {
        "ssm.conv_kernel": rng.choice((2, 4)),
        "ssm.inner_size": inner,
        "ssm.state_size": rng.choice((16, 64, 128)),
        "ssm.time_step_rank": rng.choice((4, 8)),
    }
    return keys | ({"ssm.group_count": groups} if groups else {})


def _mamba(rng: random.Random) -> tuple[dict[str, Any], int]:
    hidden = rng.choice((64, 128, 256))
    keys = {"block_count": rng.randint(1, 9), "embedding_length": hidden, "feed_forward_length": 0}
    return keys | {"attention.head_count": 0} | _ssm(rng, hidden), 32


def _mamba2(rng: random.Random) -> tuple[dict[str, Any], int]:
    hidden = rng.choice((64, 128, 256))
    keys = {"block_count": rng.randint(1, 9), "embedding_length": hidden, "feed_forward_length": 0}
    return keys | {"attention.head_count": 0} | _ssm(rng, hidden, rng.choice((1, 2))), 32


def _beside(rng: random.Random) -> tuple[dict[str, Any], int]:
    """Falcon-H1: attention and a state in every layer."""
    keys, size = _heads(rng)
    return keys | _ssm(rng, keys["embedding_length"], rng.choice((1, 2))), size


def _sparse_attention(period: int, groups: int | None) -> Callable[[random.Random], tuple[dict[str, Any], int]]:
    """Attention in one layer of ``period``, states in the others."""

    def model(rng: random.Random) -> tuple[dict[str, Any], int]:
        keys, size = _heads(rng)
        layers = keys["block_count"] = period * rng.randint(1, 3)
        kv_heads = keys["attention.head_count_kv"]
        keys["attention.head_count_kv"] = [kv_heads if i % period == period // 2 else 0 for i in range(layers)]
        return keys | _ssm(rng, keys["embedding_length"], groups), size

    return model


def _nemotron_h(rng: random.Random) -> tuple[dict[str, Any], int]:
    """A layer is a state, attention or an MLP, one of the three."""
    keys, size = _heads(rng)
    kinds = [rng.choice("sam") for _ in range(rng.randint(3, 9))] + ["s", "a", "m"]
    kv_heads = keys["attention.head_count_kv"]
    keys |= {
        "block_count": len(kinds),
        "attention.head_count_kv": [kv_heads if kind == "a" else 0 for kind in kinds],
        "feed_forward_length": [256 if kind == "m" else 0 for kind in kinds],
    }
    return keys | _ssm(rng, keys["embedding_length"], 2), size


def _delta(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys, size = _heads(rng, rng.choice((64, 128)))
    key_heads, state = rng.choice((1, 2)), rng.choice((64, 128))
    value_heads = key_heads * rng.choice((1, 2))
    keys |= {
        "block_count": rng.randint(4, 12),
        "embedding_length": 256,
        "full_attention_interval": 4,
        "ssm.conv_kernel": 4,
        "ssm.state_size": state,
        "ssm.group_count": key_heads,
        "ssm.time_step_rank": value_heads,
        "ssm.inner_size": value_heads * state,
        "rope.dimension_sections": [8, 8, 8, 0],
        "rope.dimension_count": 64,
    }
    return keys, size


def _delta_moe(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys, size = _delta(rng)
    return keys | _experts() | {"expert_shared_feed_forward_length": 64}, size


def _lfm2(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys, size = _heads(rng)
    layers = keys["block_count"] = rng.randint(3, 12)
    kv_heads = keys["attention.head_count_kv"]
    keys["attention.head_count_kv"] = [kv_heads if i % 3 == 2 else 0 for i in range(layers)]
    keys["shortconv.l_cache"] = rng.choice((3, 4))
    return keys, size


def _rwkv6(rng: random.Random) -> tuple[dict[str, Any], int]:
    keys = {
        "block_count": rng.randint(1, 7),
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.head_count": 0,
        "wkv.head_size": rng.choice((32, 64)),
        "time_mix_extra_dim": 32,
        "time_decay_extra_dim": 64,
        "rescale_every_n_layers": 0,
    }
    return keys, 32


MODELS: dict[str, Callable[[random.Random], tuple[dict[str, Any], int]]] = {
    "llama": _heads,
    "qwen3": _heads,
    "gemma2": _windowed(2),
    "gemma3": _windowed(6),
    "gemma3n": _gemma3n,
    "gemma4": _gemma4,
    "cohere2": _windowed(4),
    "olmo2": _windowed(4),
    "exaone4": _exaone4,
    "gpt-oss": _gpt_oss,
    "llama4": _llama4,
    "mimo2": _mimo2,
    "deci": _deci,
    "deepseek2": _latent,
    "glm-dsa": _indexed,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "falcon-h1": _beside,
    "jamba": _sparse_attention(4, None),
    "granitehybrid": _sparse_attention(3, 1),
    "nemotron_h": _nemotron_h,
    "qwen3next": _delta_moe,
    "qwen35": _delta,
    "lfm2": _lfm2,
    "rwkv6": _rwkv6,
}
LATENT = ("deepseek2", "deepseek4", "glm-dsa", "kimi-linear")


Configured = tuple[dict[str, Any], int, dict[str, Any]]


def _deepseek4(rng: random.Random) -> Configured:
    """Windows, pooled entries of two ratios, and an indexer beside the shorter one."""
    ratios = [rng.choice((0, 4, 128)) for _ in range(rng.randint(2, 6))] + [4, 128]
    dim, index, window = rng.choice((64, 128)), rng.choice((64, 128)), rng.choice((128, rng.randint(1, 600)))
    keys = _experts() | {
        "block_count": len(ratios),
        "embedding_length": 256,
        "feed_forward_length": 256,
        "attention.head_count": 8,
        "attention.head_count_kv": 1,
        "attention.key_length": dim,
        "attention.value_length": dim,
        "attention.q_lora_rank": 64,
        "attention.sliding_window": window,
        "attention.compress_ratios": ratios,
        "attention.compress_rope_freq_base": 160000.0,
        "attention.output_group_count": 8,
        "attention.output_lora_rank": 32,
        "attention.indexer.head_count": 64,
        "attention.indexer.key_length": index,
        "attention.indexer.top_k": 64,
        "rope.dimension_count": 32,
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 2,
        "hyper_connection.epsilon": 1e-6,
        "hash_layer_count": 0,
        "swiglu_clamp_exp": 10.0,
        "expert_shared_count": 1,
        "expert_gating_func": 4,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
    }
    config = {
        "model_type": "deepseek_v4",
        "num_hidden_layers": len(ratios),
        "hidden_size": 256,
        "num_attention_heads": 8,
        "head_dim": dim,
        "q_lora_rank": 64,
        "sliding_window": window,
        "compress_ratios": ratios,
        "index_n_heads": 64,
        "index_head_dim": index,
        "index_topk": 64,
        "vocab_size": 512,
    }
    return keys, 32, config


def _kimi_linear(rng: random.Random) -> Configured:
    """Latent attention in every third layer, a delta rule with three convolutions in the others."""
    keys, _ = _latent(rng)
    layers, heads, dim = rng.randint(3, 9), rng.choice((2, 4)), rng.choice((64, 128))
    attends = [i % 3 == 2 for i in range(layers)]
    keys |= {
        "block_count": layers,
        "attention.head_count": heads,
        "attention.head_count_kv": [int(flag) for flag in attends],
        "ssm.conv_kernel": 4,
        "kda.head_dim": dim,
        "embedding_length": 384,
    }
    rank, rope = keys["attention.kv_lora_rank"], keys["rope.dimension_count"]
    config = {
        "model_type": "kimi_linear",
        "num_hidden_layers": layers,
        "hidden_size": 384,
        "num_attention_heads": heads,
        "kv_lora_rank": rank,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": rope,
        "v_head_dim": 128,
        "vocab_size": 512,
        "intermediate_size": 256,
        "linear_attn_config": {
            "num_heads": heads,
            "head_dim": dim,
            "short_conv_kernel_size": 4,
            "full_attn_layers": [i + 1 for i, flag in enumerate(attends) if flag],
            "kda_layers": [i + 1 for i, flag in enumerate(attends) if not flag],
        },
    }
    return keys, 32, config


def _minimax_m3(rng: random.Random) -> Configured:
    """An indexer beside grouped attention in all but the first layers."""
    keys, size = _heads(rng, rng.choice((64, 128)))
    layers, dense, heads = rng.randint(3, 8), rng.choice((1, 2)), keys["attention.head_count_kv"]
    index = rng.choice((64, 128))
    keys |= _experts() | {
        "block_count": layers,
        "rope.dimension_count": 64,
        "leading_dense_block_count": dense,
        "expert_shared_count": 1,
        "expert_gating_func": 2,
        "expert_shared_feed_forward_length": 64,
        "attention.indexer.head_count": heads,
        "attention.indexer.key_length": index,
        "attention.indexer.top_k": 16,
        "attention.indexer.block_size": 4,
        "attention.indexer.local_blocks": 1,
    }
    config = {
        "model_type": "minimax_m3",
        "num_hidden_layers": layers,
        "hidden_size": keys["embedding_length"],
        "num_attention_heads": keys["attention.head_count"],
        "num_key_value_heads": heads,
        "head_dim": size,
        "vocab_size": 512,
        "intermediate_size": 64,
        "dense_intermediate_size": 256,
        "index_n_heads": heads,
        "index_head_dim": index,
        "index_block_size": 4,
        "layer_types": ["full_attention" if i < dense else "minimax_m3_sparse" for i in range(layers)],
    }
    return keys, size, config


CONFIGURED: dict[str, Callable[[random.Random], Configured]] = {
    "deepseek4": _deepseek4,
    "kimi-linear": _kimi_linear,
    "minimax-m3": _minimax_m3,
}


def write_header(path: Path, keys: dict[str, Any]) -> None:
    """A GGUF of version 3 with these keys and no tensors (ggml/docs/gguf.md); whole numbers become uint32."""
    data = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(keys))
    for key, value in keys.items():
        data += _text(key) + (_array(value) if isinstance(value, list) else _value(value))
    path.write_bytes(data)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any, *, bare: bool = False) -> bytes:
    if isinstance(value, bool):
        kind, data = 7, struct.pack("<?", value)
    elif isinstance(value, int):
        kind, data = 4, struct.pack("<I", value)
    elif isinstance(value, float):
        kind, data = 6, struct.pack("<f", value)
    else:
        kind, data = 8, _text(value)
    return data if bare else struct.pack("<I", kind) + data


def _array(values: list[Any]) -> bytes:
    kind = 7 if isinstance(values[0], bool) else 4
    return struct.pack("<IIQ", 9, kind, len(values)) + b"".join(_value(value, bare=True) for value in values)


# --- the library -----------------------------------------------------------------------------------------------------


class _InitParams(ctypes.Structure):
    """gguf_init_params: read keys alone."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def answer(case: Case) -> list[str]:
    """The lines that the library logs of the caches of a case. Raises Refused or MissingExtra.

    It runs in a process of its own where the system can fork, because the library aborts on a graph it cannot build.
    """
    version()
    import_module("llama_cpp.llama_cpp")
    if not hasattr(os, "fork"):
        return _logged(case)
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.environ["GGML_NO_BACKTRACE"] = "1"
        try:
            said: list[str] | str = _logged(case)
        except Refused as error:
            said = str(error)
        os.write(there, json.dumps(said).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    if not told:
        raise Refused("the library aborted")
    found = json.loads(told)
    if isinstance(found, str):
        raise Refused(found)
    return [str(line) for line in found]


def _logged(case: Case) -> list[str]:
    lib: Any = import_module("llama_cpp.llama_cpp")
    log: list[str] = []

    def keep(level: int, text: bytes, _data: Any) -> None:
        log.append(text.decode(errors="replace"))

    callback = lib.llama_log_callback(keep)
    lib.llama_log_set(callback, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_header(path, case.metadata)
        try:
            _open(lib, path, case.options)
        except Refused as error:
            said = " / ".join("".join(log).splitlines()[-2:])
            raise Refused(f"{error}: {said[:300]}") from None
        finally:
            lib.llama_log_set(lib.llama_log_callback(_silent), None)
    text = "".join(log)
    lines = [found[0] for found in LINE.finditer(text) if int(found[4])]
    return lines + [found[0] for found in STATE.finditer(text) if int(found[1])]


def _silent(level: int, text: bytes, _data: Any) -> None:
    """Takes a log line and drops it."""


def _open(lib: Any, path: Path, options: dict[str, Any]) -> None:
    base: Any = ctypes.CDLL(str(next(Path(lib.__file__).parent.joinpath("lib").glob("*ggml-base.*"))))
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
    base.gguf_free.argtypes = [ctypes.c_void_p]
    keys = base.gguf_init_from_file(str(path).encode(), _InitParams(True, None))
    if not keys:
        raise Refused("no keys")
    model_params, params = lib.llama_model_default_params(), lib.llama_context_default_params()
    model_params.no_alloc = True
    fill = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    create = lib._lib.llama_model_init_from_user
    create.restype = ctypes.c_void_p
    create.argtypes = [ctypes.c_void_p, fill, ctypes.c_void_p, type(model_params)]
    nothing = fill(lambda _tensor, _data: None)
    model = create(keys, nothing, None, model_params)
    if not model:
        raise Refused("no model")
    params.n_ctx, params.n_seq_max = options["ctx_size"], options["parallel"]
    params.n_batch, params.n_ubatch = options["batch_size"], options["ubatch_size"]
    params.kv_unified, params.swa_full = options["kv_unified"], options["swa_full"]
    params.flash_attn_type = FLASH[options["flash_attn"]]
    params.type_k, params.type_v = GGML_TYPES[options["cache_type_k"]], GGML_TYPES[options["cache_type_v"]]
    params.n_rs_seq = options.get("n_rs_seq", 0)
    context = lib.llama_init_from_model(model, params)
    if context:
        lib.llama_free(context)
    lib.llama_model_free(model)
    base.gguf_free(keys)
    if not context:
        raise Refused("no context")


# --- the comparison --------------------------------------------------------------------------------------------------


def ask(case: Case, path: Path) -> dict[str, Any]:
    """Arguments of ``kvplan.plan`` for a case whose header lies at ``path``."""
    model = case.config or str(path)
    return {"model": model, "context": 1, "engine": "llama.cpp", "engine_options": case.options}


def judged(name: str, case: Case, lines: list[str], folder: Path) -> list[Row]:
    """Two rows of one case: bytes (within the rounding of the log, 0.005 MiB a line), and lines (sorted, equal)."""
    path = folder / "model.gguf"
    write_header(path, case.metadata)
    report = plan(**ask(case, path)).to_dict()
    about = case._asdict()
    logged = sum(float(size) for line in lines for size in SIZE.findall(line))
    says = report["kv"]["bytes"] / MIB
    close = bool(abs(says - logged) <= 0.005 * len(lines) + says * 2**-23)
    printed = sorted(line for line in report["engine"]["printed"] if LINE.match(line))
    found = sorted(line for line in lines if LINE.match(line))
    same = printed == found
    note = "" if same else f"kvplan {printed} engine {found}"
    return [
        Row(name, about, "kv.bytes in MiB as logged", says, logged, "within" if close else "wrong"),
        Row(name, about, "log lines", len(printed), len(found), "exact" if same else "wrong", note),
    ]


def recorded(count: int, seed: int) -> dict[str, Any]:
    """Answers of the library to keep: what ``judged`` needs of each case, and the version that gave them."""
    rows = [{**case._asdict(), "lines": answer(case)} for case in cases(count, seed)]
    return {"engine": f"llama.cpp 0c1e57098 (llama-cpp-python {version()}), no_alloc, lines as logged", "rows": rows}


def compare(count: int = 500, seed: int = 0) -> Iterator[Row]:
    """Rows of random models; a case that the library refuses is a row of its own. Raises MissingExtra without it."""
    version()
    with tempfile.TemporaryDirectory() as folder:
        for i, case in enumerate(cases(count, seed)):
            name = f"llama.cpp {seed}.{i} {case.metadata['general.architecture']}"
            try:
                lines = answer(case)
            except Refused as error:
                yield Row(name, case._asdict(), "refused", None, None, "skipped", str(error))
                continue
            yield from judged(name, case, lines, Path(folder))
