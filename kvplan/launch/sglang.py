"""SGLang: ``python -m sglang.launch_server``, ``sglang serve``. Flags as ``sglang/srt/arg_groups/fields`` of 0.5.23 has them."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.errors import InvalidInput
from kvplan.launch.flags import table
from kvplan.launch.models import Found
from kvplan.launch.reading import Changes, Named, Reading, Rules, Verdict
from kvplan.report import Report
from kvplan.text import printable
from kvplan.units import format_bytes, format_count

__all__ = ["RULES"]

DTYPES = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "float": "fp32", "float32": "fp32"}
# Methods that quantise an ordinary checkpoint while it loads, and the format that its matrices then have.
ONLINE = {"fp8": "fp8", "w8a8_fp8": "fp8", "bitsandbytes": "nf4", "mxfp8": "mxfp8", "mxfp4": "mxfp4"}


def fill(r: Reading) -> None:
    """Takes the flags that say how large the pool is and what is left for it."""
    name = r.text("--model-path") or r.first()
    r.stray(r.positional[1:])
    found = r.model(name, r.object("--json-model-override-args"))
    r.uses("--model-path", found.how)
    r.uses("--json-model-override-args", "changes config.json")
    sizes: dict[str, int | None] = {}
    for key, flag, what in (
        ("tp", "--tp-size", "tensor-parallel ranks"),
        ("pp", "--pp-size", "pipeline stages"),
        ("dp", "--dp-size", "data-parallel replicas"),
    ):
        sizes[key] = r.count(flag)
        if sizes[key] is not None:
            r.plan[key] = sizes[key]
            r.uses(flag, f"{sizes[key]} {what}")
    nodes = r.count("--nnodes") or 1
    r.uses("--nnodes", f"{nodes} machines")
    ranks = (sizes["tp"] or 1) * (sizes["pp"] or 1)
    attention = r.switch("--enable-dp-attention")
    if attention:
        # data parallelism of attention divides the ranks of --tp-size instead of multiplying them
        r.plan.pop("dp", None)
        r.used.pop("--dp-size", None)
        if r.has("dp_attention"):
            r.options["dp_attention"] = sizes["dp"] or 1
    else:
        ranks *= sizes["dp"] or 1
    r.check_gpus(-(-ranks // nodes))
    _formats(r, found)
    _length(r, found)
    if r.count("--chunked-prefill-size", least=-1) in (-1, 0):
        whole = r.given.pop("--chunked-prefill-size")
        r.caveats.append(Named(whole.words, "prompts run whole: what is kept back for them is planned as by default"))
    page = r.count("--page-size")
    if page is not None and not r.has("page_size"):
        r.plan["block_size"] = page
        r.uses("--page-size", f"pages of {page} tokens")
    share = r.number("--mem-fraction-static")
    if share is not None and not r.has("mem_fraction_static"):
        r.plan["gpu_memory_utilization"] = share
        r.uses("--mem-fraction-static", f"{share:g} of the memory for weights and cache")


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


def _length(r: Reading, found: Found) -> None:
    length, limit = r.count("--context-length"), found.spec.max_context
    r.plan["context"] = length or limit or 4096
    if length is None:
        r.notes.append(
            f"--context-length is not given: SGLang takes the model's {format_count(r.plan['context'])} tokens"
        )
        return
    r.put("--context-length", length)
    r.uses("--context-length", f"requests of up to {format_count(length)} tokens")
    allowed = r.command.environment.get("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN", "").lower() in ("1", "true")
    if limit is not None and length > limit and not allowed:
        r.refuse(
            f"--context-length {length} is more than the model's {format_count(limit)} tokens "
            "(SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 allows it)"
        )


def judge(r: Reading, report: Report) -> Verdict:
    """Starts where anything is left for the pool; a request may then be as long as the pool is."""
    c = report.capacity
    length = report.answer.settings.context
    if c is None:
        return Verdict(None, "the bytes of the weights are not known, so the pool is not either")
    if not c.fits and not c.max_context:
        return Verdict(False, f"nothing is left for the cache (binding: {c.binding})")
    per = " per GPU" if report.answer.settings.tp * report.answer.settings.pp > 1 else ""
    room = format_bytes(c.kv_pool_bytes) + per
    if c.fits:
        need = format_bytes(report.answer.bytes_per_gpu)
        return Verdict(True, f"one request of {format_count(length)} tokens takes {need} of a pool of {room}")
    return Verdict(
        True,
        f"but its pool of {room} holds no request of {format_count(length)} tokens: "
        f"longer ones than {format_count(c.max_context or 0)} are refused",
        False,
    )


def attempts(r: Reading, report: Report) -> Iterator[Changes]:
    """Changes of one flag, from the one that costs least."""
    c, s = report.capacity, report.answer.settings
    static = r.number("--mem-fraction-static")
    # without the flag SGLang has chosen as much as it dares
    if static is not None and r.count("--max-total-tokens") is None:
        yield from (
            {"--mem-fraction-static": f"{share / 100:.2f}"} for share in range(80, 96, 3) if share > 100 * static
        )
    if c is not None and c.max_context and c.max_context < s.context:
        step = 1024 if c.max_context >= 2048 else 1
        yield {"--context-length": str(c.max_context // step * step)}
    elif r.found is not None and r.found.spec.max_context is not None and s.context > r.found.spec.max_context:
        yield {"--context-length": str(r.found.spec.max_context)}
    if s.formats.key.element_bits > 8:
        yield {"--kv-cache-dtype": "fp8_e4m3"}
    if r.found is not None and r.found.spec.quantization is None and "weight_dtype" not in r.plan:
        yield {"--quantization": "fp8"}
    asked, visible = r.count("--tp-size") or 1, r.visible
    if visible is not None and visible < asked:
        yield {"--tp-size": str(visible)}
    yield from ({"--tp-size": str(n)} for n in (2, 4, 8, 16) if n > s.tp and n <= (visible or n))


# 0.5.23
VALUES = """
--admin-api-key --api-key --asr-max-buffer-seconds --asr-max-concurrent-sessions --attention-backend
--attn-cp-size|--attention-context-parallel-size --attn-dp-size|--attention-data-parallel-size --base-gpu-id
--batch-notify-size --bf16-gemm-backend --boundary-reduction --c128-page-size --chat-template --chunked-prefill-size
--completion-template --config --constrained-json-max-whitespace-cnt --constrained-json-whitespace-pattern
--context-length --cp-strategy --cpu-offload-gb --crash-dump-folder --cuda-graph-backend-decode
--cuda-graph-backend-prefill --cuda-graph-config --cuda-graph-max-bs-decode --cuda-graph-max-bs-prefill
--cuda-graph-max-seq-len-prefill --cuda-graph-prefill-max-context|--context-bucket --dcp-comm-backend
--dcp-size|--decode-context-parallel-size --debug-tensor-dump-input-file --debug-tensor-dump-output-folder
--decode-attention-backend --decode-log-interval --decoupled-spec-bind-endpoint --decoupled-spec-connect-endpoints
--decoupled-spec-rank --decoupled-spec-role --decrypted-config-file --decrypted-draft-config-file --deepep-config
--deepep-dispatcher-output-dtype --deepep-mode --deepep-v2-mode --default-chat-template-kwargs
--default-priority-value --detokenizer-worker-num --device --disaggregation-bootstrap-port
--disaggregation-decode-allocation-policy --disaggregation-decode-extra-slots
--disaggregation-decode-host-receive-threshold --disaggregation-decode-polling-interval
--disaggregation-decode-retraction-backup --disaggregation-ib-device --disaggregation-mode
--disaggregation-transfer-backend --dist-init-addr|--nccl-init-addr --dist-timeout --dllm-algorithm
--dllm-algorithm-config --download-dir --dp-size|--dp|--data-parallel-size --dsa-decode-backend
--dsa-paged-mqa-logits-backend --dsa-prefill-backend --dsa-topk-backend --dsa-triton-union --dsv4-attn-backend
--dsv4-prefill-backend --dtype --dwdp-size --dynamic-batch-tokenizer-batch-size
--dynamic-batch-tokenizer-batch-timeout --elastic-ep-backend --elastic-ep-initial-size --elastic-ep-join-mode
--elastic-ep-join-rank-offset --elastic-ep-scale-timeout --encoder-bootstrap-port --encoder-transfer-backend
--engine-info-bootstrap-port --ep-dispatch-algorithm --ep-num-redundant-experts --ep-size|--expert-parallel-size|--ep
--eplb-algorithm --eplb-min-rebalancing-utilization-threshold --eplb-rebalance-layers-per-chunk
--eplb-rebalance-num-iterations --expert-balancedness-report-mode --expert-distribution-recorder-buffer-size
--expert-distribution-recorder-mode --export-metrics-to-file-dir --extra-metric-labels --fastapi-root-path
--file-storage-path --flashinfer-a2a-dispatch-type --flashinfer-allreduce-fusion-backend
--flashinfer-mxfp4-moe-precision --flexkv-config-file --forward-hooks --forward-pass-metrics-ipc-name
--forward-pass-metrics-worker-id --fp4-gemm-backend --fp8-gemm-backend --fuseep-mode --gated-launch-port
--gc-warning-threshold-secs --gpu-id-step --grammar-backend --grpc-port --grpc-response-timeout-secs
--hf-chat-template-name --hicache-host-memory-fraction --hicache-host-memory-mode --hicache-io-backend
--hicache-mem-layout --hicache-ratio --hicache-size --hicache-storage-backend --hicache-storage-backend-extra-config
--hicache-storage-prefetch-policy --hicache-storage-prefetch-retry-max-attempts
--hicache-storage-prefetch-retry-poll-interval --hicache-write-policy
--hisparse-config|--hierarchical-sparse-attention-extra-config --host --http2-initial-connection-window-size
--http2-max-concurrent-streams --image-processor-backend --init-expert-location --int8-mamba-ckpt-size
--json-model-override-args --kt-cpuinfer --kt-max-deferred-experts-per-token --kt-method --kt-num-gpu-experts
--kt-threadpool-count --kt-weight-path --kv-cache-dtype --kv-canary --kv-canary-real-data --kv-canary-sweep-interval
--kv-events-config --limit-mm-data-per-request --linear-attn-backend --linear-attn-decode-backend
--linear-attn-prefill-backend --linear-attn-verify-backend --linear-replayssm-cache-len --lmcache-config-file
--load-balance-method --load-format --load-publish-endpoint --load-snapshot-publish-interval --log-level
--log-level-http --log-requests-format --log-requests-level --lora-backend --lora-drain-wait-threshold
--lora-eviction-policy --mamba-backend --mamba-cache-philox-rounds --mamba-full-memory-ratio
--mamba-max-states-per-path --mamba-radix-cache-strategy --mamba-ssm-dtype --mamba-track-interval --max-ep-size
--max-loaded-loras --max-lora-chunk-size --max-lora-rank --max-loras-per-batch --max-mamba-cache-size
--max-prefill-tokens --max-queued-requests --max-running-requests --max-total-tokens --media-url-max-file-size-mb
--mem-fraction-static --min-free-slots-delay --mm-attention-backend --mm-feature-transport --mm-global-cache-backend
--mm-io-worker-num --mm-preprocess-cache-size-mb --mm-process-config --mm-processor-worker-num --model-config-parser
--model-impl --model-loader-extra-config --model-path|--model --modelexpress-config --modelopt-checkpoint-restore-path
--modelopt-checkpoint-save-path --modelopt-export-path --modelopt-quant --moe-a2a-backend --moe-dense-tp-size
--moe-dp-size|--moe-data-parallel-size --moe-runner-backend --monokernel-backend --mooncake-ib-device
--msprobe-dump-config --nccl-port --nnodes --node-rank --num-continuous-decode-steps --num-reserved-decode-tokens
--offload-group-size --offload-mode --offload-num-in-group --offload-prefetch-step --optimistic-prefill-attempts
--otlp-service-name --otlp-traces-endpoint --page-size --paged-experts-num-resident --pdmux-config-path
--ple-offload-backend --ple-offload-dir --port --pp-async-batch-depth --pp-max-micro-batch-size
--pp-size|--pp|--pipeline-parallel-size --preferred-sampling-params --prefill-attention-backend
--prefill-decode-interval --prefill-decode-interval-min-bs --prefill-delayer-max-delay-ms
--prefill-delayer-max-delay-passes --prefill-delayer-queue-min-ratio --prefill-delayer-token-usage-low-watermark
--prefill-kv-cache-dequant-dtype --prefill-max-requests --priority-scheduling-preemption-threshold --qsa-indexer-dtype
--quantization --quantization-param-path --radix-cache-backend --radix-eviction-policy --radix-eviction-policy-config
--random-seed --reasoning-parser --remote-instance-weight-loader-backend
--remote-instance-weight-loader-seed-instance-ip --remote-instance-weight-loader-seed-instance-service-port
--remote-instance-weight-loader-send-weights-group-ports --retraction-policy --return-hidden-states-mode --revision
--rl-on-policy-target --rl-quant-profile --sampling-backend --sampling-defaults --sampling-mask-max-tokens
--schedule-conservativeness --schedule-policy --scheduler-recv-interval --served-model-name --shared-experts-tp-size
--sidecar --sidecar-args --sm-group-num --smg-http-sidecar-port|--grpc-http-sidecar-port --soft-watchdog-timeout
--spec-trace-dir --speculative-accept-threshold-acc --speculative-accept-threshold-single
--speculative-adaptive-config --speculative-algorithm --speculative-attention-mode --speculative-dflash-block-size
--speculative-domino-candidate-pool-size --speculative-draft-attention-backend --speculative-draft-kv-cache-dtype
--speculative-draft-load-format --speculative-draft-model-path|--speculative-draft-model
--speculative-draft-model-quantization --speculative-draft-model-revision --speculative-draft-sink-size
--speculative-draft-window-size --speculative-dsa-topk-backend --speculative-dspark-block-size
--speculative-dspark-confidence-sts-path --speculative-dspark-sps-table-path --speculative-eagle-topk
--speculative-moe-a2a-backend --speculative-moe-runner-backend --speculative-ngram-capacity
--speculative-ngram-external-corpus-max-tokens --speculative-ngram-external-corpus-path
--speculative-ngram-external-sam-budget --speculative-ngram-match-type --speculative-ngram-max-bfs-breadth
--speculative-ngram-max-trie-depth --speculative-ngram-min-bfs-breadth --speculative-num-draft-tokens
--speculative-num-steps --speculative-token-map --ssl-ca-certs --ssl-certfile --ssl-keyfile --ssl-keyfile-password
--startup-weight-load-mode --stream-interval --swa-full-tokens-ratio --swa-prefix-tails
--tbo-token-distribution-threshold --tokenizer-backend --tokenizer-metrics-custom-labels-header --tokenizer-mode
--tokenizer-path --tokenizer-worker-num --tool-call-parser --tool-server --torch-compile-max-bs
--tp-size|--tp|--tensor-parallel-size --trace-modules --triton-attention-num-kv-splits
--triton-attention-split-tile-size --unified-cache-external-linker-backend --unified-cache-external-linker-config
--uno-lora-path --warmups --watchdog-timeout --watermark-config --weight-cache-mode --weight-cache-socket
--weight-cache-timeout --weight-loader-prefetch-num-threads --weight-version
"""
SWITCHES = """
--abort-on-priority-when-disabled --allow-auto-truncate --checkpoint-engine-wait-weights-before-ready
--constrained-json-disable-any-whitespace --dcp-replicate-q-proj|--no-dcp-replicate-q-proj --debug-cuda-graph
--delete-ckpt-after-loading --disable-aiter-allreduce-fusion-in-decode --disable-aiter-allreduce-fusion-in-prefill
--disable-attn-tp-gather --disable-chunked-prefix-cache --disable-cuda-graph --disable-cuda-graph-padding
--disable-custom-all-reduce --disable-decode-cuda-graph --disable-fast-image-processor --disable-flashinfer-autotune
--disable-flashinfer-cutlass-moe-fp4-allgather --disable-hybrid-swa-memory --disable-outlines-disk-cache
--disable-overlap-schedule --disable-prefill-cuda-graph --disable-priority-preemption --disable-radix-cache
--disable-shared-experts-fusion --disable-tokenizer-batch-decode --disaggregation-decode-enable-offload-kvcache
--disaggregation-decode-enable-radix-cache --disaggregation-enable-kv-checksum --dllm-fdfo|--no-dllm-fdfo
--enable-adaptive-dispatch-to-encoder --enable-aiter-allreduce-fusion --enable-amd-monokernel
--enable-attn-tp-input-scattered --enable-broadcast-mm-inputs-process --enable-cache-report --enable-cp-decode-attn-tp
--enable-cudagraph-gc --enable-custom-logit-processor
--enable-decoder-swa-bounded-replay|--no-enable-decoder-swa-bounded-replay --enable-deepseek-v4-fp4-indexer
--enable-dense-mlp-attn-tp --enable-deterministic-inference --enable-dp-attention
--enable-dp-attention-local-control-broadcast --enable-dp-lm-head --enable-draft-weights-cpu-backup
--enable-dsa-cache-layer-split --enable-dsa-fused-indexer|--no-enable-dsa-fused-indexer
--enable-dynamic-batch-tokenizer --enable-dynamic-chunking --enable-elastic-expert-backup
--enable-encoder-swa-bounded-replay --enable-eplb --enable-flashinfer-allreduce-fusion --enable-flexkv
--enable-forward-pass-metrics --enable-fp32-lm-head --enable-fused-moe-sum-all-reduce
--enable-fused-qk-norm-rope|--no-enable-fused-qk-norm-rope --enable-hierarchical-cache|--enable-hicache
--enable-hisparse --enable-http-worker-reuseport --enable-http2 --enable-int8-mamba-checkpoint
--enable-kv-cache-sharding --enable-layernorm-sp --enable-layerwise-nvtx-marker --enable-lean-attention
--enable-linear-replayssm --enable-linear-replayssm-spec --enable-linker-mla-dedup --enable-lmcache --enable-lora
--enable-lora-overlap-loading --enable-mamba-cache-stochastic-rounding --enable-megamoe-for-layernorm-sp
--enable-memory-saver --enable-metrics --enable-metrics-for-all-schedulers --enable-mfu-metrics --enable-mis
--enable-mixed-chunk --enable-mm-global-cache --enable-mscclpp --enable-multi-layer-eagle --enable-multimodal
--enable-nccl-nvls --enable-nvidia-megakernel --enable-p2p-check --enable-page-major-kv-layout --enable-paged-experts
--enable-pd-role-switch --enable-pdmux --enable-precise-embedding-interpolation --enable-prefill-cp
--enable-prefill-delayer --enable-prefix-mm-cache --enable-priority-scheduling --enable-profile-cuda-graph
--enable-quant-communications --enable-request-time-stats-logging --enable-response-store
--enable-return-aux-hidden-states --enable-return-hidden-states --enable-return-indexer-topk
--enable-return-routed-experts --enable-scattered-sconv --enable-session-radix-cache --enable-shared-experts-attn-tp
--enable-single-batch-overlap --enable-ssl-refresh --enable-streaming-session --enable-strict-thinking
--enable-symm-mem --enable-tf32-matmul|--no-enable-tf32-matmul --enable-tokenizer-batch-encode --enable-torch-compile
--enable-torch-compile-debug-mode --enable-torch-symm-mem
--enable-tp-lm-head-all-to-all|--no-enable-tp-lm-head-all-to-all --enable-trace --enable-two-batch-overlap
--enable-unified-cache-external-linker --enable-unified-memory --enable-w4a4-mxfp4-megamoe --enable-waterfill
--enable-watermark --enable-weights-cpu-backup --encoder-only --enforce-disable-flashinfer-allreduce-fusion
--enforce-shared-experts-fusion --experts-shared-outer-loras|--no-experts-shared-outer-loras --export-metrics-to-file
--flashinfer-mla-disable-ragged --grpc-mode --incremental-streaming-output --is-embedding --language-model-only
--language-only --log-requests --lora-strict-loading|--no-lora-strict-loading --lora-use-virtual-experts
--mlx-enable-sampling --mm-enable-dp-encoder|--no-mm-enable-dp-encoder
--ple-offload-embedding|--no-ple-offload-embedding --pre-warm-nccl --prefill-only-disable-kv-cache
--quantize-and-serve --remote-instance-weight-loader-start-seed-via-transfer-engine --return-input-ids
--return-output-ids --schedule-low-priority-values-first --show-time-cost --skip-server-warmup --skip-tokenizer-init
--sleep-on-idle --smg-grpc-mode --speculative-adaptive --speculative-dspark-align-verify-tokens-to-graph-tier
--speculative-enable-w4a4-mxfp4-megamoe|--no-speculative-enable-w4a4-mxfp4-megamoe
--speculative-use-block-verification --speculative-use-rejection-sampling --stream-response-default-include-usage
--strip-thinking-cache --triton-attention-reduce-in-fp32 --trust-mm-content-hashes --trust-remote-code
--trust-request-chat-template --use-ray --weight-loader-disable-mmap --weight-loader-drop-cache-after-load
--weight-loader-prefetch-checkpoints
"""
LISTS = """
--allowed-media-domains --bucket-e2e-request-latency --bucket-inter-token-latency --bucket-time-to-first-token
--cuda-graph-bs-decode --cuda-graph-bs-prefill --custom-weight-loader --debug-tensor-dump-layers
--encoder-register-urls --encoder-urls --flashinfer-autotune-skip-ops --gc-threshold --generation-tokens-buckets
--log-requests-target --lora-paths --lora-target-modules --numa-node --prefill-delayer-forward-passes-buckets
--prefill-delayer-wait-seconds-buckets --prompt-tokens-buckets --return-aux-hidden-state-layer-ids
--tokenizer-metrics-allowed-custom-labels --uvicorn-access-log-exclude-prefixes
"""
# until some version before that
OLD_VALUES = """
--cuda-graph-max-bs --ds-channel-config-path --ds-heavy-channel-num --ds-heavy-channel-type --ds-heavy-token-num
--ds-sparse-decode-threshold --nsa-decode-backend --nsa-prefill-backend --piecewise-cuda-graph-max-tokens
"""
OLD_SWITCHES = """
--disable-disk-cache --disable-flashinfer --disable-flashinfer-sampling --disable-jump-forward --disable-mla
--disable-piecewise-cuda-graph --enable-deepep-moe --enable-double-sparsity --enable-ep-moe
--enable-flashinfer-cutlass-moe --enable-flashinfer-mla --enable-flashinfer-trtllm-moe --enable-flashmla --enable-mla
--enable-nan-detection --enable-piecewise-cuda-graph --keep-mm-feature-on-device --stream-output
"""
OLD_LISTS = """
--cuda-graph-bs
"""

GRAPHS = "the memory of CUDA graphs is planned without it"
LORA = "memory of LoRA adapters is not counted"
DRAFT = "the weights and the cache of a draft model are not counted"
HOST = "what lies in host memory is counted as if it stayed on the GPU"
EXPERTS = (
    "how experts are placed over GPUs is not modelled: their matrices count as split over the tensor-parallel ranks"
)
BACKEND = "the attention backend may choose another page size"
SPLIT = "a cache split over GPUs in this way is not modelled"
MAMBA = "the pool of recurrent states is planned without it"
ENCODER = "what the vision or audio encoder takes is planned without it"
CAVEATS = {
    **dict.fromkeys(
        (
            "--enable-lora",
            "--lora-paths",
            "--max-lora-rank",
            "--max-loras-per-batch",
            "--max-loaded-loras",
            "--lora-target-modules",
        ),
        LORA,
    ),
    **dict.fromkeys(
        (
            "--speculative-algorithm",
            "--speculative-draft-model-path",
            "--speculative-num-steps",
            "--speculative-eagle-topk",
            "--speculative-num-draft-tokens",
            "--enable-multi-layer-eagle",
            "--speculative-draft-kv-cache-dtype",
            "--speculative-draft-model-quantization",
            "--speculative-dflash-block-size",
        ),
        DRAFT,
    ),
    **dict.fromkeys(
        (
            "--disable-cuda-graph",
            "--cuda-graph-max-bs",
            "--cuda-graph-bs",
            "--cuda-graph-config",
            "--cuda-graph-backend-decode",
            "--cuda-graph-backend-prefill",
            "--cuda-graph-max-bs-decode",
            "--cuda-graph-max-bs-prefill",
            "--cuda-graph-bs-decode",
            "--cuda-graph-bs-prefill",
            "--enable-torch-compile",
            "--disable-decode-cuda-graph",
            "--disable-prefill-cuda-graph",
            "--enable-piecewise-cuda-graph",
            "--disable-piecewise-cuda-graph",
        ),
        GRAPHS,
    ),
    **dict.fromkeys(
        (
            "--cpu-offload-gb",
            "--offload-group-size",
            "--offload-num-in-group",
            "--offload-mode",
            "--ple-offload-embedding",
            "--kt-weight-path",
            "--kt-num-gpu-experts",
            "--enable-paged-experts",
            "--paged-experts-num-resident",
        ),
        HOST,
    ),
    **dict.fromkeys(
        (
            "--enable-hierarchical-cache",
            "--hicache-ratio",
            "--hicache-size",
            "--enable-lmcache",
            "--enable-flexkv",
            "--hicache-storage-backend",
        ),
        "keeps pages in host memory as well; the pool on the GPU is planned without it",
    ),
    **dict.fromkeys(
        (
            "--ep-size",
            "--moe-a2a-backend",
            "--enable-eplb",
            "--ep-num-redundant-experts",
            "--moe-dense-tp-size",
            "--moe-dp-size",
            "--enable-ep-moe",
            "--enable-deepep-moe",
            "--deepep-mode",
        ),
        EXPERTS,
    ),
    **dict.fromkeys(("--attention-backend", "--decode-attention-backend", "--prefill-attention-backend"), BACKEND),
    **dict.fromkeys(
        (
            "--enable-dp-attention",
            "--attn-dp-size",
            "--dcp-size",
            "--attn-cp-size",
            "--enable-prefill-cp",
            "--enable-kv-cache-sharding",
            "--dwdp-size",
            "--enable-dp-lm-head",
        ),
        SPLIT,
    ),
    "--dp-size": SPLIT,
    **dict.fromkeys(
        (
            "--mamba-ssm-dtype",
            "--max-mamba-cache-size",
            "--mamba-full-memory-ratio",
            "--mamba-radix-cache-strategy",
            "--enable-int8-mamba-checkpoint",
            "--int8-mamba-ckpt-size",
            "--enable-linear-replayssm",
            "--linear-replayssm-cache-len",
        ),
        MAMBA,
    ),
    **dict.fromkeys(
        (
            "--swa-full-tokens-ratio",
            "--disable-hybrid-swa-memory",
            "--enable-unified-memory",
            "--enable-page-major-kv-layout",
        ),
        "the split between full and sliding layers is planned without it",
    ),
    **dict.fromkeys(
        (
            "--max-running-requests",
            "--max-total-tokens",
            "--chunked-prefill-size",
            "--max-prefill-tokens",
            "--disable-radix-cache",
            "--enable-mixed-chunk",
            "--mem-fraction-static",
            "--page-size",
            "--pp-max-micro-batch-size",
            "--num-continuous-decode-steps",
        ),
        "the size of the pool is planned without it",
    ),
    **dict.fromkeys(("--language-only", "--encoder-only", "--language-model-only", "--enable-multimodal"), ENCODER),
    "--disaggregation-mode": "buffers of a server that only prefills or only decodes are not counted",
    "--enable-two-batch-overlap": "the activations of two batches at once are not counted",
    "--enable-pdmux": "the activations of two batches at once are not counted",
    "--load-format": "the bytes of the weights are those of the checkpoint",
    "--enable-double-sparsity": "its label cache is not counted",
    "--enable-hisparse": "part of the cache in host memory is counted as if it stayed on the GPU",
    "--hisparse-config": "part of the cache in host memory is counted as if it stayed on the GPU",
    "--enable-fp32-lm-head": "the matrix of the logits is counted in the model's type",
    "--enable-memory-saver": "the pool is planned as if its sizes could be measured again after capture",
    "--config": "a file of settings, which is not read: give its flags in the command",
    "--is-embedding": "models that only pool may need no cache",
    "--prefill-only-disable-kv-cache": "no cache is allocated for such a server; it is planned here",
    "--model-impl": "the transformers implementation may cache other tensors",
    "--device": "rules of other devices are not modelled",
    "--revision": "the config of the newest revision, or of the preset, is read",
    "--torchao-config": "the bytes of the weights are those of the checkpoint",
    "--modelopt-quant": "the bytes of the weights are those of the checkpoint",
    "--enable-return-hidden-states": "buffers of hidden states are not counted",
    "--enable-symm-mem": "buffers of collectives are an estimate here, and do not follow it",
}

RULES = Rules(
    "sglang",
    table(VALUES + OLD_VALUES + "--torchao-config", SWITCHES + OLD_SWITCHES, LISTS + OLD_LISTS, "--model-checksum"),
    CAVEATS,
    fill,
    judge,
    attempts,
    human=("--context-length", "--max-total-tokens", "--max-prefill-tokens"),
    suffixes={"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40},
    environment={"SGLANG_MAMBA_SSM_DTYPE": "--mamba-ssm-dtype"},
    variable_options={"SGLANG_ENABLE_POST_CAPTURE_KV_SIZING": "post_capture_kv_sizing"},
    variables={
        "PYTORCH_CUDA_ALLOC_CONF": "rounding of the allocator is not modelled",
    },
)
