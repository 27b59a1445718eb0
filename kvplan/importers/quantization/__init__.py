"""How a checkpoint stores its weights: ``quantization_config``, ``compression_config`` or MLX's ``quantization``.

Found here and read by its method; the methods are loaded only where a config states one. A method that nobody here
knows gives a Quantization whose ``known`` is False: weight bytes then become an Omission, never a guess.
"""

from __future__ import annotations

from kvplan.importers.config import Config
from kvplan.specs import Quantization

__all__ = ["read_quantization"]

METHOD_LIMIT = 300  # characters of a method's name that are kept
NESTED = ("text_config", "language_config", "llm_config", "thinker_config")


def read_quantization(config: Config, layers: int = 1) -> tuple[Quantization | None, str | None]:
    """The weight formats of a config of so many layers and the KV dtype it states; None for what it does not state.

    Looks at the top of the file first, then in nested text configs. Raises InvalidInput for a value that cannot be.
    """
    found = _find(config)
    if found is None:
        return None, None
    c, key = found
    from kvplan.importers.quantization.methods import METHODS

    method = _method(c, key)
    reader = METHODS.get(method)
    quantization = reader(c, config) if reader else Quantization(method)
    if quantization.rules:
        from kvplan.importers.quantization.modules import readable

        quantization = readable(quantization, layers)
    return quantization, _kv_dtype(c)


def _find(config: Config) -> tuple[Config, str] | None:
    readers = [config]
    for _ in range(2):
        readers += [
            Config(reader.raw[key], config.where, f"{reader.path}{key}.")
            for reader in list(readers)
            for key in NESTED
            if isinstance(reader.raw.get(key), dict)
        ]
    for reader in readers:
        for key in ("quantization_config", "compression_config", "quantization"):
            value = reader.raw.get(key)
            if value is None or value == {}:
                continue
            if not isinstance(value, dict):
                raise reader.error(key, value, "a JSON object")
            inner = value.get("quantization")  # modelopt's own file, pasted whole
            if isinstance(inner, dict):
                value = {"quant_method": "modelopt", **inner}
            return Config(value, config.where, f"{reader.path}{key}."), key
    return None


def _method(c: Config, key: str) -> str:
    named = c.get("quant_method")
    if named is not None:
        return c.str("quant_method").lower().replace("_", "-").removeprefix("intel/")[:METHOD_LIMIT]
    if c.has("quant_algo"):
        return "modelopt"
    if c.has("config_groups"):
        return "compressed-tensors"
    if c.has("load_in_4bit") or c.has("load_in_8bit"):
        return "bitsandbytes"
    if c.has("bits") and c.has("group_size"):
        return "mlx"
    return "unnamed"


KV_ALGORITHMS = {"FP8": "fp8_e4m3", "NVFP4": "nvfp4", "INT8": "int8:g=0", "NONE": None, "": None}


def _kv_dtype(c: Config) -> str | None:
    """What the checkpoint says about the KV cache: ``kv_cache_quant_algo`` (ModelOpt) or ``kv_cache_scheme``."""
    algorithm = c.get("kv_cache_quant_algo")
    if algorithm is not None:
        name = c.str("kv_cache_quant_algo").upper()
        if name not in KV_ALGORITHMS:
            raise c.error("kv_cache_quant_algo", algorithm, "one of FP8, NVFP4, INT8")
        return KV_ALGORITHMS[name]
    scheme = c.get("kv_cache_scheme")
    if scheme is None or scheme == {}:
        return None
    if isinstance(scheme, str):  # AutoFP8 wrote the name of an activation scheme
        return "fp8_e4m3" if scheme in ("static", "dynamic", "fp8") else _refuse(c, scheme)
    own = c.sub("kv_cache_scheme")
    kinds = {(8, "float"): "fp8_e4m3", (4, "float"): "nvfp4", (8, "int"): "int8:g=0"}
    return kinds.get((own.int("num_bits", 8), own.str("type", "float"))) or _refuse(c, scheme)


def _refuse(c: Config, value: object) -> str:
    raise c.error("kv_cache_scheme", value, "8 bits of type float or int, or 4 bits of type float")
