"""What a preset file may hold. Pydantic guards the user's own files; the shipped ones are held to it by a test."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvplan.errors import InvalidInput

__all__ = ["GpuFile", "ModelFile", "check_preset"]

Name = Annotated[str, Field(min_length=1, max_length=200)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.\-]{0,99}$")]
Rate = Annotated[float, Field(gt=0, lt=1e7)]


class Strict(BaseModel):
    """No unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tflops(Strict):
    """Dense rates in 10**12 FLOP/s (int8: operations), no sparsity, with their source."""

    fp64: Rate | None = None
    fp32: Rate | None = None
    tf32: Rate | None = None
    bf16: Rate | None = None
    fp16: Rate | None = None
    fp8: Rate | None = None
    fp6: Rate | None = None
    fp4: Rate | None = None
    int8: Rate | None = None
    int4: Rate | None = None
    source: Annotated[str, Field(max_length=4000)] | None = None


class Link(Strict):
    """The link between accelerators: bytes per second in one direction."""

    name: Name
    bytes_per_s: Annotated[int, Field(gt=0)]
    source: Annotated[str, Field(max_length=2000)] = ""


class GpuFile(Strict):
    """presets/gpus/<name>.toml."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    name: Slug
    vendor: Name
    label: Name
    aliases: list[Slug] = []
    kind: Literal["datacenter", "workstation", "consumer", "soc", "tpu", "accelerator"]
    architecture: str = ""
    compute_capability: str = ""
    memory_bytes: Annotated[int, Field(gt=0, lt=2**50)]
    memory_basis: Literal["exact", "estimated"]
    memory_label: Name
    memory_source: Annotated[str, Field(min_length=1, max_length=2000)]
    bandwidth_bytes_per_s: Annotated[int, Field(gt=0, lt=10**15)]
    bandwidth_source: Annotated[str, Field(min_length=1, max_length=2000)]
    price_usd_per_hour: Annotated[float, Field(gt=0)] | None = None
    price_source: str = ""
    checked: datetime.date
    notes: list[str] = []
    tflops: dict[str, Any]
    link: dict[str, Any] | None = None


class ModelFile(Strict):
    """presets/models/<name>.toml: a published config and where it comes from."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    name: Slug
    label: Name
    hub: str = ""
    aliases: list[Slug] = []
    attention: str = ""
    provenance: str = ""
    source: Annotated[str, Field(min_length=1, max_length=2000)]
    checked: datetime.date
    config: Annotated[str, Field(min_length=2)]


def check_preset(raw: dict[str, Any], kind: str, where: str) -> None:
    """Raises InvalidInput naming the first key of a preset file that cannot be; ``kind`` is gpus or models."""
    try:
        if kind == "gpus":
            GpuFile.model_validate(raw)
            rates = raw["tflops"]
            Tflops.model_validate(
                {k: float(v) if isinstance(v, int) and v is not True else v for k, v in rates.items()}
            )
            if "link" in raw:
                Link.model_validate(raw["link"])
        else:
            ModelFile.model_validate(raw)
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(step) for step in first["loc"]) or "preset"
        raise InvalidInput(field, first.get("input"), first["msg"].lower(), where) from None
