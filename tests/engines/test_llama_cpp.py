"""llama.cpp: sizes that the engine itself answered, the tables of cells by hand, builds, offload, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kvplan
from kvplan.errors import InvalidInput
from kvplan.validate.llama_cpp import Case, cases, judged, write_header

DATA = Path(__file__).parents[1] / "data" / "engines"
MIB = 2**20
# llama.cpp 0c1e57098 asked with no_alloc: metadata of a model, parameters of its context, sizes as it logged them
SIZES: list[dict[str, Any]] = json.loads((DATA / "llamacpp_sizes.json").read_text())["rows"]
RECORDED: list[dict[str, Any]] = json.loads((DATA / "llamacpp_recorded.json").read_text())["rows"]


def plan(model: Any = "llama-3.1-8b", *, version: str | None = None, **options: Any) -> dict[str, Any]:
    """A plan of one sequence of one token: the context is as long as the options say."""
    words = {name: options.pop(name) for name in ("context", "batch", "gpu", "weight_dtype", "pp") if name in options}
    report = kvplan.plan(
        model, **{"context": 1, **words}, engine="llama.cpp", engine_version=version, engine_options=options
    )
    return report.to_dict()


def mib(report: dict[str, Any], prefix: str = "kv") -> float:
    """MiB of the terms whose path starts so."""
    return sum(term["value"] for term in report["terms"] if term["path"].startswith(prefix)) / MIB


def numbers(**changes: int) -> dict[str, int]:
    """Two layers of 2 heads of 64: 2 x 2 x 64 x 2 bytes x 2 layers = 1,024 bytes per cell in f16."""
    return {"layers": 2, "hidden": 128, "heads": 2, "head_dim": 64, "vocab": 1000} | changes


def cells(context: dict[str, Any], *, version: str | None = None, window: int | None = None, batch: int = 1) -> Any:
    """Facts of a context of the two-layer model."""
    shape = numbers() if window is None else numbers(window=window)
    report = kvplan.plan(
        **shape, context=1, batch=batch, engine="llama.cpp", engine_version=version, engine_options=context
    )
    return report.engine["facts"]


# --- what the engine answered ----------------------------------------------------------------------------------------


def asked(row: dict[str, Any]) -> dict[str, Any]:
    i = row["inputs"]
    return {
        "ctx_size": i["n_ctx"],
        "parallel": i["n_seq"],
        "batch_size": i["n_batch"],
        "ubatch_size": i["n_ubatch"],
        "kv_unified": i["unified"],
        "swa_full": i["swa_full"],
        "cache_type_k": i["tk"],
        "cache_type_v": i["tv"],
        "flash_attn": "on" if i["fa"] else "off",
    }


@pytest.mark.parametrize("row", SIZES, ids=[f"{row['model']}-{i}" for i, row in enumerate(SIZES)])
def test_sizes_of_full_size_models(row: dict[str, Any]) -> None:
    """43 contexts of four models: bytes within the two decimals logged, cells, layers, sequences and streams equal."""
    report = plan(row["model"], **asked(row))
    facts = report["engine"]["facts"]

    assert row["engine_mib"] == pytest.approx(report["kv"]["bytes"] / MIB, abs=0.0051)
    for prefix, cache in zip(("kv_", "swa_"), (d for d in row["detail"] if "streams" in d), strict=False):
        assert cache["cells"] == facts[f"{prefix}cells"]
        assert cache["layers"] == facts[f"{prefix}layers"]
        assert (cache["seqs"], cache["streams"]) == (facts["n_seq_max"], facts["n_stream"])
        assert cache["k_mib"] == pytest.approx(facts[f"{prefix}k_mib"], abs=0.0051)
        assert cache["v_mib"] == pytest.approx(facts[f"{prefix}v_mib"], abs=0.0051)


@pytest.mark.parametrize("row", SIZES, ids=[f"{row['model']}-{i}" for i, row in enumerate(SIZES)])
def test_compute_buffers_are_estimates_with_an_interval(row: dict[str, Any]) -> None:
    """The recorded buffer of the CPU backend lies in the interval, and within an eighth of the likely value."""
    facts = plan(row["model"], **asked(row))["engine"]["facts"]
    measured = sum(row["compute"].values())

    assert facts["compute_mib_least"] <= measured <= facts["compute_mib_most"]
    assert measured == pytest.approx(facts["compute_mib"], rel=0.125)


@pytest.mark.parametrize(
    "row", RECORDED, ids=[f"{row['metadata']['general.architecture']}-{i}" for i, row in enumerate(RECORDED)]
)
def test_recorded_answers(row: dict[str, Any], tmp_path: Path) -> None:
    """Random models of 28 architectures: every log line as the library printed it, and the bytes they sum to."""
    rows = judged("recorded", Case(row["metadata"], row["options"], row["config"]), row["lines"], tmp_path)

    assert [] == [r.note or r.quantity for r in rows if r.verdict not in ("exact", "within")]
    assert 2 == len(rows)


def test_a_wrong_line_is_seen(tmp_path: Path) -> None:
    """The judge of recorded answers fails on one cell more, and on a size off by 0.02 MiB."""
    row = next(row for row in RECORDED if row["metadata"]["general.architecture"] == "llama")
    case, line = Case(row["metadata"], row["options"], row["config"]), row["lines"][0]
    count = line.split("(")[1].split(" cells")[0]
    size = line.split("size = ")[1].split(" MiB")[0]
    wrong = {
        "log lines": line.replace(f"{count} cells", f"{int(count) + 1:6d} cells"),
        "kv.bytes in MiB as logged": line.replace(f"size = {size}", f"size = {float(size) + 0.02:7.2f}", 1),
    }

    for quantity, changed in wrong.items():
        assert changed != line
        assert quantity in [r.quantity for r in judged("planted", case, [changed], tmp_path) if r.verdict == "wrong"]


def test_cases_are_reproducible_and_cover_every_architecture() -> None:
    drawn = cases(56, 4)

    assert drawn == cases(56, 4)
    assert drawn != cases(56, 5)
    assert {row["metadata"]["general.architecture"] for row in RECORDED} == {
        c.metadata["general.architecture"] for c in drawn
    }


# --- worked numbers --------------------------------------------------------------------------------------------------

# The engine's own answers (MiB): 4096 | 5000, 4 seq | 8192 unified 4 seq | 16384 q8_0 | 8192 no FA | swa_full | 32768 ub 2048
WORKED = {
    "llama-3.1-8b": (512, 640, 1024, 1088, 1024, 1024, 4096),
    "gemma-3-12b": (736, 1920, 1952, 799, 992, 3072, 3008),
    "gemma-2-9b": (1344, 1680, 2688, 1829.63, 2100, 2688, 6384),
    "gpt-oss-20b": (114, 192, 216, 213.56, 210, 384, 822),
    "deepseek-v3": (274.5, 343.13, 549, 583.31, 549, 549, 2196),
    "qwen3-next-80b": (171.38, 421.5, 493.5, 279.38, 267.38, 267.38, 843.38),
    "gemma-3n-e4b": (64, 168, 144, 85, 96, 320, 336),
}
CONTEXTS: tuple[dict[str, Any], ...] = (
    {"ctx_size": 4096},
    {"ctx_size": 5000, "parallel": 4},
    {"ctx_size": 8192, "parallel": 4, "kv_unified": True},
    {"ctx_size": 16384, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    {"ctx_size": 8192, "flash_attn": "off"},
    {"ctx_size": 8192, "swa_full": True},
    {"ctx_size": 32768, "ubatch_size": 2048},
)


@pytest.mark.parametrize("model", WORKED)
def test_worked_table(model: str) -> None:
    assert [pytest.approx(size, abs=0.0051) for size in WORKED[model]] == [
        plan(model, **context)["kv"]["bytes"] / MIB for context in CONTEXTS
    ]


def test_server_without_np_keeps_four_slots_in_one_stream() -> None:
    """Gemma-3-12B at 32,768: 8 layers x 32,768 x 8,192 B = 2,048 MiB, and 40 x up(4 x 1,024 + 512, 256) = 4,608 cells."""
    gemma = plan("gemma-3-12b", ctx_size=32768, parallel=4, kv_unified=True)
    gpt = plan("gpt-oss-20b", ctx_size=131072, parallel=4, kv_unified=True)

    assert (2048, 1440) == (mib(gemma, "kv/global"), mib(gemma, "kv/local"))
    assert (3072, 24) == (mib(gpt, "kv/global"), mib(gpt, "kv/local"))


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(1, 256), (255, 256), (256, 256), (257, 512), (511, 512), (512, 512), (513, 768), (8192, 8192)],
)
def test_a_context_is_padded_to_256(asked: int, expected: int) -> None:
    facts = cells({"ctx_size": asked})

    assert (expected, expected, expected) == (facts["n_ctx"], facts["n_ctx_seq"], facts["kv_cells"])
    assert expected * 512 == facts["kv_k_mib"] * MIB


@pytest.mark.parametrize(
    ("asked", "n_seq", "each"),
    # up(up(asked, 256) // n_seq, 256)
    [(5000, 4, 1280), (4096, 4, 1024), (4097, 4, 1280), (700, 3, 256), (768, 3, 256), (769, 3, 512), (2, 2, 256)],
)
def test_streams_share_a_context_and_are_padded_once_more(asked: int, n_seq: int, each: int) -> None:
    facts = cells({"ctx_size": asked, "parallel": n_seq})

    assert (each, each * n_seq, n_seq) == (facts["n_ctx_seq"], facts["n_ctx"], facts["n_stream"])
    assert n_seq * each * 512 == facts["kv_v_mib"] * MIB


@pytest.mark.parametrize(
    ("window", "ubatch", "sequences", "unified", "expected"),
    [
        (255, 1, 1, False, 256),
        (256, 1, 1, False, 512),
        (1024, 512, 1, False, 1536),
        (1025, 512, 1, False, 1792),
        (1023, 512, 1, False, 1536),
        (1024, 512, 4, False, 1536),
        (1024, 512, 4, True, 4608),
        (8000, 512, 1, False, 8192),  # never more than a full cache
    ],
)
def test_window_cells(window: int, ubatch: int, sequences: int, unified: bool, expected: int) -> None:
    context = {"ctx_size": 8192 * sequences, "parallel": sequences, "ubatch_size": ubatch, "kv_unified": unified}

    assert expected == cells(context, window=window)["swa_cells"]
    assert cells(context)["n_ctx_seq"] == cells(context | {"swa_full": True}, window=window)["swa_cells"]


def test_a_micro_batch_is_never_longer_than_the_context_asked() -> None:
    """n_ubatch = min(n_ctx, batch, ubatch) before padding: 300 tokens make 100 + 300 = 400, padded 512, at most 512."""
    facts = cells({"ctx_size": 300}, window=100)

    assert (300, 300, 512, 512) == tuple(facts[name] for name in ("n_batch", "n_ubatch", "n_ctx", "swa_cells"))
    assert 256 == cells({"ctx_size": 300, "batch_size": 100}, window=100)["swa_cells"]


def test_batch_and_context_make_the_context_size() -> None:
    """3 sequences of 1,000: -np 3 -c 3000, padded 3,072 / 3 = 1,024 cells each."""
    report = kvplan.plan(**numbers(), context=1000, batch=3, engine="llama.cpp").to_dict()
    facts = report["engine"]["facts"]

    assert (3072, 1024, 3, 3) == tuple(facts[name] for name in ("n_ctx", "n_ctx_seq", "n_seq_max", "n_stream"))
    assert 3072 * 1024 == report["kv"]["bytes"]
    assert 1024 * 1024 == report["kv"]["bytes_per_sequence"]


def test_slots_without_a_sequence_have_their_share() -> None:
    """32 slots of 4,096 cells where 16 sequences ask for as many tokens: 32 x 4,096; in one stream, which all share, half."""
    apart = {"parallel": 32}
    shared = {"parallel": 32, "kv_unified": True}
    flags: dict[str, Any] = {"engine": "llama.cpp", "context": 4096, "gpu": "h100"}

    for batch, options, cells in (
        (16, apart, 131_072),
        (32, apart, 131_072),
        (16, shared, 65_536),
        (32, shared, 131_072),
    ):
        report = kvplan.plan("llama-3.1-8b", batch=batch, engine_options=options, **flags)
        assert cells == report.engine["facts"]["n_ctx"]
        assert report.fits
        assert report.capacity
        assert report.capacity.max_batch == 32
    assert not kvplan.plan("llama-3.1-8b", batch=33, engine_options=apart, **flags).fits


def test_a_context_of_zero_is_the_models_own() -> None:
    assert 131072 == plan(ctx_size=0)["engine"]["facts"]["n_ctx"]
    with pytest.raises(InvalidInput, match="ctx_size"):
        cells({"ctx_size": 0})  # plain numbers state no limit


def test_without_flash_attention_every_value_row_is_the_widest() -> None:
    """Gemma-4-E4B: 4 global layers of 2 x 512, 20 local ones of 2 x 256, which take the wide row for V.

    At 4,096: global 4 x 4,096 x 4,096 B = 64 MiB. Local cells 1,024: K 20 x 1,024 x 1,024 B = 20 MiB, V twice that.
    """
    on, off = (plan("gemma-4-e4b", ctx_size=4096, flash_attn=word) for word in ("on", "off"))

    assert (64, 20, 20) == (mib(on, "kv/global"), mib(on, "kv/local/key"), mib(on, "kv/local/value"))
    assert (64, 20, 40) == (mib(off, "kv/global"), mib(off, "kv/local/key"), mib(off, "kv/local/value"))


def test_types_of_keys_and_values_apart() -> None:
    """q8_0 is 34 bytes of 32, q4_0 18 of 32: 128 elements x 2 layers x 256 cells."""
    facts = cells({"ctx_size": 256, "cache_type_k": "q8_0", "cache_type_v": "q4_0"})

    assert 256 * 2 * 128 * 34 / 32 == facts["kv_k_mib"] * MIB
    assert 256 * 2 * 128 * 18 / 32 == facts["kv_v_mib"] * MIB


def test_states_are_float32_per_sequence_whatever_the_context() -> None:
    """Mamba-130m: 24 layers x (3 x 1,536 + 16 x 1,536) x 4 bytes per sequence."""
    one, four = (plan("mamba-130m", context=context, batch=batch) for context, batch in ((4096, 1), (128, 4)))

    assert 24 * (3 + 16) * 1536 * 4 == one["kv"]["bytes"] == one["kv"]["state_bytes_per_sequence"]
    assert 4 * one["kv"]["bytes"] == four["kv"]["bytes"]


def test_states_to_roll_back_to_where_the_architecture_has_them() -> None:
    base, drafts = (mib(plan("qwen3.5-27b", n_rs_seq=n), "kv/state") for n in (0, 6))
    other = [mib(plan("qwen3-next-80b", n_rs_seq=n), "kv/state") for n in (0, 6)]

    assert 7 * base == drafts
    assert other[0] == other[1]


def test_an_indexer_has_a_cache_of_its_own() -> None:
    """GLM-5.2: 78 latents of 576 and 21 index keys of 128, f16, 512 cells."""
    report = plan("glm-5.2", ctx_size=512)

    assert 78 * 576 * 2 * 512 / MIB == mib(report, "kv/latent")
    assert 21 * 128 * 2 * 512 / MIB == mib(report, "kv/index")


def test_what_is_ignored() -> None:
    """Mistral's window and Hunyuan's sharing: every layer keeps every token."""
    mistral, hunyuan = plan("mistral-7b-v0.1", ctx_size=8192), plan("hunyuan-large", ctx_size=256)

    assert 32 * 2 * 8 * 128 * 2 * 8192 == mistral["kv"]["bytes"]
    assert (8192, 32) == (mistral["engine"]["facts"]["kv_cells"], mistral["engine"]["facts"]["kv_layers"])
    assert 64 == hunyuan["engine"]["facts"]["kv_layers"]
    assert any("sharing" in sentence for sentence in mistral["engine"]["ignores"])


# --- builds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "flash", "expected"),
    [
        ("b2700", "off", 1000),  # nothing is padded
        ("b2800", "off", 1024),  # all to 256
        ("b3000", "off", 1024),
        ("b3000", "on", 1024),
        ("b5716", "off", 1024),
        ("b6900", "on", 1000),
        ("b7000", "on", 1024),
    ],
)
def test_paddings_of_builds(version: str, flash: str, expected: int) -> None:
    assert expected == cells({"ctx_size": 1000, "flash_attn": flash}, version=version)["n_ctx"]


def test_padding_was_32_without_flash_attention() -> None:
    off, on = (cells({"ctx_size": 1001, "flash_attn": word}, version="b5716")["n_ctx"] for word in ("off", "on"))

    assert (1024, 1024) == (off, on)
    assert (1056, 1280) == tuple(
        cells({"ctx_size": 1025, "flash_attn": word}, version="b5716")["n_ctx"] for word in ("off", "on")
    )


def test_streams_of_2025_round_up() -> None:
    """b6200: up(ceil(1,000 / 3), 256) = 512 with flash attention, up(334, 32) = 352 without; one stream before b5913."""
    context = {"ctx_size": 1000, "parallel": 3, "flash_attn": "on"}

    assert (512, 1536, 3) == tuple(cells(context, version="b6200")[n] for n in ("n_ctx_seq", "n_ctx", "n_stream"))
    assert 352 == cells(context | {"flash_attn": "off"}, version="b6200")["n_ctx_seq"]
    assert (1024, 1) == tuple(cells(context, version="b5912")[n] for n in ("n_ctx_seq", "n_stream"))
    assert 3 == cells(context, version="b5913")["n_stream"]


def test_window_caches_came_in_may_2025() -> None:
    """b5431 keeps all tokens; b5432 the window and a batch of 2,048, b5554 the window and a micro-batch of 512."""
    context = {"ctx_size": 8192, "flash_attn": "on"}

    assert 8192 == cells(context, version="b5431", window=1024)["kv_cells"]
    assert 3072 == cells(context, version="b5432", window=1024)["swa_cells"]
    assert 3072 == cells(context, version="b5553", window=1024)["swa_cells"]
    assert 1536 == cells(context, version="b5554", window=1024)["swa_cells"]


def test_latents_through_the_builds() -> None:
    """DeepSeek-V2-Lite, per cell and layer: 16 x (192 + 128) elements; 576 + 512; 576."""
    sizes = [
        plan("deepseek-v2-lite", version=version, ctx_size=256, flash_attn="on")["kv"]["bytes"] / (27 * 256 * 2)
        for version in ("b5100", "b5614", "b7829", None)
    ]
    older_file = plan("deepseek-v2-lite", ctx_size=256, mla=False)

    assert [5120, 1088, 576, 576] == sizes
    assert 27 * 256 * 2 * 5120 == older_file["kv"]["bytes"]


def test_encoders_had_a_cache_that_nobody_read() -> None:
    """BERT, 12 layers x 12 heads x 64: 12 x 2 x 768 x 2 bytes x 512 cells before May 2025, nothing after."""
    bert = {"model_type": "bert", "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12,
            "intermediate_size": 3072, "vocab_size": 30522}  # fmt: skip

    assert 12 * 2 * 768 * 2 * 512 == plan(bert, version="b5080", ctx_size=512)["kv"]["bytes"]
    assert 0 == plan(bert, ctx_size=512)["kv"]["bytes"]


def test_hybrids_kept_the_whole_context_in_every_stream_until_february_2026() -> None:
    """Issue 19552: -np times more than needed."""
    context = {"ctx_size": 4096, "parallel": 4}
    before, after = (mib(plan("qwen3.5-9b", version=v, **context), "kv/global") for v in ("b7900", "b8012"))

    assert 4 * after == before


def test_lines_as_older_builds_logged_them() -> None:
    """b5897, https://github.com/ggml-org/llama.cpp: 6 layers, 6 heads of 48; b4462 prints one line for the context."""
    moe = kvplan.plan(
        layers=6, hidden=288, heads=6, head_dim=48, context=4096, engine="llama.cpp", engine_version="b5897"
    )
    line = "llama_kv_cache_unified: size =   27.00 MiB (  4096 cells,   6 layers,  1 seqs), K (f16):   13.50 MiB, V (f16):   13.50 MiB"
    qwen = plan(
        "qwen2.5-1.5b", version="b4462", ctx_size=32768, flash_attn="on", cache_type_k="q8_0", cache_type_v="q8_0"
    )

    assert [line] == list(moe.engine["printed"])
    assert [
        "llama_new_context_with_model: KV self size  =  476.00 MiB, K (q8_0):  238.00 MiB, V (q8_0):  238.00 MiB"
    ] == list(qwen["engine"]["printed"])


