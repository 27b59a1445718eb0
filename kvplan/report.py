"""One frozen Report. Text, JSON, Markdown (and later the web page) are renderings of the same object."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from kvplan import ledger
from kvplan.costs import Omission, Term
from kvplan.described import described_scheme, shown_scheme
from kvplan.planner import Answer, Capacity, on_gpu
from kvplan.stages import Stage
from kvplan.text import code, markdown, to_json
from kvplan.units import BINARY, format_count, format_parameters, format_seconds, format_si
from kvplan.units import format_bytes as in_units
from kvplan.version import __version__

__all__ = ["SCHEMA", "Report"]

SCHEMA = 1


class _Asked(NamedTuple):
    answer: Answer
    again: Callable[..., Any]


class Report(_Asked):
    """The answer to one question. ``again(**changes)`` asks it anew with other keyword arguments."""

    # --- what programs read ------------------------------------------------------------------------------------------

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None without a GPU."""
        return self.answer.capacity.fits if self.answer.capacity else None

    @property
    def kv(self) -> dict[str, int]:
        """Bytes of the cache, as the contract names them."""
        a = self.answer
        return {
            "bytes_per_token": a.bytes_per_token,
            "bytes_per_token_marginal": a.bytes_per_token_marginal,
            "bytes_per_sequence": a.bytes_per_sequence,
            "state_bytes_per_sequence": a.state_bytes_per_sequence,
            "bytes": a.kv_bytes,
            "bytes_per_gpu": a.bytes_per_gpu,
            "bytes_read_per_step": a.bytes_read_per_step,
            "bytes_host": a.host_bytes,
            "bytes_disk": a.disk_bytes,
            "bytes_over_link_per_step": a.link_bytes,
        }

    @property
    def capacity(self) -> Capacity | None:
        """What fits; None without a GPU or where the weights are unknown."""
        return self.answer.capacity

    @property
    def engine(self) -> dict[str, Any]:
        """The engine: name, version, its own facts and log lines at these settings, and what it does not honour.

        ``facts`` are under the engine's own names (``num_gpu_blocks``, ``n_ctx`` ...), ``printed`` in its own units and
        rounding; both are empty for ``ideal``, and where a pool cannot be said without a GPU.
        """
        engine, served = self.answer.settings.engine, self.answer.served
        said = [part for part in (served.stated, served.pool) if part] if served else []
        return {
            "name": engine.name,
            "version": engine.version or None,
            "facts": dict(fact for part in said for fact in part.facts),
            "printed": [line for part in said for line in part.printed],
            "ignores": list(engine.ignores),
        }

    @property
    def stated(self) -> dict[str, Any]:
        """Of the engine's facts, those that follow from the settings and need no GPU."""
        return dict(self.answer.served.stated.facts) if self.answer.served else {}

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The ledger: every named amount with its unit, basis, formula and source."""
        return tuple(ledger.terms(self.answer))

    @cached_property
    def omitted(self) -> tuple[Omission, ...]:
        """What was not counted, and why."""
        return tuple(ledger.omitted(self.answer))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know beside the numbers."""
        return tuple(ledger.notes(self.answer))

    @cached_property
    def suggestions(self) -> tuple[str, ...]:
        """Flags that would make it fit, each verified by asking again; empty where it fits."""
        return tuple(_suggest(self))

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract, schema 1 (design: additions are free, renames break)."""
        a = self.answer
        s, spec, c, t = a.settings, a.spec, a.capacity, a.times
        decode = {"total": a.decode.total, **a.decode._asdict()}
        return {
            "schema": SCHEMA,
            "kvplan_version": __version__,
            "inputs": dict(s.inputs),
            "model": {
                "name": spec.name,
                "model_type": spec.model_type,
                "layers": len(spec.layers),
                "scheme": described_scheme(spec),
                "parameters": a.profile.parameters,
                "active_parameters": a.profile.active_parameters,
                "max_context": spec.max_context,
            },
            "kv": self.kv,
            "weights": {"bytes": a.weights.total if a.weights else None, "bytes_per_gpu": a.weights_per_gpu},
            "flops": {
                "prefill": {"total": a.prefill.total, **a.prefill._asdict()},
                "decode": decode,
                "attention": "full" if s.full_attention else "causal",
                "logits": "all" if s.all_logits else "last",
            },
            "capacity": c._asdict() if c else None,
            "time": {
                "prefill_s": t.prefill.seconds,
                "decode_step_s": t.decode.seconds,
                "tokens_per_s": t.tokens_per_s,
                "prefill_bound": t.prefill.side,
                "decode_bound": t.decode.side,
            }
            if t
            else None,
            "engine": self.engine,
            "terms": [term._asdict() for term in self.terms],
            "omitted": [omission._asdict() for omission in self.omitted],
            "notes": list(self.notes),
            "suggestions": list(self.suggestions),
        }

    def to_json(self) -> str:
        """The contract as JSON text."""
        return to_json(self.to_dict())

    # --- what people read --------------------------------------------------------------------------------------------

    def to_text(self, width: int = 80, color: bool = False) -> str:
        """The report for a terminal of ``width`` columns."""
        from kvplan.render import text

        return text(self, width, color)

    def to_markdown(self) -> str:
        """The report as Markdown."""
        lines = [
            f"# {markdown(self.headline())}",
            "",
            f"**{markdown(self.verdict())}**",
            "",
            "| quantity | value | exact |",
            "|---|---:|---:|",
        ]
        lines += [f"| {' | '.join(map(markdown, row))} |" for row in self.rows()]
        lines += ["", "| term | value | unit | basis | formula |", "|---|---:|---|---|---|"]
        for term in self.terms:
            value = f"{term.value:,}" if isinstance(term.value, int) else f"{term.value:.6g}"
            row = (term.path, value, term.unit, term.basis, term.formula)
            lines.append(f"| {' | '.join(map(markdown, row))} |")
        for title, items in (
            (f"What {self.engine['name']} prints", list(map(code, self.engine["printed"]))),
            ("Left out", [markdown(f"{o.path}: {o.why}") for o in self.omitted]),
            ("Notes", list(map(markdown, self.notes))),
            ("Try", list(map(code, self.suggestions))),
        ):
            if items:
                lines += ["", f"{title}:", ""] + [f"- {item}" for item in items]
        return "\n".join(lines) + "\n"

    def headline(self) -> str:
        """Model, type, how it keeps its cache, layers and parameters on one line."""
        a = self.answer
        total, active = a.profile.parameters, a.profile.active_parameters
        some = f" ({format_parameters(active)} active)" if active != total else ""
        layers = f"{len(a.spec.layers)} layers"
        # what was asked, in its own words: the notation cannot say every detail of what a model is
        scheme = dict(a.settings.inputs)["scheme"] or shown_scheme(a.spec)
        kind = f"{a.spec.model_type} · {scheme}" if scheme else a.spec.model_type
        return f"{a.spec.name} · {kind} · {layers} · {format_parameters(total)} parameters{some}"

    def verdict(self, units: dict[str, int] = BINARY) -> str:
        """Fits or not, by how much, and what binds; without a GPU, the size of the cache."""
        a, c = self.answer, self.capacity

        def format_bytes(n: int) -> str:
            return in_units(n, units)

        s = a.settings
        engine = f"{s.engine.name} {s.engine.version}".strip()
        where = f"{s.batch} × {format_count(s.context)} tokens, {_cache_name(a)} cache, engine {engine}"
        if c is None:
            return f"{format_bytes(a.kv_bytes)} of cache for {where}"
        gpus = s.tp * s.pp * s.dp
        name = s.gpu.label if s.gpu else f"{format_bytes(s.memory_bytes or 0)} of memory"
        used = sum(size for _, size in self.memory())
        name = f"{gpus} × {name}" if gpus > 1 else name
        if not c.fits and used <= c.usable_bytes:  # an engine's own rule, not a sum of bytes
            return f"does not start on {name} with {where} (binding: {c.binding})"
        if c.fits:
            return f"fits on {name}: {format_bytes(c.usable_bytes - used)} free after {where}"
        short = format_bytes(used - c.usable_bytes)
        return f"does not fit on {name}: {short} too much for {where} (binding: {c.binding})"

    def memory(self) -> list[tuple[str, int]]:
        """Bytes on the fullest GPU: weights, cache, overhead (engine storage, activations, runtime)."""
        a = self.answer
        s = a.settings

        if a.served:
            return [
                ("weights", a.served.weights or 0),
                ("KV cache", a.served.per_gpu),
                ("overhead (estimated)", sum(line.size for line in a.served.kept)),
            ]

        def parts(stage: Stage) -> tuple[int, int, int]:
            storage = stage.lean.storage(s.context) if s.engine.prefill_storage else 0
            kv = on_gpu(a.spec, stage.lean.at(s.context))
            return stage.weights, s.rank_sequences * kv, s.rank_sequences * storage

        weights, kv, storage = max((parts(stage) for stage in a.stages), key=sum)
        return [
            ("weights", weights),
            ("KV cache", kv),
            ("overhead (estimated)", storage + a.activations + s.runtime_bytes),
        ]

    def rows(self, units: dict[str, int] = BINARY) -> Iterator[tuple[str, str, str]]:
        """(quantity, for people, exact) in the order that a serving engineer asks; ``units`` are BINARY or DECIMAL."""
        a, c, t = self.answer, self.capacity, self.answer.times
        s = a.settings

        def size(name: str, n: int) -> tuple[str, str, str]:
            return name, in_units(n, units), f"{n:,} B"

        yield size("KV per token", a.bytes_per_token)
        if a.bytes_per_token_marginal != a.bytes_per_token:
            yield size("KV per token at this context", a.bytes_per_token_marginal)
        yield size("KV per sequence", a.bytes_per_sequence)
        if a.state_bytes_per_sequence:
            yield size("  of which state", a.state_bytes_per_sequence)
        if s.batch > 1:
            yield size(f"KV of {s.batch} sequences", a.kv_bytes)
        if s.tp * s.pp * s.dp > 1:
            yield size("KV per GPU", a.bytes_per_gpu)
        if a.host_bytes:
            yield size("KV in host memory", a.host_bytes)
        if a.link_bytes:
            yield size("KV on disk", a.disk_bytes)
        yield size("KV read per decode step", a.bytes_read_per_step)
        if a.link_bytes:
            yield size("  of which over the link", a.link_bytes)
        if a.weights:
            yield size("weights", a.weights.total)
            if a.weights_per_gpu != a.weights.total:
                yield size("weights per GPU", a.weights_per_gpu or 0)
        if c:
            yield size("KV pool per GPU", c.kv_pool_bytes)
            tokens = "unbounded" if c.kv_tokens is None else format_count(c.kv_tokens)
            yield "pool in tokens", tokens, ""
            yield f"max batch at {format_count(s.context)}", _limit(c.max_batch), ""
            own = f"model's own limit {format_count(a.spec.max_context)}" if a.spec.max_context else ""
            yield f"max context at batch {s.batch}", _limit(c.max_context), own
        conventions = f"{'full' if s.full_attention else 'causal'}, {'all' if s.all_logits else 'last'} logits"
        yield "FLOPs of the prefill", format_si(a.prefill.total, "FLOP"), conventions
        yield "FLOPs of a decode step", format_si(a.decode.total, "FLOP"), "2 per multiply-add"
        if t:
            yield "prefill, lower bound", format_seconds(t.prefill.seconds), f"{t.prefill.side}-bound"
            yield "decode step, lower bound", format_seconds(t.decode.seconds), f"{t.decode.side}-bound"
            yield "tokens/s, upper bound", f"{t.tokens_per_s:,.0f}", f"batch {s.batch}"


def _cache_name(a: Answer) -> str:
    """The format of the cache; K and V by name where they differ, and a latent is stored as K is."""
    formats = a.settings.formats
    if formats.key.name == formats.value.name:
        return formats.key.name
    latents = any(part.store_as == "latent" for store in a.profile.plan.stores for part in store.parts)
    return formats.latent.name if latents else f"{formats.key.name} K and {formats.value.name} V"


def _limit(n: int | None) -> str:
    return "unbounded" if n is None else format_count(n)


def _suggest(report: Report) -> Iterator[str]:
    """Single changes, smallest first, that were asked again and fit."""
    from kvplan.errors import KvplanError

    a, c = report.answer, report.capacity
    if c is None or c.fits:
        return
    s = a.settings
    attempts: list[dict[str, Any]] = []
    if c.max_context:
        attempts.append({"context": c.max_context})
    if c.max_batch:
        attempts.append({"batch": c.max_batch})
    smaller = s.formats.key.element_bits > 8
    if smaller:
        attempts += [{"kv_dtype": name} for name in ("fp8", "int4")]
    if s.quantization is None:
        attempts += [{"weight_dtype": name} for name in ("fp8", "int4")]
    attempts += [{"tp": tp} for tp in (2, 4, 8) if tp > s.tp]
    if smaller and s.quantization is None:
        attempts.append({"kv_dtype": "fp8", "weight_dtype": "fp8"})
    attempts += [{"tp": max(s.tp, 8), "pp": pp} for pp in (2, 4, 8, 16) if pp > s.pp]
    done: set[tuple[str, ...]] = set()
    for change in attempts:
        names = tuple(change)
        # nothing larger of the same kind, and no pipeline where tensor parallelism or less was enough
        if names in done or ("pp" in change and ("tp",) in done):
            continue
        try:
            fits = report.again(**change).fits
        except KvplanError:
            continue
        if fits:
            done.add(names)
            yield " ".join(f"--{name.replace('_', '-')} {value}" for name, value in change.items())
