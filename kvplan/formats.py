"""How one element is stored: a block of elements and the bits the block takes, scales and zero points included.

Everything is a block format. bf16 is a block of 1 in 16 bits; q8_0 is a block of 32 in 272 bits (32 bytes and an
fp16 scale); int4 with groups of 64 and an fp16 scale and zero point is a block of 64 in 288 bits. Bytes are
rounded up once per stored part, never per element.
"""

from typing import NamedTuple

from kvplan.errors import InvalidInput, UnknownName

__all__ = ["ALIASES", "FORMATS", "Format", "find_format"]


class Format(NamedTuple):
    """A storage format of numbers."""

    name: str
    element_bits: int  # of the element alone
    block: int  # elements that share scales
    block_bits: int  # of the whole block, scales and zero points included
    source: str
    residual: int = 0  # newest tokens kept in the compute dtype (KIVI's window)
    compute: str = ""  # which TFLOPS column multiplies it; "" = none, it is expanded first
    spread: tuple[int, int] = (0, 1)  # (bits, per elements) wherever they lie: outliers, scales of scales

    @property
    def bits_per_element(self) -> float:
        """Average bits per element, metadata included; for people, never for sums."""
        return self.block_bits / self.block + self.spread[0] / self.spread[1]

    def row_bits(self, width: int) -> int:
        """Bits of one row of ``width`` elements; a row starts a new block."""
        return -(-width // self.block) * self.block_bits + -(-width * self.spread[0] // self.spread[1])


GGML = "ggml block table as libggml reports it (ggml/src/ggml.c type_traits)"
OCP = "OCP Microscaling Formats (MX) v1.0: one E8M0 scale per 32 elements"
TORCH = "torch dtype"
HF_QUANT = "Hugging Face QuantizedCache (quanto, HQQ): groups of 64 with 16-bit scale and zero point"


def _plain(name: str, bits: int, compute: str, source: str = TORCH) -> Format:
    return Format(name, bits, 1, bits, source, 0, compute)


def _ggml(name: str, bits: int, block: int, block_bytes: int) -> Format:
    return Format(name, bits, block, 8 * block_bytes, GGML)


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        _plain("fp32", 32, "fp32"),
        _plain("fp16", 16, "fp16"),
        _plain("bf16", 16, "bf16"),
        _plain(
            "fp8_e4m3", 8, "fp8", "torch.float8_e4m3fn; per-tensor scales are a few floats per layer and not counted"
        ),
        _plain("fp8_e5m2", 8, "fp8", "torch.float8_e5m2; no scales"),
        Format(
            "fp8_s128",
            8,
            128,
            128 * 8 + 32,
            "fp8 with an fp32 scale per 128 elements: DeepSeek's latent cache",
            0,
            "fp8",
        ),
        Format("fp8_s64", 8, 64, 64 * 8 + 8, "fp8 with an E8M0 scale per 64 elements: DeepSeek-V4's entries", 0, "fp8"),
        Format(
            "fp4_s128", 4, 128, 128 * 4 + 32, "4 bits with an fp32 scale per 128 elements: DeepSeek-V4's index keys"
        ),
        Format("int8", 8, 64, 64 * 8 + 32, HF_QUANT, 0, "int8"),
        Format("int4", 4, 64, 64 * 4 + 32, HF_QUANT),
        Format("int3", 3, 64, 64 * 3 + 32, HF_QUANT),
        Format("int2", 2, 64, 64 * 2 + 32, HF_QUANT),
        Format("nf4", 4, 64, 64 * 4 + 32, "bitsandbytes NF4: blocks of 64 with an fp32 absmax"),
        Format(
            "nf4_dq",
            4,
            64,
            64 * 4 + 8,
            "bitsandbytes NF4 with double quantisation: 8-bit absmax per 64, fp32 per 256 of those",
            spread=(32, 64 * 256),
        ),
        Format("mxfp8", 8, 32, 32 * 8 + 8, OCP, 0, "fp8"),
        Format("mxfp6", 6, 32, 32 * 6 + 8, OCP),
        Format("mxfp4", 4, 32, 32 * 4 + 8, OCP, 0, "fp4"),
        Format("nvfp4", 4, 16, 16 * 4 + 8, "NVFP4: one E4M3 scale per 16 elements", 0, "fp4"),
        _ggml("q4_0", 4, 32, 18),
        _ggml("q4_1", 4, 32, 20),
        _ggml("q5_0", 5, 32, 22),
        _ggml("q5_1", 5, 32, 24),
        _ggml("q8_0", 8, 32, 34),
        _ggml("q8_1", 8, 32, 36),
        _ggml("q2_k", 2, 256, 84),
        _ggml("q3_k", 3, 256, 110),
        _ggml("q4_k", 4, 256, 144),
        _ggml("q5_k", 5, 256, 176),
        _ggml("q6_k", 6, 256, 210),
        _ggml("q8_k", 8, 256, 292),
        _ggml("iq1_s", 1, 256, 50),
        _ggml("iq1_m", 1, 256, 56),
        _ggml("iq2_xxs", 2, 256, 66),
        _ggml("iq2_xs", 2, 256, 74),
        _ggml("iq2_s", 2, 256, 82),
        _ggml("iq3_xxs", 3, 256, 98),
        _ggml("iq3_s", 3, 256, 110),
        _ggml("iq4_nl", 4, 32, 18),
        _ggml("iq4_xs", 4, 256, 136),
        _ggml("tq1_0", 1, 256, 54),
        _ggml("tq2_0", 2, 256, 66),
        _ggml("q1_0", 1, 128, 18),
        _ggml("q2_0", 2, 64, 18),
        _ggml("i8", 8, 1, 1),
        _ggml("i16", 16, 1, 2),
        _ggml("i32", 32, 1, 4),
        _ggml("i64", 64, 1, 8),
        _plain("fp64", 64, "fp64"),
    )
}

