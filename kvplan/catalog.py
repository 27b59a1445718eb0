"""Presets: models and accelerators as data files, found alike in a checkout, an editable install and a wheel.

Shipped files are read without a schema check (a test checks them all); files from ``KVPLAN_PRESETS`` are somebody
else's and pass through pydantic first. No pickle, no Python, no expressions.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.errors import InvalidInput, MissingExtra, UnknownName
from kvplan.importers import from_config
from kvplan.importers.files import CONFIG_LIMIT, TOML_LIMIT, parse_object, parse_toml, read_bytes, read_text, unreadable
from kvplan.specs import ModelSpec

__all__ = [
    "Gpu",
    "ModelPreset",
    "find_gpu",
    "gpu_names",
    "known_names",
    "load",
    "model_names",
    "model_preset",
    "preset_folders",
]

SUFFIX = ".toml"


class Gpu(NamedTuple):
    """One accelerator: memory in bytes as the driver exposes it, bandwidth in bytes/s, dense TFLOPS per format."""

    name: str
    vendor: str
    label: str
    aliases: tuple[str, ...]
    kind: str
    architecture: str
    memory_bytes: int
    memory_basis: str
    memory_label: str
    memory_source: str
    bandwidth_bytes_per_s: int
    bandwidth_source: str
    tflops: dict[str, float]
    tflops_source: str
    compute_capability: str
    link: dict[str, Any]
    price_usd_per_hour: float | None
    price_source: str
    checked: str
    notes: tuple[str, ...]


class ModelPreset(NamedTuple):
    """One published config and where it comes from."""

    name: str
    label: str
    hub: str
    aliases: tuple[str, ...]
    source: str
    checked: str
    attention: str
    config: str  # the published JSON text


def preset_folders(kind: str) -> list[Path]:
    """Folders that hold presets of a kind (models, gpus), a user's ``KVPLAN_PRESETS`` first.

    Raises InvalidInput where that names no folder: what somebody meant to add would be missing without a word.
    """
    package = Path(__file__).parent
    shipped = package / "presets"
    if not shipped.is_dir():
        shipped = package.parent / "presets"
    folders = [shipped / kind]
    extra = os.environ.get("KVPLAN_PRESETS")
    if extra:
        if not os.path.isdir(extra):
            raise InvalidInput(
                "folder", None, "an existing one with gpus/ and models/ in it", f"KVPLAN_PRESETS={extra}"
            )
        folders.insert(0, Path(extra) / kind)
    return folders


def _slug(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _files(kind: str) -> dict[str, Path]:
    """Every preset file of a kind by its name, the user's first; a user's file hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in preset_folders(kind):
        try:
            entries = sorted(os.listdir(folder))
        except OSError:
            continue
        for entry in entries:
            if entry.endswith(SUFFIX):
                found.setdefault(entry.removesuffix(SUFFIX), folder / entry)
    return found


def _read(path: Path) -> dict[str, Any]:
    """One preset file as it stands. Raises InvalidInput where it is no TOML."""
    try:
        text = read_text(path, "preset", TOML_LIMIT)
    except InvalidInput as e:
        raise InvalidInput("preset", path.name, e.rule, str(path)) from None
    return parse_toml(text, "preset", str(path))


def _checked(raw: dict[str, Any], path: Path, kind: str) -> dict[str, Any]:
    """The user's own files are checked against the schema; shipped ones by the tests."""
    if os.environ.get("KVPLAN_PRESETS") and path.is_relative_to(os.environ["KVPLAN_PRESETS"]):
        from kvplan.schema import check_preset

        check_preset(raw, kind, str(path))
    return raw


