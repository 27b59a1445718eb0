"""GGUF headers: bounds, exact bytes, and what each architecture's keys mean.

The facts of a family are checked against the published config.json of the same model, whose importer is checked
against the transformers class; windows and cells against what llama.cpp printed (its commit 0c1e57098).
"""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kvplan.cache import build_plan
from kvplan.errors import InvalidInput, UnknownName, Unsupported
from kvplan.importers import from_config
from kvplan.importers.gguf import architectures, read_gguf, spec_from_gguf
from kvplan.importers.gguf import header as gguf_header
from kvplan.specs import replace
from kvplan.weights import count_parameters
from tests.support import checkpoint_bytes, gguf_files
from tests.support.attempts import attempt
from tests.support.gguf_files import header, tensor, text, write

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


def keys(layers, hidden, heads=None, kv=None, ffn=None, vocab=1000, head_dim=None):
    """The keys that nearly every file has."""
    found = {"block_count": layers, "embedding_length": hidden, "context_length": 4096, "vocab_size": vocab}
    optional = {
        "feed_forward_length": ffn, "attention.head_count": heads, "attention.head_count_kv": kv,
        "attention.key_length": head_dim, "attention.value_length": head_dim,
    }  # fmt: skip
    return found | {name: item for name, item in optional.items() if item is not None}


def moe(count, active, width, **more):
    return {"expert_count": count, "expert_used_count": active, "expert_feed_forward_length": width, **more}


