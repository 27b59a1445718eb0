"""GGUF files: the model that a header describes, with the exact bytes of its tensors.

What a family looks like stays with the importers of config.json: each architecture's keys are translated into theirs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from kvplan.errors import InvalidInput, UnknownName, UnreadKeys, Unsupported
from kvplan.formats import FORMATS
from kvplan.importers import from_config
from kvplan.importers.config import changes_cache
from kvplan.importers.gguf.attention import ATTENTION
from kvplan.importers.gguf.facts import Arch, Facts, common, same_value_width
from kvplan.importers.gguf.header import Gguf, Skipped, Tensor, read_all, read_gguf
from kvplan.importers.gguf.states import STATES
from kvplan.importers.quantization.modules import ROUTERS
from kvplan.specs import ModelSpec, Quantization, QuantRule, Storage, replace
from kvplan.weights import count_parameters

__all__ = ["Gguf", "Skipped", "Tensor", "architectures", "read_gguf", "spec_from_gguf"]

ARCHITECTURES: dict[str, Arch] = {**ATTENTION, **STATES}

# general.file_type, by llama.h: the type that most tensors of a file have
FILE_TYPES = {
    0: "fp32", 1: "fp16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k", 12: "q3_k",
    13: "q3_k", 14: "q4_k", 15: "q4_k", 16: "q5_k", 17: "q5_k", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k",
    22: "iq3_s", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_s", 28: "iq2_s", 29: "iq2_s",
    30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4", 39: "nvfp4", 40: "q1_0",
}  # fmt: skip


def architectures() -> tuple[str, ...]:
    """Names of ``general.architecture`` that can be read."""
    return tuple(sorted(ARCHITECTURES))


def spec_from_gguf(path: str | os.PathLike[str]) -> ModelSpec:
    """The spec of a GGUF file, with the exact bytes of its tensors where it holds any.

    A file of metadata alone is valid: its weight bytes then follow from shapes, with ``general.file_type`` for the
    format. Files of a split model count together. Raises UnknownName for an architecture that is not known,
    InvalidInput for a broken header, Unsupported for adapters and projectors.
    """
    place = Path(path)
    gguf = read_all(place)
    where = str(place)
    arch = gguf.metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise InvalidInput("general.architecture", arch, "the name of an architecture, e.g. llama", where)
    kind = gguf.metadata.get("general.type", "model")
    if kind != "model" or arch == "clip":
        raise Unsupported(f"{where}: holds a {'projector' if arch == 'clip' else str(kind)[:40]}, not a language model")
    if arch not in ARCHITECTURES:
        hint = "or describe the model with --layers --kv-heads --head-dim …"
        raise UnknownName("GGUF architecture", arch, ARCHITECTURES, hint)
    facts = Facts(gguf, arch, where)
    about = ARCHITECTURES[arch]
    d = common(facts)
    d["model_type"] = about.model_type
    if not about.uneven:
        same_value_width(facts)
    if about.change is not None:
        about.change(facts, d)
    main = _main_type(gguf)
    d["torch_dtype"] = "bfloat16" if main == "bf16" else "float16"
    name = gguf.metadata.get("general.name")
    keys = {key: value for key, value in d.items() if value is not None or key in NULLS}
    spec = from_config(keys, name if isinstance(name, str) and name else place.stem, where)
    return _with_weights(replace(spec, notes=spec.notes + _unread(facts)), gguf, facts, main)


def _unread(facts: Facts) -> tuple[str, ...]:
    """A note for a window that llama.cpp does not apply to this architecture; other unread cache keys are an error."""
    prefix = f"{facts.arch}."
    left = [
        key.removeprefix(prefix)
        for key, value in facts.metadata.items()
        if key.startswith(prefix) and changes_cache(key.removeprefix(prefix)) and value not in (0, False, [], "")
    ]
    left = [key for key in left if key not in facts.read]
    windows = [key for key in left if "sliding" in key or "window" in key]
    if set(left) - set(windows):
        raise UnreadKeys(facts.where, facts.arch, [prefix + key for key in left])
    return tuple(f"{prefix}{key} is ignored, as llama.cpp does for this architecture" for key in windows)


# Keys whose null means something else than a missing key.
NULLS = {"sliding_window", "q_lora_rank"}


def _main_type(gguf: Gguf) -> str:
    """The type that most elements have, else what ``general.file_type`` says, else f16."""
    counts: dict[str, int] = {}
    for tensor in gguf.tensors:
        if len(tensor.shape) > 1:
            counts[tensor.type] = counts.get(tensor.type, 0) + tensor.elements
    if counts:
        return max(counts, key=lambda name: counts[name])
    stated = gguf.metadata.get("general.file_type")
    return FILE_TYPES.get(stated & 1023, "fp16") if isinstance(stated, int) else "fp16"


def _storage(name: str) -> Storage:
    format_ = FORMATS[name]
    return Storage(name, format_.block, format_.block_bits)


def _with_weights(spec: ModelSpec, gguf: Gguf, f: Facts, main: str) -> ModelSpec:
    """Adds the bytes of the tensors, or the format that a file without tensors states."""
    notes = list(spec.notes)
    if any(f.arch == arch for arch in ("phi3", "mistral3")) and f.has("attention.sliding_window"):
        notes.append(f"llama.cpp runs {f.arch} without its window of {f.get('attention.sliding_window')}")
    rules = []
    for module, tensor_name in (("lm_head", "output.weight"), ("embed_tokens", "token_embd.weight")):
        found = [tensor.type for tensor in gguf.tensors if tensor.name == tensor_name]
        rules += [QuantRule(_storage(kind), frozenset({module})) for kind in found if kind != main]
    # llama.cpp keeps routers in fp32
    rules.append(QuantRule(_storage("fp32"), ends=ROUTERS.ends))
    quantization = Quantization("gguf", _storage(main), tuple(rules), lookups=True)
    complete = bool(gguf.tensors) and not gguf.missing
    changes: dict[str, Any] = {"quantization": quantization}
    if gguf.missing:
        notes.append(f"{gguf.missing} files of this split model are absent: weight bytes follow from shapes")
        changes["weight_source"] = f"shapes x the main type {main}, tensor headers being absent"
    elif not complete:
        notes.append(f"the file holds no tensors: weight bytes follow from shapes and its main type {main}")
        changes["weight_source"] = f"shapes x the main type {main}, the file holding no tensors"
    if complete:
        total = sum(tensor.bytes for tensor in gguf.tensors)
        changes["weight_bytes"] = total
        changes["weight_source"] = f"tensor headers of the GGUF file ({len(gguf.tensors)} tensors, mostly {main})"
        difference = _difference(spec, gguf, f)
        if difference:
            notes.append(f"the file's tensors hold {difference:+,} elements compared with what its metadata describes")
    return replace(spec, notes=tuple(notes), **changes)


# Tensors that are no parameters of the model: rotary tables, quantisation scales, the router's correction buffer.
NOT_PARAMETERS = re.compile(r"^rope_|\.rope_freqs|rope_factors|\.scale$|\.input_scale$|^token_types")
CORRECTION = "exp_probs_b"


def _difference(spec: ModelSpec, gguf: Gguf, f: Facts) -> int:
    """Elements of the tensors less the parameters that the spec counts; 0 where they agree."""
    elements = corrections = 0
    for tensor in gguf.tensors:
        layer = re.match(r"blk\.(\d{1,6})\.", tensor.name)
        if NOT_PARAMETERS.search(tensor.name) or (layer and int(layer[1]) >= f.layers):
            continue
        if CORRECTION in tensor.name:
            corrections += tensor.elements
        else:
            elements += tensor.elements
    counted = count_parameters(spec)
    return 0 if counted in (elements, elements + corrections) else elements + corrections - counted