def _find(kind: str, name: str) -> tuple[str, dict[str, Any]] | None:
    """A preset by its file name, else by an alias (which needs a look into every file).

    A file that cannot be read answers for its own name alone: the search for an alias passes it by.
    """
    slug = _slug(name)
    if not slug or "/" in slug or os.sep in slug or slug.startswith(".") or "\0" in slug:
        return None
    for folder in preset_folders(kind):
        path = folder / (slug + SUFFIX)
        if os.path.lexists(path):  # what is no regular file is refused when it is read
            return slug, _checked(_read(path), path, kind)
    for file_name, path in _files(kind).items():
        try:
            raw = _read(path)
        except InvalidInput:
            continue
        if slug in map(_slug, (file_name, *_aliases(raw))):
            return file_name, _checked(raw, path, kind)
    return None


def _aliases(raw: dict[str, Any]) -> list[str]:
    aliases = raw.get("aliases")
    return [str(alias) for alias in aliases] if isinstance(aliases, list) else []


def known_names(kind: str) -> list[str]:
    """Names and aliases of every preset of a kind (models, gpus): what a shell may complete."""
    names: list[str] = []
    for file_name, path in _files(kind).items():
        try:
            names += [file_name, *_aliases(_read(path))]
        except InvalidInput:
            continue
    return sorted(names)


def _unknown(kind: str, word: str, name: str, hint: str) -> UnknownName:
    """The error for a name that no preset has; names the user's files that could not be searched for it."""
    files = _files(kind)
    for path in files.values():
        try:
            _read(path)
        except InvalidInput:
            hint += f"; not readable, and not searched: {path}"
    return UnknownName(word, name, files, hint)


# --- accelerators ----------------------------------------------------------------------------------------------------


def gpu_names() -> tuple[str, ...]:
    """Slugs of every accelerator preset."""
    return tuple(sorted(_files("gpus")))


def find_gpu(name: str) -> Gpu:
    """The accelerator of a slug or alias. Raises UnknownName with the nearest ones, InvalidInput for what is no text."""
    if not isinstance(name, str):
        raise InvalidInput("gpu", name, "a slug or an alias of `kvplan gpus`")
    return _gpu(name)


@lru_cache(maxsize=256)
def _gpu(name: str) -> Gpu:
    found = _find("gpus", name)
    if found is None:
        raise _unknown("gpus", "GPU", name, "`kvplan gpus` lists them")
    slug, raw = found
    tflops = {key: float(value) for key, value in raw.get("tflops", {}).items() if key != "source"}
    return Gpu(
        name=slug,
        vendor=raw["vendor"],
        label=raw["label"],
        aliases=tuple(raw.get("aliases", ())),
        kind=raw["kind"],
        architecture=str(raw.get("architecture", "")),
        memory_bytes=raw["memory_bytes"],
        memory_basis=raw["memory_basis"],
        memory_label=raw["memory_label"],
        memory_source=raw["memory_source"],
        bandwidth_bytes_per_s=raw["bandwidth_bytes_per_s"],
        bandwidth_source=raw["bandwidth_source"],
        tflops=tflops,
        tflops_source=str(raw.get("tflops", {}).get("source", "")),
        compute_capability=str(raw.get("compute_capability", "")),
        link=dict(raw.get("link", {})),
        price_usd_per_hour=raw.get("price_usd_per_hour"),
        price_source=str(raw.get("price_source", "")),
        checked=str(raw["checked"]),
        notes=tuple(raw.get("notes", ())),
    )


find_gpu.cache_clear = _gpu.cache_clear  # type: ignore[attr-defined]  # where KVPLAN_PRESETS changes


# --- models ----------------------------------------------------------------------------------------------------------


def model_names() -> tuple[str, ...]:
    """Slugs of every model preset."""
    return tuple(sorted(_files("models")))


@lru_cache(maxsize=256)
def model_preset(name: str) -> ModelPreset:
    """The model preset of a slug or alias. Raises UnknownName with the nearest ones."""
    found = _find("models", name)
    if found is None:
        raise _unknown("models", "model", name, "or a path to a config.json, a .gguf, or org/name on the Hub")
    slug, raw = found
    return ModelPreset(
        name=slug,
        label=raw["label"],
        hub=raw.get("hub", ""),
        aliases=tuple(raw.get("aliases", ())),
        source=raw["source"],
        checked=str(raw["checked"]),
        attention=raw.get("attention", ""),
        config=raw["config"],
    )