@pytest.mark.parametrize("version", ["b0", "0", "b", "latest", "0c1e57099", "b-3"])
def test_an_unknown_version_is_named_with_what_is_allowed(version: str) -> None:
    with pytest.raises(InvalidInput, match=r"engine_version.*allowed: 0c1e57098, or a build from b1 on"):
        cells({"ctx_size": 256}, version=version)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "field"),
    [
        ("llama-3.1-8b", {"cache_type_v": "q8_0", "flash_attn": "off"}, "cache_type_v"),
        ("llama-3.1-8b", {"cache_type_k": "q4_k"}, "cache_type_k"),
        ("llama-3.1-8b", {"cache_type_k": "fp8"}, "cache_type_k"),
        ("deepseek-v3", {"cache_type_k": "q8_0"}, "cache_type_v"),
        ("llama-3.1-8b", {"flash_attn": "maybe"}, "flash_attn"),
        ("llama-3.1-8b", {"parallel": 0}, "parallel"),
    ],
)
def test_what_the_engine_refuses(model: str, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        plan(model, **options)
    assert field in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_that_blocks_do_not_divide() -> None:
    with pytest.raises(InvalidInput, match=r"cache_type_k.*divide the 40 elements"):
        kvplan.plan(
            layers=1,
            hidden=40,
            heads=1,
            head_dim=40,
            context=256,
            engine="llama.cpp",
            engine_options={"cache_type_k": "q8_0"},
        )


# --- offload and room ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "layers", "on_gpu"),
    # the output matrix is the first of -ngl since December 2025, the last before
    [(None, 0, 0), (None, 1, 0), (None, 2, 1), (None, 33, 32), (None, 99, 32), ("b7000", 1, 1), ("b7000", 32, 32)],
)
def test_layers_on_the_gpu(version: str | None, layers: int, on_gpu: int) -> None:
    report = plan(version=version, ctx_size=4096, n_gpu_layers=layers)

    assert 16 * on_gpu == mib(report, "kv/global")
    assert 16 * (32 - on_gpu) == mib(report, "kv/host")
    assert 512 * MIB == report["kv"]["bytes"]


