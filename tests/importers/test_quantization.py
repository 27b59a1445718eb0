"""Weight formats. Totals are those of published checkpoints: ``metadata.total_size`` or sums of their tensor headers.

Sources: openai/gpt-oss (index), mlx-community (exo's pinned model cards, WebLLM's audited manifests), RedHatAI and
nvidia Llama 3 (headers summed by others), Llama-3-70B-AWQ (its index, in gpustack's tests).
"""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from kvplan.importers.config import Config
from kvplan.importers.quantization import read_quantization
from kvplan.importers.quantization.methods import METHODS
from kvplan.specs import Weight
from kvplan.weights import storage_bits, storage_of, stored_bits
from tests.support import checkpoint_bytes
from tests.support.attempts import attempt

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


def llama(layers, hidden, heads, kv_heads, width, vocab, tied=False):
    return {
        "model_type": "llama", "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": width, "vocab_size": vocab, "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }  # fmt: skip


LLAMA_8B = llama(32, 4096, 32, 8, 14336, 128256)
LLAMA_70B = llama(80, 8192, 64, 8, 28672, 128256)


def published(stem):
    raw = json.loads((CONFIGS / f"{stem}.json").read_text())
    return {key: value for key, value in raw.items() if key != "quantization_config"}


def compressed(weights, format_, **more):
    group = {"targets": ["Linear"], "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "ignore": ["lm_head"],
        "config_groups": {"g": group},
        **more,
    }


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
MLX = {"group_size": 64, "bits": 4}
EIGHT = {"group_size": 64, "bits": 8}


def of(quantization):
    return read_quantization(Config({"quantization_config": quantization}))[0]


# --- totals of published checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total"), [("openai__gpt-oss-20b", 13_761_264_768), ("openai__gpt-oss-120b", 65_248_815_744)]
)
def test_gpt_oss(name, total):
    """Experts in MXFP4, everything else in bf16, biases too."""
    spec = from_config(json.loads((CONFIGS / f"{name}.json").read_text()))
    assert checkpoint_bytes(spec) == total


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (llama(16, 2048, 32, 8, 8192, 128256, True), 695_242_752),  # Llama-3.2-1B-Instruct-4bit
        (llama(28, 3072, 24, 8, 8192, 128256, True), 1_807_423_488),  # Llama-3.2-3B-Instruct-4bit
        (LLAMA_8B, 4_517_404_672),  # Llama-3.1-8B-Instruct-4bit
        (LLAMA_70B, 39_688_355_840),  # Llama-3.3-70B-Instruct-4bit
        ("Qwen__Qwen3-0.6B", 335_372_288),
        ("Qwen__Qwen3-8B", 4_607_731_712),
        ("google__gemma-2-9b-it", 5_199_330_304),
    ],
    ids=str,
)
def test_mlx_quantises_token_tables_too(config, total):
    """Four bits with a 16-bit scale and bias per 64, in every matrix; norms stay."""
    raw = published(config) if isinstance(config, str) else config
    assert checkpoint_bytes(from_config({**raw, "quantization": MLX})) == total


def test_mlx_exceptions_by_module():
    """Routers at 8 bits in a 4-bit file, and gpt-oss with MXFP4 experts in an affine 8-bit file."""
    gates = {f"model.layers.{i}.mlp.gate": EIGHT for i in range(48)}
    raw = published("Qwen__Qwen3-30B-A3B-FP8")
    assert checkpoint_bytes(from_config({**raw, "quantization": {**MLX, **gates}})) == 17_180_913_664
    affine = {**EIGHT, "mode": "affine"}
    modules = [f"self_attn.{name}_proj" for name in "qkvo"] + ["mlp.router"]
    named = {f"model.layers.{i}.{module}": affine for i in range(24) for module in modules}
    mixed = {"group_size": 32, "bits": 4, "mode": "mxfp4", "model.embed_tokens": affine, "lm_head": affine, **named}
    raw = published("openai__gpt-oss-20b")
    assert checkpoint_bytes(from_config({**raw, "quantization": mixed})) == 12_076_119_168


