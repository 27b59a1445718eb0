"""Faults that a review found, kept found: each of these was wrong once."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

import kvplan
from kvplan.errors import InvalidInput, KvplanError
from tests.support import config

TINY = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128,
    "vocab_size": 100, "torch_dtype": "bfloat16",
}  # fmt: skip


def folder(path: Path, extra: int = 0, name: str = "model.safetensors") -> Path:
    """A checkpoint folder of the tiny model: one flat tensor of all its bytes and ``extra`` more (MTP layers, say)."""
    parameters = kvplan.plan(TINY, context=1).answer.profile.parameters
    size = 2 * parameters + extra
    header = json.dumps({"all": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    (path / "config.json").write_text(json.dumps(TINY))
    with (path / name).open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    return path


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_exact_bytes_survive_sharding(tmp_path: Path, tp: int, pp: int) -> None:
    """Ranks together never hold less than the files: 2 MB beyond the shapes are shared out too."""
    weights = kvplan.plan(folder(tmp_path, 2_000_000), context=1, tp=tp, pp=pp).to_dict()["weights"]

    assert weights["bytes"] > 2_000_000
    assert weights["bytes_per_gpu"] * tp * pp >= weights["bytes"]


def test_a_what_if_format_replaces_what_lies_on_disk(tmp_path: Path) -> None:
    """--weight-dtype and --dtype ask about other weights than the files hold."""
    path = folder(tmp_path)
    stored = kvplan.plan(path, context=1).to_dict()["weights"]["bytes"]
    smaller = kvplan.plan(path, context=1, weight_dtype="int4")
    larger = kvplan.plan(path, context=1, dtype="fp32").to_dict()["weights"]["bytes"]

    assert smaller.to_dict()["weights"]["bytes"] < stored < larger == 2 * stored
    assert not any("files less shapes" in t.path for t in smaller.terms)


def test_absent_shards_are_an_error(tmp_path: Path) -> None:
    """One of two shards and no index: the files do not say how large the model is."""
    with pytest.raises(InvalidInput, match="shards"):
        kvplan.plan(folder(tmp_path, name="model-00001-of-00002.safetensors"))


@pytest.mark.parametrize("context", [100, 128, 129, 8192])
def test_what_is_read_includes_the_residual_window(context: int) -> None:
    """A step reads what is stored and the new token's own entry, residual window included."""
    format_ = "int2:g=32,residual=128"
    kv = kvplan.plan("llama-3.1-8b", context=context, kv_dtype=format_).kv
    later = kvplan.plan("llama-3.1-8b", context=context + 1, kv_dtype=format_).kv

    assert later["bytes_per_sequence"] == kv["bytes_read_per_step"]


def test_bounds_stay_bounds_under_pipelines() -> None:
    """Stages overlap at best: 64 sequences on 8 stages may be 8 times as fast, one sequence may not."""
    flags = {"gpu": "h100", "tp": 4, "context": 4096}
    one, eight = (kvplan.plan("llama-3.1-70b", pp=pp, batch=64, **flags).answer.times for pp in (1, 8))
    alone, still = (kvplan.plan("llama-3.1-70b", pp=pp, batch=1, **flags).answer.times for pp in (1, 8))
    assert one and eight and alone and still  # noqa: PT018

    assert eight.decode.seconds == pytest.approx(one.decode.seconds / 8)
    assert eight.tokens_per_s == pytest.approx(8 * one.tokens_per_s)
    assert still.decode.seconds == pytest.approx(alone.decode.seconds)


def test_skipped_cross_attention_is_not_streamed() -> None:
    """Without encoder tokens Mllama's text model does Llama-3.1-8B's work, and its bound is the same."""
    plain = kvplan.plan("llama-3.1-8b", context=8192, gpu="h100").answer
    vision = kvplan.plan("llama-3.2-11b-vision", context=8192, gpu="h100").answer
    assert plain.times
    assert vision.times

    assert plain.decode == vision.decode
    assert vision.times.decode.seconds == pytest.approx(plain.times.decode.seconds, rel=1e-3)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("batch", [1, 16, 400])
