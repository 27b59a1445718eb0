"""What commands come to: numbers that the engines' own planners gave, verdicts, and changes that hold when typed.

Expected pools and lines are worked numbers of the engines: vLLM 0.33.0's planner and llama.cpp 0c1e57098, both run.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import kvplan
from kvplan.catalog import model_preset
from kvplan.errors import InvalidInput, KvplanError
from kvplan.launch import Preflight, preflight

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
GIB = 2**30


def printed(found: Preflight) -> str:
    return "\n".join(found.printed)


def effects(found: Preflight) -> dict[str, str]:
    return {named.flag: named.effect for named in found.read}


# --- vLLM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "tokens", "concurrency"),
    [
        # 61,440 blocks of 1 MiB in 60 GiB; a request of 131,072 takes 8,192
        (f"vllm serve {LLAMA} -tp 2 --kv-cache-memory-bytes 60G", "983,040", "7.50"),
        (f"vllm serve {LLAMA} -tp 2 --kv-cache-memory-bytes 60G --kv-cache-dtype fp8", "1,966,080", "15.00"),
        (f"vllm serve {LLAMA} -tp 16 --kv-cache-memory-bytes 60G", "3,932,160", "30.00"),
        # 8 full and 40 sliding layers, 8,192 batched tokens twice in flight
        (
            "vllm serve google/gemma-3-12b-it --max-model-len 131072 --kv-cache-memory-bytes 40G"
            " --max-num-batched-tokens 8192",
            "393,686",
            "3.00",
        ),
        (
            "vllm serve openai/gpt-oss-20b --max-model-len 131072 --kv-cache-memory-bytes 50G --max_num_batched_tokens=8192",
            "1,939,908",
            "14.80",
        ),
    ],
)
def test_vllm_prints_what_its_planner_prints(command: str, tokens: str, concurrency: str) -> None:
    found = preflight(command, "h100")

    assert f"GPU KV cache size: {tokens} tokens" in printed(found)
    assert f"{concurrency}x" in printed(found)
    assert found.starts


def test_vllm_refuses_a_pool_that_holds_no_request_and_says_how_long_one_may_be() -> None:
    """Gemma 3 without the hybrid manager: 48 layers x 8,192 blocks need 48 GiB of 40; the planner's auto length is 109,200."""
    command = (
        "vllm serve google/gemma-3-12b-it --max-model-len 131072 --kv-cache-memory-bytes 40G"
        " --disable-hybrid-kv-cache-manager"
    )
    found = preflight(command, "h100")

    assert found.starts is False
    assert "109,200" in found.why
    lengths = [change.flags for change in found.changes if change.flags.startswith("--max-model-len")]
    assert ["--max-model-len 108544"] == lengths  # 106 x 1,024, the last multiple below
    assert any(change.flags == "--kv-cache-dtype fp8" for change in found.changes)


def test_the_length_that_nobody_gives_is_the_models() -> None:
    found = preflight(f"vllm serve {LLAMA}", "h100")

    assert 131_072 == found.report.answer.settings.context
    assert any("131,072" in note for note in found.notes)


def test_a_length_above_the_models_is_refused_unless_the_environment_allows_it() -> None:
    command = f"vllm serve {LLAMA} --max-model-len 200000"
    found = preflight(command, "h200")

    assert found.starts is False
    assert "131,072" in found.why
    assert () == found.printed
    assert any(change.flags == "--max-model-len 131072" for change in found.changes)
    assert preflight(f"VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 {command}", "h200").starts


def test_plain_rope_scaling_lengthens_the_model_and_yarn_does_not() -> None:
    """vllm/config/model.py, 0.33.0: yarn leaves max_position_embeddings already scaled."""
    linear = '{"rope_scaling": {"rope_type": "linear", "factor": 4.0}}'
    yarn = '{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}'

    def length(overrides: str) -> int:
        found = preflight(["vllm", "serve", "Qwen/Qwen3-8B", "--hf-overrides", overrides], "h200")
        return found.report.answer.settings.context

    assert 4 * 40_960 == length(linear)
    assert 40_960 == length(yarn)


def test_suffixes_of_vllm_are_not_kvplans() -> None:
    """32k is 32,000 to vLLM; `--context 32k` of kvplan is 32,768."""
    assert 32_000 == preflight(f"vllm serve {LLAMA} --max-model-len 32k", "h100").report.answer.settings.context
    assert 32_768 == preflight(f"vllm serve {LLAMA} --max-model-len 32K", "h100").report.answer.settings.context


