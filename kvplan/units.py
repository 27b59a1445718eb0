"""Words for sizes. GiB is 2**30 and GB is 10**9, and no line mixes them. Inside kvplan everything is an int of bytes."""

from __future__ import annotations

from kvplan.errors import InvalidInput

BINARY = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
DECIMAL = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
# What people type after a number of tokens or sequences: powers of 1024, as vLLM users write 8k.
COUNT = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}

# Bounds every count from outside: beyond it no memory, no model and no patience exists.
LARGEST_COUNT = 2**48

__all__ = [
    "BINARY",
    "COUNT",
    "DECIMAL",
    "LARGEST_COUNT",
    "format_bytes",
    "format_count",
    "format_parameters",
    "format_ratio",
    "format_seconds",
    "format_si",
    "parse_bytes",
    "parse_count",
]


def format_bytes(n: int, units: dict[str, int] = BINARY) -> str:
    """Bytes in the largest unit that leaves at least 1, three significant decimals at most.

    >>> format_bytes(1073741824), format_bytes(85520809984), format_bytes(1000)
    ('1 GiB', '79.65 GiB', '1000 B')
    >>> format_bytes(85520809984, DECIMAL)
    '85.52 GB'
    """
    name, size = "B", 1
    for candidate, factor in units.items():
        if abs(n) >= factor:
            name, size = candidate, factor
    return f"{_trim(n / size)} {name}"


def format_si(value: float, unit: str) -> str:
    """A count of things with a decimal prefix.

    >>> format_si(1.405e14, "FLOP")
    '140.5 TFLOP'
    """
    for prefix, factor in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{_trim(value / factor)} {prefix}{unit}"
    return f"{_trim(value)} {unit}"


def format_count(n: int) -> str:
    """A count with its thousands separated.

    >>> format_count(131072)
    '131,072'
    """
    return f"{n:,}"


def format_parameters(n: int) -> str:
    """Parameters the way models are named.

    >>> format_parameters(8030261248), format_parameters(134515008)
    ('8.03B', '134.5M')
    """
    return f"{n / 1e9:.2f}B" if n >= 10**9 else f"{n / 1e6:.4g}M"


def format_ratio(value: float) -> str:
    """A ratio with three decimals, two digits where that would show nothing.

    >>> format_ratio(0.5), format_ratio(8.0), format_ratio(0.00041)
    ('0.500', '8.000', '0.00041')
    """
    return f"{value:.3f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def format_seconds(seconds: float) -> str:
    """A duration in s, ms or µs.

    >>> format_seconds(0.0052)
    '5.2 ms'
    """
    for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= factor:
            return f"{_trim(seconds / factor)} {name}"
    return f"{_trim(seconds * 1e9)} ns"


def _trim(value: float) -> str:
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_count(text: str | int, field: str, *, least: int = 1, most: int = LARGEST_COUNT) -> int:
    """A whole number of tokens, sequences or devices; ``8k`` is 8192.

    Raises InvalidInput for anything that is not a whole number within ``least``..``most``, 2**48 without it.

    >>> parse_count("8k", "context"), parse_count("131072", "context")
    (8192, 131072)
    """
    largest = "2**48, e.g. 4096, 8k, 1M" if most == LARGEST_COUNT else f"{most:,}"
    rule = f"a whole number from {least:,} to {largest}"
    if isinstance(text, int) and not isinstance(text, bool):
        value = text
    elif isinstance(text, str):
        body = text.strip().lower().replace("_", "").replace(",", "")
        suffix = body[-1:] if body[-1:] in ("k", "m", "g") else ""
        digits = body[: len(body) - len(suffix)]
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            raise InvalidInput(field, text, rule)
        value = int(digits) * COUNT[suffix]
    else:
        raise InvalidInput(field, text, rule)
    if not least <= value <= most:
        raise InvalidInput(field, text, rule)
    return value


def parse_bytes(text: str | int, field: str) -> int:
    """A size in bytes; a unit is obligatory in text unless the number is plain bytes.

    >>> parse_bytes("80GB", "memory"), parse_bytes("80 GiB", "memory"), parse_bytes(7, "memory")
    (80000000000, 85899345920, 7)
    """
    rule = "bytes, or a number with one of B, KiB, MiB, GiB, TiB, KB, MB, GB, TB"
    if isinstance(text, int) and not isinstance(text, bool):
        if 0 <= text <= 2**63:
            return text
        raise InvalidInput(field, text, rule)
    if not isinstance(text, str):
        raise InvalidInput(field, text, rule)
    from fractions import Fraction

    body = text.strip()
    units = {name.lower(): size for name, size in (BINARY | DECIMAL).items()}
    number, unit = body, "b"
    for name in sorted(units, key=len, reverse=True):
        if body.lower().endswith(name):
            number, unit = body[: -len(name)].strip(), name
            break
    plain = number.replace(".", "", 1)
    if not (plain.isascii() and plain.isdigit() and len(plain) <= 20):
        raise InvalidInput(field, text, rule)
    value = Fraction(number) * units[unit]
    if value > 2**63:
        raise InvalidInput(field, text, rule)
    return int(value)
