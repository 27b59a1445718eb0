"""Towers; expected numbers are sum(p.numel()) of the class's own modules in transformers 5.23 on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InvalidInput
from kvplan.importers import from_config
from kvplan.importers.config import Config
from kvplan.importers.towers import towers
from tests.support import config
from tests.support.held import counted


def sizes(raw: dict[str, Any]) -> dict[str, int]:
    """Parameters of every tower by its module path."""
    return {tower.name: tower.parameters for tower in towers(Config(raw), counted=True)}


# what model.get_submodule(name) of the published config's class counts
MODULES = [
    ("llava-hf__llava-1.5-7b-hf", "model.vision_tower", 303507456),  # CLIP
    ("llava-hf__llava-1.5-7b-hf", "model.multi_modal_projector", 20979712),
    ("google__gemma-3-12b-it", "model.vision_tower", 416866032),  # SigLIP
    ("google__gemma-3-12b-it", "model.multi_modal_projector", 4424832),
    ("LiquidAI__LFM2.5-VL-1.6B", "model.vision_tower", 412649712),  # SigLIP 2
    ("LiquidAI__LFM2.5-VL-1.6B", "model.multi_modal_projector", 13635584),
    ("HuggingFaceTB__SmolVLM-Instruct", "model.vision_model", 338391936),
    ("HuggingFaceTB__SmolVLM-Instruct", "model.connector", 9437184),
    ("mistralai__Devstral-Small-2-24B-Instruct-2512", "model.vision_tower", 403305472),  # Pixtral
    ("mistralai__Devstral-Small-2-24B-Instruct-2512", "model.multi_modal_projector", 35652608),
    ("Qwen__Qwen2-VL-7B-Instruct", "model.visual", 675759104),
    ("Qwen__Qwen2.5-VL-7B-Instruct", "model.visual", 676550144),
    ("LGAI-EXAONE__EXAONE-4.5-33B", "model.visual", 1286482944),
    ("Qwen__Qwen3-VL-4B-Instruct", "model.visual", 415347712),
    ("Qwen__Qwen3-VL-235B-A22B-Instruct", "model.visual", 576388336),
    ("Qwen__Qwen3.5-4B", "model.visual", 453650672),  # the file has no vision_config: the class's defaults
    ("meta-llama__Llama-3.2-11B-Vision", "model.vision_model", 836288019),
    ("meta-llama__Llama-3.2-11B-Vision", "model.multi_modal_projector", 31461376),
    ("google__gemma-4-26B-A4B", "model.vision_tower", 569548080),
    ("nvidia__MiniMax-M3-NVFP4", "model.vision_tower", 631185920),
    ("nvidia__MiniMax-M3-NVFP4", "model.multi_modal_projector", 234381312),
    ("nvidia__Kimi-K2.6-NVFP4", "model.vision_tower", 416866032),
    ("nvidia__Kimi-K2.6-NVFP4", "model.mm_projector", 54277888),
    ("Qwen__Qwen2-Audio-7B", "model.audio_tower", 636968960),
    ("mistralai__Voxtral-Mini-3B-2507", "model.audio_tower", 636968960),
    ("mistralai__Voxtral-Mini-3B-2507", "model.multi_modal_projector", 25165824),
    ("google__gemma-3n-E4B", "model.audio_tower", 681348640),
    # the whole Llama4ForConditionalGeneration less its language_model: 108641793536 - 107769861120 - 20971520
    ("meta-llama__Llama-4-Scout-17B-16E-Instruct", "vision_model", 850960896),
    # CLIP ViT-L/14-336 (303507456), 4096 -> 3072 -> 3072 (22020096 + 6144) and two separators of 4096
    ("microsoft__Phi-3-vision-128k-instruct", "model.vision_embed_tokens", 325541888),
]


@pytest.mark.parametrize(("file", "name", "parameters"), MODULES)
def test_a_tower_counts_what_its_class_counts(file: str, name: str, parameters: int) -> None:
    """Exact, for every kind of tower."""
    assert sizes(config(file))[name] == parameters


def test_gemma_3n_comes_to_its_published_size() -> None:
    """The files on the hub hold 7,849,978,192: the class, and keys, values and k norms of the 15 layers that share KV."""
    shared = 15 * (2 * 2048 * 512 + 256)
    assert counted(config("google__gemma-3n-E4B")) + shared == 7849978192


@pytest.mark.parametrize(
    ("file", "parameters"),
    [
        ("microsoft__Phi-3-vision-128k-instruct", 4146621440),
        ("deepseek-ai__deepseek-vl2-tiny", 3370501440),  # published: 3.37B
        ("deepseek-ai__Janus-1.3B", 2089232011),  # published: 2.09B, the drawing half included
    ],
)
def test_remote_code_comes_to_its_published_size(file: str, parameters: int) -> None:
    """Types without a class in transformers are held against the checkpoint's size."""
    assert counted(config(file)) == parameters


def test_null_means_no_tower_in_gemma_4() -> None:
    """The larger models say ``"audio_config": null``; the class then builds neither tower nor projector."""
    raw = {"model_type": "gemma4", "vision_config": {}, "audio_config": {}}
    both = {"model.vision_tower": 167364608, "model.audio_tower": 304824608}
    assert both.items() <= sizes(raw).items()
    assert set(sizes(raw | {"audio_config": None})) == {"model.vision_tower", "model.embed_vision"}


def test_no_quantiser_touches_positions_and_convolutions() -> None:
    """CLIP's vectors: class token, patch convolution, positions, biases and norms."""
    tower = from_config(config("llava-hf__llava-1.5-7b-hf")).towers[0]
    layer = 5 * 1024 + 4096 + 2 * 2 * 1024  # biases of q, k, v, o, down and up; two LayerNorms
    assert tower.vectors == 1024 + 1024 * 3 * 14 * 14 + 577 * 1024 + 24 * layer + 2 * 2 * 1024


def test_an_unknown_tower_is_an_error() -> None:
    """Its parameters would be a guess."""
    raw = config("llava-hf__llava-1.5-7b-hf")
    raw["vision_config"]["model_type"] = "somebody_s_tower"
    with pytest.raises(InvalidInput, match=r"vision_config\.model_type"):
        from_config(raw)