def test_auto_length_is_the_longest_that_fits() -> None:
    found = preflight(f"vllm serve {LLAMA} --max-model-len auto --kv-cache-memory-bytes 4G", "h100")
    # 2 MiB per block of 16 tokens: 2,048 blocks, one of them the null block
    assert 16 * 2047 == found.report.answer.settings.context
    assert found.starts
    assert preflight(f"vllm serve {LLAMA} --max-model-len 32752 --kv-cache-memory-bytes 4G", "h100").starts
    assert not preflight(f"vllm serve {LLAMA} --max-model-len 32753 --kv-cache-memory-bytes 4G", "h100").starts


def test_fewer_gpus_than_ranks_and_ranks_that_do_not_divide_are_refused() -> None:
    few = preflight(f"CUDA_VISIBLE_DEVICES=0 vllm serve {LLAMA} --max-model-len 8192 -tp 2", "h100")
    odd = preflight(f"vllm serve {LLAMA} --max-model-len 8192 -tp 3", "h100")

    assert (False, False) == (few.starts, odd.starts)
    assert "shows 1" in few.why
    assert "32 attention heads" in odd.why
    assert ["--tensor-parallel-size 1"] == [change.flags for change in few.changes]
    assert any(change.flags == "--tensor-parallel-size 2" for change in odd.changes)


def test_quantisation_while_loading_and_of_the_checkpoint() -> None:
    online = preflight("vllm serve Qwen/Qwen3-8B -q fp8 --max-model-len 4096", "h100")
    wrong = preflight("vllm serve Qwen/Qwen3-8B -q awq --max-model-len 4096", "h100")

    assert "fp8" == dict(online.report.answer.settings.inputs)["weight_dtype"]
    assert wrong.starts is False
    assert "checkpoint quantised so" in wrong.why


def test_batch_rules_of_vllm() -> None:
    found = preflight(f"vllm serve {LLAMA} --max-num-batched-tokens 128 --max-num-seqs 256", "h100")

    assert found.starts is False
    assert "--max-num-seqs 256" in found.why


def test_older_versions_print_their_own_lines() -> None:
    found = preflight("vllm serve Qwen/Qwen2.5-7B --max-model-len 8192", "l40s", engine_version="0.6.3")

    assert "# GPU blocks:" in printed(found)


# --- llama.cpp -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "flags", "sizes"),
    [
        # worked numbers of 0c1e57098, MiB; a server without -np has 4 slots that share one cache
        ("gemma-3-12b", "-c 32768", ["2048.00", "1440.00"]),
        ("gpt-oss-20b", "-c 131072", ["3072.00", "24.00"]),
        ("gemma-3-12b", "-c 8192 -np 4 -kvu", ["512.00", "1440.00"]),
        ("llama-3.1-8b", "-c 5000 -np 4", ["640.00"]),  # 1,280 cells in each of 4 streams
        ("llama-3.1-8b", "-c 16384 -ctk q8_0 -ctv q8_0 -np 1", ["1088.00"]),
        ("llama-3.1-8b", "--ctx_size 32768 -ub 2048 -np 1", ["4096.00"]),
        ("gemma-3-12b", "-c 8192 -np 1 --swa-full", ["512.00", "2560.00"]),
        ("llama-3.1-8b", "-c 4096 -np 1 -fa off", ["512.00"]),
    ],
)
def test_llama_prints_what_it_printed(config: str, flags: str, sizes: list[str]) -> None:
    found = preflight(f"llama-server -m model-Q4_K_M.gguf {flags}", "h100", config=config)

    assert sizes == [line.split("size =")[1].split()[0] for line in found.printed]
    assert found.starts


