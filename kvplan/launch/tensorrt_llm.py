"""TensorRT-LLM: ``trtllm-serve MODEL``. Flags as ``tensorrt_llm/commands/serve.py`` of 1.2 has them."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.launch.flags import table
from kvplan.launch.reading import Changes, Reading, Rules, Verdict
from kvplan.report import Report
from kvplan.units import format_bytes, format_count

__all__ = ["RULES"]


def fill(r: Reading) -> None:
    """Takes the flags that say how large the pool is and what is left for it."""
    found = r.model(r.first())
    r.stray(r.positional[1:])
    ranks = 1
    for key, flag, what in (("tp", "--tp_size", "tensor-parallel ranks"), ("pp", "--pp_size", "pipeline stages")):
        n = r.count(flag)
        if n is not None:
            r.plan[key] = n
            ranks *= n
            r.uses(flag, f"{n} {what}")
    r.check_gpus(ranks)
    length, limit = r.count("--max_seq_len"), found.spec.max_context
    r.plan["context"] = length or limit or 4096
    r.uses("--max_seq_len", f"requests of up to {format_count(r.plan['context'])} tokens")
    if length is None:
        r.notes.append(f"--max_seq_len is not given: the model's {format_count(r.plan['context'])} tokens")
    cache = r.text("--kv_cache_dtype")
    if cache is not None and cache != "auto":
        r.plan["kv_dtype"] = cache
    r.uses("--kv_cache_dtype", f"cache in {cache}" if cache != "auto" else "cache in the type of the model")


def judge(r: Reading, report: Report) -> Verdict:
    """Starts where anything is left for the pool; a longer request than the pool is then refused."""
    c = report.capacity
    length = report.answer.settings.context
    if c is None:
        return Verdict(None, "the bytes of the weights are not known, so the pool is not either")
    if not c.fits and not c.max_context:
        return Verdict(False, f"nothing is left for the cache (binding: {c.binding})")
    room = format_bytes(c.kv_pool_bytes) + (
        " per GPU" if report.answer.settings.tp * report.answer.settings.pp > 1 else ""
    )
    if c.fits:
        need = format_bytes(report.answer.bytes_per_gpu)
        return Verdict(True, f"one request of {format_count(length)} tokens takes {need} of a pool of {room}")
    return Verdict(
        True, f"but its pool of {room} holds no request of more than {format_count(c.max_context or 0)} tokens", False
    )


def attempts(r: Reading, report: Report) -> Iterator[Changes]:
    """Changes of one flag, from the one that costs least."""
    c, s = report.capacity, report.answer.settings
    share = r.number("--kv_cache_free_gpu_memory_fraction")
    if share is not None:
        yield from ({"--kv_cache_free_gpu_memory_fraction": f"{n / 100:.2f}"} for n in (90, 95) if n > 100 * share)
    if c is not None and c.max_context and c.max_context < s.context:
        step = 1024 if c.max_context >= 2048 else 1
        yield {"--max_seq_len": str(c.max_context // step * step)}
    yield from ({"--tp_size": str(n)} for n in (2, 4, 8, 16) if n > s.tp and n <= (r.visible or n))


VALUES = """
--tokenizer --custom_tokenizer --host --port --backend --custom_module_dirs --log_level --max_beam_width
--max_batch_size --max_num_tokens --max_seq_len --max_input_len --tp_size|--tp|--tensor_parallel_size
--pp_size|--pp|--pipeline_parallel_size --cp_size|--context_parallel_size --ep_size|--ep|--moe_expert_parallel_size
--cluster_size|--moe_cluster_parallel_size --gpus_per_node
--kv_cache_free_gpu_memory_fraction|--free_gpu_memory_fraction|--kv_cache_free_gpu_mem_fraction
--kv_cache_dtype --num_postprocess_workers --revision --config|--extra_llm_api_options --reasoning_parser --tool_parser
--metadata_server_config_file --server_role --otlp_traces_endpoint --disagg_cluster_uri --media_io_kwargs
--chat_template --served_model_name --video_pruning_rate
"""
SWITCHES = """
--trust_remote_code --fail_fast_on_attention_window_too_large --enable_chunked_prefill --grpc --disable_kv_cache_reuse
--skip_tokenizer_init
"""
CAVEATS = {
    "--config": "a file of settings, which is not read: cache formats, windows and the pool may be set there",
    "--backend": "the PyTorch backend is planned",
    "--max_beam_width": "the cache of beams is not counted",
    "--cp_size": "a prompt split over GPUs is not modelled",
    "--ep_size": "how experts are placed over GPUs is not modelled",
    "--cluster_size": "how experts are placed over GPUs is not modelled",
    "--server_role": "buffers of a server that only prefills or only decodes are not counted",
    "--revision": "the config of the newest revision, or of the preset, is read",
    **dict.fromkeys(("--max_batch_size", "--max_num_tokens"), "what one pass runs at once is planned without it"),
}

RULES = Rules("tensorrt-llm", table(VALUES, SWITCHES, prefixes=False), CAVEATS, fill, judge, attempts)
