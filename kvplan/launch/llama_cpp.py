"""llama.cpp: ``llama-server``, ``llama-cli`` and their kin. Flags as ``common/arg.cpp`` of 0c1e57098 has them."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.errors import InvalidInput
from kvplan.launch.flags import table
from kvplan.launch.models import preset_of_file, quantized_name
from kvplan.launch.reading import Changes, Reading, Rules, Verdict
from kvplan.report import Report
from kvplan.text import printable
from kvplan.units import format_bytes, format_count

__all__ = ["RULES"]

SOME = 5  # invalid arguments that a verdict names
AUTO_SLOTS = 4  # of a server whose -np is not given; they share one cache
LEAST_CONTEXT = 4096  # --fit shortens a context that nobody gave no further than this
MARGIN = 2**30  # bytes that --fit leaves free on every device
ON = ("on", "true", "enabled", "1")
OFF = ("off", "false", "disabled", "0")
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


def fill(r: Reading) -> None:
    """Takes the flags that say how many cells the cache has and what is left for it."""
    r.stray(r.positional)
    for word in r.words.joined[:SOME]:  # common/arg.cpp splits no words
        flag, _, value = word.partition("=")
        r.refuse(f"error: invalid argument: {printable(word, 100)} (llama.cpp takes {flag} {printable(value, 100)})")
    if len(r.words.joined) > SOME:
        r.refuse(f"{len(r.words.joined) - SOME:,} more like them")
    _model(r)
    server = r.command.program in ("llama-server", "server")
    slots, unified = r.count("-np", least=-1), r.switch("-kvu")
    if server and (slots is None or slots < 0):
        slots, unified = AUTO_SLOTS, True if unified is None else unified
        r.notes.append(f"-np is not given: a server then has {AUTO_SLOTS} slots that share one cache (--kv-unified)")
    slots = max(slots or 1, 1)
    _context(r, slots, bool(unified))
    r.options["parallel"] = slots
    r.uses("-np", f"{slots} slot{'s' if slots > 1 else ''}")
    if unified is not None:
        r.options["kv_unified"] = unified
        r.uses("-kvu", "slots share one cache" if unified else "a cache per slot")
    flash = _flash(r)
    r.put("-fa", flash)
    r.uses("-fa", f"flash attention {flash}")
    for flag, keyword, what in (("-ctk", "cache_type_k", "K"), ("-ctv", "cache_type_v", "V")):
        kind = r.text(flag)
        if kind is None:
            continue
        if kind not in CACHE_TYPES:
            raise InvalidInput(flag, kind, ", ".join(CACHE_TYPES))
        r.plan[keyword] = kind
        r.uses(flag, f"{what} in {kind}")
    kind = r.text("-ctv")
    if kind in CACHE_TYPES[3:] and flash == "off":
        r.refuse(f"-ctv {kind} needs flash attention, and -fa off turns it off")
        r.options.pop("flash_attn", None)
    _placement(r)


def _flash(r: Reading) -> str:
    """on, off or auto; the bare flag of older versions turns it on."""
    if not r.is_given("-fa"):
        return "auto"
    word = (r.given["-fa"].value or "on").lower()
    if word not in (*ON, *OFF, "auto", "-1"):
        raise InvalidInput("-fa", word, "on, off or auto")
    return "on" if word in ON else "off" if word in OFF else "auto"


def _model(r: Reading) -> None:
    """The model: a file, or what --config stands in for it, with the weights' format from the file's name."""
    path = r.text("-m")
    repo, file = r.text("-hf"), r.text("-hff")
    name = path or repo or r.text("-mu") or r.text("-dr")
    if path is None and repo is not None and r.asked.config is None:
        near = preset_of_file(repo)
        preset = f", or the preset its name says: --config {near}" if near else ""
        raise InvalidInput(
            "-hf", repo, f"--config PATH with the model's config.json beside it: a GGUF is not fetched{preset}"
        )
    found = r.model(name)
    for flag in ("-m", "-hf", "-hff", "-mu", "-dr"):
        r.uses(flag, found.how)
    if found.how.endswith(".gguf"):
        return
    said = f"{name} {file or ''}"
    kind = quantized_name(said) or ("q4_k" if repo is not None and file is None else None)
    if kind is None:
        r.notes.append(
            f"nothing says how the weights of {printable(name or '', 200)} are stored: they count in the type of the config"
        )
        return
    r.plan["weight_dtype"] = kind
    r.notes.append(
        f"the weights count as {kind}, which the name says of most of them; a file that is here is read exactly"
    )


def _context(r: Reading, slots: int, unified: bool) -> None:
    """-c of the whole cache; without it the model's own, which --fit may shorten."""
    assert r.found is not None
    limit = r.found.spec.max_context
    given = r.count("-c", least=0)
    per_slot = r.count("--kv-unified-per-slot")
    if per_slot and not given:
        given = per_slot * slots
        r.uses("--kv-unified-per-slot", f"{format_count(per_slot)} tokens for each of {slots} slots")
    if given is None and _fit(r):
        r.auto_context = True
    if not given and limit is None:
        raise InvalidInput("-c", given, "a number of tokens: the model's file names no training context")
    size = given or limit or 0
    r.options["ctx_size"] = size
    r.plan["context"] = size if unified else max(size // slots, 1)
    r.plan["batch"] = 1 if unified else slots
    r.uses("-c", f"{format_count(size)} cells" + ("" if given else ", the model's training context"))
    if given is None:
        r.notes.append(
            f"-c is not given: the model's training context of {format_count(size)} tokens"
            + (", which --fit shortens until it fits" if r.auto_context else "")
        )


def _fit(r: Reading) -> bool:
    word = (r.text("-fit") or "on").lower()
    if word not in (*ON, *OFF):
        raise InvalidInput("-fit", word, "on or off")
    r.uses("-fit", "what is not given is adjusted to the GPU's memory" if word in ON else "nothing is adjusted")
    return word in ON


def _placement(r: Reading) -> None:
    """Where the layers lie: on the GPU, spread over those that the environment shows."""
    assert r.found is not None
    layers = len(r.found.spec.layers)
    if (r.visible or 1) > 1 and r.text("-sm") in (None, "layer") and not r.is_given("-ts"):
        r.plan["pp"] = min(r.visible or 1, layers)
        r.uses("-sm", f"layers spread over {r.visible} GPUs")
    word = r.text("-ngl")
    if word is None or word in ("auto", "-1", "all"):
        r.uses("-ngl", "all layers on the GPU" if word == "all" else "as many layers on the GPU as fit")
        return
    n = r.count("-ngl", least=-2)
    assert n is not None
    if n < 0 or n > layers:
        r.uses("-ngl", "all layers on the GPU")
    else:
        r.put("-ngl", n, f"{n} of {layers} layers on the GPU")


def shorten(r: Reading, report: Report) -> Report:
    """--fit: a context that nobody gave is lowered, to 4096 cells at least, until MARGIN bytes stay free."""
    memory = report.answer.settings.memory_bytes
    if memory is None or memory <= MARGIN:
        return report
    spare: Report = report.again(memory=memory - MARGIN)
    if spare.capacity is None or spare.capacity.fits:
        return report
    size = max(
        _most_cells(r, spare) // 256 * 256,
        LEAST_CONTEXT * (1 if r.options.get("kv_unified") else r.options["parallel"]),
    )
    if size >= r.options["ctx_size"]:
        return report
    r.options["ctx_size"] = size
    r.plan["context"] = size // int(r.plan["batch"])
    r.notes.append(f"--fit lowers the context to {format_count(size)} cells, so that 1 GiB stays free")
    shorter: Report = report.again(context=r.plan["context"], engine_options=r.options)
    return shorter


def judge(r: Reading, report: Report) -> Verdict:
    """Starts where weights, cache and compute buffers fit; --fit moves layers to the host where they do not."""
    c = report.capacity
    cells = format_count(r.options["ctx_size"])
    if c is None:
        return Verdict(None, "the bytes of the weights are not known")
    s = report.answer.settings
    size = format_bytes(report.answer.bytes_per_gpu)
    layers, on_gpu = len(report.answer.spec.layers), r.options.get("n_gpu_layers")
    where = "all on the GPU" if s.pp == 1 else f"spread over {s.pp} GPUs"
    if on_gpu is not None and on_gpu <= layers:
        where = f"{on_gpu} of {layers} layers on the GPU"
    if r.options.get("no_kv_offload"):
        where += ", the cache in host memory"
    per = " on the fullest GPU" if s.pp > 1 else ""
    if c.fits:
        return Verdict(True, f"a cache of {cells} cells takes {size}{per} beside the weights, {where}")
    over = f"a cache of {cells} cells takes {size}, which does not fit beside the weights (binding: {c.binding})"
    if _fit(r) and r.text("-ngl") is None:
        return Verdict(True, f"but not on the GPU alone: --fit puts layers into host memory, because {over}", False)
    return Verdict(False, over)


def attempts(r: Reading, report: Report) -> Iterator[Changes]:
    """Changes of one flag (or of K and V together), from the one that costs least."""
    size, most = r.options["ctx_size"], _most_cells(r, report)
    if most:
        step = 1024 if most >= 2048 else 256
        yield from ({"-c": str(n)} for n in (most // step * step, most // step * step - step) if 0 < n < size)
    if report.answer.settings.formats.key.element_bits > 8 and _flash(r) != "off":
        yield {"-ctk": "q8_0", "-ctv": "q8_0"}
        yield {"-ctk": "q4_0", "-ctv": "q4_0"}
    if r.options["parallel"] > 1 and r.options.get("kv_unified"):
        yield {"-np": "1"}
    if r.count("-ub") is None or (r.count("-ub") or 0) > 128:
        yield {"-ub": "128"}
    if r.has("n_gpu_layers") and r.found is not None:
        layers = len(r.found.spec.layers)
        yield from ({"-ngl": str(n)} for n in range(layers, -1, -max(layers // 16, 1)))
        yield {"-ngl": "0"}


def _most_cells(r: Reading, report: Report) -> int:
    """Cells of the largest cache that fits, slots and flags as they are."""
    options = {name: value for name, value in r.options.items() if name != "ctx_size"}
    c = report.again(engine_options=options).capacity
    return (c.max_context or 0) * int(r.plan["batch"]) if c is not None else 0


VALUES = """
--adaptive-decay --adaptive-target --api-key --api-key-file --api-prefix --cache-reuse --chat-template
--chat-template-file --chat-template-kwargs --control-vector --control-vector-layer-range --control-vector-scaled
--cors-headers --cors-methods --cors-origins --cpu-strict --cpu-strict-batch --draft-min|--draft-n-min
--draft|--draft-n|--draft-max --dry-allowed-length --dry-base --dry-multiplier --dry-penalty-last-n
--dry-sequence-breaker --dynatemp-exp --dynatemp-range --embd-normalize --frequency-penalty --grammar --grammar-file
--host --image-max-tokens --image-min-tokens --image|--audio|--video --in-prefix --in-suffix --keep
--kv-unified-per-slot --log-colors --log-file --log-prompts-dir --lora --lora-scaled --mcp-servers-config
--mcp-servers-json --media-path --min-p --mirostat --mirostat-ent --mirostat-lr --models-dir --models-max
--models-preset --mtmd-batch-max-tokens --numa --override-kv --path --poll --poll-batch --pooling --port
--presence-penalty --prio --prio-batch --prompt-cache --reasoning-budget --reasoning-budget-message --reasoning-effort
--reasoning-format --repeat-last-n --repeat-penalty --rope-freq-base --rope-freq-scale --rope-scale --rope-scaling
--rpc --sampler-seq|--sampling-seq --samplers --server-base --sleep-idle-seconds --slot-save-path
--spec-draft-cpu-mask-batch|-Cbd|--cpu-mask-batch-draft --spec-draft-cpu-mask|-Cd|--cpu-mask-draft
--spec-draft-cpu-range|-Crd|--cpu-range-draft --spec-draft-cpu-strict-batch|--cpu-strict-batch-draft
--spec-draft-cpu-strict|--cpu-strict-draft --spec-draft-device|-devd|--device-draft
--spec-draft-hf|-hfd|-hfrd|--hf-repo-draft --spec-draft-model|-md|--model-draft
--spec-draft-n-cpu-moe|--spec-draft-ncmoe|-ncmoed|--n-cpu-moe-draft --spec-draft-n-max --spec-draft-n-min
--spec-draft-ngl|-ngld|--gpu-layers-draft|--n-gpu-layers-draft
--spec-draft-override-tensor|-otd|--override-tensor-draft --spec-draft-p-min|--draft-p-min
--spec-draft-p-split|--draft-p-split --spec-draft-poll-batch|--poll-batch-draft --spec-draft-poll|--poll-draft
--spec-draft-prio-batch|--prio-batch-draft --spec-draft-prio|--prio-draft
--spec-draft-threads-batch|-tbd|--threads-batch-draft --spec-draft-threads|-td|--threads-draft
--spec-draft-type-k|-ctkd|--cache-type-k-draft --spec-draft-type-v|-ctvd|--cache-type-v-draft
--spec-ngram-map-k-min-hits --spec-ngram-map-k-size-m --spec-ngram-map-k-size-n --spec-ngram-map-k4v-min-hits
--spec-ngram-map-k4v-size-m --spec-ngram-map-k4v-size-n --spec-ngram-min-hits --spec-ngram-mod-n-match
--spec-ngram-mod-n-max --spec-ngram-mod-n-min --spec-ngram-simple-min-hits --spec-ngram-simple-size-m
--spec-ngram-simple-size-n --spec-ngram-size-m --spec-ngram-size-n --spec-synth-len --spec-synth-rates --spec-type
--sse-ping-interval --ssl-cert-file --ssl-key-file --tags --temp|--temperature --threads-http --tools --tools-runtime
--top-k --top-nsigma|--top-n-sigma --top-p --typical|--typical-p --ui-config-file|--webui-config-file
--ui-config|--webui-config --video-ffmpeg-dir --video-fps --video-timestamp-interval --xtc-probability --xtc-threshold
--yarn-attn-factor --yarn-beta-fast --yarn-beta-slow --yarn-ext-factor --yarn-orig-ctx -Cb|--cpu-mask-batch
-Crb|--cpu-range-batch -Cr|--cpu-range -C|--cpu-mask -a|--alias -bf|--binary-file -b|--batch-size
-cms|--checkpoint-min-step -co|--color -cram|--cache-ram -ctk|--cache-type-k -ctv|--cache-type-v
-ctxcp|--ctx-checkpoints|--swa-checkpoints -c|--ctx-size -dev|--device -dr|--docker-repo -dt|--defrag-thold
-fitc|--fit-ctx -fitt|--fit-target -fit|--fit -f|--file -gan|--grp-attn-n -gaw|--grp-attn-w -hff|--hf-file
-hft|--hf-token -hf|-hfr|--hf-repo -jf|--json-schema-file -j|--json-schema -lcd|--lookup-cache-dynamic
-lcs|--lookup-cache-static -lm|--load-mode -lv|--verbosity|--log-verbosity -lzm|--lazy-mode -l|--logit-bias
-mg|--main-gpu -mmdev|--mmproj-device -mmu|--mmproj-url -mm|--mmproj -mu|--model-url -m|--model -ncffn|--n-cpu-ffn
-ncmoe|--n-cpu-moe -ngl|--gpu-layers|--n-gpu-layers -np|--parallel -n|--predict|--n-predict -ot|--override-tensor
-o|--output|--output-file -ptc|--print-token-count -p|--prompt -rea|--reasoning -r|--reverse-prompt -sm|--split-mode
-sps|--slot-prompt-similarity -sysf|--system-prompt-file -sys|--system-prompt -s|--seed -tb|--threads-batch
-to|--timeout -ts|--tensor-split -t|--threads -ub|--ubatch-size
"""
SWITCHES = """
--cache-idle-slots|--no-cache-idle-slots --cache-prompt|--no-cache-prompt --check-tensors
--context-shift|--no-context-shift --cors-credentials|--no-cors-credentials --dflash
--display-prompt|--no-display-prompt --eagle3 --embd-gemma-default --embedding|--embeddings --fim-qwen-1.5b-default
--fim-qwen-14b-spec --fim-qwen-30b-default --fim-qwen-3b-default --fim-qwen-7b-default --fim-qwen-7b-spec
--gpt-oss-120b-default --gpt-oss-20b-default --ignore-eos --in-prefix-bos --jinja|--no-jinja --log-disable
--log-jsonl|--no-log-jsonl --log-prefix|--no-log-prefix --log-timestamps|--no-log-timestamps --lora-init-without-apply
--metrics --mmproj-auto|--no-mmproj|--no-mmproj-auto --mmproj-offload|--no-mmproj-offload
--models-autoload|--no-models-autoload --mtp --no-host --offline --op-offload|--no-op-offload --perf|--no-perf
--prefill-assistant|--no-prefill-assistant --prompt-cache-all --prompt-cache-ro --props
--reasoning-preserve|--no-reasoning-preserve --repack|-nr|--no-repack --rerank|--reranking --reuse-port
--show-timings|--no-show-timings --simple-io --skip-chat-parsing|--no-skip-chat-parsing --slots|--no-slots
--spec-default --spec-draft-backend-sampling|--no-spec-draft-backend-sampling
--spec-draft-cpu-moe|-cmoed|--cpu-moe-draft --spm-infill --swa-full
--ui-mcp-proxy|--webui-mcp-proxy|--no-ui-mcp-proxy|--no-webui-mcp-proxy --ui|--webui|--no-ui|--no-webui
--verbose-prompt --version --vision-gemma-12b-default --vision-gemma-4b-default --warmup|--no-warmup
-ag|--agent|-no-ag|--no-agent -bs|--backend-sampling -cb|--cont-batching|-nocb|--no-cont-batching -cl|--cache-list
-cmoe|--cpu-moe -cnv|--conversation|-no-cnv|--no-conversation -e|--escape|--no-escape -h|--help|--usage
-if|--interactive-first -i|--interactive -kvo|--kv-offload|-nkvo|--no-kv-offload
-kvu|--kv-unified|-no-kvu|--no-kv-unified -mli|--multiline-input -sp|--special -st|--single-turn
-v|--verbose|--log-verbose
"""
# until some version before that
OLD_VALUES = """
--tfs -cd|--ctx-size-draft
"""
OLD_SWITCHES = """
--direct-io|-dio --instruct --log-append --log-enable --log-new --memory-f32 --mlock --mul-mat-q --no-mmap
--penalize-nl
"""

DRAFT = "the weights and the cache of a draft model are not counted"
LORA = "memory of LoRA adapters and control vectors is not counted"
VISION = "the projector of images and audio, and what it computes, are not counted"
HOST = "what lies in host memory is counted as if it were on the GPU"
GPUS = "how layers are spread over several GPUs is not modelled: one GPU holds them all here"
CAVEATS = {
    **dict.fromkeys(
        ("-ot", "-cmoe", "-ncmoe", "-ncffn", "-ngl", "-lm", "-lzm"),
        HOST,
    ),
    "-kvo": "where the cache lies is not modelled: it is counted on the GPU",
    **dict.fromkeys(("-sm", "-ts", "-mg", "-dev", "--rpc"), GPUS),
    **dict.fromkeys(
        (
            "--spec-draft-model",
            "--spec-draft-hf",
            "--spec-draft-ngl",
            "--spec-draft-type-k",
            "--spec-draft-type-v",
            "-cd",
            "--mtp",
            "--dflash",
            "--eagle3",
            "--spec-default",
            "--spec-type",
        ),
        DRAFT,
    ),
    **dict.fromkeys(("--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled"), LORA),
    **dict.fromkeys(("-mm", "-mmu", "--mmproj-offload", "--image-max-tokens", "--mtmd-batch-max-tokens"), VISION),
    **dict.fromkeys(("-b", "-ub"), "compute buffers are an estimate here, and do not follow it"),
    "--swa-full": "windows are planned as by default",
    **dict.fromkeys(("-fitt", "-fitc"), "what --fit leaves free is planned as by default"),
    "--override-kv": "the model is planned as its file describes it",
    **dict.fromkeys(("--embedding", "--rerank", "--pooling"), "a server that only pools runs each prompt in one batch"),
    "-ctxcp": "checkpoints of windows and states lie in host memory",
    "-gan": "positions of self-extension are not modelled",
    "--memory-f32": "older versions: -ctk f32 -ctv f32 say the same",
    **dict.fromkeys(
        (
            "--fim-qwen-1.5b-default",
            "--fim-qwen-3b-default",
            "--fim-qwen-7b-default",
            "--fim-qwen-7b-spec",
            "--fim-qwen-14b-spec",
            "--fim-qwen-30b-default",
            "--gpt-oss-20b-default",
            "--gpt-oss-120b-default",
            "--vision-gemma-4b-default",
            "--vision-gemma-12b-default",
            "--embd-gemma-default",
        ),
        "a set of flags under one name, which is not read: give its flags in the command",
    ),
    **dict.fromkeys(
        ("--models-dir", "--models-preset", "--models-max"), "a server of several models: only the one named is planned"
    ),
}
ENVIRONMENT = {
    "LLAMA_ARG_CTX_SIZE": "-c", "LLAMA_ARG_N_PARALLEL": "-np", "LLAMA_ARG_BATCH": "-b", "LLAMA_ARG_UBATCH": "-ub",
    "LLAMA_ARG_CACHE_TYPE_K": "-ctk", "LLAMA_ARG_CACHE_TYPE_V": "-ctv", "LLAMA_ARG_FLASH_ATTN": "-fa",
    "LLAMA_ARG_N_GPU_LAYERS": "-ngl", "LLAMA_ARG_SWA_FULL": "--swa-full", "LLAMA_ARG_KV_UNIFIED": "-kvu",
    "LLAMA_ARG_MODEL": "-m", "LLAMA_ARG_HF_REPO": "-hf", "LLAMA_ARG_HF_FILE": "-hff", "LLAMA_ARG_FIT": "-fit",
    "LLAMA_ARG_MMPROJ": "-mm", "LLAMA_ARG_KV_OFFLOAD": "-kvo", "LLAMA_ARG_SPLIT_MODE": "-sm",
    "LLAMA_ARG_TENSOR_SPLIT": "-ts", "LLAMA_ARG_OVERRIDE_TENSOR": "-ot", "LLAMA_ARG_N_CPU_MOE": "-ncmoe",
    "LLAMA_ARG_CPU_MOE": "-cmoe", "LLAMA_ARG_KV_UNIFIED_PER_SLOT": "--kv-unified-per-slot",
}  # fmt: skip

RULES = Rules(
    "llama.cpp",
    table(VALUES + OLD_VALUES, SWITCHES + OLD_SWITCHES, "", "-fa|--flash-attn", argparse=False),
    CAVEATS,
    fill,
    judge,
    attempts,
    shorten,
    environment=ENVIRONMENT,
    variables={"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "memory that spills over to the host is not modelled"},
)
