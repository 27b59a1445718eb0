"""What the listing commands show: presets, formats, engines, schemes, as plain rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from kvplan.catalog import ModelPreset, find_gpu, gpu_names, load, model_names, model_preset, preset_folders
from kvplan.engines import ENGINES, find_engine
from kvplan.errors import InvalidInput, KvplanError
from kvplan.formats import ALIASES, FORMATS
from kvplan.importers.files import TOML_LIMIT, parse_object, parse_toml, read_bytes, read_text
from kvplan.units import DECIMAL, format_bytes

__all__ = ["CHANGES", "list_engines", "list_formats", "list_gpus", "list_models", "list_papers", "list_schemes"]

Row = dict[str, Any]
Warn = Callable[[str], None]
INDEX = "index.json"
# what a way of keeping the cache may change; a paper's entry names those that do not stay the same
CHANGES = ("residence", "traffic", "prefill", "decode", "parameters", "link")


def list_models(warn: Warn | None = None) -> list[Row]:
    """One row per model preset; bytes per token in the checkpoint's own cache format, engine ideal.

    ``warn`` is told of every preset that cannot be read; without it, the first one raises.
    """
    index = _index()
    rows = []
    for name in model_names():
        with _passing_by(warn):
            preset = model_preset(name)
            known = index.get(name, {})
            facts = known if known.get("config") == config_mark(preset) else model_facts(name)
            rows.append(
                {
                    "name": name,
                    "label": preset.label,
                    "hub": preset.hub,
                    "aliases": list(preset.aliases),
                    "model_type": facts["model_type"],
                    "attention": preset.attention,
                    "layers": facts["layers"],
                    "parameters": facts["parameters"],
                    "active_parameters": facts["active_parameters"],
                    "kv_bytes_per_token": facts["kv_bytes_per_token"],
                    "max_context": facts["max_context"],
                    "source": preset.source,
                    "checked": preset.checked,
                }
            )
    return rows


def model_facts(name: str) -> Row:
    """What a listing says of a preset and its file does not: computed as every plan is."""
    from kvplan.planner import answer
    from kvplan.settings import read_settings

    spec = load(name)
    a = answer(spec, read_settings(spec))
    return {
        "model_type": spec.model_type,
        "layers": len(spec.layers),
        "parameters": a.profile.parameters,
        "active_parameters": a.profile.active_parameters,
        "kv_bytes_per_token": a.bytes_per_token,
        "max_context": spec.max_context,
    }


def model_index() -> dict[str, Row]:
    """What INDEX holds: the facts of every shipped model, each under the mark of the config they follow from.

    Building two hundred specs to list them takes 1.5 s. The file is written by ``tests/make_index.py`` and a test
    holds it to this function; a preset whose config has another mark (a user's, or a new one) is computed.
    """
    return {name: {"config": config_mark(model_preset(name)), **model_facts(name)} for name in model_names()}


def config_mark(preset: ModelPreset) -> str:
    """CRC-32 of a preset's config: says whether an entry of the index is of this text."""
    return f"{crc32(preset.config.encode()):08x}"


def _index() -> dict[str, Row]:
    try:
        index: dict[str, Row] = parse_object(
            read_bytes(preset_folders("models")[-1] / INDEX, "index", 2**23), "index", INDEX
        )
    except InvalidInput:  # a package without one builds what it lists
        return {}
    return index


@contextmanager
def _passing_by(warn: Warn | None) -> Iterator[None]:
    try:
        yield
    except KvplanError as e:
        if warn is None:
            raise
        warn(str(e))


def list_gpus(warn: Warn | None = None) -> list[Row]:
    """One row per accelerator preset; ``warn`` is told of every one that cannot be read, without it the first raises."""
    rows = []
    for name in gpu_names():
        with _passing_by(warn):
            gpu = find_gpu(name)
            rows.append(
                {
                    "name": name,
                    "label": gpu.label,
                    "vendor": gpu.vendor,
                    "aliases": list(gpu.aliases),
                    "kind": gpu.kind,
                    "architecture": gpu.architecture,
                    "memory": format_bytes(gpu.memory_bytes),
                    "memory_bytes": gpu.memory_bytes,
                    "basis": gpu.memory_basis,
                    "memory_label": gpu.memory_label,
                    "memory_source": gpu.memory_source,
                    "bandwidth": f"{format_bytes(gpu.bandwidth_bytes_per_s, DECIMAL)}/s",
                    "bandwidth_bytes_per_s": gpu.bandwidth_bytes_per_s,
                    "tflops": gpu.tflops,
                    "bf16_tflops": gpu.tflops.get("bf16"),
                    "fp8_tflops": gpu.tflops.get("fp8"),
                    "link": gpu.link,
                    "price_usd_per_hour": gpu.price_usd_per_hour,
                    "checked": gpu.checked,
                }
            )
    return rows


def list_formats() -> list[Row]:
    """One row per storage format, scales included in the bits."""
    return [
        {
            "name": f.name,
            "bits_per_element": round(f.bits_per_element, 4),
            "element_bits": f.element_bits,
            "block": f.block,
            "block_bits": f.block_bits,
            "aliases": [alias for alias, name in ALIASES.items() if name == f.name],
            "source": f.source,
        }
        for f in FORMATS.values()
    ]


def list_engines() -> list[Row]:
    """One row per engine."""
    engines = [find_engine(name) for name in ENGINES]
    return [
        {
            "name": e.name,
            "version": e.version or None,
            "utilization": e.utilization,
            "summary": e.summary,
            "versions": list(e.versions) or ([e.version] if e.version else []),
            "options": [{"name": o.name, "kind": o.kind, "help": o.help} for o in e.options],
            "ignores": list(e.ignores),
            "runs_on": list(e.runs_on),
            "source": e.source,
        }
        for e in engines
    ]


def list_schemes() -> list[Row]:
    """One row per sharing scheme; the storage formats, each a scheme of its own name, are one row together."""
    from kvplan.schemes import SCHEMES

    formats: Row = {
        "name": "FORMAT",
        "notation": "FORMAT[:g=32,…]",
        "axes": "bits",
        "summary": "keys and values in a storage format: any name of `kvplan formats`, e.g. fp8, int4:g=32, q8_0",
        "source": "kvplan/formats.py",
    }
    return [
        {
            "name": s.name,
            "notation": s.notation,
            "axes": " ".join(sorted(s.axes)),
            "summary": s.summary,
            "source": s.source,
        }
        for s in SCHEMES.values()
        if s.name not in FORMATS and s.name not in ALIASES
    ] + [formats]


def list_papers() -> list[Row]:
    """One row per name of the literature: notation, what it changes (``down``, ``up``, ``same``) and why.

    ``link_as`` is, where bytes travel outside a decode step, the chain that counts them and the one it is compared with.
    """
    path = preset_folders("literature.toml")[-1]
    raw = parse_toml(read_text(path, "literature", TOML_LIMIT), "literature", str(path))
    return [
        {
            "name": paper["name"],
            "year": paper["year"],
            "source": paper["source"],
            "notation": paper["notation"],
            "changes": {name: paper.get("changes", {}).get(name, "same") for name in CHANGES},
            "link_as": paper.get("link_as"),
            "summary": paper["summary"],
        }
        for paper in raw["paper"]
    ]
