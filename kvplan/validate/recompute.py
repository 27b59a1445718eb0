"""The schemes' own definitions, without any cache: the whole prefix is run anew, one query and one key at a time.

``Transformer`` must give the same logits from its caches. Nothing of its caches, masks or steps is used here, only its
weights (through what each mixer makes of a token): visibility is a list of token numbers, MLA and TPA are multiplied
out, linear attention is a sum over pairs, layers that read above themselves are iterated to their fixed point.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kvplan.specs import Growth
from kvplan.validate.caches import Packed, column
from kvplan.validate.transformer import (
    FactorHeads,
    Heads,
    LatentHeads,
    Recurrence,
    Transformer,
    rms,
    rope,
    split,
)

__all__ = ["recompute", "visible"]


def visible(growth: Growth, i: int, upward: bool = False) -> list[int]:
    """The tokens that the query of token ``i`` may look at, in order.

    >>> visible(Growth("window", 3), 5), visible(Growth("window", 4, 1), 5), visible(Growth("chunk", 4), 5)
    ([3, 4, 5], [0, 3, 4, 5], [4, 5])
    """
    tokens = range(i if upward else i + 1)
    if growth.kind == "window":
        return [j for j in tokens if j < growth.sinks or j > i - (growth.limit - growth.sinks)]
    if growth.kind == "chunk":
        return [j for j in tokens if j // growth.limit == i // growth.limit]
    return list(tokens)


class Definition:
    """One run over a whole prefix: ``tokens [batch, tokens]`` of which the first ``prompt`` were given at once."""

    def __init__(self, model: Transformer, tokens: Tensor, prompt: int, sequential: bool) -> None:
        self.model, self.tokens, self.prompt = model, tokens, 0 if sequential else prompt
        self.at = torch.arange(tokens.shape[1], device=tokens.device)
        self.made: dict[int, dict[str, Tensor]] = {}

    def logits(self) -> Tensor:
        """``[batch, tokens, vocab]`` after every token."""
        x = F.embedding(self.tokens, self.model.embedding)
        for run, passes in self.model.runs:
            if len(run) == 1:
                x = self.layer(run[0], x, self.made)
                continue
            x = self.iterated(run, passes, x)
        return F.linear(rms(x), self.model.head)

    def iterated(self, run: list[Any], passes: int, start: Tensor) -> Tensor:
        """Layers that read above themselves. The prompt passes as often as the scheme says, and what it made stays.

        A later token needs those before it alone: as many passes as there are such tokens settle them all.
        """
        frozen: dict[int, Any] = {}
        head = start[:, : self.prompt]
        for _ in range(passes if self.prompt else 0):
            before, frozen, head = frozen, {}, start[:, : self.prompt]
            for b in run:
                head = self.layer(b, head, frozen, before)
        before, x = frozen, start[:, :0]
        for _ in range(start.shape[1] - self.prompt):
            fresh: dict[int, Any] = {}
            x = start
            for b in run:
                x = self.layer(b, x, fresh, before, frozen)
            before = fresh
        self.made |= before
        return torch.cat([head, x[:, self.prompt :]], 1)

    def layer(self, b: Any, x: Tensor, made: dict[int, Any], before: Any = None, frozen: Any = None) -> Tensor:
        """One layer over all tokens of ``x``; what it makes for caches goes into ``made``.

        ``before`` is what the pass before made, for layers that read above themselves; ``frozen`` is what the prompt
        left behind, which stands for its tokens whatever this pass makes of them.
        """
        normed, at = rms(x), self.at[: x.shape[1]]
        if isinstance(b.mixer, Recurrence):
            x = x + self.recurrence(b.mixer, normed)
        elif b.mixer is not None:
            if b.index in self.model.read:
                made[b.index] = b.mixer.make(normed, at)
                for name, old in (frozen or {}).get(b.index, {}).items():
                    made[b.index][name] = torch.cat([old, made[b.index][name][:, :, old.shape[2] :]], 2)
            source = made.get(b.owner, self.made.get(b.owner)) if not b.upward else (before or {}).get(b.owner)
            if source is None:
                source = b.mixer.empty(len(x), x.shape[1], x)
            x = x + self.attention(b, normed, source)
        return x if b.mlp is None else x + b.mlp(rms(x))

    # --- attention, query by query -----------------------------------------------------------------------------------

    def attention(self, b: Any, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """``[batch, tokens, hidden]``: every query over the tokens that it may see."""
        growth, tokens = b.mixer.window, x.shape[1]
        have = next(iter(parts.values())).shape[2]
        queries = self.queries(b.mixer, x)  # not yet turned
        exact, stored = self.expand(b, parts, have), self.expand(b, self.stored(parts), have)
        budget = growth.kind == "budget"
        choices = Budgets(growth.limit, self.prompt) if budget else None
        source = self.chooser(b)
        outs = []
        for i in range(tokens):
            held = self.held_as(exact, stored, parts, i)
            seen = [j for j in visible(growth, i, b.upward) if j < have]
            if choices is not None:
                outs.append(choices.query(queries[:, :, i], *held, i, self, b, source))
                continue
            outs.append(self.one(b, queries[:, :, i], *held, i, seen))
        if choices is not None and b.owner == b.index:
            self.kept = {**getattr(self, "kept", {}), b.index: choices.sets}
        mixed = torch.stack(outs, 2)
        if b.memory is not None:
            mixed = self.infini(b, queries, exact, mixed)
        return b.mixer.out(mixed.to(x.dtype))  # type: ignore[no-any-return]

    def chooser(self, b: Any) -> Any:
        """What the owner of a shared budget kept at each token; None where the layer is the owner."""
        return None if b.owner == b.index else getattr(self, "kept", {}).get(b.owner)

    def queries(self, mixer: Any, x: Tensor) -> Tensor:
        """Queries of every head without their positions, ``[batch, heads, tokens, dim]``."""
        if isinstance(mixer, Heads):
            return split(F.linear(x, mixer.q), mixer.a.key_dim)
        if isinstance(mixer, LatentHeads):
            x = rms(F.linear(x, mixer.q_down)) if mixer.m.q_rank else x
            return split(F.linear(x, mixer.q), mixer.m.nope_dim + mixer.m.rope_dim)
        heads, dims = mixer.factors(x, "q", mixer.f.rank_q)
        return torch.einsum("bhtq,bqtd->bhtqd", heads, dims).flatten(3)  # summed once the dims are turned

    def turn(self, mixer: Any, q: Tensor, position: int) -> Tensor:
        """One token's queries ``[batch, heads, dim]`` at a position."""
        at = torch.tensor([position], device=q.device)
        if isinstance(mixer, Heads):
            return rope(q[:, :, None], at)[:, :, 0]
        if isinstance(mixer, LatentHeads):
            nope, turned = q.split([mixer.m.nope_dim, mixer.m.rope_dim], -1)
            return torch.cat([nope, rope(turned[:, :, None], at)[:, :, 0]], -1)
        return rope(q.unflatten(2, (mixer.f.rank_q, -1))[:, :, :, None], at)[:, :, :, 0].sum(2)

    def expand(self, b: Any, parts: dict[str, Tensor], have: int) -> tuple[Tensor, Tensor]:
        """Keys (turned) and values of every query head, ``[batch, heads, tokens, dim]``, from what a cache holds."""
        mixer, at = b.mixer, self.at[:have]
        if isinstance(mixer, LatentHeads):
            m = mixer.m
            both = split(F.linear(parts["latent"][:, 0], mixer.kv), m.nope_dim + m.value_dim)
            keys, values = both.split([m.nope_dim, m.value_dim], -1)
            turned = parts["rope"] if m.rope_dim else keys[..., :0]
            return torch.cat([keys, turned.expand(-1, keys.shape[1], -1, -1)], -1), values
        if isinstance(mixer, FactorHeads):
            keys = torch.einsum("bhtr,brtd->bhtd", parts["key_heads"], parts["key_dims"])
            values = torch.einsum("bhtr,brtd->bhtd", parts["value_heads"], parts["value_dims"]) / mixer.f.rank_v
            return keys, values
        keys, values = parts["key"], parts["value"]
        if mixer.a.rank_k:
            keys = rope(split(F.linear(keys[:, 0], mixer.k), mixer.a.key_dim), at)
        if mixer.a.rank_v:
            values = split(F.linear(values[:, 0], mixer.v), mixer.a.value_dim)
        group = len(mixer.q) // mixer.a.key_dim // keys.shape[1]
        return keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)

    def one(self, b: Any, q: Tensor, keys: Tensor, values: Tensor, i: int, seen: list[int]) -> Tensor:
        """One query over the tokens ``seen``; sinks lie as near as a full cache ends."""
        return self.weights(b, q, keys, i, seen, values)[1]

    def weights(
        self, b: Any, q: Tensor, keys: Tensor, i: int, seen: list[int], values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How much a query looks at each token of ``seen`` and, where a layer pools, at pooled ones; and the sum."""
        sinks, limit = b.mixer.window.sinks, b.mixer.window.limit
        here, near = self.turn(b.mixer, q, i), self.turn(b.mixer, q, min(i, limit - 1) if sinks else i)
        columns = [((near if j < sinks else here) * keys[:, :, j]).sum(-1) for j in seen]
        shown = [values[:, :, j] for j in seen]
        if b.pool:
            for g in range((i + 1) // b.pool[0]):
                group = slice(g * b.pool[0], (g + 1) * b.pool[0])
                columns.append((here * keys[:, :, group].mean(2)).sum(-1))
                shown.append(values[:, :, group].mean(2))
        if not columns:
            return q.new_zeros(*q.shape[:2], 0), torch.zeros_like(values[:, :, 0])
        weights = (torch.stack(columns, -1).float() * b.mixer.scale).softmax(-1)
        return weights, (weights.to(values.dtype)[..., None] * torch.stack(shown, 2)).sum(2)

    # --- formats -----------------------------------------------------------------------------------------------------

    def stored(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a cache would give back of each entry on its own: rounded, or quantised and expanded."""
        found = {}
        for name, exact in parts.items():
            kept = column(self.model._formats()[name], exact.dtype)
            if isinstance(kept, Packed):
                kept.residual = 0
            rows = exact.flatten(0, 1)
            if exact.shape[2]:
                kept.append(rows)
                rows = kept.read()
            found[name] = rows.view_as(exact)
        return found

    def held_as(self, exact: Any, stored: Any, parts: dict[str, Tensor], i: int) -> tuple[Tensor, Tensor]:
        """Keys and values as the query of token i meets them: a prompt's as they were made, later ones' as stored."""
        if i < self.prompt:
            return exact  # type: ignore[no-any-return]
        mixed = []
        formats = self.model.formats
        for side, (plain, packed) in enumerate(zip(exact, stored, strict=True)):
            kept = column(formats[side], plain.dtype)
            residual = kept.residual if isinstance(kept, Packed) else 0
            newest = self.at[: plain.shape[2]] > i - residual
            mixed.append(torch.where(newest[:, None], plain, packed))
        return mixed[0], mixed[1]

    # --- states ------------------------------------------------------------------------------------------------------

    def recurrence(self, mixer: Recurrence, x: Tensor) -> Tensor:
        """Every query times every key before it, faded by all decays between the two."""
        q, k, v, left = mixer.project(x)
        tokens = x.shape[1]
        faded = torch.zeros(*q.shape[:2], tokens, tokens, device=x.device)
        for i in range(tokens):
            for j in range(i + 1):
                faded[:, :, i, j] = left[:, j + 1 : i + 1].prod(1) if mixer.gated else 1
        return mixer.out(((q @ k.transpose(2, 3)) * faded) @ v, x)

    def infini(self, b: Any, queries: Tensor, held: tuple[Tensor, Tensor], local: Tensor) -> Tensor:
        """Beside each segment, all tokens of the segments before it, by a kernel instead of a softmax."""
        keys, values = held
        segment, turned = b.mixer.window.limit, rope(queries, self.at[: queries.shape[2]])
        phi = torch.einsum("bhid,bhjd->bhij", b.memory.feature(turned), b.memory.feature(keys))
        i, j = self.at[:, None], self.at[None]
        phi = phi * (j // segment < i // segment)
        return b.memory.mix(phi @ values.float() / phi.sum(-1, keepdim=True).clamp_min(1e-6), local)  # type: ignore[no-any-return]


class Budgets:
    """A budget as its policy says: after the prompt the best ``limit`` stay, then one goes for each that comes."""

    def __init__(self, limit: int, prompt: int) -> None:
        self.limit, self.prompt = limit, prompt
        self.kept: dict[tuple[int, int], list[int]] = {}  # (sequence, kv head) -> tokens
        self.worst: dict[tuple[int, int], int] = {}
        self.sets: list[dict[tuple[int, int], list[int]]] = []  # what was seen at each token

    def query(self, q: Tensor, keys: Tensor, values: Tensor, i: int, run: Definition, b: Any, source: Any) -> Tensor:
        """The output of one query, sequence by sequence and KV head by KV head."""
        groups = b.mixer.a.kv_heads if isinstance(b.mixer, Heads) else 1
        each = q.shape[1] // groups
        out = torch.zeros_like(values[:, :, 0])
        for s in range(len(q)):
            for g in range(groups):
                mine = (slice(s, s + 1), slice(g * each, (g + 1) * each))
                if source is not None:
                    kept = source[i][s, g]
                else:
                    kept = [*self.kept.get((s, g), []), i]
                    if i >= self.prompt and len(kept) > self.limit:
                        kept.remove(self.worst[s, g])
                weights, mixed = run.weights(b, q[mine], keys[mine], i, kept, values[mine])
                out[mine] = mixed
                if source is None:
                    seen = list(kept)
                    self.rank(s, g, i, kept, weights[0].mean(0))
                    if g == 0 and s == 0:
                        self.sets.append({})
                    self.sets[i][s, g] = seen
        return out

    def rank(self, s: int, g: int, i: int, kept: list[int], weights: Tensor) -> None:
        """Cuts a prompt to the budget after its last token, and notes which token goes next; never the newest."""
        scored = dict(zip(kept, weights.tolist(), strict=True)) | {i: float("inf")}
        if i == self.prompt - 1 and len(kept) > self.limit:
            kept = sorted(sorted(kept, key=lambda j: -scored[j])[: self.limit])
        self.kept[s, g] = kept
        self.worst[s, g] = min(kept, key=lambda j: scored[j])


@torch.no_grad()
def recompute(model: Transformer, tokens: Tensor, prompt: int, *, sequential: bool = False) -> Tensor:
    """Logits ``[batch, tokens, vocab]`` of a prefix ``[batch, tokens]`` whose first ``prompt`` tokens came at once."""
    return Definition(model, tokens, prompt, sequential).logits()
