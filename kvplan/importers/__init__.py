"""From a raw ``config.json`` to a ModelSpec: one small function per ``model_type``, files by vendor.

Vendor modules are loaded only when one of their types is asked for, so that a plan imports one of them, not all.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from kvplan.errors import InvalidInput, KvplanError, UnknownName
from kvplan.importers.config import Config
from kvplan.specs import ModelSpec

__all__ = ["MODULES", "Importer", "from_config", "importer", "model_types"]

Importer = Callable[[Config], ModelSpec]
_IMPORTERS: dict[str, Importer] = {}

# model_type -> the module under kvplan.importers that knows it. Kept as data so that nothing is imported to list it;
# a test imports every module and demands that this table and the decorators agree.
MODULES: dict[str, str] = {
    model_type: module
    for module, types in {
        # dense decoders
        "llama": "llama cwm",
        "openai": "gpt2 gpt-sw3 openai-gpt",
        "eleuther": "gptj gpt_neox gpt_neo gpt_neox_japanese",
        "salesforce": "codegen ctrl",
        "nvidia": "nemotron",
        "kyutai": "moshi",
        "musicgen": "musicgen musicgen_decoder musicgen_melody musicgen_melody_decoder",
        "modernbert": "modernbert-decoder",
        "openbmb": "cpmant",
        "bigcode": "gpt_bigcode starcoder2",
        "classic": "opt bloom mpt falcon persimmon stablelm",
        "microsoft": "phi phi-msft phi3 phi3small phimoe bitnet phi4_multimodal",
        "cohere": "cohere cohere2 cohere_compass_text cohere2_moe",
        "allenai": "olmo olmo2 olmo3 olmoe flex_olmo",
        "mistral": "mistral ministral ministral3",
        "qwen": "qwen qwen2 qwen3",
        "google": "gemma gemma2 vaultgemma gemma3 gemma3_text gemma3n gemma3n_text",
        "gemma4": "gemma4 gemma4_text gemma4_unified gemma4_unified_text gemma4_assistant gemma4_unified_assistant",
        "zhipu": "chatglm glm glm4",
        "internlm": "internlm internlm2 internlm3",
        "lg": "exaone exaone4 exaone_moe",
        "llama_like": "helium granite smollm3 seed_oss apertus baichuan orion xverse hunyuan_v1_dense minicpm nemotron-nas",
        "llama_kin": "arcee jais2 nanochat hyperclovax iquestcoder granite_swa diffllama doge",
        "recursive": "hrm_text",
        "bert": (
            "bert ernie bert-generation megatron-bert big_bird electra roformer rembert roc_bert git roberta camembert"
            " xlm-roberta data2vec-text roberta-prelayernorm xlm-roberta-xl xmod"
        ),
        "xlnet": "xlm xlnet reformer",
        "encoder_decoder": "bart t5 mt5 whisper",
        "bart_kin": (
            "mbart plbart mvp pegasus bigbird_pegasus blenderbot blenderbot-small marian trocr biogpt xglm prophetnet"
        ),
        # mixtures of experts
        "gpt_oss": "gpt_oss",
        "qwen_moe": "qwen2_moe qwen3_moe",
        "mixtral": "mixtral",
        "granite_moe": "granitemoe granitemoeshared granitemoe_swa",
        "jetmoe": "jetmoe",
        "zyphra": "zaya",
        "glm_moe": "glm4_moe",
        "minimax": "minimax_m2",
        "tencent": "hunyuan hunyuan_v1_moe hy_v3 hy_v4",
        "baidu": "ernie4_5 ernie4_5_moe",
        "xiaomi": "mimo_v2_flash",
        "upstage": "solar_open",
        "window_moe": "mellum kolibri1 flint beam",
        "gated_moe": "afmoe laguna",
        "databricks": "dbrx",
        "rhymes": "aria_text",
        "rednote": "dots1 dots3_note dots3_note_text",
        "stepfun": "step3p7",
        "thinkingmachines": "inkling_text",
        "inkling2": "inkling2_text",
        "llama4": "llama4 llama4_text",
        # latent attention and sparse indexers
        "deepseek": "deepseek deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 deepseek_ref kimi_k2 kimi_k25",
        "mla": "minicpm3 youtu glm4_moe_lite glm_moe_dsa mistral4",
        "minimax_m3": "minimax_m3 minimax_m3_vl minimax_m3_vl_text",
        "meituan": "longcat_flash",
        "skt": "axk1 axk2",
        # recurrent state, alone or beside attention
        "rwkv": "rwkv",
        "ssm": "mamba mamba2 falcon_mamba xlstm rwkv6 rwkv7 recurrent_gemma",
        "hybrid": "falcon_h1 jamba zamba zamba2 granitemoehybrid nemotron_h olmo_hybrid lfm2",
        "liquid": "lfm2_moe lfm3",
        "bamba": "bamba",
        "inclusionai": "bailing_hybrid",
        "blt": "blt",
        "linear": (
            "qwen3_next qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text kimi_linear minimax minimax_text_01"
            " minimax_m1 minimax_vl_01"
        ),
        "qwen4": "qwen4_exp qwen4_exp_text",
        # a decoder beside towers
        "readers": "fuyu got_ocr2 moss_transcribe_diarize emu3 emu3_text_model",
        "multimodal": (
            "llava idefics3 qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe qwen2_audio voxtral mllama mistral3 exaone4_5"
            " multi_modality deepseek_vl_v2 phi3_v lfm2_vl"
            # the decoders that such files nest, where they have a type of their own
            " qwen2_vl_text qwen2_5_vl_text qwen3_vl_text qwen3_vl_moe_text mllama_text_model exaone4_5_text"
        ),
    }.items()
    for model_type in types.split()
}


def importer(*model_types: str) -> Callable[[Importer], Importer]:
    """Registers a function for one or more model types; a type registered twice is a bug and fails at once."""

    def register(function: Importer) -> Importer:
        for model_type in model_types:
            assert model_type not in _IMPORTERS, f"two importers for {model_type}"
            assert MODULES.get(model_type) == function.__module__.rsplit(".", 1)[-1], f"{model_type} not in MODULES"
            _IMPORTERS[model_type] = function
        return function

    return register


def model_types() -> tuple[str, ...]:
    """Every model type that can be imported."""
    return tuple(sorted(MODULES))


def import_model(config: Config, default_type: str = "") -> ModelSpec:
    """The spec of one config object, without the check for unread keys (nested configs are checked by the whole)."""
    model_type = config.get("model_type", default_type)
    if not isinstance(model_type, str) or not model_type:
        raise config.error("model_type", model_type or "missing", "the name of an architecture, e.g. llama")
    if model_type not in MODULES:
        raise UnknownName(
            "model_type", model_type, MODULES, "or describe the model with --layers --kv-heads --head-dim …"
        )
    return import_as(config, model_type)


def import_as(config: Config, model_type: str) -> ModelSpec:
    """The spec of a config object read as a given type, whatever its own ``model_type`` says."""
    if model_type not in _IMPORTERS:
        import_module(f"kvplan.importers.{MODULES[model_type]}")
    return _IMPORTERS[model_type](config)


def from_config(raw: object, name: str = "", where: str = "config.json") -> ModelSpec:
    """The spec of a parsed ``config.json``.

    Raises InvalidInput for a value that cannot be, UnknownName for an unknown ``model_type``, UnreadKeys where the
    file holds something cache-relevant that the importer does not understand.
    """
    config = Config(raw, where)
    try:
        spec = import_model(config)
        config.finish(spec.model_type)
        return _finish(spec, config, name)
    except RecursionError:
        raise InvalidInput("config", "nested too deep", "a config.json of ordinary depth", where) from None
    except (TypeError, ValueError, AttributeError) as e:
        strange = None if isinstance(e, KvplanError) else _not_json(raw)
        if strange is None:
            raise
        raise InvalidInput(strange[0], strange[1], "what a config.json can hold", where) from None


def _not_json(raw: object) -> tuple[str, object] | None:
    """The path and the value of what JSON has not, as an array of NumPy, which a dict that a program made may hold."""
    left: list[tuple[str, object]] = [("", raw)]
    for _ in range(100_000):  # a list may hold itself
        if not left:
            break
        path, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
        elif isinstance(value, (list, tuple)):
            left += [(f"{path}[{i}]", inner) for i, inner in enumerate(value)]
        elif not isinstance(value, (str, int, float, type(None))):
            return path, value
    return None


def _finish(spec: ModelSpec, config: Config, name: str) -> ModelSpec:
    from kvplan.importers.quantization import read_quantization
    from kvplan.specs import replace

    stated = config.raw.get("_name_or_path")
    title = name or (stated if isinstance(stated, str) else "") or spec.name or spec.model_type
    changes: dict[str, Any] = {"name": " ".join(title[:200].split()) or spec.model_type}
    dtype, note = read_dtype(config)
    notes = [*spec.notes, *config.noted()]
    if note:
        notes.append(note)
    assumed = config.assumed()
    if assumed:
        listed = ", ".join(f"{key} = {value:,}" for key, value in assumed.items())
        notes.append(f"the config omits shape keys; taken from the class's defaults: {listed}")
    changes["notes"] = tuple(notes)
    changes["dtype"] = dtype
    if spec.text_type == spec.model_type:
        changes["text_type"] = ""  # nothing is wrapped
    quantization, kv_dtype = read_quantization(config, len(spec.layers))
    if quantization is not None:
        changes["quantization"] = quantization
    if kv_dtype:
        changes["kv_dtype"] = kv_dtype
    return replace(spec, **changes)


def read_dtype(config: Config) -> tuple[str, str]:
    """The checkpoint's dtype, looked for at the top and in the nested configs; float32 and missing read as bf16, and said so."""
    for reader in (config, *config.children):
        for key in ("dtype", "torch_dtype"):
            value = reader.raw.get(key)
            if value in (None, "auto"):
                continue
            known = {
                "bfloat16": "bf16",
                "float16": "fp16",
                "half": "fp16",
                "float32": "fp32",
                "bf16": "bf16",
                "fp16": "fp16",
            }
            if not isinstance(value, str) or value.removeprefix("torch.") not in known:
                raise reader.error(key, value, "bfloat16, float16 or float32")
            dtype = known[value.removeprefix("torch.")]
            if dtype == "fp32":
                return "bf16", "the config says float32, read as bf16, as engines serve it"
            return dtype, ""
    return "bf16", "the config names no dtype, read as bf16"