def ssm(kernel, inner, state, rank, groups=None):
    found = {"ssm.conv_kernel": kernel, "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank}
    return found if groups is None else {**found, "ssm.group_count": groups}


MLA = {
    "attention.key_length": 576,
    "attention.value_length": 512,
    "attention.kv_lora_rank": 512,
    "rope.dimension_count": 64,
    "leading_dense_block_count": 3,
    "expert_shared_count": 1,
}

NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"  # M Mamba, E experts, * attention

# architecture, metadata as llama.cpp's converter writes it, the published config of the same model
SAME = [
    ("llama", keys(32, 4096, 32, 8, 14336, 32000), "Mixtral-8x7B-Instruct-v0.1", moe(8, 2, 0)),
    ("qwen2", keys(28, 3584, 28, 4, 18944, 152064), "Qwen2-7B-Instruct", {}),
    (
        "qwen2moe",
        keys(24, 2048, 16, 16, 5632, 151936),
        "Qwen1.5-MoE-A2.7B-Chat",
        moe(60, 4, 1408, expert_shared_feed_forward_length=5632),
    ),
    ("qwen3", keys(36, 4096, 32, 8, 12288, 151936, 128), "Qwen3-8B", {}),
    ("qwen3moe", keys(48, 2048, 32, 4, 6144, 151936, 128), "Qwen3-30B-A3B-Thinking-2507", moe(128, 8, 768)),
    (
        "qwen3next",
        keys(48, 2048, 16, 2, 5120, 151936, 256),
        "Qwen3-Next-80B-A3B-Instruct",
        moe(512, 10, 512, expert_shared_feed_forward_length=512) | ssm(4, 4096, 128, 32, 16),
    ),
    ("gemma", keys(18, 2048, 8, 1, 16384, 256000, 256), "gemma-2b", {}),
    ("gemma2", keys(42, 3584, 16, 8, 14336, 256000, 256), "gemma-2-9b", {"attention.sliding_window": 4096}),
    ("gemma3", keys(26, 1152, 4, 1, 6912, 262144, 256), "gemma-3-1b-it", {"attention.sliding_window": 512}),
    ("phi2", keys(32, 2560, 32, 32, 10240, 51200), "phi-2", {}),
    ("falcon", keys(32, 4544, 71, 1, 18176, 65024), "falcon-7b", {}),
    ("falcon", keys(80, 14848, 232, 8, 59392, 65024), "falcon-180B", {}),
    ("gpt2", keys(24, 1024, 16, None, 4096, 50257) | {"context_length": 1024}, "gpt2-medium", {}),
    ("gptneox", keys(24, 2048, 16, None, 8192, 50304), "pythia-1.4b", {}),
    ("bloom", keys(70, 14336, 112, None, 57344, 250880), "bloom", {}),
    ("mpt", keys(32, 4096, 32, None, 16384, 50432), "mpt-7b", {}),
    ("starcoder2", keys(30, 3072, 24, 2, 12288, 49152), "starcoder2-3b", {}),
    ("stablelm", keys(32, 2560, 32, 32, 6912, 50304) | {"use_parallel_residual": False}, "stablelm-zephyr-3b", {}),
    ("command-r", keys(40, 8192, 64, 64, 22528, 256000), "c4ai-command-r-v01", {}),
    ("olmo", keys(16, 2048, 16, 16, 8192, 50304), "OLMo-1B-hf", {}),
    ("olmo2", keys(64, 5120, 40, 8, 27648, 100352), "OLMo-2-0325-32B-Instruct", {}),
    ("olmo2", keys(64, 5120, 40, 8, 27648, 100278), "Olmo-3.1-32B-Instruct", {"attention.sliding_window": 4096}),
    ("exaone", keys(32, 4096, 32, 8, 14336, 102400), "EXAONE-3.5-7.8B-Instruct", {}),
    ("exaone4", keys(64, 5120, 40, 8, 27392, 102400, 128), "EXAONE-4.0-32B", {"attention.sliding_window": 4096}),
    ("smollm3", keys(36, 2048, 16, 4, 11008, 128256), "SmolLM3-3B", {}),
    ("seed_oss", keys(64, 5120, 80, 8, 27648, 155136, 128), "Seed-OSS-36B-Instruct", {}),
    (
        "minicpm3",
        keys(62, 2560, 40, 40, 6400, 73448),
        "MiniCPM3-4B",
        {
            "attention.q_lora_rank": 768,
            "attention.kv_lora_rank": 256,
            "attention.key_length": 96,
            "rope.dimension_count": 32,
        },
    ),
    ("chatglm", keys(28, 4096, 32, 2, 13696, 65024), "chatglm3-6b", {}),
    (
        "deepseek",
        keys(28, 2048, 16, 16, 10944, 102400),
        "deepseek-moe-16b-chat",
        moe(64, 6, 1408, expert_shared_count=2, leading_dense_block_count=1),
    ),
    (
        "deepseek2",
        keys(61, 7168, 128, 1, 18432, 129280),
        "DeepSeek-V3",
        MLA
        | moe(256, 8, 2048)
        | {
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
            "attention.q_lora_rank": 1536,
            "expert_gating_func": 2,
        },
    ),
    (
        "glm-dsa",
        keys(79, 6144, 64, 1, 12288, 154880),
        "GLM-5.1",
        MLA
        | moe(256, 8, 2048)
        | {
            "attention.key_length_mla": 256,
            "attention.value_length_mla": 256,
            "attention.q_lora_rank": 2048,
            "attention.indexer.head_count": 32,
            "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 2048,
            "nextn_predict_layers": 1,
        },
    ),
    ("mamba", keys(24, 768, 0, None, 0, 50280) | ssm(4, 1536, 16, 48), "mamba-130m-hf", {}),
    ("mamba", keys(64, 4096, 0, None, 0, 65024) | ssm(4, 8192, 16, 256), "falcon-mamba-7b", {"ssm.dt_b_c_rms": True}),
    ("mamba2", keys(64, 4096, 0, None, 0, 32768) | ssm(4, 8192, 128, 128, 8), "Mamba-Codestral-7B-v0.1", {}),
    (
        "jamba",
        keys(32, 4096, 32, [8 * (i % 8 == 4) for i in range(32)], 14336, 65536) | ssm(4, 8192, 16, 256),
        "Jamba-v0.1",
        {"expert_count": 16, "expert_used_count": 2},
    ),
    ("falcon-h1", keys(32, 2560, 10, 2, 6144, 65536, 128) | ssm(4, 4096, 256, 32, 1), "Falcon-H1-3B-Base", {}),
    (
        "hunyuan-moe",
        keys(32, 4096, 32, 8, 3072, 128167, 128),
        "Hunyuan-A13B-Instruct",
        moe(64, 8, 3072, expert_shared_feed_forward_length=3072),
    ),
    (
        "ernie4_5-moe",
        keys(28, 2560, 20, 4, 12288, 103424),
        "ERNIE-4.5-21B-A3B-PT",
        moe(
            64,
            6,
            1536,
            expert_shared_feed_forward_length=3072,
            leading_dense_block_count=1,
            interleave_moe_layer_step=1,
        ),
    ),
    ("minimax-m2", keys(62, 3072, 48, 8, 1536, 200064, 128), "MiniMax-M2.7", moe(256, 8, 1536)),
    (
        "gpt-oss",
        keys(24, 2880, 64, 8, 2880, 201088, 64),
        "gpt-oss-20b",
        moe(32, 4, 2880) | {"attention.sliding_window": 128},
    ),
    ("qwen", keys(40, 5120, 40, None, 27392, 152064, 128), "Qwen-14B", {}),
    (
        "qwen35",
        keys(64, 5120, 24, 4, 17408, 248320, 256) | ssm(4, 6144, 128, 48, 16),
        "Qwen3.5-27B",
        {"full_attention_interval": 4},
    ),
    (
        "qwen35moe",
        keys(41, 2048, 16, 2, None, 248320, 256) | ssm(4, 4096, 128, 32, 16),
        "Qwen3.5-35B-A3B",
        moe(256, 8, 512, expert_shared_feed_forward_length=512, nextn_predict_layers=1),
    ),
    (
        "gemma3n",
        keys(35, 2048, 8, 2, [16384] * 35, 262400, 256),
        "gemma-3n-E4B",
        {
            "attention.sliding_window": 512,
            "embedding_length_per_layer_input": 256,
            "altup.num_inputs": 4,
        },
    ),
    (
        "gemma4",
        keys(60, 5376, 32, [4 if i % 6 == 5 else 16 for i in range(60)], 21504, 262144, 512),
        "gemma-4-31b-it",
        {
            "attention.sliding_window": 1024,
            "attention.sliding_window_pattern": [i % 6 != 5 for i in range(60)],
            "attention.key_length_swa": 256,
            "attention.value_length_swa": 256,
        },
    ),
    (
        "gemma4",
        keys(30, 2816, 16, [2 if i % 6 == 5 else 8 for i in range(30)], 2112, 262144, 512),
        "gemma-4-26B-A4B",
        moe(128, 8, 704)
        | {
            "attention.sliding_window": 1024,
            "attention.sliding_window_pattern": [i % 6 != 5 for i in range(30)],
            "attention.key_length_swa": 256,
            "attention.value_length_swa": 256,
        },
    ),
    ("baichuan", keys(40, 5120, 40, 40, 13696, 125696), "Baichuan2-13B-Base", {}),
    ("orion", keys(40, 5120, 40, 40, 15360, 84608), "Orion-14B-Chat", {}),
    ("internlm2", keys(32, 4096, 32, 8, 14336, 92544), "internlm2-7b", {}),
    ("apertus", keys(32, 4096, 32, 8, 21504, 131072), "Apertus-8B-2509", {}),
    (
        "llama4",
        keys(48, 5120, 40, 8, 16384, 202048, 128),
        "Llama-4-Scout-17B-16E-Instruct",
        moe(16, 1, 8192, interleave_moe_layer_step=1),
    ),
    (
        "mistral4",
        keys(36, 4096, 32, 1, 12288, 131072) | MLA | moe(128, 4, 2048),
        "Mistral-Small-4-119B-2603",
        {
            "attention.key_length": 320,
            "attention.value_length": 256,
            "attention.kv_lora_rank": 256,
            "attention.key_length_mla": 128,
            "attention.value_length_mla": 128,
            "attention.q_lora_rank": 1024,
            "leading_dense_block_count": 0,
        },
    ),
    (
        "granitehybrid",
        keys(40, 4096, 32, [8 * (i > 35) for i in range(40)], 768, 100352) | ssm(4, 8192, 128, 128, 1),
        "granite-4.0-h-small",
        {"expert_count": 72, "expert_used_count": 10, "expert_shared_feed_forward_length": 1536},
    ),
    (
        "nemotron_h_moe",
        keys(52, 2688, 32, [2 * (kind == "*") for kind in NANO], [1856 * (kind == "E") for kind in NANO], 131072, 128)
        | ssm(4, 4096, 128, 64, 8),
        "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        moe(128, 6, 1856, expert_shared_feed_forward_length=3712),
    ),
    ("rwkv6", keys(24, 2048, 0, None, 7168, 65536) | {"wkv.head_size": 64}, "rwkv-6-world-1b6", {}),
]


def published(name):
    (path,) = [path for path in CONFIGS.glob("*.json") if path.stem.split("__")[1] == name]
    return from_config(json.loads(path.read_text()))


@pytest.mark.parametrize(("arch", "metadata", "name", "more"), SAME, ids=[f"{row[0]}-{row[2]}" for row in SAME])
def test_a_file_describes_the_model_that_its_config_describes(tmp_path, arch, metadata, name, more):
    """Same layers, same caches, same parameters as the published config.json of the model."""
    spec = spec_from_gguf(
        write(tmp_path / "model.gguf", arch, metadata | {k: v for k, v in more.items() if v or k.startswith("leading")})
    )
    wanted = published(name)
    # a file without tensors cannot say whether the logits are tied: take that from the config
    spec = replace(spec, tied=wanted.tied)
    assert [repr(read) for read in build_plan(spec).reads] == [repr(read) for read in build_plan(wanted).reads]
    assert build_plan(spec).stores == build_plan(wanted).stores
    assert count_parameters(spec) == count_parameters(wanted) - sum(t.parameters for t in wanted.towers if t.counted)


# --- third-party numbers ----------------------------------------------------------------------------------------------


def mib_at(spec, label, tokens):
    """MiB of the stores of one kind in f16 after ``tokens``, as llama.cpp prints them per cache."""
    parts = [part for store in build_plan(spec).stores if store.label == label for part in store.parts]
    return sum(part.heads * part.width for part in parts) * tokens * 2 / 2**20


def test_llama_cpp_agrees_about_gemma_3_12b(tmp_path):
    """llama.cpp: 8 layers x 4,096 cells 256.00 MiB, 40 sliding layers x 1,536 cells 480.00 MiB (pattern not in the file)."""
    metadata = keys(48, 3840, 16, 8, 15360, 262208, 256) | {"attention.sliding_window": 1024}
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "gemma3", metadata))
    assert mib_at(spec, "global", 4096) == 256.0
    assert mib_at(spec, "local", 1536) == 480.0


