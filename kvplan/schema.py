"""What a preset file may hold. Pydantic guards the user's own files; the shipped ones are held to it by a test."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvplan.errors import InvalidInput, UnknownName

__all__ = ["GpuFile", "ModelFile", "check_preset"]

# A description is what the error says is allowed.
Name = Annotated[str, Field(min_length=1, max_length=200, description="a text of 1 to 200 characters")]
Slug = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9.\-]{0,99}$",
        description="small letters, digits, dots and dashes, at most 100, a letter or digit first",
    ),
]
Source = Annotated[
    str, Field(min_length=1, max_length=2000, description="where the number is from, 1 to 2000 characters")
]
Version = Annotated[Literal[1], Field(alias="schema", description="1")]
Day = Annotated[datetime.date, Field(description="a date such as 2026-11-21, without quotes")]
Rate = Annotated[float, Field(gt=0, lt=1e7, description="dense TFLOPS above 0 and below 10,000,000")]


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
    bytes_per_s: Annotated[int, Field(gt=0, description="bytes per second above 0")]
    source: Annotated[str, Field(max_length=2000)] = ""


class GpuFile(Strict):
    """presets/gpus/<name>.toml."""

    schema_: Version
    name: Slug
    vendor: Name
    label: Name
    aliases: Annotated[list[Slug], Field(description="a list of names: small letters, digits, dots and dashes")] = []
    kind: Literal["datacenter", "workstation", "consumer", "soc", "tpu", "accelerator"]
    architecture: str = ""
    compute_capability: str = ""
    memory_bytes: Annotated[int, Field(gt=0, lt=2**50, description="whole bytes above 0 and below 2**50")]
    memory_basis: Literal["exact", "estimated"]
    memory_label: Name
    memory_source: Source
    bandwidth_bytes_per_s: Annotated[
        int, Field(gt=0, lt=10**15, description="whole bytes per second above 0 and below 10**15")
    ]
    bandwidth_source: Source
    price_usd_per_hour: Annotated[float, Field(gt=0)] | None = None
    price_source: str = ""
    checked: Day
    notes: list[str] = []
    tflops: Annotated[dict[str, Any], Field(description="a table [tflops] with rates such as bf16 = 165")]
    link: dict[str, Any] | None = None


class ModelFile(Strict):
    """presets/models/<name>.toml: a published config and where it comes from."""

    schema_: Version
    name: Slug
    label: Name
    hub: str = ""
    aliases: Annotated[list[Slug], Field(description="a list of names: small letters, digits, dots and dashes")] = []
    attention: str = ""
    provenance: str = ""
    source: Source
    checked: Day
    config: Annotated[str, Field(min_length=2, description="the published config.json as a text")]


def check_preset(raw: dict[str, Any], kind: str, where: str) -> None:
    """Raises InvalidInput naming the first key of a preset file that cannot be; ``kind`` is gpus or models."""
    _check(GpuFile if kind == "gpus" else ModelFile, raw, where)
    if kind == "gpus":
        _check(Tflops, raw["tflops"], where, "tflops.")
        if "link" in raw:
            _check(Link, raw["link"], where, "link.")


def _check(model: type[Strict], raw: dict[str, Any], where: str, table: str = "") -> None:
    try:
        model.model_validate(raw)
    except ValidationError as e:
        # a key that is unknown and one that is missing are often the same key: the unknown one says which
        first = min(e.errors(), key=lambda error: error["type"] != "extra_forbidden")
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        name = str(first["loc"][0]) if first["loc"] else "preset"
        if first["type"] == "extra_forbidden":
            raise UnknownName(f"key in {where}", f"{table}{name}", fields) from None
        known = fields.get(name)
        rule = (known.description if known else None) or first["msg"].removeprefix("Input should be ").lower()
        # pydantic hands over the whole table where a key of it is missing
        value = None if first["type"] == "missing" else first.get("input")
        raise InvalidInput(f"{table}{name}", value, rule, where) from None
