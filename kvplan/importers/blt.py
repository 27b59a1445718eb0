"""Meta's byte latent transformer, which no spec can hold."""

from __future__ import annotations

from typing import NoReturn

from kvplan.importers import importer
from kvplan.importers.config import Config


@importer("blt")
def blt(c: Config) -> NoReturn:
    """BLT: its global layers see one position per patch, and a model of its own cuts patches where bytes surprise it.

    How many entries they keep, and what they compute, follows from the text and not from its length. Source: transformers
    models/blt, which besides runs published files without a cache only.
    """
    rule = (
        "a model whose cache follows from the number of tokens; BLT's follows from patches, cut by what the text says"
    )
    raise c.error("model_type", c.get("model_type"), rule)