def test_llama_cpp_agrees_about_gpt_oss_20b(tmp_path):
    """llama.cpp: 12 layers x 4,096 cells 96.00 MiB, 12 sliding layers x 768 cells 18.00 MiB."""
    metadata = keys(24, 2880, 64, 8, 2880, 201088, 64) | moe(32, 4, 2880) | {"attention.sliding_window": 128}
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "gpt-oss", metadata))
    assert (mib_at(spec, "global", 4096), mib_at(spec, "local", 768)) == (96.0, 18.0)


def test_llama_cpp_agrees_about_deepseek_v3(tmp_path):
    """llama.cpp: 61 layers x 4,096 cells 274.50 MiB, and no V."""
    metadata = keys(61, 7168, 128, 1, 18432, 129280) | MLA | moe(256, 8, 2048) | {
        "attention.key_length_mla": 192, "attention.value_length_mla": 128, "attention.q_lora_rank": 1536,
    }  # fmt: skip
    assert mib_at(spec_from_gguf(write(tmp_path / "m.gguf", "deepseek2", metadata)), "latent", 4096) == 274.5


def test_llama_cpp_agrees_about_qwen3_next(tmp_path):
    """llama.cpp: 12 layers x 4,096 cells 96.00 MiB; recurrent state 75.38 MiB = 3.38 (fp32 convolution) + 72.00."""
    row = next(row for row in SAME if row[0] == "qwen3next")
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "qwen3next", row[1] | row[3]))
    assert mib_at(spec, "global", 4096) == 96.0
    parts = [part for store in build_plan(spec).stores if store.label == "state" for part in store.parts]
    mib = {name: sum(p.heads * p.width for p in parts if p.name == name) * 4 / 2**20 for name in ("conv", "recurrent")}
    assert mib == {"conv": 3.375, "recurrent": 72.0}


