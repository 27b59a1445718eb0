"""Stage 2: somebody else's classes on the device: what transformers allocates for weights, caches and a prompt.

Random weights, bf16, the attention that the class chooses by itself (sdpa, or eager where it has no other). Bytes of
parameters and of caches must be equal. The peak of a prompt above them is an estimate: half to twice of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import kvplan
from kvplan.catalog import model_preset
from kvplan.errors import MissingExtra
from kvplan.importers.files import parse_object
from kvplan.validate.allocator import Allocator
from kvplan.validate.gpu.task import Bench, Task
from kvplan.validate.measure import out_of_memory, storage_bytes
from kvplan.validate.records import NEAR, Row

__all__ = ["SHAPES", "Shape", "Subject", "configured", "lengths", "tasks"]

HEADROOM = 0.75  # of the free memory may be weights: caches and prompts need the rest
FLAGS: dict[str, Any] = {"engine": "transformers", "dtype": "bf16"}
BOUNDS = ("sliding_window", "chunk_size")  # where a config states what its cache or its scan goes by
JUDGED = 256  # tokens from which on a peak says something of the estimate, not of what a prompt takes anyway


class Shape(NamedTuple):
    """A published model and where its cache changes its rule."""

    preset: str
    around: int = 0  # a window, chunk or kernel: prompts of one token less, as many, and one more
    prompts: tuple[tuple[int, int], ...] = (
        (4096, 1),
        (1024, 4),
    )  # (tokens, sequences) whose peak is held against the estimate
    layers: int | None = None  # at most so many: the first ones, with every kind of layer among them
    small: dict[str, Any] = {}  # noqa: RUF012  # the same on a CPU: changes of the config


DENSE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 500,
}
GROUPED = {**DENSE, "num_key_value_heads": 2, "head_dim": 64}
SHAPES = (
    Shape("llama-3.1-8b", prompts=((4096, 1), (16384, 1), (2048, 4)), small=GROUPED),
    Shape("qwen3-8b", small=GROUPED),
    Shape(
        "gemma-3-12b",
        1024,
        prompts=((2048, 1), (8192, 1)),
        small={
            "text_config": {**GROUPED, "num_hidden_layers": 7, "sliding_window": 24},
            "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        },
    ),
    Shape("falcon-7b", small={**DENSE}),
    Shape("mistral-7b-v0.1", 4096, prompts=((2048, 1), (8192, 1)), small={**GROUPED, "sliding_window": 24}),
    Shape(
        "gpt-oss-20b",
        128,
        prompts=((1024, 1), (4096, 1)),
        small={**GROUPED, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4,
               "experts_per_token": 2, "sliding_window": 24, "pad_token_id": 0, "eos_token_id": 1},
    ),
    Shape(
        "deepseek-v2-lite",
        small={**DENSE, "num_key_value_heads": 4, "kv_lora_rank": 64, "moe_intermediate_size": 128, "n_routed_experts": 8,
               "num_experts_per_tok": 3, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32},
    ),
    Shape(
        "qwen3-next-80b-a3b",
        64,
        layers=4,
        small={**GROUPED, "num_hidden_layers": 4, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64,
               "shared_expert_intermediate_size": 64, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
               "linear_num_key_heads": 4, "linear_num_value_heads": 8},
    ),
    Shape(
        "nemotron-3-nano-30b-a3b",
        128,
        layers=7,
        small={**GROUPED, "num_hidden_layers": 6, "hybrid_override_pattern": "MEM*ME", "mamba_num_heads": 8,
               "mamba_head_dim": 64, "n_groups": 2, "ssm_state_size": 32, "chunk_size": 32, "n_routed_experts": 8,
               "num_experts_per_tok": 3, "moe_intermediate_size": 64, "moe_shared_expert_intermediate_size": 128},
    ),
    Shape(
        "mamba-codestral-7b",
        256,
        prompts=((1024, 1), (4096, 1)),
        small={"hidden_size": 256, "num_hidden_layers": 3, "num_heads": 8, "head_dim": 64, "state_size": 32, "n_groups": 2,
               "chunk_size": 32, "vocab_size": 500, "intermediate_size": 512},
    ),
)  # fmt: skip


def tasks(device: str) -> list[Task]:
    """One task a class."""
    return [
        Task("classes", shape.preset, observed, {"shape": shape}, 50.0 if device == "cuda" else 15.0)
        for shape in SHAPES
    ]


def configured(shape: Shape, device: str, layers: int | None) -> dict[str, Any]:
    """The published config without its quantisation, of so many layers, and small on a CPU."""
    preset = model_preset(shape.preset)
    raw: dict[str, Any] = parse_object(preset.config.encode(), "config", preset.name)
    raw.pop("quantization_config", None)
    raw.pop("auto_map", None)
    if device == "cpu":
        for key, value in shape.small.items():
            raw[key] = {**raw[key], **value} if isinstance(value, dict) else value
    for text in (raw, raw.get("text_config", {})):
        if "num_hidden_layers" in text:
            count = min(layers or text["num_hidden_layers"], text["num_hidden_layers"])
            text["num_hidden_layers"] = count
            for listed in ("layer_types", "hybrid_override_pattern"):
                if listed in text:
                    text[listed] = text[listed][:count]
    return raw


def fitting(shape: Shape, device: str, room: int) -> dict[str, Any]:
    """The config with as many layers as leave room for caches and prompts, and two at the least."""
    layers = shape.layers
    while True:
        raw = configured(shape, device, layers)
        weights = kvplan.plan(raw, engine="transformers", dtype="bf16").to_dict()["weights"]["bytes"]
        count = raw.get("text_config", raw)["num_hidden_layers"]
        if weights <= room or count <= 2:
            return raw
        layers = max(int(count * room / weights), 2) if count * room / weights < count - 1 else count - 1


def lengths(shape: Shape, device: str, raw: dict[str, Any]) -> Iterator[tuple[int, int, bool]]:
    """(tokens, sequences, whether the peak is judged) of each prompt: around the bound first, then the long ones."""
    if shape.around:
        text = raw.get("text_config", raw)
        # a small config states its own bound; Qwen3-Next's chunk is fixed by the code
        small = next((text[key] for key in BOUNDS if text.get(key)), shape.around)
        bound, sequences = (shape.around, 1) if device == "cuda" else (small, 2)
        yield from ((bound + d, sequences, False) for d in (-1, 0, 1))
    prompts = shape.prompts if device == "cuda" else ((300, 1), (128, 3))
    yield from ((tokens, sequences, tokens * sequences >= JUDGED) for tokens, sequences in prompts)


class Subject(NamedTuple):
    """A class that was built on a device, the config it was built from, and what its rows say of it."""

    model: Any
    raw: dict[str, Any]
    case: str
    name: str  # of the config, in the record
    by: str  # version, class and attention

    def row(
        self, quantity: str, predicted: Any, measured: Any, asked: dict[str, Any], verdict: str = "", note: str = ""
    ) -> Row:
        """A comparison; exact or wrong where nothing else is said."""
        question = {"model": self.name, **FLAGS, **asked}
        told = verdict or ("exact" if predicted == measured else "wrong")
        return Row(self.case, question, quantity, predicted, measured, told, f"{note}; {self.by}" if note else self.by)

    def plan(self, **asked: Any) -> dict[str, Any]:
        """What kvplan says of the same config."""
        return kvplan.plan(self.raw, **FLAGS, **asked).to_dict()


def observed(bench: Bench, shape: Shape) -> Iterator[Row]:
    """Parameters of the class as it is built, then caches and peaks of every prompt."""
    import torch

    try:
        import transformers

        from kvplan.validate import huggingface
    except ImportError:
        raise MissingExtra("transformers' classes", "reference") from None

    memory = bench.allocator
    memory.give_back()
    raw = fitting(shape, bench.device, round(memory.free()[0] * HEADROOM))
    name = f"{shape.preset}, {raw.get('text_config', raw)['num_hidden_layers']} layers"
    bench.facts.setdefault("configs", {})[name] = raw
    with huggingface.quiet(), memory.watching(), torch.no_grad():
        model = huggingface.model_of(raw, bench.device, attention="sdpa")
        by = f"transformers {transformers.__version__}, {type(model).__name__}, {huggingface.attention_of(model)}"
        subject = Subject(model, raw, shape.preset, name, by)
        answer, asked = subject.plan(context=1), {"context": 1}
        parameters = list(model.parameters())
        yield subject.row("model.parameters", answer["model"]["parameters"], sum(p.numel() for p in parameters), asked)
        yield subject.row("weights.bytes", answer["weights"]["bytes"], storage_bytes(parameters), asked)
        # a short prompt first: libraries' workspaces come along
        huggingface.run(model, torch.zeros((1, 8), dtype=torch.long, device=bench.device), last=True)
        for tokens, sequences, judged in lengths(shape, bench.device, raw):
            yield from _prompted(subject, memory, tokens, sequences, judged)


def _prompted(subject: Subject, memory: Allocator, tokens: int, sequences: int, judged: bool) -> Iterator[Row]:
    """Cache and storage after a prompt and after one token more; where ``judged`` the peak beside its estimate."""
    import torch

    from kvplan.validate import huggingface

    asked = {"context": tokens, "batch": sequences}
    plan = subject.plan(**asked, memory=2**50)
    terms = {term["path"]: term["value"] for term in plan["terms"]}
    ids = torch.randint(0, 256, (sequences, tokens), device=memory.device)
    memory.give_back()
    before = memory.phase()
    estimate = terms["activations/peak"]
    room = memory.free()[0] - plan["kv"]["bytes"] - terms["engine/prefill_storage"]
    try:
        out = huggingface.run(subject.model, ids, last=True)
    except Exception as e:
        if out_of_memory(e) and judged and estimate * NEAR < room:
            note = f"out of memory with {room:,} B left beside weights and cache"
            yield subject.row("activations/peak", estimate, None, asked, "wrong", note)
        raise
    phase = memory.phase().since(before)
    keyword, cache = huggingface.cache_of(subject.model, out, ids)
    held = huggingface.cache_bytes(cache)
    unique = storage_bytes(huggingface.cache_tensors(cache))
    yield subject.row("kv.bytes", plan["kv"]["bytes"], held, asked)
    yield subject.row("engine/prefill_storage", terms["engine/prefill_storage"], unique - held, asked)
    if judged:
        peak = phase.peak - unique
        near = estimate and estimate / NEAR <= peak <= estimate * NEAR
        note = "peak of the prompt above weights and cache: half to twice of an estimate"
        yield subject.row("activations/peak", estimate, peak, asked, "within" if near else "wrong", note)
        note = "the same in segments that the allocator took"
        yield subject.row("reserved at the peak", None, phase.peak_taken - unique, asked, "reported", note)
    del out
    huggingface.run(subject.model, ids[:, :1], last=True, **{keyword: cache})
    after = {**asked, "context": tokens + 1}
    yield subject.row("kv.bytes", subject.plan(**after)["kv"]["bytes"], huggingface.cache_bytes(cache), after)
    unique = storage_bytes(huggingface.cache_tensors(cache))
    yield subject.row("storage after one token", None, unique, after, "reported", "unique storages of the cache")
