"""Mutated real configs: the only outcomes are a correct report or a KvplanError of one line; nothing hangs or grows."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvplan
from kvplan.errors import InvalidInput, KvplanError, UnknownName, UnreadKeys
from tests.support import CONFIGS, config

NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))
# 1e400 as JSON reads it is infinity; huge ints, other types, absurd shapes
ODD = st.sampled_from(
    [
        None, True, False, 0, -1, 1, 2, 3, 7, 1.5, 2.0, 1e300, float("inf"), float("nan"), 10**30, 10**5000, 2**63, "", "8", "abc",
        [], {}, [1], [None], ["x"], {"a": 1}, [0] * 50, [[[]]], "full_attention",
    ]
)  # fmt: skip


def keys(raw: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of every key, nested objects included."""
    found = []
    for key, value in raw.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += keys(value, (*path, key))
    return found


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_mutated_config_is_a_report_or_an_error(data: st.DataObject) -> None:
    """One to three values of a published config replaced or removed."""
    raw = copy.deepcopy(config(data.draw(st.sampled_from(NAMES), label="config")))
    for _ in range(data.draw(st.integers(1, 3), label="mutations")):
        path = data.draw(st.sampled_from(keys(raw) or [("model_type",)]), label="key")
        target: Any = raw
        for step in path[:-1]:
            target = target.get(step) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            continue
        if data.draw(st.booleans(), label="remove"):
            target.pop(path[-1], None)
        else:
            target[path[-1]] = copy.deepcopy(data.draw(ODD, label="value"))
    start = time.monotonic()
    refused: KvplanError | None = None
    try:
        numbers = kvplan.plan(raw, context=1000, gpu="h200-141gb-sxm").to_dict()
    except KvplanError as e:
        refused = e
    if refused is not None:
        assert 0 < len(str(refused)) < 2000
        assert "\n" not in str(refused)
    else:
        assert all(isinstance(v, int) and v >= 0 for v in numbers["kv"].values())
        assert numbers["model"]["parameters"] > 0
        assert json.dumps(numbers)
    assert time.monotonic() - start < 20  # a hang, not a speed: mutations may make deep models


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", -1), ("num_hidden_layers", 0), ("num_hidden_layers", 2.5), ("num_hidden_layers", "32"),
        ("num_hidden_layers", True), ("num_hidden_layers", float("inf")), ("num_hidden_layers", 10**9),
        ("num_key_value_heads", 5), ("hidden_size", 0), ("vocab_size", -3), ("head_dim", 1.5), ("torch_dtype", "int3"),
        ("intermediate_size", [1]), ("model_type", 7), ("num_attention_heads", 33),
    ],
)  # fmt: skip
def test_the_error_names_field_value_and_what_is_allowed(key: str, value: object) -> None:
    """One value that cannot be in an otherwise good config."""
    raw = config("meta-llama__Meta-Llama-3.1-8B") | {key: value}
    with pytest.raises(InvalidInput) as caught:
        kvplan.plan(raw)
    assert "allowed:" in str(caught.value)
    if key not in ("num_key_value_heads", "num_attention_heads"):
        assert key == caught.value.field


def test_layer_types_of_the_wrong_length() -> None:
    """One entry per layer, or an error that says how many."""
    raw = config("openai__gpt-oss-20b")
    raw["layer_types"] = raw["layer_types"][:-1]
    with pytest.raises(InvalidInput, match="layer_types"):
        kvplan.plan(raw)


def test_an_unread_cache_key_is_an_error() -> None:
    """A trick that the importer does not know must not become a wrong number."""
    raw = config("meta-llama__Meta-Llama-3.1-8B") | {"cla_share_factor": 2}
    with pytest.raises(UnreadKeys, match="cla_share_factor"):
        kvplan.plan(raw)
    assert kvplan.plan(raw | {"cla_share_factor": None})


def test_an_unknown_type_names_the_nearest() -> None:
    """qwen33 looks like qwen3."""
    with pytest.raises(UnknownName, match="qwen3"):
        kvplan.plan({"model_type": "qwen33"})


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[1, 2]", b"null", b'"text"', b"\xff\xfe{}", b'{"a": NaN}', b"[" * 100_000, b"{}",
        b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"model_type": "llama"',
    ],
)  # fmt: skip
def test_files_that_are_no_config(tmp_path: Path, content: bytes) -> None:
    """Truncated, not UTF-8, a list, nothing, too deep: one line each."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    for asked in (path, str(path), str(tmp_path)):
        with pytest.raises(KvplanError) as caught:
            kvplan.load(asked)
        assert "\n" not in str(caught.value)


def test_a_number_with_too_many_digits(tmp_path: Path) -> None:
    """Python refuses ints of over 4,300 digits with a ValueError of its own: it becomes one line too."""
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": ' + "9" * 10_000 + "}")
    with pytest.raises(KvplanError):
        kvplan.load(str(path))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """A sparse file of 10 GB named config.json is refused by its size."""
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10 * 10**9)
    with pytest.raises(InvalidInput, match="at most"):
        kvplan.load(str(path))


def test_folders_and_devices(tmp_path: Path) -> None:
    """A folder without a config, and a path that is no regular file."""
    with pytest.raises(InvalidInput, match=r"config\.json"):
        kvplan.load(str(tmp_path) + "/")
    with pytest.raises(InvalidInput, match="regular"):
        kvplan.load(Path("/dev/null"))


@pytest.mark.parametrize("model", [None, 7, "", "\0", "x" * 10_000, [], b"llama", "../..//etc", "a/b/c"])
def test_models_that_are_no_name(model: object) -> None:
    """Whatever is handed in as a model, the answer is a KvplanError."""
    with pytest.raises(KvplanError):
        kvplan.plan(model)


@pytest.mark.parametrize(
    "flags",
    [
        {"context": 0}, {"context": -1}, {"context": True}, {"context": 1.0}, {"context": 2**60}, {"batch": "many"}, {"batch": []},
        {"tp": 0}, {"tp": 2**20}, {"pp": 99}, {"dp": -1}, {"gpu": ""}, {"gpu": "../../etc/passwd"}, {"dtype": 7}, {"dtype": "int4"},
        {"kv_dtype": "int4:g"}, {"kv_dtype": {}}, {"engine": None}, {"engine": "vlllm"}, {"engine_options": []}, {"scheme": 3},
        {"scheme": "cla"}, {"scheme": "cla:0"}, {"scheme": "window:x"}, {"scheme": "owners:1_2"}, {"memory": "lots"}, {"memory": -5},
        {"gpu_memory_utilization": 0}, {"gpu_memory_utilization": True}, {"block_size": 0}, {"logits": "some"}, {"nonsense": 1},
        {"compute_efficiency": 2}, {"runtime_overhead": "1 parsec"}, {"encoder_context": -1}, {"weight_dtype": "int4:residual=3"},
    ],
)  # fmt: skip
def test_flags_that_cannot_be(flags: dict[str, Any]) -> None:
    """Every flag is checked, whatever its type."""
    with pytest.raises(KvplanError) as caught:
        kvplan.plan(config("meta-llama__Meta-Llama-3.1-8B"), **flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [10**5000, 7, ["llama"]], ids=["huge", "number", "list"])
def test_a_nested_model_type_is_text(value: object) -> None:
    """Python refuses to print an int of over 4,300 digits; the field is named instead."""
    raw = config("Qwen__Qwen3-VL-2B-Instruct")
    raw["text_config"]["model_type"] = value
    with pytest.raises(InvalidInput, match="model_type"):
        kvplan.plan(raw)