def test_llama_cpp_agrees_about_gemma_3n(tmp_path):
    """llama.cpp: Gemma 3n E4B allocates 64 MiB at 4,096: 4 global layers x 4,096 and 16 local x 1,024 cells; 15 share."""
    metadata = keys(35, 2048, 8, 2, [16384] * 35, 262400, 256) | {"attention.sliding_window": 512}
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "gemma3n", metadata))
    # cells of the sliding cache: 512 + 512 of the micro-batch = 1,024
    assert mib_at(spec, "global", 4096) + mib_at(spec, "local", 1024) == 64.0


def test_deepseek_v2_lite_has_no_query_rank(tmp_path):
    """15,706,484,224 parameters, as published: no q_lora_rank in the file means one plain query projection."""
    metadata = keys(27, 2048, 16, 1, 10944, 102400) | MLA | moe(64, 6, 1408) | {
        "attention.key_length_mla": 192, "attention.value_length_mla": 128, "leading_dense_block_count": 1,
        "expert_shared_count": 2,
    }  # fmt: skip
    assert count_parameters(spec_from_gguf(write(tmp_path / "m.gguf", "deepseek2", metadata))) == 15_706_484_224


def test_lfm2_states_the_width_it_has(tmp_path):
    """feed_forward_length is the width itself (10,752: llama.cpp's 2.6B), nothing is adjusted: 2.57 billion parameters."""
    attends = {2, 5, 9, 13, 17, 21, 24, 27}
    metadata = keys(30, 2048, 32, [8 * (i in attends) for i in range(30)], 10752, 65536) | {"shortconv.l_cache": 3}
    spec = replace(spec_from_gguf(write(tmp_path / "m.gguf", "lfm2", metadata)), tied=True)
    # MLPs 30 x 3 x 2,048 x 10,752; convolutions 22 x (4 x 2,048^2 + 3 x 2,048); attention 8 x (2.5 x 2,048^2 + 2 x 64)
    # norms 61 x 2,048; table 65,536 x 2,048
    mixers = 22 * (4 * 2048**2 + 3 * 2048) + 8 * (2 * 2048**2 + 2 * 2048 * 512 + 128)
    assert count_parameters(spec) == 30 * 3 * 2048 * 10752 + mixers + 61 * 2048 + 65536 * 2048 == 2_569_272_320


