"""vLLM: ``vllm serve``, ``python -m vllm.entrypoints.openai.api_server``, the vllm/vllm-openai image.

Flags as ``vllm/engine/arg_utils.py`` and ``vllm/entrypoints/common/cli_args.py`` of 0.33.0 register them, and some that
older versions had.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, inf

from kvplan.engines.vllm.versions import NEWEST, parse, rules
from kvplan.errors import InvalidInput
from kvplan.launch.flags import table
from kvplan.launch.models import Found
from kvplan.launch.reading import Changes, Reading, Rules, Verdict
from kvplan.report import Report
from kvplan.text import printable
from kvplan.units import format_bytes, format_count

__all__ = ["RULES"]

DTYPES = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "float32": "fp32"}
# Methods that quantise an ordinary checkpoint while it loads, and the format that its matrices then have.
ONLINE = {
    "fp8": "fp8", "fp8_per_tensor": "fp8", "fp8_per_block": "fp8", "ptpc_fp8": "fp8", "fbgemm_fp8": "fp8",
    "bitsandbytes": "nf4", "mxfp8": "mxfp8", "mxfp4": "mxfp4", "experts_int8": "i8", "int8_per_channel_weight_only": "i8",
}  # fmt: skip
# Speculation that keeps no cache of its own, and that which runs layers shaped like the model's.
NO_DRAFT = ("ngram", "ngram_gpu", "suffix", "prompt_lookup")
DRAFT_LAYERS = ("mtp", "eagle", "eagle3")
# Rope types whose max_position_embeddings is the scaled length already (vllm/config/model.py, 0.33.0).
SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default")
MOST_SHARE = 98  # per cent; the driver and the display keep something
LOWERED = 1024  # tokens that a suggested length is a multiple of, while it has that many


def fill(r: Reading) -> None:
    """Takes the flags that say how large the cache is and what is left for it."""
    name = r.text("--model") or r.first()
    r.stray(r.positional[1:])
    found = r.model(name, r.object("--hf-overrides"))
    r.uses("--model", found.how)
    r.uses("--hf-overrides", "changes config.json")
    _parallel(r)
    _formats(r, found)
    _length(r, found)
    utilization = r.number("--gpu-memory-utilization")
    if utilization is not None:
        r.plan["gpu_memory_utilization"] = utilization
        r.uses("--gpu-memory-utilization", f"{utilization:g} of the GPU's memory")
    block = r.count("--block-size")
    if block is not None:
        r.plan["block_size"] = block
        if block % 16 and block not in (1, 8):  # what releases with a list of sizes took besides
            r.refuse(f"--block-size {block} is no multiple of the 16 tokens that attention kernels take")
        r.uses("--block-size", f"blocks of {block} tokens")
    tokens, seqs = r.count("--max-num-batched-tokens"), r.count("--max-num-seqs")
    if tokens is not None and seqs is not None and tokens < seqs:
        r.refuse(f"--max-num-batched-tokens {tokens} is less than --max-num-seqs {seqs}")
    length = r.plan.get("context")
    chunked = r.switch("--enable-chunked-prefill")
    if chunked is False and tokens is not None and length is not None and tokens < length:
        r.refuse(
            f"--max-num-batched-tokens {tokens} is less than the {length:,} tokens of a request, and prefill is not chunked"
        )
    _speculation(r)
    _engine(r)
    backend = r.command.environment.get("VLLM_ATTENTION_BACKEND")
    if backend and not r.is_given("--attention-backend") and r.has("attention_backend"):
        r.options["attention_backend"] = backend


def _engine(r: Reading) -> None:
    """VLLM_USE_V1=0 where there is no V0 engine: 0.11 stops, later releases do not know the variable."""
    version = r.asked.version or NEWEST
    asked = r.command.environment.get("VLLM_USE_V1", "1").lower()
    if asked not in ("0", "false", "off") or rules(version).v0:
        return
    r.options["use_v1"] = True
    if parse(version) < (0, 12, 0):
        r.refuse(f"VLLM_USE_V1={asked}: {version} has the V1 engine alone")
    else:
        r.notes.append(f"VLLM_USE_V1 is no variable of vllm {version}, which has the V1 engine alone")


def _parallel(r: Reading) -> None:
    sizes = {}
    for key, flag, what in (
        ("tp", "--tensor-parallel-size", "tensor-parallel ranks"),
        ("pp", "--pipeline-parallel-size", "pipeline stages"),
        ("dp", "--data-parallel-size", "data-parallel replicas"),
    ):
        sizes[key] = r.count(flag)
        if sizes[key] is not None:
            r.plan[key] = sizes[key]
            r.uses(flag, f"{sizes[key]} {what}")
    ranks = (sizes["tp"] or 1) * (sizes["pp"] or 1) * (sizes["dp"] or 1)
    nodes = r.count("--nnodes") or 1
    r.uses("--nnodes", f"{nodes} machines")
    r.check_gpus(-(-ranks // nodes))


def _formats(r: Reading, found: Found) -> None:
    dtype = r.text("--dtype")
    if dtype is not None and dtype != "auto":
        if dtype not in DTYPES:
            raise InvalidInput("--dtype", dtype, f"auto, {', '.join(DTYPES)}")
        r.plan["dtype"] = DTYPES[dtype]
    r.uses("--dtype", f"activations and unquantised weights in {DTYPES.get(dtype or '', 'the type of the checkpoint')}")
    cache = r.text("--kv-cache-dtype")
    if cache is not None and cache != "auto":
        r.plan["kv_dtype"] = cache
    r.uses("--kv-cache-dtype", f"cache in {cache}" if cache != "auto" else "cache in the type of the model")
    method = r.text("--quantization") or ("bitsandbytes" if r.text("--load-format") == "bitsandbytes" else None)
    if method is None:
        return
    if found.spec.quantization is not None:
        r.uses("--quantization", f"weights as the checkpoint says ({found.spec.quantization.method})")
    elif method in ONLINE:
        r.plan["weight_dtype"] = ONLINE[method]
        r.uses("--quantization", f"matrices become {ONLINE[method]} while they load")
        r.uses("--load-format", f"matrices become {ONLINE[method]} while they load")
    else:
        r.refuse(
            f"--quantization {printable(method, 100)} needs a checkpoint quantised so; the config of {printable(found.how, 200)} is not "
            "(--config PATH gives the one that is served)"
        )
        r.uses("--quantization", "weights of a checkpoint quantised so")


def _speculation(r: Reading) -> None:
    """Draft tokens, and the draft layers of methods that borrow the model's own shape; a draft model is not counted."""
    config = r.object("--speculative-config")
    for flag, key in (
        ("--spec-method", "method"),
        ("--spec-model", "model"),
        ("--spec-tokens", "num_speculative_tokens"),
    ):
        if r.text(flag) is not None:
            config[key] = r.text(flag)
    if not config:
        return
    method = str(config.get("method", "draft_model" if config.get("model") else "ngram"))
    said = str(config.get("num_speculative_tokens", ""))
    tokens = int(said) if said.isascii() and said.isdigit() and 0 < len(said) < 7 else None
    if tokens is not None and r.has("num_speculative_tokens"):
        r.options["num_speculative_tokens"] = tokens
    if method in NO_DRAFT:
        for flag in ("--speculative-config", "--spec-method", "--spec-tokens"):
            r.uses(flag, f"{tokens or 'some'} tokens proposed by {method}: no draft model")
    elif method in DRAFT_LAYERS or method.endswith("_mtp"):
        if r.has("num_speculative_layers"):
            r.options["num_speculative_layers"] = 1
        r.notes.append(
            f"speculation by {printable(method, 100)}: the cache of one draft layer is counted, its weights are not"
        )
        for flag in ("--speculative-config", "--spec-method", "--spec-tokens"):
            r.uses(flag, f"{tokens or 'some'} draft tokens of one more layer")


