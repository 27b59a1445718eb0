"""What the listing commands show: presets, formats, engines, schemes, as plain rows."""

from __future__ import annotations

from typing import Any

from kvplan.catalog import find_gpu, gpu_names, load, model_names, model_preset, preset_folders
from kvplan.engines import ENGINES, find_engine
from kvplan.formats import ALIASES, FORMATS
from kvplan.planner import answer
from kvplan.settings import read_settings
from kvplan.units import DECIMAL, format_bytes

__all__ = ["CHANGES", "list_engines", "list_formats", "list_gpus", "list_models", "list_papers", "list_schemes"]

Row = dict[str, Any]
# what a way of keeping the cache may change; a paper's entry names those that do not stay the same
CHANGES = ("residence", "traffic", "prefill", "decode", "parameters", "link")


def list_models() -> list[Row]:
    """One row per model preset; bytes per token in the checkpoint's own cache format, engine ideal."""
    rows = []
    for name in model_names():
        preset = model_preset(name)
        spec = load(name)
        a = answer(spec, read_settings(spec))
        rows.append(
            {
                "name": name,
                "label": preset.label,
                "hub": preset.hub,
                "aliases": list(preset.aliases),
                "model_type": spec.model_type,
                "attention": preset.attention,
                "layers": len(spec.layers),
                "parameters": a.profile.parameters,
                "active_parameters": a.profile.active_parameters,
                "kv_bytes_per_token": a.bytes_per_token,
                "max_context": spec.max_context,
                "source": preset.source,
                "checked": preset.checked,
            }
        )
    return rows


def list_gpus() -> list[Row]:
    """One row per accelerator preset."""
    rows = []
    for name in gpu_names():
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
            "options": list(e.options),
            "source": e.source,
        }
        for e in engines
    ]


def list_schemes() -> list[Row]:
    """One row per sharing scheme."""
    from kvplan.schemes import SCHEMES

    return [
        {
            "name": s.name,
            "notation": s.notation,
            "axes": " ".join(sorted(s.axes)),
            "summary": s.summary,
            "source": s.source,
        }
        for s in SCHEMES.values()
    ]


def list_papers() -> list[Row]:
    """One row per name of the literature: notation, what it changes (``down``, ``up``, ``same``) and why.

    ``link_as`` is, where bytes travel outside a decode step, the chain that counts them and the one it is compared with.
    """
    import tomllib

    path = preset_folders("literature.toml")[-1]
    with path.open("rb") as file:
        raw = tomllib.load(file)
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