# --- per-layer arrays and patterns ------------------------------------------------------------------------------------


def kinds(spec):
    return "".join(read.growth.kind[0] for read in build_plan(spec).reads)


def test_the_files_own_pattern_wins(tmp_path):
    """sliding_window_pattern as flags per layer, or as a period; without it the architecture's habit."""
    base = keys(6, 64, 4, 1, 128, 1000, 16) | {"attention.sliding_window": 8}
    path = tmp_path / "m.gguf"
    assert kinds(spec_from_gguf(write(path, "gemma3", base))) == "wwwwwf"
    flags = {"attention.sliding_window_pattern": [True, False, True, False, True, False]}
    assert kinds(spec_from_gguf(write(path, "gemma3", base | flags))) == "wfwfwf"
    assert kinds(spec_from_gguf(write(path, "gemma3", base | {"attention.sliding_window_pattern": 3}))) == "wwfwwf"
    assert kinds(spec_from_gguf(write(path, "cohere2", base))) == "wwwfww"
    with pytest.raises(InvalidInput, match="6 flags"):
        spec_from_gguf(write(path, "gemma3", base | {"attention.sliding_window_pattern": [True, False]}))


def test_llama_4_is_chunked_unless_the_window_is_zero(tmp_path):
    """llama.cpp: three layers in chunks of 8,192 and one full; a window of 0 means none (distilled dense models)."""
    metadata = keys(8, 64, 4, 1, 256, 1000, 16) | moe(4, 1, 128) | {"interleave_moe_layer_step": 1}
    path = tmp_path / "m.gguf"
    spec = spec_from_gguf(write(path, "llama4", metadata))
    assert kinds(spec) == "cccfcccf"
    assert {read.growth.limit for read in build_plan(spec).reads} == {0, 8192}
    assert kinds(spec_from_gguf(write(path, "llama4", metadata | {"attention.sliding_window": 0}))) == "ffffffff"


def test_layers_without_kv_heads_are_recurrent(tmp_path):
    """head_count_kv 0 marks a layer that keeps a state: LFM2's convolutions, Granite's and Nemotron's Mamba."""
    path = tmp_path / "m.gguf"
    lfm = keys(4, 64, 4, [0, 2, 0, 2], 128) | {"shortconv.l_cache": 3}
    assert [len(s.parts) for s in build_plan(spec_from_gguf(write(path, "lfm2", lfm))).stores] == [1, 2, 1, 2]
    granite = keys(3, 64, 4, [0, 2, 0], 128) | ssm(4, 128, 16, 8, 1)
    stores = build_plan(spec_from_gguf(write(path, "granitehybrid", granite))).stores
    assert [s.label for s in stores] == ["state", "global", "state"]
    # Nemotron-H: Mamba where both arrays are 0, attention where there are KV heads, else an MLP
    nemotron = keys(4, 64, 4, [0, 0, 2, 0], [0, 96, 0, 96]) | ssm(4, 128, 16, 8, 1) | {"attention.key_length": 16}
    spec = spec_from_gguf(write(path, "nemotron_h", nemotron))
    assert [bool(layer.mlps) for layer in spec.layers] == [False, True, False, True]
    assert [s.label for s in build_plan(spec).stores] == ["state", "global"]


