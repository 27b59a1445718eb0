"""Writes the binary seeds of the corpus from honest files: the GGUF headers of the importer's tests, small checkpoints.

    python -m tests.fuzz.make_corpus

The other seeds are text, written by hand: lines of the README and of the tests.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tests.fuzz.targets import packed_folder
from tests.importers.test_gguf import SAME
from tests.support import DATA, config_text
from tests.support.gguf_files import tensor, write

CORPUS = Path(__file__).parent / "corpus"
# one of every kind of attention, state and mixture
ARCHITECTURES = (
    "llama", "qwen2moe", "qwen3next", "gemma2", "gemma3n", "gemma4", "falcon", "gpt2", "mpt", "minicpm3", "chatglm",
    "deepseek2", "glm-dsa", "mamba", "mamba2", "jamba", "falcon-h1", "hunyuan-moe", "ernie4_5-moe", "gpt-oss", "qwen35",
    "llama4", "granitehybrid", "nemotron_h_moe", "rwkv6",
)  # fmt: skip


def ggufs() -> None:
    """A file of each architecture, and one with tensors and a vocabulary."""
    place = CORPUS / "gguf"
    for arch in ARCHITECTURES:
        _, metadata, name, more = next(row for row in SAME if row[0] == arch)
        given = metadata | {key: value for key, value in more.items() if value}
        write(place / f"{arch}.gguf", arch, given, name=name)
    small = {
        "block_count": 1, "embedding_length": 64, "context_length": 512, "feed_forward_length": 128,
        "attention.head_count": 4, "attention.head_count_kv": 2, "vocab_size": 96,
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(96)], "tokenizer.ggml.scores": [0.5] * 96,
    }  # fmt: skip
    shapes = {
        "token_embd": (64, 96), "output": (64, 96), "output_norm": (64,), "blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,),
        "blk.0.attn_q": (64, 64), "blk.0.attn_k": (64, 32), "blk.0.attn_v": (64, 32), "blk.0.attn_output": (64, 64),
        "blk.0.ffn_gate": (64, 128), "blk.0.ffn_up": (64, 128), "blk.0.ffn_down": (128, 64),
    }  # fmt: skip
    tensors = [tensor(f"{name}.weight", shape, 8 if len(shape) > 1 else 0) for name, shape in shapes.items()]
    write(place / "tensors.gguf", "llama", small, tensors, name="small", file_type=7)


def shard(**tensors: tuple[str, list[int], int]) -> bytes:
    """A safetensors file without its tensors: dtype, shape and bytes of each."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def checkpoints() -> None:
    """A folder of one file, one of two shards with their index, one with the index alone."""
    place = CORPUS / "safetensors"
    config = config_text("EleutherAI__pythia-14m").encode()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = json.dumps({"metadata": {"total_size": 224}, "weight_map": {"a": names[0], "b": names[1], "c": names[1]}})
    one, two = shard(a=("BF16", [4, 8], 64)), shard(b=("F32", [4, 8], 128), c=("F8_E4M3", [32], 32))
    three = shard(a=("F4", [4, 8], 16), b=("F6_E2M3", [8], 6), c=("I64", [], 8))
    folders = {
        "one": {"config.json": config, "model.safetensors": three},
        "two": {"config.json": config, "model.safetensors.index.json": index.encode(), names[0]: one, names[1]: two},
        "index": {"config.json": config, "model.safetensors.index.json": index.encode()},
        "bare": {"a.safetensors": one, "b.safetensors": two},
    }
    for name, files in folders.items():
        (place / f"{name}.folder").write_bytes(packed_folder(files))


def budgets() -> None:
    """The README's budgets with their baseline, and a small file of every kind of assertion."""
    place = CORPUS / "budget"
    config = config_text("EleutherAI__pythia-14m").encode()
    baseline = (DATA / "kvplan-baseline.json").read_bytes()
    whole = (DATA / "kvplan.toml").read_text().replace("configs/google__gemma-3-12b-it.json", "config.json")
    gemma = config_text("google__gemma-3-12b-it").encode()
    files = {"kvplan.toml": whole.encode(), "kvplan-baseline.json": baseline, "config.json": gemma}
    (place / "readme.folder").write_bytes(packed_folder(files))
    small = """\
schema = 1
[defaults]
context = "1k"
engine = "vllm"
engine_options = { max_num_seqs = 8 }
[[budget]]
model = "./config.json"
batch = 2
max_kv_bytes = "1 GiB"
min_free_bytes = "1GiB"
weights_bytes = "28MB"
min_parameters = "14M"
max_decode_flops = "1 TFLOP"
fits_on = ["t4", "h100"]
[[budget]]
name = "scheme"
model = "gpt2"
scheme = "mqa+cla:2"
memory = "1 GiB"
min_batch = "1k"
within = "2.5%"
"""
    (place / "small.folder").write_bytes(packed_folder({"kvplan.toml": small.encode(), "config.json": config}))


if __name__ == "__main__":
    for folder in ("gguf", "safetensors", "budget"):
        (CORPUS / folder).mkdir(parents=True, exist_ok=True)
    ggufs()
    checkpoints()
    budgets()