def longest(found: Found) -> int | None:
    """Tokens that vLLM takes for a model's own limit: max_position_embeddings, times the factor of plain rope scaling."""
    limit = found.spec.max_context
    config = found.config or {}
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(key), dict):
            config = config[key]
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if limit is None or not isinstance(scaling, dict) or "gemma3" in found.spec.model_type:
        return limit
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor = scaling.get("factor")
    if kind in SCALED or not isinstance(factor, (int, float)):
        return limit
    return _length_of(limit * factor, limit) if abs(factor) < inf else limit


def _length_of(value: object, otherwise: int | None) -> int | None:
    """A number of tokens that a config holds or amounts to, where it is one."""
    return int(value) if isinstance(value, (int, float)) and 1 <= value < 2**48 else otherwise


def _length(r: Reading, found: Found) -> None:
    text, limit = r.text("--max-model-len"), longest(found)
    if text is not None and text.strip().lower() in ("auto", "-1"):
        r.auto_context = True
        r.uses("--max-model-len", "as long as one request fits")
    elif text is not None:
        length = r.count("--max-model-len")
        assert length is not None
        r.plan["context"] = length
        r.uses("--max-model-len", f"requests of up to {format_count(length)} tokens")
        allowed = r.command.environment.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1"
        if limit is not None and length > limit and not allowed:
            r.refuse(
                f"--max-model-len {length} is more than the model's {format_count(limit)} tokens "
                "(VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 allows it)"
            )
        return
    config = found.config or {}
    scaling = config.get("rope_scaling")
    if isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type")) == "longrope":
        limit = _length_of(config.get("original_max_position_embeddings"), limit)
    if limit is None:
        r.notes.append("the config names no longest length: vLLM then takes 2,048 tokens")
    r.plan["context"] = limit or 2048
    if text is None:
        r.notes.append(f"--max-model-len is not given: vLLM takes the model's {format_count(limit or 2048)} tokens")


