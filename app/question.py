"""What is asked: the controls in the sidebar, each a field of the link, and the keyword arguments that they make."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import streamlit as st

from kvplan import InvalidInput, KvplanError, page

__all__ = ["ask", "carried", "check_link", "flags", "given", "link", "look", "model", "units"]

VIEWS = ("Explore", "Compare", "Layers", "Capacity", "Roofline", "Papers", "Validation")
SOURCES = ("preset", "config.json", "numbers")
RANKS = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64]
AXES = {
    "heads": ("Heads", "How many KV heads a layer has."),
    "layers": ("Layers", "Whose KV a layer reads."),
    "tokens": ("Tokens", "Which tokens stay in the cache."),
    "rank": ("Rank", "What an entry is: keys and values, or a latent."),
    "bits": ("Bits", "How an element is stored, scales and residual windows counted."),
    "reads": ("Reads", "How much of the cache a step looks at."),
    "place": ("Place", "What lies in host memory or on disk."),
}
NUMBERS = {
    "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336, "vocab": 128256, "window": 0,
}  # fmt: skip
FORMATS = {"weight_dtype": "Weights", "kv_dtype": "K and V", "cache_type_k": "K apart", "cache_type_v": "V apart"}
PLAIN = {"tp": 1, "pp": 1, "dp": 1, "engine": "ideal"}  # what a command line need not say
LINK: dict[str, Any] = {"bind": "query-params", "persist_state": "session"}
AS_IT_IS, NO_GPU = page.NOTHING
# What each field of a link may hold, for page.read_link.
FIELDS: dict[str, Any] = {
    "view": VIEWS, "source": SOURCES, "units": tuple(page.UNITS), "by": ("schemes", "engines", "GPUs"),
    "model": "models", "gpu": "gpus", "engine": "engines", "engines": page.Several("engines", 3),
    "row_schemes": page.Several(None, 6), "row_engines": page.Several("engines", 6), "row_GPUs": page.Several("gpus", 6),
    "context": 1, "batch": 1, "tp": 1, "pp": 1, "dp": 1, "exact": ("true", "false", "True", "False"),
    "engine_version": lambda: ("newest", *(v for row in page.listing("engines") for v in row["versions"])),
    "paper": lambda: ("all", *(row.paper for row in page.published())),
    **dict.fromkeys((f"n_{name}" for name in NUMBERS), page.DIGITS), **dict.fromkeys(FORMATS, "formats"),
    **dict.fromkeys((*AXES, "options", "cases", "rows", "term", "config")),
}  # fmt: skip


def check_link() -> None:
    """Reads the link once: aliases become names, and what cannot be is said in one sentence and left out."""
    if "opened" in st.session_state:
        return
    st.session_state["opened"] = True
    asked = {name: st.query_params.get_all(name) for name in st.query_params}
    found, wrong = page.read_link(asked, FIELDS)
    try:
        if "config" in found:
            st.session_state["pasted"] = page.unpacked(found["config"][0])
    except KvplanError as e:
        del found["config"]
        wrong.insert(0, str(e))
    # who carries a model, even one that cannot be read, asks about no other
    if "config" in asked:
        if found.setdefault("source", ["config.json"]) != ["config.json"]:
            wrong.insert(0, f"config, where source is {found['source'][0]}")
    elif any(name.startswith("n_") for name in found) and "model" not in found:
        found.setdefault("source", ["numbers"])
    for name in ("context", "batch", "tp", "pp", "dp"):
        st.session_state[f"linked_{name}"] = found.get(name)
    if wrong:
        st.session_state["complaint"] = f"The link holds what cannot be, which is left out: {page.clauses(wrong)}."
    if found != asked:
        st.query_params.from_dict(found)
        st.rerun()


def ask() -> None:
    """Draws the controls and leaves what was asked in the session, or what they cannot make, which every view then says."""
    st.session_state["refused"] = InvalidInput("model", None, "what the controls in the sidebar make")
    try:
        st.session_state["asked"] = _asked()
    except KvplanError as e:
        st.session_state["refused"] = e
        raise
    st.session_state["refused"] = None


def _asked() -> dict[str, Any]:
    asked = _model()
    st.subheader("Work")
    asked["context"] = _slider("Context, tokens per sequence", page.CONTEXTS, "context", 8192)
    asked["batch"] = _slider("Batch, sequences", page.BATCHES, "batch")
    st.subheader("Scheme, axis by axis")
    asked["scheme"] = _scheme()
    st.subheader("Formats")
    formats = [row["name"] for row in page.listing("formats")]
    columns = [*st.columns(2), *st.columns(2)]
    for column, (name, label) in zip(columns, FORMATS.items(), strict=True):
        asked[name] = _pick(label, formats, name, within=column)
    st.subheader("Engine and GPUs")
    asked |= _engine()
    asked["gpu"] = _pick("GPU", [row["name"] for row in page.listing("gpus")], "gpu", NO_GPU)
    asked["tp"] = _slider("Tensor parallel ranks", RANKS, "tp")
    asked["pp"] = _slider("Pipeline stages", RANKS, "pp")
    asked["dp"] = _slider("Data parallel replicas", RANKS, "dp")
    st.caption(page.as_text(page.ranks(asked["tp"], asked["pp"], asked["dp"])))
    st.subheader("Page")
    st.segmented_control("Units", list(page.UNITS), default="GiB", required=True, key="units", **LINK)
    st.toggle("Exact numbers beside the rounded ones", key="exact", **LINK)
    return {name: value for name, value in asked.items() if value not in (None, "", PLAIN.get(name))}


def _slider(label: str, stops: Iterable[int], key: str, default: int = 1) -> int:
    """A slider over the stops, and over the one that a link asked for."""
    linked = st.session_state.get(f"linked_{key}") or []
    values = sorted({*stops, *(page.count(text, key) for text in linked)})
    return st.select_slider(label, values, default, format_func=page.short, key=key, **LINK)


def _pick(label: str, names: list[str], key: str, nothing: str = AS_IT_IS, within: Any = st, **more: Any) -> str | None:
    value = within.selectbox(label, [nothing, *names], key=key, **LINK, **more)
    return None if value == nothing else value


def _model() -> dict[str, Any]:
    """Chooses the model, and returns the plain numbers where it is made of them."""
    source = st.segmented_control("Model", SOURCES, default="preset", required=True, key="source", **LINK)
    st.session_state["model_asked"] = None
    if source == "config.json":
        _config()
        return {}
    _carry(None)
    if source == "preset":
        presets = {row["name"]: row for row in page.listing("models")}
        start = list(presets).index("llama-3.1-8b")
        name = st.selectbox("Preset, type to search", list(presets), start, key="model", **LINK)
        st.caption(page.as_text(f"{presets[name]['label']}: {presets[name]['attention']}"))
        st.session_state["model_asked"] = name
        return {}
    made = {
        name: column.number_input(name.replace("_", " "), 0, None, n, key=f"n_{name}", **LINK)
        for column, (name, n) in zip(cycle(st.columns(2)), NUMBERS.items(), strict=False)
    }
    return {name: n for name, n in made.items() if n}


def _config() -> None:
    """Takes a config; the address holds this one or none, so that it never means another model."""
    file = st.file_uploader("Upload a config.json", ["json"], key="file")
    text = st.text_area("or paste it", key="pasted", height=120, max_chars=400_000, persist_state="session")
    word = None
    try:
        if not file and not text.strip():
            raise InvalidInput(
                "config.json", None, "a published one, pasted or uploaded; the address of this page holds none"
            )
        st.session_state["model_asked"] = page.config(file.getvalue() if file else text)
        word = page.packed(model())
    finally:
        _carry(word)
    if word is None:
        st.info(
            "The config is too long for an address: that of this page does not hold it, and opened again asks for it."
        )


def _carry(word: str | None) -> None:
    """Keeps the config of the address bar in step with the one that is shown."""
    if word is None:
        st.query_params.pop("config", None)
    elif st.query_params.get("config") != word:
        st.query_params["config"] = word


def _scheme() -> str | None:
    """One member per axis; any member may be typed instead. The notation that they make stands below."""
    columns = (column for _ in AXES for column in st.columns(2))  # a row of two when it is asked for
    parts = [
        _pick(label, list(page.MENU[axis]), axis, within=column, help=page.as_text(words), accept_new_options=True)
        for (axis, (label, words)), column in zip(AXES.items(), columns, strict=False)
    ]
    chain = page.chain(parts)
    st.code(page.printable(chain or "as published"), language=None, wrap_lines=True)
    return chain


def _engine() -> dict[str, Any]:
    engines = {row["name"]: row for row in page.listing("engines")}
    columns = st.columns(2)
    name = columns[0].selectbox("Engine", list(engines), key="engine", **LINK)
    versions = ["newest", *engines[name]["versions"]]
    version = columns[1].selectbox("Version", versions, key="engine_version", **LINK)
    options = None
    if engines[name]["options"]:
        words = "  \n".join(
            f"**{page.as_text(o['name'])}**: {page.as_text(o['help'])}" for o in engines[name]["options"]
        )
        text = st.text_input("Engine options: name=value, blanks between", key="options", help=words, **LINK)
        options = page.options(text)
    return {
        "engine": name,
        "engine_version": None if version == "newest" else version,
        "engine_options": options or None,
    }


def model() -> object:
    """The preset's name, the config that was pasted, or None for plain numbers."""
    return st.session_state.get("model_asked")


def flags(*without: str) -> dict[str, Any]:
    """Keyword arguments of ``kvplan.plan``, without some."""
    if st.session_state["refused"]:
        raise st.session_state["refused"]
    return {name: value for name, value in st.session_state["asked"].items() if name not in without}


def given(command: str, *without: str, **more: Any) -> str:
    """The command line that asks the same."""
    return page.command_line(command, model(), **flags(*without), **more)


def link() -> str:
    """The address that opens what is seen, a pasted config included."""
    fields = {name: st.session_state[name] for name in FIELDS if name in st.session_state}
    if isinstance(model(), dict):
        fields["config"] = page.packed(model())
    return page.link(st.context.url or "", fields)


def carried() -> bool:
    """Whether that address holds all that is asked: a config may be too long for it."""
    return not isinstance(model(), dict) or page.packed(model()) is not None


def units() -> str:
    """GiB or GB."""
    return st.session_state.get("units", "GiB")


def look() -> page.figures.Look:
    """How pictures are drawn: the page's ground, its units; the heading stands in the page."""
    return page.figures.Look(dark=st.context.theme.type == "dark", units=units())
