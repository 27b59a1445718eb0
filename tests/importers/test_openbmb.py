"""CPM-Ant; bytes are those of the class's cache on the CPU, batch of one."""

from __future__ import annotations

from tests.importers.probe import kept, parameters, spec_of

SMALL = {
    "model_type": "cpmant", "vocab_size": 600, "hidden_size": 64, "num_attention_heads": 4, "dim_head": 16,
    "dim_ff": 96, "num_hidden_layers": 3, "prompt_length": 7, "prompt_types": 5, "segment_types": 6,
    "position_bias_num_buckets": 20,
}  # fmt: skip


def test_the_prompt_stays_in_the_cache() -> None:
    """40 tokens and the 7 before them, then 41 and 7."""
    assert kept(SMALL, 40, transformers=True) == 72_192 // 2 == 3 * 47 * 2 * 64 * 2
    assert kept(SMALL, 41, transformers=True) == 73_728 // 2
    assert "prompt of 7 tokens" in spec_of(SMALL).notes[0]


def test_a_file_that_says_nothing_is_the_10b() -> None:
    """Per layer 4 h^2 + 3 h d + 2 h; tables of words, prompts and segments; logits untied; a table of biases."""
    h, d = 4096, 10240
    outside = (30720 + 32 * 32 + 32) * h + 30720 * h + h + (32 * 32 + 512) * 32
    assert parameters({"model_type": "cpmant"}) == 48 * (4 * h * h + 3 * h * d + 2 * h) + outside


def test_no_prompt() -> None:
    """Length 0 caches the text alone."""
    assert kept({**SMALL, "prompt_length": 0}, 40) == 3 * 40 * 2 * 64 * 2