def test_deci_layers_may_lack_attention(tmp_path):
    """Nemotron-NAS: no heads: no attention; heads without KV heads: one matrix; different KV heads elsewhere."""
    metadata = keys(4, 64, [4, 0, 4, 4], [2, 0, 0, 1], [128, 128, 128, 256])
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "deci", metadata))
    assert [[mixer.kv_heads for mixer in layer.mixers] for layer in spec.layers] == [[2], [], [], [1]]
    assert [sum(mlp.width for mlp in layer.mlps) for layer in spec.layers] == [128, 128, 128, 256]


def test_next_token_layers_are_not_the_models(tmp_path):
    """block_count counts MTP layers; they are not in the cache of the main context."""
    metadata = keys(5, 64, 4, 2, 128) | moe(4, 2, 32, expert_shared_count=1, leading_dense_block_count=1)
    path = tmp_path / "m.gguf"
    assert len(spec_from_gguf(write(path, "glm4moe", metadata)).layers) == 5
    assert len(spec_from_gguf(write(path, "glm4moe", metadata | {"nextn_predict_layers": 1})).layers) == 4
    with pytest.raises(InvalidInput, match="fewer than block_count"):
        spec_from_gguf(write(path, "glm4moe", metadata | {"nextn_predict_layers": 5}))


def test_shared_layers_of_gemma_4(tmp_path):
    """Gemma 4: wide global heads, local ones of their own, and last layers that keep nothing."""
    metadata = keys(6, 64, 4, [2, 2, 2, 2, 2, 1], 128, 1000) | {
        "attention.sliding_window": 16, "attention.key_length": 32, "attention.value_length": 32,
        "attention.key_length_swa": 16, "attention.value_length_swa": 16, "embedding_length_per_layer_input": 0,
        "attention.sliding_window_pattern": [True, True, True, True, True, False],
    }  # fmt: skip
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "gemma4", metadata))
    assert [(s.parts[0].heads, s.parts[0].width) for s in build_plan(spec).stores] == [(2, 16)] * 5 + [(1, 32)]
    shared = metadata | {
        "attention.shared_kv_layers": 2,
        "attention.sliding_window_pattern": [True, True, True, False, True, False],
        "attention.head_count_kv": [2, 2, 2, 1, 2, 1],
    }
    assert len(build_plan(spec_from_gguf(write(tmp_path / "m.gguf", "gemma4", shared))).stores) == 4


def test_every_architecture_needs_its_block_count(tmp_path):
    """An empty file of any known architecture is one clear error, not a default model."""
    for arch in architectures():
        with pytest.raises(InvalidInput, match="block_count"):
            spec_from_gguf(write(tmp_path / "m.gguf", arch, {}))


# --- bytes ------------------------------------------------------------------------------------------------------------

SMALL = keys(2, 256, 4, 2, 512, 100)


def small_tensors(kind, *, norms=0, output=True, extra=()):
    """A Llama of 2 layers: matrices of one type, norms in fp32."""
    rows = [("token_embd.weight", (256, 100), kind), ("output_norm.weight", (256,), norms)]
    rows += [("output.weight", (256, 100), kind)] if output else []
    for i in range(2):
        rows += [(f"blk.{i}.{name}.weight", (256,), norms) for name in ("attn_norm", "ffn_norm")]
        rows += [(f"blk.{i}.{name}.weight", (256, 256), kind) for name in ("attn_q", "attn_output")]
        rows += [(f"blk.{i}.{name}.weight", (256, 128), kind) for name in ("attn_k", "attn_v")]
        rows += [(f"blk.{i}.{name}.weight", (256, 512), kind) for name in ("ffn_up", "ffn_gate")]
        rows += [(f"blk.{i}.ffn_down.weight", (512, 256), kind)]
    return [tensor(*row) for row in (*rows, *extra)]


# matrices: 2 x 100 x 256 + 2 x (2 x 65,536 + 2 x 32,768 + 3 x 131,072); norms: 5 x 256
MATRICES, NORMS = 2 * 100 * 256 + 2 * (2 * 65_536 + 2 * 32_768 + 3 * 131_072), 5 * 256