def test_the_verdict_and_the_bar_agree(tp: int, pp: int, batch: int) -> None:
    """Fits means that the parts shown leave something; does not fit means that they do not."""
    report = kvplan.plan(
        "gemma-3-12b", context=131072, batch=batch, engine="transformers", tp=tp, pp=pp, gpu="mi325x-256gb"
    )
    assert report.capacity
    used = sum(size for _, size in report.memory())

    assert report.fits == (used <= report.capacity.usable_bytes)


def test_what_is_said_of_k_holds_for_a_latent() -> None:
    """--cache-type-k stores latents, beside --kv-dtype or not: 61 layers x (16 + 2) blocks of 34 bytes x 8,192 tokens."""
    for flags in ({"cache_type_k": "q8_0"}, {"cache_type_k": "q8_0", "kv_dtype": "bf16"}):
        report = kvplan.plan("deepseek-v3", context=8192, **flags)
        assert 61 * 18 * 34 * 8192 == report.kv["bytes"]
        assert "q8_0 cache" in report.verdict()


@pytest.mark.parametrize("model", ["mamba-130m", "deepseek-v4-flash", "falcon-mamba-7b", "rwkv7-1.5b"])
def test_tp_must_divide_everywhere(model: str) -> None:
    """State and pooled caches split over ranks as heads do."""
    with pytest.raises(InvalidInput, match="tp: got 7"):
        kvplan.plan(model, tp=7)


def test_defaults_of_omitted_shapes_are_said() -> None:
    """A file that names no shape is answered with the class's defaults, and the report says which."""
    report = kvplan.plan({"model_type": "llama"})

    assert any("hidden_size = 4,096" in note for note in report.notes)
    assert not any("omits shape" in note for note in kvplan.plan(config("meta-llama__Meta-Llama-3.1-8B")).notes)


def test_state_has_no_tokens() -> None:
    """A pool in tokens means nothing where no byte depends on them."""
    capacity = kvplan.plan("mamba-130m", gpu="l4").capacity
    assert capacity
    assert capacity.kv_tokens is None


def test_pooled_entries_have_a_slope() -> None:
    """DeepSeek-V4 grows by an entry every few tokens: the marginal bytes spread it over them."""
    kv = kvplan.plan("deepseek-v4-flash", context=8192).kv
    grown = kvplan.plan("deepseek-v4-flash", context=8192 + 128 * 4).kv["bytes_per_sequence"] - kv["bytes_per_sequence"]

    assert grown == pytest.approx(512 * kv["bytes_per_token_marginal"], rel=1e-3)


def test_layers_share_only_equal_parts() -> None:
    """An indexer's keys cannot be read from a layer that keeps none."""
    with pytest.raises(KvplanError, match="indexer"):
        kvplan.plan("glm-5.2", scheme="cla:3")


def test_per_gpu_totals_are_sums_of_terms() -> None:
    """Under tp and pp the fullest GPU's weights and caches are named terms too."""
    report = kvplan.plan("llama-3.1-70b", tp=2, pp=2, context=4096, batch=8)
    terms = {t.path: t.value for t in report.terms}
    data = report.to_dict()

    assert data["weights"]["bytes_per_gpu"] == terms["per_gpu/weights"]
    assert data["kv"]["bytes_per_gpu"] == sum(v for p, v in terms.items() if p.startswith("per_gpu/kv/"))


@pytest.mark.parametrize("gpu", [5, ["h100"], b"h100", {}])
def test_a_gpu_is_a_name(gpu: object) -> None:
    """Whatever is handed in, the answer is a KvplanError."""
    with pytest.raises(KvplanError):
        kvplan.plan("llama-3.1-8b", gpu=gpu)


def test_without_the_hub_extra_the_preset_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub id whose config is shipped: the error says how to ask without a network."""
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(KvplanError, match=r"kvplan\[hub\].*preset llama-3\.1-8b"):
        kvplan.plan("meta-llama/Llama-3.1-8B")
