"""Step 3.7 Flash; expected numbers: Step3p7ForConditionalGeneration of transformers 5.23 on the meta device.

The class's experts were replaced by a stand-in for the cache numbers: they do not run on meta, and cache nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import config
from tests.support.held import counted, transformers

FOUR = ["full_attention"] + ["sliding_attention"] * 3


def outer(**changes: Any) -> dict[str, Any]:
    text = config("stepfun-ai__Step-3.7-Flash")
    for key in ("architectures", "model_type", "num_experts", "first_k_dense_replace", "n_shared_experts"):
        del text[key]
    return {"model_type": "step3p7", "text_config": text | changes}


def test_the_whole_model_counts_tower_included() -> None:
    """Sliding layers have 96 query heads and a gate per head; layer_types is padded by three MTP layers."""
    raw = outer(
        layer_types=FOUR * 12,
        attention_other_setting={
            "attention_type": "sliding_attention",
            "num_attention_heads": 96,
            "num_attention_groups": 8,
            "head_dim": 128,
            "true_head_dim": 128,
        },
        moe_layers_enum=",".join(str(i) for i in range(3, 45)),
        num_nextn_predict_layers=3,
    )
    assert counted(raw) == 198937133056


# layers 0 and 4 of 6 full, an entry 2 x 8 x 128 x 2 = 4096 bytes: at 17 tokens 2 x 17 + 4 x 15
@pytest.mark.parametrize(("tokens", "size"), [(15, 368640), (16, 376832), (17, 385024)])
def test_window_boundary(tokens: int, size: int) -> None:
    """A window of 16 keeps 15 in four layers of six; experts in layers 2 and 4 by a list of indices."""
    raw = outer(
        num_hidden_layers=6,
        layer_types=(FOUR * 2)[:6],
        sliding_window=16,
        vocab_size=1000,
        num_sliding_attention_heads=96,
        moe_layers_enum=[2, 4],
        num_nextn_predict_layers=0,
    )
    assert transformers(raw, tokens) == size
    assert counted(raw) == 12225722624
