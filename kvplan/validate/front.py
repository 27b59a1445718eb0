"""What ``kvplan validate`` asks for, in one place: a suite, a config against its own class, or one configuration."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from kvplan.catalog import model_preset, read_json
from kvplan.errors import InvalidInput, MissingExtra, UnknownName
from kvplan.importers.files import parse_object
from kvplan.text import printable
from kvplan.units import parse_count
from kvplan.validate.cases import single
from kvplan.validate.checks import check, spec_of
from kvplan.validate.records import BAD, NOT_RUN, NOTHING, Record, Row, environment, junit, said, written
from kvplan.validate.suite import any_bad, device_of, run_cases, summary, table
from kvplan.validate.suites import SUITES, lckv_table, run_suite

__all__ = ["Result", "by_type", "show", "types_text", "validate"]

# Engines that size a cache on a CPU, asked about random models; the module of each answers ``compare(count, seed)``.
ENGINES = {
    "llama.cpp": "kvplan.validate.llama_cpp",
    "vllm": "kvplan.validate.vllm",
    "mlx": "kvplan.validate.mlx",
}
NAMES = [*SUITES, "gpu", "types"]
REFERENCES = ("transformers", *ENGINES)
INCOMPLETE = 3
LONGEST = 10_000  # minutes that may be asked for: a week
PROOF = 64  # tokens over which a single configuration's logits are proved: the definition runs key by key


class Result(NamedTuple):
    """The record of a run, and what to print above its table."""

    record: Record
    head: str

    @property
    def holds(self) -> bool:
        """Whether nothing says no, and something was checked."""
        rows = self.record.rows
        return not any_bad(rows) and any(row.verdict not in NOTHING for row in rows)

    @property
    def code(self) -> int:
        """The exit code: 0 where it holds, 1 where something says no, 3 where nothing does but time ran out."""
        late = self.record.about.get("suite") == "gpu" and any(row.verdict == NOT_RUN for row in self.record.rows)
        if late and not any_bad(self.record.rows):
            return INCOMPLETE
        return 0 if self.holds else 1

    def text(self, columns: int) -> str:
        """The table, the summary, and for a search the table of schemes."""
        rows = self.record.rows
        if self.record.about.get("suite") == "gpu":
            from kvplan.validate.gpu.told import told

            return told(rows, self.record.notes, columns)
        few = len(rows) <= 60
        body = table(rows, columns, only=lambda row: few or row.verdict in (*BAD, "skipped"))
        return body + lckv_table(rows) + self.head + "\n"


def validate(
    model: object = None,
    *,
    suite: str | None = None,
    reference: str | None = None,
    device: str = "cpu",
    record: str | None = None,
    resume: bool = False,
    junit_path: str | None = None,
    jobs: int = 2,
    minutes: float | str | None = None,
    steps: int | str = 4,
    types: Iterable[str] = (),
    count: int | str = 500,
    seed: int | str = 0,
    **flags: Any,
) -> Result:
    """Runs what was asked for. Raises a KvplanError that names the flag, its value and what is allowed.

    ``model`` or numbers name one configuration for the small transformer, or with ``reference="transformers"`` a config
    for its own class; ``suite`` names many. With the name of an engine as ``reference`` its own sizing code is asked about
    ``count`` random models, drawn from ``seed``. Rows done so far are in the file ``record`` at any moment.
    """
    asked = {name: value for name, value in flags.items() if value is not None}
    if reference is not None and reference not in REFERENCES:
        raise UnknownName("reference", reference, REFERENCES)
    if suite == "types":
        reference = "transformers"
    elif suite is not None and suite not in SUITES and suite != "gpu":
        raise UnknownName("suite", suite, NAMES)
    if minutes is not None and suite != "gpu":
        raise InvalidInput("--minutes", minutes, "--suite gpu beside it: no other is bounded")
    if suite is not None and (model is not None or asked):
        given = "model" if model is not None else next(iter(asked))
        raise InvalidInput(given, model if model is not None else asked[given], f"nothing beside --suite {suite}")
    if reference in ENGINES and (model is not None or asked or suite is not None):
        raise InvalidInput("reference", reference, "alone: it draws its own models")
    if suite is None and reference == "transformers" and model is None and not asked:
        suite = "types"
    if suite is None and model is None and not asked and reference is None:
        raise InvalidInput("validate", None, f"a model, numbers, or --suite {' | '.join(NAMES)}")
    for value, option in ((steps, "steps"), (count, "count")):
        parse_count(value, option)
    if jobs < 1:
        raise InvalidInput("--jobs", jobs, "1 or more")
    device = device_of(device)
    if resume and _place(record, suite, device) is None:
        raise InvalidInput("--resume", True, "--record FILE beside it: the record to go on with")
    if record is not None and record == junit_path:
        raise InvalidInput("--junit", junit_path, "another file than --record")
    if suite == "gpu":
        return _gpu(device, minutes, _place(record, suite, device), resume, junit_path)
    name = suite or (f"reference {reference}" if reference else "single")
    kept = Record(environment(device, name), _place(record, suite, device), resume=resume)
    if suite == "types":
        head = _types(kept, tuple(types), jobs)
    elif suite is not None:
        run_suite(suite, kept, device, jobs)
        head = summary(kept.rows)
    elif reference in ENGINES:
        for row in import_module(ENGINES[reference]).compare(
            parse_count(count, "count"), parse_count(seed, "seed", least=0)
        ):
            kept.add([row])
        head = summary(kept.rows)
    elif reference is not None:
        head = _against_class(model, kept, asked)
    else:
        head = _one(model, kept, device, parse_count(steps, "steps"), asked)
    return _kept(Result(kept, head), name, junit_path)


def _kept(result: Result, name: str, junit_path: str | None) -> Result:
    """The result, after saying where its record lies and writing its report."""
    if result.record.path is not None:
        said(f"record: {result.record.path}")
    if junit_path is not None:
        written(Path(junit_path), junit(result.record.rows, name), "--junit")
    return result


def _gpu(device: str, minutes: float | str | None, place: Path | None, resume: bool, junit_path: str | None) -> Result:
    """The bounded suite, in worker processes of its own; its rows say where transformers is not installed."""
    from kvplan.validate.gpu import MINUTES, run_gpu

    try:
        allowed = MINUTES if minutes is None else float(str(minutes).replace("_", "?"))
    except ValueError:
        allowed = 0.0
    if not 0 < allowed <= LONGEST:
        raise InvalidInput("--minutes", minutes, f"a number of minutes above 0 and up to {LONGEST:,}")
    return _kept(Result(run_gpu(device, allowed, place, resume=resume), ""), "gpu", junit_path)


def show(path: str, columns: int, *, as_json: bool = False) -> str:
    """A record as text: where it was made, what it says at a glance, and every row. Raises InvalidInput where it is none."""
    record = Record.of(Path(path), "--show")
    if as_json:
        return record.to_json()
    result = Result(record, summary(record.rows))
    names = ("suite", "device", "device_name", "driver", "cuda", "torch", "python", "kvplan", "git", "sources", "date")
    said_of = ", ".join(f"{name} {printable(str(record.about[name]))[:80]}" for name in names if record.about.get(name))
    where = textwrap.fill(said_of, columns, subsequent_indent="  ")
    glance = (
        result.text(columns) if record.about.get("suite") == "gpu" else lckv_table(record.rows) + result.head + "\n"
    )
    drawn = f"{where}\n{glance}{table(record.rows, columns)}"
    return "\n".join(printable(line, 10_000) for line in drawn.split("\n"))


def _place(record: str | None, suite: str | None, device: str) -> Path | None:
    """Where the record goes: as asked for; a long suite is kept even unasked, so that it can go on after a kill."""
    if record is not None:
        if not record.strip() or (Path(record).exists() and not Path(record).is_file()):
            raise InvalidInput("--record", record, "the name of a file")
        return Path(record)
    if suite not in ("full", "lckv") and (suite, device) != ("gpu", "cuda"):
        return None
    folder = Path("tests/records")
    return (folder if folder.is_dir() else Path()) / f"kvplan-{suite}-{device}.json"


def _one(model: object, record: Record, device: str, steps: int, asked: dict[str, Any]) -> str:
    plan = {"model": model, **asked} if model is not None else dict(asked)
    context, batch = parse_count(plan.pop("context", PROOF), "context"), parse_count(plan.pop("batch", 1), "batch")
    numbers = (
        "layers",
        "hidden",
        "heads",
        "kv_heads",
        "head_dim",
        "ffn",
        "vocab",
        "window",
        "experts",
        "active_experts",
    )
    plan |= {name: parse_count(plan[name], name) for name in numbers if name in plan}
    spec = spec_of(plan)
    case = single({**plan, "dtype": plan.get("dtype") or spec.dtype, "batch": batch}, context, steps)
    if context > PROOF:
        # first that the cache is right, at a length that the definition can run key by key
        record.add(row for row in check(case._replace(context=PROOF)) if row.quantity == "correct")
        case = case._replace(proved=True)
    if not record.bad:
        run_cases([case], record, device, 1)
    return summary(record.rows)


# --- somebody else's classes -----------------------------------------------------------------------------------------


def _against_class(model: object, record: Record, asked: dict[str, Any]) -> str:
    """A config against its own class: parameters, cache before and after a step, FLOPs."""
    foreign = set(asked) - {"context", "batch"}
    if foreign or model is None:
        name = next(iter(foreign), "model")
        raise InvalidInput(name, asked.get(name), "a config with --reference transformers, --context and --batch alone")
    huggingface = _huggingface()
    raw, title = _raw(model)
    context, batch = parse_count(asked.get("context", 40), "context"), parse_count(asked.get("batch", 1), "batch")
    from kvplan.validate.types import compare, predict

    predicted = predict(raw, context, batch)
    try:
        (run,) = huggingface.observe(raw, (context,), batch)
    except huggingface.Unrunnable as e:
        run = e
    if isinstance(run, huggingface.Unrunnable):
        raise InvalidInput("model", title, f"a config that its class builds and runs on the meta device ({run})")
    question = {"model": title, "context": context, "batch": batch, "engine": "transformers", "dtype": "bf16"}
    record.add(compare(f"{title} ({run.class_name})", question, raw, predicted, run))
    return summary(record.rows)


def _huggingface() -> Any:
    try:
        from kvplan.validate import huggingface
    except ImportError:
        raise MissingExtra("--reference transformers", "validate") from None
    return huggingface


def _raw(model: object) -> tuple[dict[str, Any], str]:
    """The parsed config.json of a preset, a path or a dict, and a title."""
    if isinstance(model, dict):
        return model, "config"
    path = Path(str(model)).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if path.exists() or path.suffix == ".json":
        return read_json(path), str(model)
    preset = model_preset(str(model))
    return parse_object(preset.config.encode(), "config", preset.name), preset.name


def _types(record: Record, wanted: tuple[str, ...], jobs: int) -> str:
    _huggingface()
    from kvplan.validate import bases
    from kvplan.validate.types import MODEL_TYPES

    for name in wanted:
        if name not in MODEL_TYPES:
            raise UnknownName("model_type", name, MODEL_TYPES)
    todo = [t for t in wanted or MODEL_TYPES if not any(row.case.startswith(f"{t}: ") for row in record.rows)]
    with ProcessPoolExecutor(max(jobs, 1), mp_context=get_context("spawn")) as pool:
        for done, outcomes in enumerate(pool.map(_checked, todo), 1):
            rows = [
                Row(
                    f"{o.model_type}: {o.label} S{o.context}", {}, "cache",
                    o.predicted["cache_bytes"] if o.predicted else None,
                    o.observed.cache_bytes if o.observed else None, o.verdict, o.reason,
                )
                for o in outcomes
            ]  # fmt: skip
            first = rows[0]  # of the default config
            if first.verdict == NOT_RUN and outcomes[0].model_type not in bases.NOT_RUN:
                rows[0] = first._replace(verdict="failed", note=f"no type of NOT_RUN, and yet: {first.note}")
            record.add(rows)
            if done % 10 == 0 or done == len(todo) or any(row.verdict in BAD for row in rows):
                said(f"{done}/{len(todo)} types, {len(record.bad)} wrong; last: {outcomes[0].model_type}")
    return types_text(record.rows)


def _checked(model_type: str) -> list[Any]:
    import torch

    from kvplan.validate.types import check_type

    torch.set_num_threads(1)
    return list(check_type(model_type))


def by_type(rows: Iterable[Row]) -> dict[str, str]:
    """The verdict of each model type: wrong or failed where anything is, else that of its default config."""
    found: dict[str, str] = {}
    for row in rows:
        name, _, rest = row.case.partition(": ")
        if row.verdict in BAD:
            found[name] = row.verdict
        elif rest.startswith("default "):
            found.setdefault(name, row.verdict)
            if found[name] == "exact" and row.verdict != "exact":
                found[name] = row.verdict
    return found


def types_text(rows: list[Row]) -> str:
    """How many model types are exact, refused by name, not run by their own class, and wrong."""
    types = by_type(rows)
    lines = []
    for verdict, words in (
        ("exact", "exact"),
        ("refused", "refused by kvplan"),
        ("not run", "whose class does not build or run"),
        ("failed", "that do not run and are not known for it"),
        ("wrong", "wrong"),
    ):
        names = sorted(name for name, found in types.items() if found == verdict)
        listed = f": {', '.join(names)}" if names and verdict != "exact" else ""
        lines.append(f"{len(names)} model types {words}{listed}")
    counts = Counter(row.verdict for row in rows)
    lines.append(f"{len(rows)} configurations and lengths: " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items())))
    return "\n".join(lines)
