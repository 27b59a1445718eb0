"""Hub ids against a server on loopback that speaks the Hub's routes; what it was asked is part of the contract."""

import json
import struct
import subprocess
import sys

import pytest

from kvplan.errors import InvalidInput, KvplanError, MissingExtra
from kvplan.importers import hub as hub_module
from kvplan.importers.hub import spec_from_hub
from kvplan.importers.safetensors import INDEX
from tests.support.hub_server import COMMIT, serve

pytest.importorskip("huggingface_hub")

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
    "num_attention_heads": 4, "vocab_size": 100, "torch_dtype": "bfloat16",
}  # fmt: skip
CONFIG = json.dumps(LLAMA).encode()
HEADER = json.dumps({"a": {"dtype": "F16", "shape": [4, 4], "data_offsets": [0, 32]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(32)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on loopback with an empty cache; the library's own environment is set aside."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def asked(hub):
    """Paths of the repository that were asked for (the library may ask the endpoint about itself)."""
    return {path for path in hub.paths if not path.startswith("/api/")}


def test_only_config_and_index_are_fetched(hub):
    """With an index, its total is the answer and no weight file is touched."""
    index = json.dumps({"metadata": {"total_size": 123_456}, "weight_map": {}}).encode()
    hub.repos["org/model"] = {
        "config.json": CONFIG,
        INDEX: index,
        "model.safetensors": WEIGHTS,
        "modeling_x.py": b"1/0",
    }
    spec = spec_from_hub("org/model")
    assert (spec.name, len(spec.layers), spec.weight_bytes) == ("org/model", 2, 123_456)
    assert "total_size" in spec.weight_source
    base = "/org/model/resolve"
    allowed = {f"{base}/{rev}/{name}" for rev in ("main", COMMIT) for name in ("config.json", INDEX)}
    assert asked(hub) <= allowed


def test_a_single_file_gives_its_header(hub):
    """Without an index: the header of model.safetensors, by range. 16 elements of fp16 are 32 bytes."""
    hub.repos["org/one"] = {"config.json": CONFIG, "model.safetensors": WEIGHTS}
    spec = spec_from_hub("org/one@main")
    assert spec.weight_bytes == 32
    assert "tensor header" in spec.weight_source


def test_no_weights_is_a_note(hub):
    """Neither index nor file: shapes say the bytes, and a note says so."""
    hub.repos["org/bare"] = {"config.json": CONFIG}
    spec = spec_from_hub("org/bare")
    assert spec.weight_bytes is None
    assert any("follow from shapes" in note for note in spec.notes)


def test_broken_weights_metadata_is_a_note_too(hub):
    """A wrong index does not keep the plan from being made."""
    hub.repos["org/odd"] = {"config.json": CONFIG, INDEX: b"[]"}
    assert any("InvalidInput" in note for note in spec_from_hub("org/odd").notes)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("org/absent", "private ones need HF_TOKEN"),
        ("org/gated", "gated"),
        ("org/gguf", "holds a config.json"),
        ("org/model@v9", "a branch, tag or commit"),
        ("org/broken", "HTTP 500"),
        ("org/text", "UTF-8"),
        ("org/unknown", "unknown model_type"),
    ],
)
def test_refusals_are_one_line(hub, name, what):
    """404, 401, a missing file, a missing revision, a server error, a file that is no config."""
    hub.repos["org/model"] = {"config.json": CONFIG}
    hub.repos["org/gguf"] = {"model.gguf": b"GGUF"}
    hub.repos["org/text"] = {"config.json": b"\xff\xfe"}
    hub.repos["org/unknown"] = {
        "config.json": b'{"model_type": "auto_map_me", "auto_map": {"AutoConfig": "evil.Config"}}'
    }
    hub.gated.add("org/gated")
    hub.broken.add("org/broken")
    with pytest.raises(KvplanError, match=what) as caught:
        spec_from_hub(name)
    assert "\n" not in str(caught.value)
    assert name.split("@")[0] in str(caught.value) or name == "org/unknown"


@pytest.mark.parametrize("name", ["name", "a b/c", "org/name@", "org//name", "../etc/passwd", "org/..", "o/n@a b", ""])
def test_what_is_no_id(hub, name):
    """Anything that is not org/name[@revision] is refused before anybody is asked."""
    with pytest.raises(InvalidInput, match="org/name"):
        spec_from_hub(name)
    assert not asked(hub)


def test_a_huge_config_is_not_fetched(hub, monkeypatch):
    """Its size is asked first (the limit of 16 MiB lowered here to 100 bytes)."""
    monkeypatch.setattr(hub_module, "CONFIG_LIMIT", 100)
    hub.repos["org/model"] = {"config.json": CONFIG + b" " * 100}
    with pytest.raises(InvalidInput, match="at most 100 bytes"):
        spec_from_hub("org/model")
    assert not any(method == "GET" for method, path in hub.asked if "config.json" in path)


def test_the_token_is_sent(hub, monkeypatch):
    """HF_TOKEN goes along, read when the model is asked for."""
    hub.repos["org/model"] = {"config.json": CONFIG}
    monkeypatch.setenv("HF_TOKEN", "hf_loopback")
    spec_from_hub("org/model")
    assert "Bearer hf_loopback" in hub.tokens


def test_offline_asks_nobody(hub, monkeypatch):
    """HF_HUB_OFFLINE: what is cached answers, the rest is one line; no request is made."""
    index = json.dumps({"metadata": {"total_size": 77}, "weight_map": {}}).encode()
    hub.repos["org/model"] = {"config.json": CONFIG, INDEX: index}
    spec_from_hub("org/model")
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert spec_from_hub("org/model").weight_bytes == 77
    with pytest.raises(InvalidInput, match="HF_HUB_OFFLINE is set"):
        spec_from_hub("org/other")
    assert not hub.asked


def test_without_a_connection_the_cache_answers(hub, monkeypatch):
    """An endpoint that refuses connections: the cached model, or one line at once, without retries."""
    hub.repos["org/model"] = {"config.json": CONFIG}
    spec_from_hub("org/model")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert len(spec_from_hub("org/model").layers) == 2
    with pytest.raises(InvalidInput, match="does not answer"):
        spec_from_hub("org/other")


def test_without_the_extra(monkeypatch):
    """huggingface_hub absent: the error names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"kvplan\[hub\]"):
        spec_from_hub("org/model")


def test_importing_it_imports_no_client():
    """The library is loaded when a model is asked for, and not before."""
    code = "import sys, kvplan.importers.hub; sys.exit('huggingface_hub' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