def test_caches_in_host_memory() -> None:
    report = plan(ctx_size=4096, no_kv_offload=True)

    assert (512, 0) == (mib(report, "kv/host"), mib(report, "kv/global"))


def test_room_is_what_weights_context_and_compute_leave() -> None:
    """bf16 Llama-3.1-8B, all but the token table (128,256 x 4,096) on the GPU; 24,152,899,584 bytes in all (L4)."""
    report = plan(context=8192, gpu="l4")
    capacity, terms = report["capacity"], {t["path"]: t["value"] for t in report["terms"]}
    kept = sum(value for path, value in terms.items() if path.startswith("engine/"))
    weights = 2 * (report["model"]["parameters"] - 128256 * 4096)
    per_cell = 2 * 32 * 8 * 128 * 2
    most = (24152899584 - kept - weights) // per_cell // 256 * 256

    assert 266.5 * MIB == terms["engine/compute buffer"]  # 512 x (128,256 + 2 x 4,096) x 4
    assert capacity["fits"]
    assert most == capacity["max_context"]


def test_a_context_too_small_for_its_sequences_does_not_fit() -> None:
    """Two sequences of 4,096: a pool of 8,192 cells holds them in two streams or in one, three slots of it do not."""
    shared = {"context": 4096, "batch": 2, "gpu": "l4", "ctx_size": 8192}

    assert plan(**shared)["capacity"]["fits"]
    assert plan(**shared, kv_unified=True, parallel=3)["capacity"]["fits"]
    assert not plan(**shared, parallel=3)["capacity"]["fits"]
    assert not plan(**shared, parallel=1)["capacity"]["fits"]


def test_at_most_256_sequences() -> None:
    assert 256 == plan("mamba-130m", context=128, gpu="h100")["capacity"]["max_batch"]


def test_stages_hold_their_layers() -> None:
    whole, half = plan(ctx_size=4096), plan(ctx_size=4096, pp=2)

    assert whole["kv"]["bytes"] == half["kv"]["bytes"] == 2 * half["kv"]["bytes_per_gpu"]
    assert whole["engine"]["printed"] == half["engine"]["printed"]


def test_a_header_is_a_gguf(tmp_path: Path) -> None:
    """The header that the reference run writes is one that kvplan's own reader takes: 3 layers of 2 KV heads of 64."""
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 3,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.context_length": 2048,
        "llama.vocab_size": 1000,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": [2, 2, 2],
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    write_header(tmp_path / "model.gguf", keys)

    assert 3 * 2 * 2 * 64 * 2 * 256 == plan(str(tmp_path / "model.gguf"), ctx_size=256)["kv"]["bytes"]