def judge(r: Reading, report: Report) -> Verdict:
    """Starts where the weights leave a pool that holds one request of the full length."""
    c = report.capacity
    length = report.answer.settings.context
    if c is None:
        return Verdict(None, "the bytes of the weights are not known, so the pool is not either")
    room = format_bytes(c.kv_pool_bytes)
    need = format_bytes(report.answer.bytes_per_gpu)
    per = " per GPU" if report.answer.settings.tp * report.answer.settings.pp > 1 else ""
    if c.fits:
        return Verdict(True, f"one request of {format_count(length)} tokens takes {need} of a pool of {room}{per}")
    if c.max_context:
        tail = f"the longest that fits has {format_count(c.max_context)}"
        return Verdict(
            False, f"one request of {format_count(length)} tokens needs {need}{per}: {tail} (binding: {c.binding})"
        )
    return Verdict(False, f"nothing is left for the cache (binding: {c.binding})")


def shorten(r: Reading, report: Report) -> Report:
    """--max-model-len auto: the model's own length where it fits, else the longest that does."""
    c = report.capacity
    if c is None or c.fits or not c.max_context:
        return report
    r.notes.append(f"--max-model-len auto: {format_count(c.max_context)} tokens")
    shorter: Report = report.again(context=c.max_context)
    return shorter


def _least_share(report: Report) -> int | None:
    """Per cent of the GPU's memory from which it starts, above what is asked and up to MOST_SHARE; None where none does."""
    low, high = floor(100 * report.answer.settings.utilization), MOST_SHARE
    if low >= high or not report.again(gpu_memory_utilization=high / 100).fits:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if report.again(gpu_memory_utilization=middle / 100).fits else (middle, high)
    return high


