"""The bits axis: how an element of the cache is stored. Every storage format is a scheme of its own name."""

from __future__ import annotations

from kvplan.cache import mixer_parts
from kvplan.errors import InvalidInput
from kvplan.formats import ALIASES, FORMATS, find_format
from kvplan.schemes import Arguments, scheme
from kvplan.specs import ModelSpec, replace


def stored(spec: ModelSpec, text: str, key: str, value: str) -> ModelSpec:
    """The spec whose keys and values are stored in these formats; latents follow the keys.

    Raises InvalidInput, naming the scheme ``text``, for a model that caches nothing per token.
    """
    for name in (key, value):
        find_format(name, "scheme")  # an unknown name or option is an error here, not where it is used
    kinds = {part.store_as for layer in spec.layers for m in layer.mixers for part in mixer_parts(m)}
    if not kinds & {"key", "value", "latent"}:
        raise InvalidInput("scheme", text, f"a model that caches keys, values or latents ({spec.name} has none)")
    return replace(spec, cache_type_k=key, cache_type_v=value)


def _register(name: str, also_called: str = "") -> None:
    found = FORMATS[also_called or name]
    options = "[:g=32,scale=16,zero=16,residual=128,outliers=10]" if name.startswith("int") else ""
    other = f", another name of {also_called}" if also_called else ""
    summary = f"keys and values in {found.bits_per_element:g} bits per element, scales included{other}"

    @scheme(name, f"{name}{options}", "bits", summary, found.source)
    def change(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
        """A storage format for keys, values and latents.

        Formula: ceil(row / block) x block bits per row, as ``formats.py`` says. Residence and traffic change by the
        same factor; FLOPs and parameters stay (expanding what was read is not counted), and so does recurrent state.
        An explicit --kv-dtype beats it.
        Source: the format's own.

        >>> from kvplan.api import plan
        >>> plan("llama-2-7b", scheme="int4:g=32").kv["bytes_per_token"] / plan("llama-2-7b").kv["bytes_per_token"]
        0.3125
        """
        return stored(spec, arguments.text, arguments.text, arguments.text)


for _name in FORMATS:
    _register(_name)
for _alias, _name in ALIASES.items():
    _register(_alias, _name)


@scheme(
    "kv",
    "kv:k=q8_0,v=q4_0",
    "bits",
    "keys and values in a format each",
    "llama.cpp --cache-type-k, --cache-type-v",
)
def kv(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """Keys in one storage format and values in another; one left out stays in the model's own.

    Formula: as for each format. Latents follow the keys. Residence and traffic change, FLOPs and parameters stay.
    Source: llama.cpp's --cache-type-k and --cache-type-v.

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="kv:k=q8_0,v=q4_0").kv["bytes_per_token"] / (32 * 2 * 4096)  # (8.5 + 4.5) / 2 bits
    0.8125
    """
    formats: dict[str, str] = {}
    last = ""
    for piece in arguments.text.partition(":")[2].split(","):
        side, equals, name = piece.strip().partition("=")
        if equals and side in ("k", "v") and side not in formats:
            last, formats[side] = side, name
        elif last and equals and side not in ("k", "v"):
            formats[last] += f",{piece.strip()}"  # another option of the format before it
        else:
            raise InvalidInput("scheme", arguments.text, "formats of keys and values, e.g. kv:k=q8_0,v=int4:g=32")
    plain = spec.kv_dtype or spec.dtype
    return stored(spec, arguments.text, formats.get("k", plain), formats.get("v", plain))


@scheme(
    "kivi",
    "kivi:2[,g=32,r=128]",
    "bits",
    "N-bit groups with scale and zero point: keys per channel, values per token; the newest r tokens plain",
    "KIVI, Liu et al. 2024, arXiv 2402.02750",
)
def kivi(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """KIVI: keys in groups of g tokens of one channel, values in groups of g channels of one token, r tokens plain.

    Formula: b + 32 / g bits per element (fp16 scale and zero point), the newest min(S, r) tokens in the compute dtype.
    Groups along tokens hold as many elements as groups along channels, so keys and values count alike; of the keys
    the paper keeps S mod r tokens plain, r is the most that can be. Residence and traffic fall, FLOPs and parameters
    stay.
    Source: arXiv 2402.02750 (2 bits, g = 32, r = 128).

    >>> from kvplan.api import plan
    >>> plan("llama-2-7b", scheme="kivi:2,g=32,r=0").kv["bytes_per_token"] * 8 / (32 * 2 * 4096)
    3.0
    """
    arguments.only("g", "r", bare=True)
    bits = arguments.count("bits", bare=True, default=2)
    if bits not in (2, 3, 4, 8):
        raise InvalidInput("scheme", arguments.text, "2, 3, 4 or 8 bits, e.g. kivi:2,g=32,r=128")
    group, residual = arguments.count("g", default=32), arguments.count("r", default=128, least=0)
    name = f"int{bits}:g={group},residual={residual}"
    return stored(spec, arguments.text, name, name)


@scheme(
    "kvquant",
    "kvquant:3[,outliers=0.01]",
    "bits",
    "N-bit non-uniform codes, and a share of outliers kept apart in fp16",
    "KVQuant, Hooper et al. 2024, arXiv 2401.18079",
)
def kvquant(spec: ModelSpec, arguments: Arguments) -> ModelSpec:
    """KVQuant: non-uniform codes (nuqX) and sparse outliers, keys per channel before RoPE, values per token.

    Formula: b + 32 x outliers bits per element: an fp16 value and a 16-bit place for each outlier; the paper prints
    4.33 bits for these 4.32. Code books and scales per channel are constants of the model and
    not counted. Residence and traffic fall; rotating keys when they are read adds FLOPs that are not counted;
    parameters stay.
    Source: arXiv 2401.18079 (nuq4-1%: 17.3 GiB for LLaMA-7B at 128K).

    >>> from kvplan.api import plan
    >>> kv = plan("llama-2-7b", scheme="kvquant:4,outliers=0.01", context="128k").kv
    >>> f"{kv['bytes'] / 2**30:.1f} GiB"
    '17.3 GiB'
    """
    arguments.only("outliers", bare=True)
    bits = arguments.count("bits", bare=True)
    per_mille = arguments.share("outliers", "0.01") * 1000
    if bits not in (2, 3, 4, 8) or round(per_mille, 6) != round(per_mille):
        raise InvalidInput(
            "scheme", arguments.text, "2, 3, 4 or 8 bits and whole per mille, e.g. kvquant:3,outliers=0.01"
        )
    name = f"int{bits}:g=0,outliers={round(per_mille)}"
    return stored(spec, arguments.text, name, name)