def test_a_missing_file_is_said_with_what_to_give_instead() -> None:
    with pytest.raises(InvalidInput, match=r"--config PATH.*--config llama-3\.1-8b"):
        preflight("llama-server -m /models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "rtx-4090")
    with pytest.raises(InvalidInput, match=r"not fetched.*--config gemma-3-12b"):
        preflight("llama-server -hf ggml-org/gemma-3-12b-it-GGUF", "rtx-4090")


def test_the_name_of_a_file_says_how_its_weights_are_stored() -> None:
    q4 = preflight("llama-server -m a-Q4_K_M.gguf -c 4096", "rtx-4090", config="llama-3.1-8b")
    q8 = preflight("llama-server -m a-Q8_0.gguf -c 4096", "rtx-4090", config="llama-3.1-8b")
    none = preflight("llama-server -m a.gguf -c 4096", "rtx-4090", config="llama-3.1-8b")

    names = [dict(found.report.answer.settings.inputs)["weight_dtype"] for found in (q4, q8, none)]
    assert ["q4_k", "q8_0", None] == names
    assert any("nothing says" in note for note in none.notes)


def test_a_context_that_nobody_gave_is_shortened_and_one_that_was_given_is_not() -> None:
    auto = preflight("llama-server -m a-F16.gguf", "rtx-4090", config="llama-3.1-8b")
    given = preflight("llama-server -m a-F16.gguf -c 131072", "rtx-4090", config="llama-3.1-8b")
    whole = preflight("llama-server -m a-F16.gguf -c 0 -ngl 99", "rtx-4090", config="llama-3.1-8b")

    assert auto.holds
    cells = auto.reading.options["ctx_size"]
    assert 4096 < cells < 131_072
    assert 0 == cells % 256
    assert any("--fit lowers" in note for note in auto.notes)
    # --fit then moves layers instead: it starts, and not on the GPU alone
    assert (True, False) == (given.starts, given.holds)
    assert whole.starts is False


def test_quantised_v_without_flash_attention_is_refused() -> None:
    found = preflight("llama-server -m a.gguf -c 4096 -ctv q8_0 -fa off", "h100", config="llama-3.1-8b")

    assert found.starts is False
    assert "flash attention" in found.why


def test_layers_and_cache_in_host_memory() -> None:
    found = preflight("llama-server -m a-Q8_0.gguf -c 4096 -nkvo -ngl 10", "rtx-4090", config="llama-3.1-8b")

    assert "10 of 32 layers on the GPU" in found.why
    assert "cache in host memory" in found.why
    assert "no_kv_offload = true" == effects(found)["-nkvo"]


# --- SGLang, TensorRT-LLM, MLX-LM ------------------------------------------------------------------------------------


def test_sglang_takes_the_pool_that_its_flag_names() -> None:
    found = preflight(f"python -m sglang.launch_server --model-path {LLAMA} --tp 2 --max-total-tokens 100000", "h200")

    assert "#tokens: 100000" in printed(found)
    # 100,001 slots x 32 layers x 4 heads x 128 x 2 bytes = 3.05 GiB each of K and V
    assert "K size: 3.05 GB" in printed(found)
    assert (True, False) == (found.starts, found.holds)  # its pool is shorter than the model's 131,072 tokens
    assert preflight(f"sglang serve {LLAMA} --tp 2 --max-total-tokens 200k", "h200").holds


def test_sglang_limits_of_length() -> None:
    found = preflight(f"sglang serve {LLAMA} --context-length 200000", "h200")

    assert found.starts is False
    assert any(change.flags == "--context-length 131072" for change in found.changes)


def test_tensorrt_llm_and_mlx() -> None:
    blocks = preflight(f"trtllm-serve {LLAMA} --tp_size 2 --max_seq_len 8192", "h100")
    apple = preflight("mlx_lm.server --model x --kv-bits 8", "apple-m3-max-128gb", config="llama-3.1-8b")

    assert blocks.starts
    assert "paged KV cache" in printed(blocks)
    assert apple.starts


# --- changes, and the face -------------------------------------------------------------------------------------------

TOO_MUCH = [
    ("l40s", f"vllm serve {LLAMA} --gpu-memory-utilization 0.5 --port 8000 --served-model-name a b", None),
    ("l40s", "vllm serve Qwen/Qwen3-32B --max-model-len 32768", None),
    ("rtx-4090", f"vllm serve {LLAMA}", None),
    ("rtx-4090", "llama-server -m a-Q4_K_M.gguf -c 262144 -ngl 99", "llama-3.1-8b"),
    ("rtx-4090", "llama-cli -m a-Q4_K_M.gguf -c 8192 -ngl 99", "llama-3.1-70b"),
    ("h100", "sglang serve Qwen/Qwen3-32B --mem-fraction-static 0.75", None),
    ("h100", "trtllm-serve Qwen/Qwen3-32B --kv_cache_free_gpu_memory_fraction 0.1", None),
]


@pytest.mark.parametrize(("gpu", "command", "config"), TOO_MUCH)
def test_every_change_holds_when_it_is_typed(gpu: str, command: str, config: str | None) -> None:
    found = preflight(command, gpu, config=config)
    program = {"vllm": "vllm serve", "sglang": "sglang serve"}.get(found.command.engine, found.command.program)

    assert not found.holds
    assert found.changes
    for change in found.changes:
        again = preflight([*program.split(), *change.command], gpu, config=config)
        assert again.holds, change.flags
        assert change.why == again.why
        for word in change.flags.split():
            assert word in change.command


def test_changes_are_small() -> None:
    """One per cent less of memory, or 1,024 tokens more, would not do."""
    command = f"vllm serve {LLAMA} --gpu-memory-utilization 0.5"
    flags = dict(change.flags.split() for change in preflight(command, "l40s").changes)
    share, length = float(flags["--gpu-memory-utilization"]), int(flags["--max-model-len"])

    assert not preflight(f"vllm serve {LLAMA} --gpu-memory-utilization {share - 0.01:.2f}", "l40s").starts
    assert not preflight(f"{command} --max-model-len {length + 1024}", "l40s").starts
    assert "2" == flags["--tensor-parallel-size"]


def test_a_close_call_is_said() -> None:
    """At the least share that does, what is left is far below the gigabytes that are an estimate."""
    command = f"vllm serve {LLAMA} --gpu-memory-utilization 0.5"
    flags = dict(change.flags.split() for change in preflight(command, "l40s").changes)
    share = flags["--gpu-memory-utilization"]
    close = preflight(f"vllm serve {LLAMA} --gpu-memory-utilization {share}", "l40s")
    clear = preflight(f"vllm serve {LLAMA} --max-model-len 8192", "h100")

    assert any(note.startswith("a close call") for note in close.notes)
    assert not any(note.startswith("a close call") for note in clear.notes)


def test_nothing_to_change_where_it_starts() -> None:
    assert () == preflight(f"vllm serve {LLAMA} --max-model-len 8192", "h100").changes


def test_public_function_and_json(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(model_preset("llama-3.1-8b").config)
    found = kvplan.preflight(
        "vllm serve some/finetune --max-model-len 8192 --frob 1 --enable-lora", "h100", config=str(config)
    )
    data: dict[str, Any] = json.loads(found.to_json())

    assert found.to_dict() == data
    assert data["starts"] is True
    assert "vllm" == data["engine"]["name"]
    assert [{"flag": "--frob 1", "effect": "unknown to kvplan"}] == data["flags"]["unknown"]
    assert ["--enable-lora"] == [item["flag"] for item in data["flags"]["not_modelled"]]
    assert data["plan"]["kv"]["bytes_per_sequence"] == GIB  # 8,192 x 131,072
    assert str(config) == data["model"]["from"]


@pytest.mark.parametrize(("gpu", "command", "config"), TOO_MUCH[:4])
def test_text_keeps_to_its_width(gpu: str, command: str, config: str | None) -> None:
    """All but the engine's own lines, which stand as they are printed."""
    found = preflight(command, gpu, config=config)
    own = {f"  {line}" for line in found.printed}
    for width in (80, 200):
        lines = found.to_text(width).splitlines()

        assert [] == [line for line in lines if len(line) > width and line not in own]
        assert lines[1].startswith("✘ does not start: ")
        assert "try" in lines


@pytest.mark.parametrize(
    ("command", "gpu", "field"),
    [
        (f"vllm serve {LLAMA}", None, "--gpu"),
        (f"vllm serve {LLAMA} --max-model-len many", "h100", "--max-model-len"),
        (f"vllm serve {LLAMA} --max-model-len 0", "h100", "--max-model-len"),
        (f"vllm serve {LLAMA} --gpu-memory-utilization none", "h100", "--gpu-memory-utilization"),
        (f"vllm serve {LLAMA} --dtype int7", "h100", "--dtype"),
        (f"vllm serve {LLAMA} --hf-overrides [1]", "h100", "--hf-overrides"),
        ("vllm serve", "h100", "model"),
        ("vllm serve $MODEL", "h100", "model"),
        ("vllm serve nobody-knows-this", "h100", "model"),
        (f"vllm serve {'a' * 5000}", "h100", "model"),
        ("llama-server -m x.gguf -c 16k", "h100", "-c"),
        ("llama-server -m x.gguf -ctk q3", "h100", "-ctk"),
        ("llama-server -m x.gguf -fit maybe", "h100", "-fit"),
        ("python train.py", "h100", "command"),
    ],
)
def test_bad_input_is_one_line_that_names_the_flag(command: str, gpu: str | None, field: str) -> None:
    config = "llama-3.1-8b" if command.startswith("llama") else None
    with pytest.raises(InvalidInput) as caught:
        preflight(command, gpu, config=config)

    assert field == caught.value.field
    assert "\n" not in str(caught.value)


def test_the_hub_is_the_last_resort_and_the_error_offers_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    # it reads the variable once, when it is imported: for the first time here, it would stay offline for every test after
    importlib.import_module("huggingface_hub.constants")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(KvplanError, match="--config PATH"):
        preflight("vllm serve nobody/has-this-model", "h100")