def test_mlx_other_widths():
    """SmolLM2-135M-Instruct-8bit: 8 bits, tied."""
    raw = llama(30, 576, 9, 3, 1536, 49152, True)
    assert checkpoint_bytes(from_config({**raw, "quantization": EIGHT})) == 142_955_136


@pytest.mark.parametrize(
    ("config", "quantization", "total"),
    [
        (LLAMA_70B, {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, 39_767_785_472),
        (LLAMA_8B, compressed(FP8, "float-quantized"), 9_083_953_152),
        (LLAMA_70B, compressed({**INT4, "actorder": "group"}, "pack-quantized"), 39_525_311_232),
        (
            LLAMA_70B,
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]},
            42_709_045_632,
        ),
    ],
    ids=["awq", "fp8-dynamic", "w4a16", "nvfp4"],
)
def test_llama_3(config, quantization, total):
    """AWQ; FP8 with bf16 scales per channel; packed int4 with group indices; NVFP4 with both fp32 scales."""
    assert checkpoint_bytes(from_config({**config, "quantization_config": quantization})) == total


def test_gptq_less_the_zero_biases_of_autogptq():
    """RedHatAI's Llama 3.1 8B w4a16 has 5,735,587,840 bytes: AutoGPTQ also wrote a bias of zeros per output.

    Those are 2 x (2 x 4,096 + 2 x 1,024 + 2 x 14,336 + 4,096) bytes in each of 32 layers; no config says so.
    """
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
    biases = 32 * 2 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)
    assert checkpoint_bytes(from_config({**LLAMA_8B, "quantization_config": gptq})) == 5_735_587_840 - biases


def test_deepseek_v3_is_its_files_less_the_mtp_layer_and_headers():
    """The published files have 688,586,727,753 bytes, headers of 163 files and the MTP layer included.

    The MTP layer repeats a sparse layer (11,511,946,464 bytes by the same rules), adds a projection 2h x h in bf16 and
    a copy each of token table and head. What is left, 12 MB, is names and offsets of 91,991 tensors: 129 bytes each.
    """
    spec = from_config(json.loads((CONFIGS / "deepseek-ai__DeepSeek-V3.json").read_text()))
    main = checkpoint_bytes(spec)
    mtp = 11_511_946_464 + 2 * 7168 * 7168 * 2 + 2 * 129280 * 7168 * 2
    left = 688_586_727_753 - main - mtp
    assert 120 < left / 91_991 < 140


# --- one matrix --------------------------------------------------------------------------------------------------------

