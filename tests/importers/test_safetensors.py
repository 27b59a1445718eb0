"""Bytes of a checkpoint folder, from safetensors headers written by hand as the format's README describes them."""

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvplan
from kvplan.errors import InvalidInput
from kvplan.explain import explain
from kvplan.importers.safetensors import INDEX, folder_weight_bytes, read_header
from tests.support.attempts import attempt


def shard(path, *tensors, raw=None):
    """A file of tensors (name, dtype, shape, bytes), without their data."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    data = json.dumps(header).encode() if raw is None else raw
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    return path


def index(folder, total, **files):
    raw = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / INDEX).write_text(json.dumps(raw))


def test_headers_are_summed_by_dtype(tmp_path):
    """2 x 3 bf16 = 12 bytes, 4 fp8 = 4, a scalar fp32 = 4, 5 elements of packed fp4 in 3 bytes."""
    shard(tmp_path / "model-00001-of-00002.safetensors", ("a", "BF16", [2, 3], 12), ("b", "F8_E4M3", [4], 4))
    shard(tmp_path / "model-00002-of-00002.safetensors", ("c", "F32", [], 4), ("d", "F4", [5], 3))
    found = folder_weight_bytes(tmp_path)
    assert found.bytes == 23
    assert found.by_dtype == {"BF16": 12, "F8_E4M3": 4, "F32": 4, "F4": 3}
    assert "2 safetensors files" in found.source


def test_a_second_copy_of_the_weights_does_not_count(tmp_path):
    """Mistral's folders hold consolidated.safetensors beside the shards; the index says which files are the model."""
    shard(tmp_path / "model-00001-of-00001.safetensors", ("a", "BF16", [2], 4))
    shard(tmp_path / "consolidated.safetensors", ("a", "BF16", [2], 4))
    assert folder_weight_bytes(tmp_path).bytes == 4
    index(tmp_path, 999, a="model-00001-of-00001.safetensors")
    assert folder_weight_bytes(tmp_path).bytes == 4
    (tmp_path / INDEX).unlink()
    shard(tmp_path / "model.safetensors", ("a", "BF16", [4], 8))
    assert folder_weight_bytes(tmp_path).bytes == 8


def test_an_index_alone_gives_its_total(tmp_path):
    """Without all of the shards it names, metadata.total_size is the answer."""
    index(tmp_path, 16_060_522_496, a="model-00001-of-00002.safetensors", b="model-00002-of-00002.safetensors")
    shard(tmp_path / "model-00001-of-00002.safetensors", ("a", "BF16", [2], 4))
    found = folder_weight_bytes(tmp_path)
    assert (found.bytes, found.by_dtype) == (16_060_522_496, {})
    assert "total_size" in found.source


def test_nothing_to_read(tmp_path):
    """A folder without safetensors is None; a folder that is not there is an error."""
    assert folder_weight_bytes(tmp_path) is None
    with pytest.raises(InvalidInput, match="readable folder"):
        folder_weight_bytes(tmp_path / "absent")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "header"),
        (b"\0" * 7, "header"),
        (struct.pack("<Q", 2**62) + b"{}", "header"),
        (struct.pack("<Q", 10) + b"{}", "header"),
        (struct.pack("<Q", 2) + b"[]", "a JSON object"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "UTF-8"),
        (struct.pack("<Q", 2) + b"{x", "complete JSON"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "dtype, shape and data_offsets"),
    ],
)
def test_broken_headers_are_one_line(tmp_path, data, what):
    """Length, encoding and entries are checked before they are used."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=what) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 5]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [4, 0]},
        {"dtype": "BF16", "shape": [-2], "data_offsets": [0, 4]},
        {"dtype": "BF16", "shape": [2**40, 2**40], "data_offsets": [0, 4]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4, 8]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [0.0, 4.0]},
        {"dtype": 1, "shape": [2], "data_offsets": [0, 4]},
    ],
)
def test_offsets_must_agree_with_shape_and_dtype(tmp_path, entry):
    """A header that contradicts itself is refused, not summed."""
    with pytest.raises(InvalidInput):
        read_header(shard(tmp_path / "model.safetensors", raw=json.dumps({"a": entry}).encode()))


@pytest.mark.parametrize("total", ["1", -1, True, 1.5, 2**70, None])
def test_totals_are_numbers_of_bytes(tmp_path, total):
    """total_size is a whole number; a whole float passes, as some tools write it."""
    index(tmp_path, total)
    with pytest.raises(InvalidInput, match="total_size"):
        folder_weight_bytes(tmp_path)
    index(tmp_path, 1e9)
    assert folder_weight_bytes(tmp_path).bytes == 10**9


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), length=st.one_of(st.none(), st.integers(0, 2**64 - 1)))
def test_any_bytes_are_a_kvplan_error_or_a_header(tmp_path, data, length):
    """Anything at all in the file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((b"" if length is None else struct.pack("<Q", length)) + data)
    assert "\n" not in attempt(folder_weight_bytes, tmp_path)[1]


@pytest.mark.parametrize("ranks", [{}, {"tp": 2}, {"pp": 2}])
@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "of nobody"},
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights": None}}, "ignore": ["re:a(?=b)"]},
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {"layers.0.mlp": {"quant_algo": "NEW"}}},
    ],
    ids=["method", "expression", "layer"],
)  # fmt: skip
def test_headers_are_enough_where_nobody_knows_the_method(tmp_path, quantization, ranks):
    """The whole is what the files hold, 1,000 bytes; a rank and a category have their share by shape."""
    config = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 128, "vocab_size": 100, "torch_dtype": "bfloat16", "quantization_config": quantization,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = kvplan.plan(tmp_path, context=64)
    assert report.to_dict()["weights"]["bytes"] is None  # from shapes: not known
    shard(tmp_path / "model.safetensors", ("a", "U8", [1000], 1000))
    report = kvplan.plan(tmp_path, gpu="l4", context=64, **ranks)
    found = report.to_dict()
    assert 1000 == found["weights"]["bytes"] == sum(t.value for t in report.terms if t.path.startswith("weights/"))
    assert {"estimated"} == {t.basis for t in report.terms if t.path.startswith("weights/")}
    # embeddings and logits are 100 x 64 of bf16 each, the two layers 2 x (4 x 64 x 64 + 3 x 64 x 128), norms 5 x 64
    embeddings = next(t.value for t in report.terms if t.path == "weights/embeddings")
    assert 1000 * 6400 // (2 * 6400 + 2 * (4 * 4096 + 3 * 8192) + 5 * 64) == embeddings
    if ranks:
        assert 400 < found["weights"]["bytes_per_gpu"] < 1000
    assert not [omission for omission in report.omitted if omission.path == "weights"]
    assert "weights/mlp" in explain(report, "weights")
