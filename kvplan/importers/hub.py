"""Models on the Hugging Face Hub: config.json and the size of the weights, never the weights, never code.

huggingface_hub does the talking, and honours HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the cache folders; they are
read when a model is asked for, not when it is imported.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.errors import InvalidInput, KvplanError, MissingExtra
from kvplan.importers import from_config
from kvplan.importers.files import CONFIG_LIMIT, parse_object, read_bytes
from kvplan.importers.safetensors import INDEX, INDEX_LIMIT, index_bytes
from kvplan.specs import ModelSpec, replace
from kvplan.text import shorten

__all__ = ["spec_from_hub"]

SINGLE = "model.safetensors"
TIMEOUT = 10.0  # seconds to wait for an answer
ID = re.compile(r"^([A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96})(?:@([\w./-]{1,200}))?$", re.ASCII)
ENDPOINT = "https://huggingface.co"
TRUE = ("1", "ON", "YES", "TRUE")


class _Place(NamedTuple):
    """One repository at one revision, and how to reach it."""

    repo: str
    revision: str
    endpoint: str
    cache: str | None
    offline: str  # why the local cache alone may be asked; "" where it need not be

    @property
    def where(self) -> str:
        return f"{self.endpoint}/{self.repo}"


def spec_from_hub(name: str) -> ModelSpec:
    """The spec of ``org/name`` or ``org/name@revision``, with the bytes of its weights where the Hub knows them.

    Fetched are config.json and either the safetensors index or the header of the one safetensors file; where neither
    can be had, weights follow from shapes and a note says so. Raises MissingExtra without huggingface_hub, InvalidInput
    for a repository, revision or file that is not there or not allowed, and when nothing answers.
    """
    match = ID.match(name)
    if match is None:
        raise InvalidInput("model", name, "org/name or org/name@revision, as on the Hugging Face Hub")
    try:
        import huggingface_hub  # noqa: F401  # the lazy import is the question
    except ImportError:
        raise MissingExtra(f"reading {shorten(name)} from the Hugging Face Hub", "hub") from None
    home = os.environ.get("HF_HOME")
    place = _Place(
        match[1],
        match[2] or "main",
        (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/"),
        os.environ.get("HF_HUB_CACHE") or (str(Path(home) / "hub") if home else None),
        "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in TRUE else "",
    )
    try:
        place, file = _fetch(place, "config.json", CONFIG_LIMIT)
        where = f"{place.where}/config.json"
        raw = parse_object(read_bytes(file, "config", CONFIG_LIMIT), "config", where, finite=False)
        spec = from_config(raw, place.repo, place.where)
    except KvplanError:
        raise
    except Exception as e:  # whatever the library and its HTTP client raise becomes one line
        raise _explained(e, place, "config.json") from None
    return _with_weights(spec, place)


def _fetch(place: _Place, name: str, limit: int) -> tuple[_Place, Path]:
    """A small file of the repository in the local cache, and the place with its revision resolved to a commit.

    Without a connection the cache answers, as it does in transformers.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    commit = None
    if not place.offline:
        url = hf_hub_url(place.repo, name, revision=place.revision, endpoint=place.endpoint)
        try:
            about = get_hf_file_metadata(url, timeout=TIMEOUT)
        except (HfHubHTTPError, HFValidationError):
            raise
        except Exception:  # no answer, in the words of whichever HTTP client the library uses
            place = place._replace(offline=f"{place.endpoint} does not answer")
        else:
            commit = about.commit_hash
            if about.size is not None and about.size > limit:
                raise InvalidInput(name, f"{about.size} bytes", f"at most {limit} bytes", place.where)
    path = hf_hub_download(
        place.repo,
        name,
        revision=place.revision,  # not the commit: the cache remembers what the name stood for
        endpoint=place.endpoint,
        cache_dir=place.cache,
        etag_timeout=TIMEOUT,
        local_files_only=bool(place.offline),
    )
    return place._replace(revision=commit or place.revision), Path(path)


def _with_weights(spec: ModelSpec, place: _Place) -> ModelSpec:
    """Adds the bytes of the weights from the index, else from the header of the single file, else a note."""
    try:
        _, index = _fetch(place, INDEX, INDEX_LIMIT)
        where = f"{place.where}/{INDEX}"
        raw = parse_object(read_bytes(index, "index", INDEX_LIMIT), "index", where, table=True)
        total = index_bytes(raw, where)
        return replace(spec, weight_bytes=total, weight_source=f"metadata.total_size of {place.where}/{INDEX}")
    except Exception as e:
        reason: Exception = e
    if not place.offline and _absent(reason):
        try:
            total = _single_bytes(place)
            return replace(spec, weight_bytes=total, weight_source=f"tensor header of {place.where}/{SINGLE}")
        except Exception as e:
            reason = e
    why = f"{place.where} gave no size of its weights ({_kind(reason)}): they follow from shapes"
    return replace(spec, notes=(*spec.notes, why))


def _single_bytes(place: _Place) -> int:
    """Bytes of the tensors of ``model.safetensors``: its header, fetched by range."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=place.endpoint)
    header = api.parse_safetensors_file_metadata(place.repo, SINGLE, revision=place.revision)
    return sum(int(tensor.data_offsets[1]) - int(tensor.data_offsets[0]) for tensor in header.tensors.values())


def _absent(error: Exception) -> bool:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def _kind(error: Exception) -> str:
    if _absent(error):
        return "absent"
    return "not in the local cache" if isinstance(error, FileNotFoundError) else type(error).__name__


def _explained(error: Exception, place: _Place, name: str) -> KvplanError:
    """The library's error as one line that says what instead."""
    from huggingface_hub import errors

    known: Any = errors
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, known.GatedRepoError):
        rule = "a repository you may read: it is gated, accept its terms on its page and set HF_TOKEN"
    elif isinstance(error, known.RevisionNotFoundError):
        return InvalidInput("revision", place.revision, "a branch, tag or commit of the repository", place.where)
    elif isinstance(error, known.LocalEntryNotFoundError):
        rule = f"a model in the local cache, as {place.offline or f'{place.endpoint} does not answer'}"
    elif isinstance(error, known.RepositoryNotFoundError):
        rule = f"a repository of {place.endpoint} (private ones need HF_TOKEN)"
    elif isinstance(error, known.EntryNotFoundError):
        rule = f"a repository that holds a {name} (a GGUF can be read as a file)"
    elif isinstance(error, known.HFValidationError):
        rule = "org/name or org/name@revision"
    elif status is not None:
        rule = f"a repository that {place.endpoint} gives (it answered HTTP {status})"
    else:
        rule = f"a repository that can be reached ({place.endpoint}: {type(error).__name__})"
    return InvalidInput("model", place.repo, rule)