@pytest.mark.parametrize(
    ("kind", "block", "size"),
    [
        (0, 1, 4),
        (1, 1, 2),
        (2, 32, 18),
        (8, 32, 34),
        (12, 256, 144),
        (14, 256, 210),
        (20, 32, 18),
        (39, 32, 17),
        (40, 64, 36),
    ],
)
def test_weight_bytes_are_the_tensors_bytes(tmp_path, kind, block, size):
    """Elements / block x bytes of the block for each tensor (libggml's table), norms in fp32."""
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "llama", SMALL, small_tensors(kind)))
    assert spec.weight_bytes == MATRICES // block * size + NORMS * 4
    assert count_parameters(spec) == MATRICES + NORMS
    assert not spec.tied
    assert not any("elements" in note for note in spec.notes)


def test_tied_logits_are_those_without_a_tensor(tmp_path):
    """No output.weight: the logits use the token table."""
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "llama", SMALL, small_tensors(1, output=False)))
    assert spec.tied
    assert spec.weight_bytes == 2 * (MATRICES - 25_600) + 4 * NORMS


def test_tensors_the_metadata_does_not_explain_are_named(tmp_path):
    """Rotary tables are no parameters; anything else that does not add up is a note with the difference."""
    rope = ("rope_freqs.weight", (64,), 0)
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "llama", SMALL, small_tensors(1, extra=[rope])))
    assert spec.weight_bytes == 2 * MATRICES + 4 * NORMS + 256
    assert not any("elements" in note for note in spec.notes)
    stray = ("blk.1.attn_gate.weight", (256, 4), 1)
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "llama", SMALL, small_tensors(1, extra=[stray])))
    assert any("+1,024 elements" in note for note in spec.notes)


def test_without_tensors_the_file_type_counts(tmp_path):
    """file_type 7 (mostly Q8_0): shapes times 8.5 bits, norms in the compute type, said in a note."""
    spec = spec_from_gguf(write(tmp_path / "m.gguf", "llama", SMALL, file_type=7))
    assert spec.weight_bytes is None
    assert checkpoint_bytes(spec) == MATRICES // 32 * 34 + NORMS * 2
    assert any("no tensors" in note for note in spec.notes)


def test_split_files_count_together(tmp_path):
    """The first file holds the metadata, each holds some tensors; an absent one leaves the bytes to the shapes."""
    tensors = small_tensors(1)
    write(tmp_path / "m-00001-of-00002.gguf", "llama", SMALL, tensors[:5])
    with_one = spec_from_gguf(tmp_path / "m-00001-of-00002.gguf")
    assert with_one.weight_bytes is None
    assert any("absent" in note for note in with_one.notes)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(header({"split.no": 1}, tensors[5:]))
    for part in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"):
        spec = spec_from_gguf(tmp_path / part)
        assert spec.weight_bytes == 2 * MATRICES + 4 * NORMS


