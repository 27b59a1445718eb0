"""Parameters of what stands beside a decoder: vision and audio towers, projectors.

They matter for the bytes of the weights alone: a tower runs once per image and caches nothing. Each count equals the
parameters of the transformers class (5.23); where there is none, of the authors' own code, which is then named.
"""

from __future__ import annotations

from kvplan.importers.config import Config
from kvplan.importers.towers.families import FAMILIES
from kvplan.importers.towers.readers import READERS
from kvplan.specs import Tower

__all__ = ["towers"]


def towers(c: Config, *, counted: bool, hidden: int | None = None) -> tuple[Tower, ...]:
    """The towers of an outer config, found by its ``model_type``; none where the type is not known to have any.

    ``counted`` says whether the class's count holds them; ``hidden`` is the decoder's width where the caller knows it,
    else it is read from the nested config.
    """
    model_type = str(c.raw.get("model_type"))
    family = FAMILIES.get(model_type) or READERS.get(model_type)
    sizes = {} if family is None else family(c, hidden)
    return tuple(Tower(name, size.parameters, counted, size.vectors) for name, size in sizes.items())