@lru_cache(maxsize=256)
def _preset_spec(name: str) -> ModelSpec:
    preset = model_preset(name)
    where = f"preset {preset.name}"
    return from_config(parse_object(preset.config.encode(), "config", where), preset.name, where)


def load(model: object) -> ModelSpec:
    """The spec of a model, from whatever names it.

    ``model`` is a preset name, a path to a ``config.json``, to a folder that holds one, or to a ``.gguf``, a Hub id
    (``org/name`` or ``org/name@revision``, needs the ``hub`` extra and a network), a dict (a parsed config.json), or a
    ModelSpec, which is returned as it is. Raises a KvplanError that says what is wrong and what instead.
    """
    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, dict):
        return from_config(model, where="config")
    if isinstance(model, Path):
        if "\0" in str(model):
            raise InvalidInput("model", str(model), "an existing file or folder")
        return _from_path(model)
    if not isinstance(model, str) or not model.strip() or "\0" in model or len(model) > 4096:
        raise InvalidInput("model", model, "a preset name, a path, a Hub id, a dict or a ModelSpec")
    path = Path(os.path.expanduser(model))  # pathlib's own raises for the home of nobody
    looks_like_path = model.endswith((".json", ".gguf")) or model.startswith((".", "~", "/")) or os.sep * 2 in model
    # os.path answers False where pathlib raises (a name too long for the file system)
    exists = os.path.isdir(path) or os.path.isfile(path)
    if looks_like_path or (exists and not _is_preset(model)):
        return _from_path(path)
    if model.count("/") == 1:
        from kvplan.importers.hub import spec_from_hub

        try:
            return spec_from_hub(model)
        except MissingExtra as e:
            name = _slug(model.partition("@")[0].rpartition("/")[2])
            if not _is_preset(name):
                raise
            raise MissingExtra(e.what, e.extra, f"or ask for the preset {name}, which needs none") from None
    return _preset_spec(model)


def _is_preset(name: str) -> bool:
    return "/" not in name and any(
        os.path.isfile(folder / (_slug(name) + SUFFIX)) for folder in preset_folders("models")
    )


def _from_path(path: Path) -> ModelSpec:
    where = str(path)
    if os.path.isdir(path):
        return _from_folder(path)
    if not os.path.exists(path):
        raise InvalidInput("model", where, "an existing file or folder")
    if path.suffix.lower() == ".gguf":
        from kvplan.importers.gguf import spec_from_gguf

        return spec_from_gguf(path)
    name = path.stem if path.stem != "config" else Path(os.path.abspath(path)).parent.name
    return from_config(read_json(path), name, where)


def _from_folder(path: Path) -> ModelSpec:
    from kvplan.specs import replace

    config = path / "config.json"
    try:
        entries = os.listdir(path)
    except OSError as e:
        raise unreadable(e, path, "model") from None
    if config.name not in entries:
        ggufs = sorted(entry for entry in entries if entry.endswith(".gguf"))
        if len(ggufs) == 1:
            return _from_path(path / ggufs[0])
        raise InvalidInput("model", str(path), "a folder that holds a config.json")
    spec = from_config(read_json(config), os.path.basename(os.path.abspath(path)), str(config))
    from kvplan.importers.safetensors import folder_weight_bytes

    weights = folder_weight_bytes(path)
    if weights is not None:
        spec = replace(spec, weight_bytes=weights[0], weight_source=weights[2])
    return spec


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file of at most CONFIG_LIMIT bytes; published ones hold Infinity, and importers check what they read."""
    return parse_object(read_bytes(path, "model", CONFIG_LIMIT), "config", str(path), finite=False)