def attempts(r: Reading, report: Report) -> Iterator[Changes]:
    """Changes of one flag, from the one that costs least."""
    c, s = report.capacity, report.answer.settings
    fixed = r.text("--kv-cache-memory-bytes") is not None or r.text("--num-gpu-blocks-override") is not None
    if not fixed:
        share = _least_share(report)
        if share is not None:
            yield {"--gpu-memory-utilization": f"{share / 100:.2f}"}
    if r.has("enforce_eager") and not r.switch("--enforce-eager"):
        yield {"--enforce-eager": None}
    limit = longest(r.found) if r.found else None
    most = min(c.max_context or 0 if c else 0, limit or s.context)
    if most:
        step = LOWERED if most >= 2 * LOWERED else 16
        yield from ({"--max-model-len": str(n)} for n in (most // step * step, most // step * step - step) if n > 0)
    if s.formats.key.element_bits > 8:
        yield {"--kv-cache-dtype": "fp8"}
    if r.found is not None and r.found.spec.quantization is None and "weight_dtype" not in r.plan:
        yield {"--quantization": "fp8"}
        yield {"--quantization": "bitsandbytes"}
    asked, visible = r.count("--tensor-parallel-size") or 1, r.visible
    if visible is not None and visible < asked:
        yield {"--tensor-parallel-size": str(visible)}
    yield from ({"--tensor-parallel-size": str(n)} for n in (2, 4, 8, 16) if n > s.tp and n <= (visible or n))


# 0.33.0
VALUES = """
--additional-config --all2all-backend --allowed-headers --allowed-local-media-path --allowed-methods --allowed-origins
--anthropic-disabled-thinking-effort --api-server-count|-asc --attention-backend --attention-config|-ac
--aux-output-config --block-size --chat-template --chat-template-content-format --code-revision --cohere-format
--compilation-config|-cc --config --config-format --convert --cp-kv-cache-interleave-size
--cpu-distributed-timeout-seconds --cpu-offload-gb --custom-histogram-buckets --data-parallel-address|-dpa
--data-parallel-backend|-dpb --data-parallel-rank|-dpn --data-parallel-rpc-port|-dpp --data-parallel-size-local|-dpl
--data-parallel-size|-dp --data-parallel-start-rank|-dpr --data-parallel-supervisor-port --dbo-decode-token-threshold
--dbo-prefill-token-threshold --dcp-comm-backend --dcp-kv-cache-interleave-size --decode-context-parallel-size|-dcp
--default-chat-template-kwargs --default-mm-loras --device-ids --diffusion-config|-dc
--disable-access-log-for-endpoints --distributed-executor-backend --distributed-timeout-seconds --download-dir
--dp-supervisor-probe-failure-threshold --dp-supervisor-probe-interval-s --dp-supervisor-probe-timeout-s
--dp-sync-interval --dtype --ec-manager-config --ec-transfer-config --elastic-ep-max-dp-size --engram-config
--eplb-config --expert-placement-strategy --fail-on-environ-validation --fault-tolerance-config --fingerprint-mode
--fingerprint-value --gdn-prefill-backend --generation-config --gpu-memory-utilization|--device-memory-utilization
--grpc-port --h11-max-header-count --h11-max-incomplete-event-size --hf-config-path --hf-overrides --host
--io-processor-plugin --ir-op-priority --jit-monitor-mode --kda-decode-backend --kda-prefill-backend --kernel-config
--kv-cache-dtype --kv-cache-memory-bytes --kv-cache-metrics-sample --kv-events-config --kv-offloading-backend
--kv-offloading-size --kv-transfer-config --limit-mm-per-prompt --linear-backend --load-format --log-config-file
--log-level --logging-config --logprobs-mode --long-prefill-token-threshold --lora-dtype --mamba-backend
--mamba-block-size --mamba-cache-dtype --mamba-cache-mode --mamba-cache-philox-rounds --mamba-ssm-cache-dtype
--mamba-ssu-algorithm --master-addr --master-port --max-cpu-loras --max-cudagraph-capture-size --max-log-len
--max-logprobs --max-lora-cls-labels --max-lora-rank --max-loras --max-model-len --max-num-active-seqs
--max-num-batched-tokens --max-num-queued-reqs --max-num-queued-tokens --max-num-scheduled-tokens --max-num-seqs
--max-parallel-loading-workers --media-io-kwargs --mm-encoder-attn-backend --mm-encoder-attn-dtype
--mm-encoder-fp8-scale-path --mm-encoder-fp8-scale-save-margin --mm-encoder-fp8-scale-save-path --mm-encoder-tp-mode
--mm-hasher-algorithm --mm-ipc-gpu-memory-gb --mm-processor-cache-gb --mm-processor-cache-type --mm-processor-device
--mm-processor-kwargs --mm-shm-cache-max-object-size-mb --mm-tensor-ipc --model --model-class-overrides --model-impl
--model-loader-extra-config --moe-backend --nnodes|-n --node-rank|-r --num-gpu-blocks-override --offload-backend
--offload-group-size --offload-num-in-group --offload-prefetch-step --optimization-level|-O --otlp-traces-endpoint
--override-generation-config --per-request-spec-decode-metrics --performance-mode --pipeline-parallel-size|-pp
--pooler-config --port --prefill-context-parallel-size|-pcp --prefill-schedule-interval
--prefix-cache-retention-interval --prefix-caching-hash-algo --prefix-match-unit --profiler-config
--pt-load-map-location --quantization-config --quantization|-q --reasoning-config --reasoning-effort-map
--reasoning-parser --reasoning-parser-plugin --renderer-num-workers --replayssm-buffer-len --response-role --revision
--root-path --runner --safetensors-load-strategy --safetensors-prefetch-block-size --safetensors-prefetch-num-threads
--scheduler-cls --scheduling-policy --seed --show-hidden-metrics-for-version --shutdown-timeout --sleep-mode-backend
--sparse-indexer-topk-backend --spec-method --spec-model --spec-tokens --speculative-config|-sc
--sse-keep-alive-interval --ssl-ca-certs --ssl-cert-reqs --ssl-certfile --ssl-ciphers --ssl-keyfile --stream-interval
--structured-outputs-config --tensor-parallel-size|-tp --tokenizer --tokenizer-mode --tokenizer-revision
--tool-call-parser --tool-parser-plugin --tool-server --tool-strict-level --ubatch-size --uds --uvicorn-log-level
--video-pruning-method --video-pruning-rate --watchdog-config --watermark --watermark-config --weight-transfer-config
--worker-cls --worker-extension-cls
"""
SWITCHES = """
--aggregate-engine-logging --allow-credentials --allow-deprecated-quantization --async-scheduling
--cohere-is-reasoning-model --cudagraph-metrics --data-parallel-external-lb|-dpe --data-parallel-hybrid-lb|-dph
--data-parallel-multi-port-external-lb|-dpm --dcp-q-replicate --disable-cascade-attn --disable-chunked-mm-input
--disable-custom-all-reduce --disable-fastapi-docs --disable-hybrid-kv-cache-manager --disable-log-stats
--disable-nccl-for-dp-synchronization --disable-sliding-window --disable-uvicorn-access-log --enable-auto-tool-choice
--enable-batch-sharded-sampling --enable-chunked-prefill --enable-cumem-allocator --enable-dbo --enable-elastic-ep
--enable-ep-weight-filter --enable-eplb --enable-expert-parallel|-ep --enable-fault-tolerance
--enable-flash-late-interaction --enable-flashinfer-autotune --enable-force-include-usage --enable-hc-sp
--enable-layerwise-nvtx-tracing --enable-log-deltas --enable-log-outputs --enable-log-requests
--enable-logging-iteration-details --enable-lora --enable-mamba-cache-stochastic-rounding
--enable-mamba-shared-prefix-checkpoint --enable-mfu-metrics --enable-mixed-moe-lora-format --enable-mm-embeds
--enable-moe-shared-loras --enable-nccl-comm-suspend --enable-offline-docs --enable-per-request-metrics
--enable-prefix-caching --enable-prompt-embeds --enable-prompt-tokens-details --enable-request-id-headers
--enable-return-routed-experts --enable-scale-out --enable-server-load-tracking --enable-shm-tensor-arena
--enable-sleep-mode --enable-ssl-refresh --enable-tokenizer-info-endpoint --enable-tower-connector-lora
--enable-trace-replay --enforce-eager --exclude-tools-when-tool-choice-none --fully-sharded-loras --grpc --headless
--interleave-mm-strings --jit-monitor-verbose --kv-cache-metrics --kv-sharing-fast-prefill --language-model-only
--log-error-stack --long-prefill-token-threshold-adaptive --mm-device-do-normalize --mm-encoder-only --monokernel
--numa-bind --ray-workers-use-nsight --return-sampling-mask --return-tokens-as-token-ids --scheduler-reserve-full-isl
--skip-mm-profiling --skip-tokenizer-init --sleep-mode-offload-cudagraph --specialize-active-lora --swa-bounded-replay
--tokens-only --trust-remote-code --trust-request-chat-template --trust-request-mm-kwargs --use-fp64-gumbel
--use-replayssm --use-tqdm-on-load
"""
LISTS = """
--allowed-media-domains --api-key --collect-detailed-traces --cpu-offload-params --cudagraph-capture-sizes
--ignore-patterns --kv-cache-dtype-skip-layers --logits-processors --lora-modules --lora-target-modules --middleware
--numa-bind-cpus --numa-bind-nodes --offload-params --served-model-name --sleep-preserve-parameter-names
"""
# until some version before that
OLD_VALUES = """
--cuda-graph-sizes --device --guided-decoding-backend --logits-processor-pattern --long-lora-scaling-factors
--max-context-len-to-capture --max-long-partial-prefills --max-num-partial-prefills --max-seq-len-to-capture
--ngram-prompt-lookup-max --ngram-prompt-lookup-min --num-lookahead-slots --num-scheduler-steps
--num-speculative-tokens --override-neuron-config --override-pooler-config --preemption-mode --quantization-param-path
--rope-scaling --rope-theta --scheduler-delay-factor --spec-decoding-acceptance-method
--speculative-draft-tensor-parallel-size --speculative-model --swap-space --task --tokenizer-pool-size
--tokenizer-pool-type
"""
OLD_SWITCHES = """
--calculate-kv-scales --disable-async-output-proc --disable-frontend-multiprocessing
--disable-mm-preprocessor-cache --enable-multimodal-encoder-data-parallel --enable-prompt-adapter --enable-reasoning
--engine-use-ray --full-cuda-graph --guided-decoding-disable-additional-properties
--guided-decoding-disable-any-whitespace --guided-decoding-disable-fallback --multi-step-stream-outputs
--use-v2-block-manager --worker-use-ray
"""

GRAPHS = "the size of CUDA graphs, which is an estimate here, does not follow it"
LORA = "memory of LoRA adapters is not counted"
DRAFT = "the weights and the cache of a draft model are not counted"
VISION = "what the vision or audio encoder takes at its largest input is not counted"
HOST = "weights moved to host memory are counted as if they stayed on the GPU"
EXPERTS = (
    "how experts are placed over GPUs is not modelled: their matrices count as split over the tensor-parallel ranks"
)
BACKEND = "the attention backend may choose another block size"
CAVEATS = {
    **dict.fromkeys(
        (
            "--enable-lora",
            "--max-loras",
            "--max-lora-rank",
            "--lora-dtype",
            "--fully-sharded-loras",
            "--lora-modules",
            "--enable-tower-connector-lora",
            "--default-mm-loras",
            "--enable-prompt-adapter",
        ),
        LORA,
    ),
    **dict.fromkeys(
        (
            "--speculative-config",
            "--spec-method",
            "--spec-model",
            "--spec-tokens",
            "--speculative-model",
            "--num-speculative-tokens",
            "--num-lookahead-slots",
        ),
        DRAFT,
    ),
    **dict.fromkeys(
        (
            "--enforce-eager",
            "--cudagraph-capture-sizes",
            "--max-cudagraph-capture-size",
            "--compilation-config",
            "--optimization-level",
            "--max-seq-len-to-capture",
            "--cuda-graph-sizes",
            "--full-cuda-graph",
        ),
        GRAPHS,
    ),
    **dict.fromkeys(
        (
            "--limit-mm-per-prompt",
            "--mm-processor-kwargs",
            "--skip-mm-profiling",
            "--mm-encoder-only",
            "--mm-encoder-tp-mode",
            "--mm-ipc-gpu-memory-gb",
            "--mm-encoder-attn-dtype",
        ),
        VISION,
    ),
    "--language-model-only": "the vision or audio encoder is not loaded, and is counted here",
    **dict.fromkeys(
        (
            "--cpu-offload-gb",
            "--cpu-offload-params",
            "--offload-backend",
            "--offload-group-size",
            "--offload-params",
            "--offload-num-in-group",
            "--offload-prefetch-step",
        ),
        HOST,
    ),
    "--kv-offloading-size": "keeps blocks in host memory as well; the pool on the GPU is planned without it",
    "--swap-space": "host memory; the pool on the GPU is planned without it",
    **dict.fromkeys(("--attention-backend", "--attention-config"), BACKEND),
    **dict.fromkeys(("--enable-expert-parallel", "--enable-eplb", "--eplb-config", "--all2all-backend"), EXPERTS),
    "--decode-context-parallel-size": "a cache split over tokens is not modelled",
    "--prefill-context-parallel-size": "a prompt split over GPUs is not modelled",
    **dict.fromkeys(
        ("--enable-dbo", "--ubatch-size", "--num-scheduler-steps"),
        "the activations of two batches at once are not counted",
    ),
    "--kv-transfer-config": "buffers of a KV connector are not counted, and some connectors turn the hybrid cache manager off",
    "--ec-transfer-config": "buffers of a connector are not counted",
    "--kv-cache-dtype-skip-layers": "layers that keep the model's type are counted in the type of the cache",
    **dict.fromkeys(
        (
            "--max-num-seqs",
            "--max-num-batched-tokens",
            "--max-num-scheduled-tokens",
            "--performance-mode",
            "--async-scheduling",
            "--enable-chunked-prefill",
        ),
        "what one step runs at once is an estimate here, and does not follow it",
    ),
    **dict.fromkeys(
        (
            "--enable-prefix-caching",
            "--mamba-cache-mode",
            "--mamba-block-size",
            "--mamba-cache-dtype",
            "--mamba-ssm-cache-dtype",
            "--use-replayssm",
            "--replayssm-buffer-len",
            "--enable-mamba-shared-prefix-checkpoint",
        ),
        "the state of recurrent layers is planned without it",
    ),
    **dict.fromkeys(
        ("--kv-cache-memory-bytes", "--num-gpu-blocks-override"), "the pool is planned from the GPU's memory instead"
    ),
    "--disable-hybrid-kv-cache-manager": "sliding and recurrent layers are planned with their own groups",
    "--disable-sliding-window": "windows are planned as the model has them",
    "--load-format": "the bytes of the weights are those of the checkpoint",
    "--quantization-config": "the bytes of the weights are those of the checkpoint",
    "--config": "a file of settings, which is not read: give its flags in the command",
    "--runner": "models that only pool may need no cache",
    "--convert": "models that only pool may need no cache",
    "--task": "models that only pool may need no cache",
    "--model-impl": "the transformers implementation may cache other tensors",
    "--rope-scaling": "the model's longest length is taken from its config alone",
    "--hf-config-path": "another config.json is not read: give it as --config PATH to kvplan",
    "--device": "rules of other devices are not modelled",
    "--revision": "the config of the newest revision, or of the preset, is read",
    "--kv-sharing-fast-prefill": "activations of the prefill are an estimate here, and do not follow it",
    "--enable-sleep-mode": "the allocator of the sleep mode rounds every tensor up",
    "--max-logprobs": "memory of log probabilities is not counted",
    "--enable-return-routed-experts": "buffers of routed experts are not counted",
}
VARIABLES = {
    "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": GRAPHS,
    "VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE": "workspaces are an estimate here, and do not follow it",
    "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE": "chunked layers are planned without it",
    "PYTORCH_CUDA_ALLOC_CONF": "rounding of the allocator is not modelled",
}

RULES = Rules(
    "vllm",
    table(
        VALUES + OLD_VALUES,
        SWITCHES + OLD_SWITCHES,
        LISTS,
        "--hf-token",
        underscores=True,
        negated=True,
        pairs=(("--enable-", "--disable-"), ("--disable-", "--enable-")),
    ),
    CAVEATS,
    fill,
    judge,
    attempts,
    shorten,
    human=(
        "--max-model-len",
        "--max-num-batched-tokens",
        "--max-num-scheduled-tokens",
        "--kv-cache-memory-bytes",
        "--safetensors-prefetch-block-size",
        "--max-num-queued-tokens",
    ),
    suffixes={"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40},
    variable_options={"VLLM_USE_V1": "use_v1", "VLLM_USE_V2_MODEL_RUNNER": "use_v2_model_runner"},
    variables=VARIABLES,
)