ALIASES: dict[str, str] = {
    "float32": "fp32",
    "float": "fp32",
    "f32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "f16": "fp16",
    "bfloat16": "bf16",
    "fp8": "fp8_e4m3",
    "float8": "fp8_e4m3",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
    "float64": "fp64",
    "double": "fp64",
    "f64": "fp64",
}


def find_format(text: object, field: str = "dtype") -> Format:
    """The format of a name, e.g. ``bf16``, ``q8_0``, ``int4`` or ``int2:g=32,scale=16,zero=16,residual=128``.

    Options of the int formats: ``g`` elements per group (0: no scales), ``scale`` and ``zero`` bits per group,
    ``residual`` newest tokens kept in the compute dtype, ``outliers`` per mille kept apart in 32 bits each (an fp16
    value and its place, KVQuant). Raises UnknownName or InvalidInput.

    >>> find_format("fp8").name, find_format("q8_0").bits_per_element
    ('fp8_e4m3', 8.5)
    >>> find_format("int2:g=32,scale=16,zero=16").bits_per_element  # KIVI, 2 + (16 + 16) / 32
    3.0
    """
    if not isinstance(text, str):
        raise InvalidInput(field, text, "the name of a storage format, e.g. bf16, fp8, int4, q8_0")
    name, _, options = text.strip().lower().partition(":")
    name = ALIASES.get(name.removeprefix("torch."), name.removeprefix("torch."))
    found = FORMATS.get(name)
    if found is None:
        raise UnknownName(f"{field} (storage format)", text, [*FORMATS, *ALIASES])
    return _with_options(found, options, field, text) if options else found


def _with_options(base: Format, options: str, field: str, text: str) -> Format:
    rule = "FORMAT:g=32,scale=16,zero=16,residual=128,outliers=10 on one of int8, int4, int3, int2"
    if not base.name.startswith("int"):
        raise InvalidInput(field, text, rule)
    given = {"g": base.block, "scale": 16, "zero": 16, "residual": 0, "outliers": 0}
    for item in options.split(","):
        key, equals, value = item.strip().partition("=")
        if not equals or key not in given or not (value.isascii() and value.isdigit() and len(value) < 8):
            raise InvalidInput(field, text, rule)
        given[key] = int(value)
    if given["outliers"] > 1000:
        raise InvalidInput(field, text, "outliers in per mille, at most 1000")
    changed = base._replace(name=text, residual=given["residual"], spread=(32 * given["outliers"], 1000))
    if given["g"] == 0:
        return changed._replace(block=1, block_bits=base.element_bits)
    bits = given["g"] * base.element_bits + given["scale"] + given["zero"]
    return changed._replace(block=given["g"], block_bits=bits)