def test_a_file_by_the_gguf_package_reads_alike(tmp_path):
    """The writer of the gguf package: same metadata, shapes and bytes as its own reader reports; the vocabulary is skipped."""
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, item in SMALL.items():
        if key != "vocab_size":
            writer.add_uint32(f"llama.{key}", item)
    writer.add_token_list([f"token {i}" for i in range(20_000)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 20_000)
    writer.add_chat_template("x" * 100_000)
    writer.add_tensor(
        "blk.0.attn_q.weight", numpy.zeros((256, 144), dtype=numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_K
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf(path)
    assert found.metadata["tokenizer.ggml.tokens"] == gguf_header.Skipped(20_000)
    (described,) = found.tensors
    theirs = gguf.GGUFReader(path).tensors[0]
    assert (described.name, described.bytes, list(described.shape)) == (
        theirs.name,
        theirs.n_bytes,
        theirs.shape.tolist(),
    )
    assert spec_from_gguf(path).vocab == 20_000


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "magic"),
        (b"GGU", "magic"),
        (b"\x7fELF" + bytes(64), "magic"),
        (b"GGUF" + struct.pack("<I", 3), "tensor_count"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "tensor_count"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "metadata_kv_count"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62) + bytes(32), "key"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**60) + bytes(32), "a: got"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 6, 2**61) + bytes(32), "a: got"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(32), "array"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 77) + bytes(32), "value type 77"),
        (header({"a": 1})[:-2], "a: got"),
        (header({}, [tensor("t", (2**31, 2**31))]), "shape"),
        (header({}, [tensor("t", (0,))]), "shape"),
        (header({}, [tensor("t", (100,), 12)]), "multiple of 256"),
        (header({}, [tensor("t", [1] * 9)]), "n_dims"),
        (header({}, [tensor("t", (8,)), tensor("t", (8,))]), "twice"),
        (header({"a": 1, "b": 2}).replace(text("b"), text("a")), "twice"),
    ],
)
def test_broken_headers_are_one_line(tmp_path, data, what):
    """Every count is checked against the file before anything is read for it."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=what) as caught:
        read_gguf(path)
    assert "\n" not in str(caught.value)


def test_other_versions_and_byte_orders(tmp_path):
    """Version 1 and big-endian files are known and refused; so is a tensor type of unknown size."""
    path = tmp_path / "m.gguf"
    for data, what in (
        (header({}, version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (header({}, [tensor("t", (8,), 4)]), "type 4"),
    ):
        path.write_bytes(data)
        with pytest.raises(Unsupported, match=what):
            read_gguf(path)


def test_never_more_than_the_limit_is_read(tmp_path, monkeypatch):
    """A header may not pass 64 MiB (here 1 KiB), however large the file is."""
    monkeypatch.setattr(gguf_header, "READ_LIMIT", 1024)
    path = tmp_path / "m.gguf"
    path.write_bytes(header({"a": "x" * 2000}) + bytes(10_000))
    with pytest.raises(InvalidInput, match="at most 1024 bytes"):
        read_gguf(path)


def test_what_is_not_a_language_model(tmp_path):
    """Unknown architectures name the nearest; adapters, projectors, folders and missing files say what they are."""
    path = tmp_path / "m.gguf"
    with pytest.raises(UnknownName, match="qwen3") as caught:
        spec_from_gguf(write(path, "qwen3x", {}))
    assert "qwen3" in caught.value.nearest
    with pytest.raises(Unsupported, match="adapter"):
        spec_from_gguf(write(path, "llama", {}, type="adapter"))
    with pytest.raises(Unsupported, match="projector"):
        spec_from_gguf(write(path, "clip", {}))
    path.write_bytes(header({}))
    with pytest.raises(InvalidInput, match=r"general\.architecture"):
        spec_from_gguf(path)
    for wrong in (tmp_path, tmp_path / "absent.gguf", "a\0b"):
        with pytest.raises(InvalidInput):
            spec_from_gguf(wrong)


VALUES = st.one_of(
    st.booleans(), st.integers(0, 2**32 - 1), st.floats(width=32, allow_nan=False), st.text(max_size=8),
    st.lists(st.integers(0, 2**32 - 1), max_size=4),
)  # fmt: skip
MUTABLE = sorted({key for row in SAME for key in (*row[1], *row[3])})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.sampled_from(SAME), key=st.sampled_from(MUTABLE), item=VALUES, drop=st.booleans())
def test_wrong_metadata_is_a_kvplan_error_or_a_model(tmp_path, row, key, item, drop):
    """Any value under any key: a spec or a KvplanError, nothing else."""
    metadata = row[1] | row[3]
    metadata.pop(key, None)
    if not drop:
        metadata[key] = item
    spec, message = attempt(spec_from_gguf, write(tmp_path / "m.gguf", row[0], metadata))
    assert "\n" not in message
    assert spec is None or count_parameters(spec) > 0


WHOLE = header({"general.architecture": "llama", "llama.block_count": 2, "t": ["a", "b"]}, small_tensors(12))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(WHOLE) - 1), junk=st.binary(max_size=12), cut=st.booleans())
@example(at=8, junk=b"\xff" * 8, cut=False)
def test_damaged_files_are_a_kvplan_error_or_a_header(tmp_path, at, junk, cut):
    """Bytes replaced or the end cut off anywhere: a header or a KvplanError, in no time."""
    path = tmp_path / "m.gguf"
    path.write_bytes(WHOLE[:at] + junk + (b"" if cut else WHOLE[at + len(junk) :]))
    assert "\n" not in attempt(read_gguf, path)[1]


def test_support_writes_what_the_format_says():
    """The helper's bytes: type 4 is u32, little-endian (ggml's gguf.md)."""
    assert gguf_files.value(7) == b"\x04\0\0\0\x07\0\0\0"


def test_weights_from_shapes_are_an_estimate(tmp_path: Path) -> None:
    """A file with metadata and no tensors is valid; its weights follow from shapes and are labelled so."""
    import gguf

    import kvplan

    writer = gguf.GGUFWriter(str(tmp_path / "bare.gguf"), "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_vocab_size(100)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = kvplan.plan(tmp_path / "bare.gguf", context=10)

    assert {"estimated"} == {t.basis for t in report.terms if t.path.startswith("weights/")}
    assert {"exact"} == {t.basis for t in report.terms if t.path.startswith("kv/")}