K, N = 4096, 12288


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        # engines' storage formats, bits of a K x N matrix written out
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, K * N * 4 + K // 128 * N * 20),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, K * N * 4 + K // 128 * N * 20 + 32 * K),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, K * N * 8 + N * 24 + 32 * K),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, K * N * 3 + K // 128 * N * 19 + 32 * K),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, K * N * 4 + K // 128 * N * 16),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, K * N * 4 + K // 128 * N * 20),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, K * N * 8 + 32 * 96 * 32),
        ({"quant_method": "fp8", "weight_block_size": [128, 100]}, K * N * 8 + 41 * 96 * 32),  # 40.96 tiles
        ({"quant_method": "fp8", "activation_scheme": "static"}, K * N * 8 + 64),
        ({"quant_method": "fbgemm_fp8"}, K * N * 8 + 32 * N),
        ({"load_in_8bit": True}, K * N * 8 + 32 * N),
        ({"load_in_4bit": True}, K * N * 4 + K * N // 64 * 32 + 512),
        (
            {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_type": "nf4"},
            # 4.127 bits: 8-bit absmax per 64, fp32 per 256 of those, tables of 16 and 256 fp32, an offset
            K * N * 4 + K * N // 64 * 8 + K * N // 16384 * 32 + 32 * 273,
        ),
        ({"quant_method": "mxfp4"}, K * N * 4 + K * N // 32 * 8),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, K * N * 8 + 64),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, K * N * 8 + K * N // 32 * 8),
        (
            compressed({"num_bits": 4, "type": "float", "group_size": 16}, "nvfp4-pack-quantized"),
            K * N * 4 + K * N // 2 + 32,
        ),
        (compressed({**INT4, "symmetric": False}, "pack-quantized"), K * N * 4 + K // 128 * N * 20 + 128),
        (compressed({"num_bits": 8, "type": "int", "strategy": "channel"}, "int-quantized"), K * N * 8 + N * 16),
        ({"quant_method": "hqq", "nbits": 4, "group_size": 64}, K * N * 4 + K * N // 64 * 32),
        ({"quant_method": "hqq", "nbits": 3, "group_size": 64}, N * 410 * 32 + K * N // 64 * 32),  # ten to a word
        ({"quant_method": "quanto", "weights": "int8"}, K * N * 8 + N * 16),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, K * N * 4 + K * N // 128 * 32),
        ({"quant_method": "eetq"}, K * N * 8 + N * 16),
        ({"quant_method": "bitnet"}, K * N * 2 + 16),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_bits_of_one_matrix(quantization, bits):
    """Elements, scales, zero points and indices, as the method's own tensors hold them."""
    assert storage_bits(of(quantization).storage, K, N) == bits


def test_each_expert_is_a_matrix_of_its_own():
    """Checkpoints store gate and up of each expert apart: 96 outputs each are one tile row each, not 192 two in all."""
    q = of({"quant_method": "fp8", "weight_block_size": [128, 128]})
    experts = Weight("mlp.experts.gate_up_proj", 256, 2 * 96, copies=8, visited=2, fused=True, pieces=2)
    assert stored_bits(experts, "model.layers.0.mlp.experts.gate_up_proj", "bf16", q) == 8 * 2 * (256 * 96 * 8 + 2 * 32)


def test_bitsandbytes_leaves_fused_experts_alone():
    """It walks nn.Linear; experts held as one 3-D parameter keep their dtype."""
    q = of({"load_in_4bit": True})
    experts = Weight("mlp.experts.down_proj", 64, 64, copies=8, visited=2, fused=True)
    assert stored_bits(experts, "model.layers.0.mlp.experts.down_proj", "bf16", q) == 8 * 64 * 64 * 16


# --- which modules -------------------------------------------------------------------------------------------------------


def kind(q, path, **facts):
    return storage_of(Weight(path.split(".", 3)[-1], 256, 256, **facts), path, q).format


@pytest.mark.parametrize("method", [{"quant_method": "fp8"}, {"quant_method": "awq"}, {"quant_method": "fbgemm_fp8"}])
def test_heads_and_routers_stay(method):
    """Walkers skip the output embedding; routers are parameters. A gate_proj is no gate."""
    q = of(method)
    assert kind(q, "lm_head") == "dtype"
    assert kind(q, "model.layers.3.mlp.gate") == "dtype"
    assert kind(q, "model.layers.3.mlp.shared_expert_gate") == "dtype"
    assert kind(q, "model.layers.3.mlp.gate_proj") != "dtype"


def test_numbers_match_whole():
    """model.layers.1 is layer 1, not 10 to 19."""
    q = of({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1"]})
    assert kind(q, "model.layers.1.mlp.down_proj") == "dtype"
    assert kind(q, "model.layers.10.mlp.down_proj") == "fp8_e4m3"


@pytest.mark.parametrize(
    ("pattern", "hit", "miss"),
    [
        ("model.layers.0*", "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"),
        ("*.mlp.shared_experts.*", "model.layers.5.mlp.shared_experts.up_proj", "model.layers.5.mlp.experts.up_proj"),
        ("model.layers.*.self_attn", "model.layers.7.self_attn.k_proj", "model.layers.7.mlp.up_proj"),
        ("model.language_model.layers.2.mlp", "model.layers.2.mlp.up_proj", "model.layers.3.mlp.up_proj"),
        ("language_model.model.layers.2.mlp", "model.layers.2.mlp.up_proj", "model.layers.2.self_attn.q_proj"),
        ("re:.*self_attn.*", "model.layers.7.self_attn.k_proj", "model.layers.7.mlp.up_proj"),
        ("re:.*mlp\\.(gate|up|down)_proj$", "model.layers.7.mlp.up_proj", "model.layers.7.mlp.shared_experts.up_proj"),
        ("layers.4.ffn.experts", "layers.4.mlp.experts.gate_up_proj", "layers.4.mlp.shared_experts.up_proj"),
        ("*block_sparse_moe.experts.0.w2", "model.layers.4.mlp.experts.down_proj", "model.layers.4.mlp.down_proj"),
        ("vision_tower", "vision_tower.layers.2.mlp.up_proj", "model.layers.2.mlp.up_proj"),
    ],
)
def test_ignore_lists(pattern, hit, miss):
    """Names, globs and expressions, whatever wrappers a file puts around the decoder and however it spells experts."""
    q = of({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [pattern]})
    assert kind(q, hit) == "dtype"
    assert kind(q, miss) == "nvfp4"


def test_mixed_precision_names_every_layer():
    """NVIDIA's MiniMax-M3: 21,888 expert matrices in NVFP4, attention in MXFP8, routers plain, in two dozen rules."""
    raw = json.loads((CONFIGS / "nvidia__MiniMax-M3-NVFP4.json").read_text())
    q, kv_dtype = read_quantization(Config(raw))
    assert len(q.rules) < 30
    assert kv_dtype is None
    assert kind(q, "model.layers.9.mlp.experts.gate_up_proj") == "nvfp4"
    assert kind(q, "model.layers.9.self_attn.q_proj") == "mxfp8"
    assert kind(q, "model.layers.9.mlp.gate") == "dtype"
    assert kind(q, "lm_head") == "dtype"


def test_deepseek_v4_has_fp4_experts():
    """expert_dtype fp4 beside FP8: experts in MXFP4; the compressors and hyper-connections are not quantised."""
    raw = json.loads((CONFIGS / "deepseek-ai__DeepSeek-V4-Flash.json").read_text())
    q, _ = read_quantization(Config(raw))
    assert kind(q, "layers.4.ffn.experts.down_proj") == "mxfp4"
    assert kind(q, "layers.4.ffn.shared_experts.down_proj") == "fp8_e4m3"
    assert kind(q, "layers.4.attn.compressor.wkv") == "dtype"
    assert kind(q, "layers.4.hc_attn.fn") == "dtype"
    assert q.storage.tile_bits == 8


def test_gptqmodel_rules():
    """dynamic: -: leaves modules alone, +: changes their bits; the first match counts."""
    q = of(
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"-:.*mlp.*": {}, "+:.*attn.*": {"bits": 8}}}
    )
    assert kind(q, "model.layers.0.mlp.up_proj") == "dtype"
    assert kind(q, "model.layers.0.self_attn.q_proj") == "int8"
    assert kind(q, "model.layers.0.linear.out") == "int4"


def test_every_published_config_is_understood():
    """No method in the collection is unknown, and every one gives a number of bytes where its family is imported."""
    seen = 0
    for path in sorted(CONFIGS.glob("*.json")):
        q, _ = read_quantization(Config(json.loads(path.read_text())))
        if q is not None:
            assert q.known, path.name
            assert len(q.rules) < 40, path.name
            seen += 1
    assert seen >= 30


# --- the rest ------------------------------------------------------------------------------------------------------------


def test_unknown_methods_are_unknown():
    """Not an error and not a guess: no bytes, and the spec says so."""
    for quantization in ({"quant_method": "aqlm"}, {"quant_method": "modelopt", "quant_algo": "W3A7"}, {"foo": 1}):
        spec = from_config({**LLAMA_8B, "quantization_config": quantization})
        assert not spec.quantization.known
        assert checkpoint_bytes(spec) is None


def test_where_it_is_found():
    """At the top, as compression_config, or in a nested text config; null and {} are none."""
    fp8 = {"quant_method": "fp8"}
    for raw in ({"compression_config": fp8}, {"text_config": {"quantization_config": fp8}}):
        assert read_quantization(Config(raw))[0].method == "fp8"
    assert read_quantization(Config({"quantization_config": None})) == (None, None)
    assert read_quantization(Config({"quantization_config": {}})) == (None, None)
    assert from_config({**LLAMA_8B, "compression_config": fp8}).quantization.method == "fp8"


@pytest.mark.parametrize(
    ("stated", "kv_dtype"),
    [
        ({"kv_cache_quant_algo": "FP8"}, "fp8_e4m3"),
        ({"kv_cache_quant_algo": None}, None),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False}}, "fp8_e4m3"),
        ({"kv_cache_scheme": "static"}, "fp8_e4m3"),
        ({"kv_cache_scheme": {"num_bits": 4, "type": "float"}}, "nvfp4"),
    ],
)
def test_kv_dtype(stated, kv_dtype):
    """What the checkpoint says about the cache becomes the default of --kv-dtype."""
    quantization = {"quant_method": "modelopt", "quant_algo": "FP8", **stated}
    assert from_config({**LLAMA_8B, "quantization_config": quantization}).kv_dtype == kv_dtype


@pytest.mark.parametrize(
    ("quantization", "field"),
    [
        ([], "quantization_config"),
        ({"quant_method": "awq", "bits": 5}, "bits"),
        ({"quant_method": "gptq"}, "bits"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
        ({"quant_method": "fp8", "modules_to_not_convert": [1]}, "modules_to_not_convert"),
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 3, "type": "float"}}, "kv_cache_scheme"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "load_in_4bit"),
        (compressed(FP8, "float-quantized", ignore=["a" * 400]), "ignore"),
    ],
)
def test_wrong_values_name_their_field(quantization, field):
    """One line that names the field; what expressions may say stands in test_expressions.py."""
    with pytest.raises(InvalidInput) as caught:
        from_config({**LLAMA_8B, "quantization_config": quantization})
    assert field in caught.value.field
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.sampled_from(["re:x*", "*", "FP8", "int", "lm_head", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["weights", "bits", "g", "quant_algo"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = sorted(set(re.findall(r'c\.\w+\("(\w+)"', Path(read_quantization.__code__.co_filename).read_text())))


@settings(max_examples=300, deadline=None)
@given(method=st.sampled_from(sorted(METHODS)), rest=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_any_json_is_a_kvplan_error_or_a_quantisation(method, rest):
    """Whatever stands under the keys that methods read."""
    raw = {**llama(2, 64, 4, 2, 96, 100), "quantization_config": {**rest, "quant_method": method}}
    size, message = attempt(lambda: checkpoint_bytes(from_config(raw)))
    assert "\n" not in message
    assert size is None or size > 0


def test_rules_for_dense_mlps_leave_experts_alone() -> None:
    """Kimi K2.5 keeps attention, shared experts and dense MLPs in 16 bits and packs 384 experts into 4 bits.

    Per expert matrix of 7,168 x 2,048, symmetric, group 32: K x N / 2 bytes, 2 bytes a group, two int64 of shape.
    """
    from kvplan.catalog import load
    from kvplan.checkpoint import weight_bytes

    spec = load("kimi-k2.5")
    one = 7168 * 2048 // 2 + 7168 * 2048 // 32 * 2 + 16

    assert 60 * 384 * 3 * one == weight_bytes(spec, "bf16", spec.quantization).by_category["experts"]
