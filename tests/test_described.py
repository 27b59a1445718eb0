"""A model shows the scheme it has, and that scheme, applied to it, changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

import kvplan
from kvplan.catalog import load, model_names
from kvplan.cli import app
from kvplan.described import described_scheme

KNOWN = {
    "llama-2-7b": "mha",
    "llama-3.1-8b": "gqa:8",
    "falcon-7b": "mqa",
    "gemma-3-12b": "gqa:8+window:1024@5:1",
    "gemma-2-9b": "gqa:8+window:4096@1:1",
    "mistral-7b-v0.1": "gqa:8+window:4096",
    "hunyuan-large": "gqa:8+cla:2",
    "gemma-3n-e4b": "gqa:2+window:512@4:1+shared-last:15",
    "llama-4-scout": "gqa:8+chunk:8192@3:1",
    "deepseek-v3": "mla:latent=512,rope=64,q=1536",
    "deepseek-v3.2": "mla:latent=512,rope=64,q=1536+dsa:k=2048,dim=128,heads=64",
    "mamba-130m": "",
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_schemes(name: str) -> None:
    """What the model cards say, in the notation of schemes."""
    assert KNOWN[name] == described_scheme(load(name))


def numbers(report: Any) -> dict[str, Any]:
    """Everything a report says but the question, and words about it."""
    data = report.to_dict()
    for name in ("inputs", "notes"):
        del data[name]
    return dict(data)


@pytest.mark.parametrize("name", model_names())
def test_a_models_own_scheme_changes_nothing(name: str) -> None:
    """Round trip: described, applied, every number of the report is as before."""
    spec = load(name)
    chain = described_scheme(spec)
    if not chain or "mixed" in chain:
        return
    plain = numbers(kvplan.plan(spec, context=9000))
    assert plain == numbers(kvplan.plan(spec, scheme=chain, context=9000))


def test_most_presets_can_be_said() -> None:
    """Only a few models share in ways that no chain says."""
    mixed = {name for name in model_names() if "mixed" in described_scheme(load(name))}
    assert len(mixed) < 10, mixed


def test_a_report_shows_it() -> None:
    """In the headline, in JSON, and of the scheme that was asked for."""
    report = kvplan.plan("hunyuan-large")
    assert " · gqa:8+cla:2 · " in report.headline()
    assert "gqa:8+cla:2" == report.to_dict()["model"]["scheme"]
    assert " · cla:4+mqa · " in kvplan.plan("llama-2-7b", scheme="cla:4+mqa").headline()
    assert " · linear · " in kvplan.plan("llama-2-7b", scheme="linear").headline()


def test_explain_shows_the_change() -> None:
    """Before, after and ratio of each quantity, then what the scheme's documentation says."""
    run = CliRunner().invoke
    out = run(app, ["explain", "llama-2-7b", "scheme", "-s", "cla:2", "-c", "4k"]).stdout
    lines = [" ".join(line.split()) for line in out.splitlines()]

    assert "resident bytes per sequence 2,147,483,648 → 1,073,741,824 × 0.5" in lines
    assert "bytes read per decode step 2,148,007,936 → 2,148,007,936 × 1" in lines
    assert "arXiv 2405.12981" in out
    whole = run(app, ["explain", "llama-2-7b", "-s", "cla:2", "-c", "4k"]).stdout
    assert whole.startswith("scheme/cla:2 = ")
    assert "kv/global/key" in whole
    assert "scheme/" not in run(app, ["explain", "llama-2-7b"]).stdout


def test_explain_a_scheme_without_a_model() -> None:
    """Documentation alone: notation, axis, what it says about itself, no doctest."""
    out = CliRunner().invoke(app, ["explain", "--scheme", "mqa+cla:2+fp8"])
    assert 0 == out.exit_code
    for word in ("mqa", "cla:F", "arXiv 1911.02150", "arXiv 2405.12981", "8 bits per element"):
        assert word in out.stdout
    assert ">>>" not in out.stdout
    assert 2 == CliRunner().invoke(app, ["explain", "--scheme", "clam"]).exit_code


def test_every_scheme_explains_itself() -> None:
    """`kvplan explain --scheme S` has a source for each registered scheme."""
    from kvplan.explain import scheme_text
    from kvplan.schemes import SCHEMES

    for name in SCHEMES:
        text = scheme_text(name)
        assert "ource" in text, name
        assert ">>>" not in text


def test_latex_of_a_scheme_is_balanced() -> None:
    """Words of documentation are escaped."""
    out = CliRunner().invoke(app, ["explain", "llama-2-7b", "-s", "offload:cpu=0.5", "--latex"]).stdout
    assert out.count("{") == out.count("}")
    assert out.count("$") % 2 == 0
