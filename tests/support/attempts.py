"""Calls that may fail on purpose: a result or a message, and any other exception passes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.errors import KvplanError


def attempt(call: Callable[..., Any], *arguments: object) -> tuple[Any, str]:
    """What the call returns and an empty message, or None and the message of its KvplanError."""
    try:
        return call(*arguments), ""
    except KvplanError as error:
        return None, str(error)
