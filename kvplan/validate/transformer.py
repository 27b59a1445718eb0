"""A small transformer that runs any plan: what each layer computes, what it caches, and whose cache it looks at.

It is written from the schemes' own papers and reads only facts of a spec (heads, dims, windows, whose KV a layer reads);
an import contract keeps kvplan's formulas, ledgers and engines out. ``recompute.py`` says the same without any cache.
Weights are random. Norms are plain RMS without weights, biases are left out: they change no byte of a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvplan.errors import Unsupported
from kvplan.specs import Attention, Dense, Factored, Growth, Latent, Layer, ModelSpec, MoE, Recurrent
from kvplan.validate.caches import State, Store

__all__ = ["ALONE", "Formats", "Ranks", "Transformer", "looks", "refusal", "rms", "rope"]

Parts = dict[str, Tensor]


class Formats(NamedTuple):
    """Names of the storage formats of keys, values and latents."""

    key: str
    value: str
    latent: str


class Ranks(NamedTuple):
    """A process among its tensor-parallel ones; ``sum`` adds a tensor over them."""

    tp: int = 1
    rank: int = 0
    group: Any = None

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.tp > 1:
            torch.distributed.all_reduce(x, group=self.group)
        return x


ALONE = Ranks()


# --- arithmetic that every mixer shares ------------------------------------------------------------------------------


def rms(x: Tensor) -> Tensor:
    """RMS norm without a weight."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-5)


def rope(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864): ``x [..., tokens, dim]`` turned by the angle of each token's position."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10000.0 ** (-torch.arange(half, device=x.device) / max(half, 1))
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half : 2 * half]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, x[..., 2 * half :]], -1)


def look(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention of ``[batch, heads, tokens, dim]`` queries over ``[batch, kv heads, entries, dim]``.

    Returns the weighted sums and, for ``budget`` caches, how much the last query of each group looked at each entry. A
    query that may see nothing gets zeros, as if it looked at one zero key and value (LCKV's dummy).
    """
    return weigh(queries @ keys.transpose(-1, -2), values, mask, scale)


def weigh(scores: Tensor, values: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The second half of ``look``: softmax of ``scores [batch, kv heads, group x tokens, entries]`` and the sums."""
    scores = scores.unflatten(2, (-1, mask.shape[0])).float() * scale
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.nan_to_num(scores.softmax(-1)).to(values.dtype)
    out = weights.flatten(2, 3) @ values
    return out, weights[:, :, :, -1].mean(2)


def looks(mixer: Attention | Latent | Factored) -> Growth:
    """How far back a mixer looks: what a scheme says, else its own chunk or window, else everything."""
    if mixer.keep is not None:
        return mixer.keep
    if isinstance(mixer, Attention):
        if mixer.chunk is not None:
            return Growth("chunk", mixer.chunk)
        if mixer.window is not None:
            return Growth("window", mixer.window)
        if mixer.pool is not None:
            return Growth("window", mixer.pool[1])
    return Growth()


def prompt_mask(growth: Growth, tokens: int, upward: bool, device: Any) -> Tensor:
    """``[tokens, tokens]``: which keys each query of a prompt may look at; not its own where it reads a layer above."""
    i, j = torch.arange(tokens, device=device)[:, None], torch.arange(tokens, device=device)[None]
    mask = (j < i) if upward else (j <= i)
    if growth.kind == "window":
        mask &= (j > i - (growth.limit - growth.sinks)) | (j < growth.sinks)
    elif growth.kind == "chunk":
        mask &= i // growth.limit == j // growth.limit
    return mask


# --- mixers: what they make for a cache, and how a prompt and a step look at it ---------------------------------------


class Weights:
    """Random matrices, the same on every rank, of which a rank keeps its own rows or columns."""

    def __init__(self, seed: int, dtype: torch.dtype, device: Any) -> None:
        self.generator, self.dtype, self.device = torch.Generator(device).manual_seed(seed), dtype, device

    def matrix(
        self, inputs: int, outputs: int, rows: slice = slice(None), columns: slice = slice(None)
    ) -> nn.Parameter:
        """``[outputs, inputs]``, of which ``rows`` and ``columns`` stay."""
        whole = torch.randn(outputs, inputs, generator=self.generator, device=self.device) * inputs**-0.5
        return nn.Parameter(whole[rows, columns].to(self.dtype).contiguous(), requires_grad=False)


def part(count: int, ranks: Ranks) -> tuple[int, int]:
    """First and last + 1 of ``count`` heads on this rank; fewer heads than ranks are copied."""
    if count >= ranks.tp:
        if count % ranks.tp:
            raise Unsupported(f"{count} heads over {ranks.tp} ranks do not part evenly")
        each = count // ranks.tp
        return ranks.rank * each, (ranks.rank + 1) * each
    first = ranks.rank * count // ranks.tp
    return first, first + 1


def rows(count: int, width: int, ranks: Ranks) -> slice:
    """The rows of a projection to ``count`` heads of ``width`` that belong to this rank."""
    low, high = part(count, ranks)
    return slice(low * width, high * width)


def split(x: Tensor, width: int) -> Tensor:
    """``[batch, tokens, heads x width]`` as ``[batch, heads, tokens, width]``."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """``[batch, heads, tokens, width]`` as ``[batch, tokens, heads x width]``."""
    return x.transpose(1, 2).flatten(2)


class Heads(nn.Module):
    """Multi-head, grouped and multi-query attention; with ranks, keys and values in fewer dims (Palu)."""

    def __init__(self, hidden: int, a: Attention, weights: Weights, ranks: Ranks, owns: bool) -> None:
        super().__init__()
        self.a, self.ranks = a, ranks
        self.window = looks(a)
        self.q = weights.matrix(hidden, a.heads * a.key_dim, rows(a.heads, a.key_dim, ranks))
        for name, width, rank in (("k", a.key_dim, a.rank_k), ("v", a.value_dim, a.rank_v)):
            if rank and owns:
                setattr(self, f"{name}_down", weights.matrix(hidden, rank))
            if rank or owns:
                setattr(self, name, weights.matrix(rank or hidden, a.kv_heads * width, rows(a.kv_heads, width, ranks)))
        self.o = weights.matrix(a.heads * a.value_dim, hidden, columns=rows(a.heads, a.value_dim, ranks))
        self.scale = a.key_dim**-0.5

    def make(self, x: Tensor, positions: Tensor) -> Parts:
        """Keys turned to their positions and values; of low rank, what stands before the second projection."""
        key = (
            F.linear(x, self.k_down)[:, None]
            if self.a.rank_k
            else rope(split(F.linear(x, self.k), self.a.key_dim), positions)
        )
        value = F.linear(x, self.v_down)[:, None] if self.a.rank_v else split(F.linear(x, self.v), self.a.value_dim)
        return {"key": key, "value": value}

    def empty(self, batch: int, tokens: int, like: Tensor) -> Parts:
        """Zeros in the shape of what ``make`` makes."""
        low, high = part(self.a.kv_heads, self.ranks)
        key = (1, self.a.rank_k) if self.a.rank_k else (high - low, self.a.key_dim)
        value = (1, self.a.rank_v) if self.a.rank_v else (high - low, self.a.value_dim)
        return {
            name: like.new_zeros(batch, heads, tokens, width)
            for name, (heads, width) in (("key", key), ("value", value))
        }

    def queries(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Queries as they look at recent tokens, and at sinks: those see them no further away than a full cache."""
        q = split(F.linear(x, self.q), self.a.key_dim)
        near = positions.clamp(max=self.window.limit - 1) if self.window.sinks else positions
        return rope(q, positions), rope(q, near) if self.window.sinks else q

    def scores(self, q: tuple[Tensor, Tensor], keys: Tensor) -> Tensor:
        """``[batch, kv heads, group x tokens, entries]``."""
        near, far = (x.unflatten(1, (keys.shape[1], -1)).flatten(2, 3) for x in q)
        sinks = self.window.sinks
        if not sinks:
            return near @ keys.transpose(-1, -2)
        return torch.cat([far @ keys[:, :, :sinks].transpose(-1, -2), near @ keys[:, :, sinks:].transpose(-1, -2)], -1)

    def prompt(self, x: Tensor, at: Tensor, parts: Parts, mask: Tensor, entries_at: Tensor) -> tuple[Tensor, Tensor]:
        """Queries ``x`` at positions ``at`` over all entries, low ranks expanded."""
        keys, values = parts["key"], parts["value"]
        if self.a.rank_k:
            keys = rope(split(F.linear(keys[:, 0], self.k), self.a.key_dim), entries_at)
        if self.a.rank_v:
            values = split(F.linear(values[:, 0], self.v), self.a.value_dim)
        out, seen = weigh(self.scores(self.queries(x, at), keys), values, mask, self.scale)
        return self.out(out.unflatten(2, (-1, x.shape[1])).flatten(1, 2)), seen

    def step(self, x: Tensor, at: Tensor, parts: Parts, mask: Tensor, entries_at: Tensor) -> tuple[Tensor, Tensor]:
        """One new token: of low rank, values are weighted in their own rank and expanded after that."""
        if not self.a.rank_v:
            return self.prompt(x, at, parts, mask, entries_at)
        keys = parts["key"]
        if self.a.rank_k:
            keys = rope(split(F.linear(keys[:, 0], self.k), self.a.key_dim), entries_at)
        scores = self.scores(self.queries(x, at), keys).flatten(1, 2)[:, None]
        out, seen = weigh(scores, parts["value"], mask, self.scale)
        up = self.v.unflatten(0, (-1, self.a.value_dim)).repeat_interleave(out.shape[2] // keys.shape[1], 0)
        return self.out(out.transpose(1, 2) @ up.transpose(1, 2)), seen

    def out(self, mixed: Tensor) -> Tensor:
        """The output projection of ``[batch, heads, tokens, width]``, summed over ranks."""
        return self.ranks.sum(F.linear(merge(mixed), self.o))


class LatentHeads(nn.Module):
    """Multi-head latent attention: expanded over a prompt, absorbed in a step (arXiv 2405.04434, section 2.1)."""

    def __init__(self, hidden: int, m: Latent, weights: Weights, ranks: Ranks, owns: bool) -> None:
        super().__init__()
        self.m, self.ranks, self.window = m, ranks, looks(m)
        if m.q_rank:
            self.q_down = weights.matrix(hidden, m.q_rank)
        width = m.nope_dim + m.rope_dim
        self.q = weights.matrix(m.q_rank or hidden, m.heads * width, rows(m.heads, width, ranks))
        if owns:
            self.kv_down = weights.matrix(hidden, m.kv_rank + m.rope_dim)
        self.kv = weights.matrix(
            m.kv_rank, m.heads * (m.nope_dim + m.value_dim), rows(m.heads, m.nope_dim + m.value_dim, ranks)
        )
        self.o = weights.matrix(m.heads * m.value_dim, hidden, columns=rows(m.heads, m.value_dim, ranks))
        self.scale = width**-0.5

    def make(self, x: Tensor, positions: Tensor) -> Parts:
        """One latent and one rotary key for all heads."""
        latent, key = F.linear(x, self.kv_down)[:, None].split([self.m.kv_rank, self.m.rope_dim], -1)
        return {"latent": rms(latent)} | ({"rope": rope(key, positions)} if self.m.rope_dim else {})

    def empty(self, batch: int, tokens: int, like: Tensor) -> Parts:
        """Zeros in the shape of what ``make`` makes."""
        widths = {"latent": self.m.kv_rank} | ({"rope": self.m.rope_dim} if self.m.rope_dim else {})
        return {name: like.new_zeros(batch, 1, tokens, width) for name, width in widths.items()}

    def queries(self, x: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """The part of a query that meets latents, and the turned part that meets rotary keys."""
        x = rms(F.linear(x, self.q_down)) if self.m.q_rank else x
        nope, turned = split(F.linear(x, self.q), self.m.nope_dim + self.m.rope_dim).split(
            [self.m.nope_dim, self.m.rope_dim], -1
        )
        return nope, rope(turned, at)

    def prompt(self, x: Tensor, at: Tensor, parts: Parts, mask: Tensor, entries_at: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of every head made from the latents."""
        expanded = split(F.linear(parts["latent"][:, 0], self.kv), self.m.nope_dim + self.m.value_dim)
        keys, values = expanded.split([self.m.nope_dim, self.m.value_dim], -1)
        if self.m.rope_dim:
            keys = torch.cat([keys, parts["rope"].expand(-1, keys.shape[1], -1, -1)], -1)
        out, seen = look(torch.cat(self.queries(x, at), -1), keys, values, mask, self.scale)
        return self.out(out), seen.mean(1, keepdim=True)

    def step(self, x: Tensor, at: Tensor, parts: Parts, mask: Tensor, entries_at: Tensor) -> tuple[Tensor, Tensor]:
        """Queries brought to the latents instead of latents to the queries: no key and no value is expanded."""
        nope, turned = self.queries(x, at)
        up = self.kv.unflatten(0, (-1, self.m.nope_dim + self.m.value_dim))
        keys_up, values_up = up.split([self.m.nope_dim, self.m.value_dim], 1)
        queries, keys = torch.cat([nope @ keys_up, turned], -1), parts["latent"]
        if self.m.rope_dim:
            keys = torch.cat([keys, parts["rope"]], -1)
        out, seen = look(queries.flatten(1, 2)[:, None], keys, parts["latent"], mask, self.scale)
        return self.out(out.transpose(1, 2) @ values_up.transpose(1, 2)), seen

    def out(self, mixed: Tensor) -> Tensor:
        """The output projection, summed over ranks."""
        return self.ranks.sum(F.linear(merge(mixed), self.o))


class FactorHeads(nn.Module):
    """Tensor-product attention: keys and values as sums of outer products (arXiv 2501.06425, section 3)."""

    def __init__(self, hidden: int, f: Factored, weights: Weights, ranks: Ranks, owns: bool) -> None:
        super().__init__()
        self.f, self.ranks, self.window = f, ranks, looks(f)
        low, high = part(f.heads, ranks)
        for name, rank in (("q", f.rank_q), ("k", f.rank_k), ("v", f.rank_v)) if owns else (("q", f.rank_q),):
            own = torch.arange(rank * f.heads).view(rank, f.heads)[:, low:high].flatten()
            whole = weights.matrix(hidden, rank * f.heads)
            setattr(self, f"{name}_heads", nn.Parameter(whole[own.to(whole.device)], requires_grad=False))
            setattr(self, f"{name}_dims", weights.matrix(hidden, rank * f.dim))
        self.o = weights.matrix(f.heads * f.dim, hidden, columns=rows(f.heads, f.dim, ranks))
        self.scale = f.dim**-0.5 / (f.rank_q * f.rank_k)

    def factors(self, x: Tensor, name: str, rank: int) -> tuple[Tensor, Tensor]:
        """``[batch, heads, tokens, rank]`` and ``[batch, rank, tokens, dim]`` of queries, keys or values."""
        heads = F.linear(x, getattr(self, f"{name}_heads")).unflatten(-1, (rank, -1)).permute(0, 3, 1, 2)
        return heads, split(F.linear(x, getattr(self, f"{name}_dims")), self.f.dim)

    def make(self, x: Tensor, positions: Tensor) -> Parts:
        """Both factors of keys and of values; positions turn the factor over dims."""
        key_heads, key_dims = self.factors(x, "k", self.f.rank_k)
        value_heads, value_dims = self.factors(x, "v", self.f.rank_v)
        return {
            "key_heads": key_heads, "key_dims": rope(key_dims, positions),
            "value_heads": value_heads, "value_dims": value_dims,
        }  # fmt: skip

    def empty(self, batch: int, tokens: int, like: Tensor) -> Parts:
        """Zeros in the shape of what ``make`` makes."""
        low, high = part(self.f.heads, self.ranks)
        found = {}
        for name, rank in (("key", self.f.rank_k), ("value", self.f.rank_v)):
            found[f"{name}_heads"] = like.new_zeros(batch, high - low, tokens, rank)
            found[f"{name}_dims"] = like.new_zeros(batch, rank, tokens, self.f.dim)
        return found

    @staticmethod
    def product(heads: Tensor, dims: Tensor) -> Tensor:
        """``[batch, heads, tokens, dim]``: the sum over ranks of the outer products."""
        return (heads[..., None] * dims.transpose(1, 2)[:, None]).sum(3)

    def prompt(self, x: Tensor, at: Tensor, parts: Parts, mask: Tensor, entries_at: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, keys and values multiplied out, then attention as ever."""
        heads, dims = self.factors(x, "q", self.f.rank_q)
        queries = self.product(heads, rope(dims, at))
        keys = self.product(parts["key_heads"], parts["key_dims"])
        values = self.product(parts["value_heads"], parts["value_dims"]) / self.f.rank_v
        out, seen = look(queries, keys, values, mask, self.scale)
        return self.out(out), seen

    def step(self, x: Tensor, at: Tensor, parts: Parts, mask: Tensor, entries_at: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and sums from the factors: nothing is multiplied out over heads and dims."""
        heads, dims = self.factors(x, "q", self.f.rank_q)  # [b, h, 1, q] and [b, q, 1, d]
        inner = rope(dims, at)[:, :, 0] @ parts["key_dims"].transpose(1, 2).flatten(1, 2).transpose(1, 2)  # [b, q, n k]
        outer = (heads[:, :, 0] @ inner).unflatten(2, (-1, self.f.rank_k))  # [b, h, n, k]
        scores = (outer * parts["key_heads"]).sum(-1)[:, :, None].float() * self.scale
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(x.dtype)  # [b, h, 1, n]
        weighted = (weights[:, :, 0, :, None] * parts["value_heads"]).flatten(2)  # [b, h, n v]
        out = weighted @ parts["value_dims"].transpose(1, 2).flatten(1, 2) / self.f.rank_v
        return self.out(out[:, :, None]), weights[:, :, 0]

    def out(self, mixed: Tensor) -> Tensor:
        """The output projection, summed over ranks."""
        return self.ranks.sum(F.linear(merge(mixed), self.o))


class Recurrence(nn.Module):
    """Linear attention (arXiv 2006.16236, without a normaliser) and, with a decay and a gate, YOCO's gated retention."""

    def __init__(self, hidden: int, r: Recurrent, weights: Weights, ranks: Ranks, owns: bool) -> None:
        super().__init__()
        outputs = {w.module.rpartition(".")[2]: w.outputs for w in r.weights}
        self.heads, self.ranks = r.state[0].heads, ranks
        self.dim = outputs["q_proj"] // self.heads
        self.width = r.state[0].width // self.dim
        kv_heads = outputs["k_proj"] // self.dim
        self.q = weights.matrix(hidden, self.heads * self.dim, rows(self.heads, self.dim, ranks))
        self.k = weights.matrix(hidden, kv_heads * self.dim, rows(kv_heads, self.dim, ranks))
        self.v = weights.matrix(hidden, kv_heads * self.width, rows(kv_heads, self.width, ranks))
        self.o = weights.matrix(self.heads * self.width, hidden, columns=rows(self.heads, self.width, ranks))
        self.gated = "gt_proj" in outputs
        if self.gated:
            self.g = weights.matrix(hidden, self.heads * self.width, rows(self.heads, self.width, ranks))
            self.decay = weights.matrix(hidden, self.heads, rows(self.heads, 1, ranks))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values per query head in fp32, and how much of the state each token leaves."""
        q, k, v = (
            split(F.linear(x, self.q), self.dim),
            split(F.linear(x, self.k), self.dim),
            split(F.linear(x, self.v), self.width),
        )
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        left = (
            torch.sigmoid(F.linear(x, self.decay).float() + 2) ** 0.1 if self.gated else torch.ones(1, device=x.device)
        )
        return F.elu(q.float()) + 1, (F.elu(k.float()) + 1) / self.dim, v.float(), left

    def forward(self, x: Tensor, state: State) -> Tensor:
        """Tokens one after another: the state decays, takes key x value in, and is looked at."""
        q, k, v, left = self.project(x)
        if state.held is None:
            state.held = torch.zeros(*q.shape[:2], self.dim, self.width, device=x.device)
        outs = []
        for t in range(x.shape[1]):
            kept = state.held * left[:, t, :, None, None] if self.gated else state.held
            state.held = kept + k[:, :, t, :, None] @ v[:, :, t, None, :]
            outs.append(q[:, :, t, None] @ state.held)
        return self.out(torch.cat(outs, 2), x)

    def out(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Normed, gated where there is a gate, and projected."""
        mixed = merge(rms(mixed)).to(x.dtype)
        if self.gated:
            mixed = mixed * F.silu(F.linear(x, self.g))
        return self.ranks.sum(F.linear(mixed, self.o))


class Memory(nn.Module):
    """Infini-attention's compressive memory beside attention within segments (arXiv 2404.07143)."""

    def __init__(self, heads: int, weights: Weights) -> None:
        super().__init__()
        self.gate = weights.matrix(1, heads)

    @staticmethod
    def feature(x: Tensor) -> Tensor:
        """Elu + 1, in fp32."""
        return F.elu(x.float()) + 1

    def fold(self, state: State, keys: Tensor, values: Tensor) -> None:
        """Takes a finished segment in: keys x (values, 1), whose last column is the normaliser."""
        ones = torch.ones(*values.shape[:3], 1, device=values.device)
        state.held = state.held + self.feature(keys).transpose(2, 3) @ torch.cat([values.float(), ones], 3)

    def recall(self, state: Tensor, queries: Tensor) -> Tensor:
        """What the memory says to ``[batch, heads, tokens, dim]`` queries; zeros while it is empty."""
        found = self.feature(queries) @ state
        return found[..., :-1] / found[..., -1:].clamp_min(1e-6)

    def mix(self, recalled: Tensor, local: Tensor) -> Tensor:
        """A gate of each head between memory and segment."""
        share = torch.sigmoid(self.gate.float())[None, :, :, None]
        return (share * recalled + (1 - share) * local.float()).to(local.dtype)


class Mlp(nn.Module):
    """A dense MLP, gated or not."""

    def __init__(self, hidden: int, width: int, gated: bool, weights: Weights, ranks: Ranks) -> None:
        super().__init__()
        self.gated, self.ranks = gated, ranks
        own = rows(width, 1, ranks) if ranks.tp > 1 else slice(None)
        if gated:
            self.gate = weights.matrix(hidden, width, own)
        self.up = weights.matrix(hidden, width, own)
        self.down = weights.matrix(width, hidden, columns=own)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, hidden]`` to the same."""
        inner = F.linear(x, self.up)
        inner = F.silu(F.linear(x, self.gate)) * inner if self.gated else F.silu(inner)
        return self.ranks.sum(F.linear(inner, self.down))


class Experts(nn.Module):
    """A mixture of experts: each token runs through those that the router scores highest, and the shared ones."""

    def __init__(self, hidden: int, m: MoE, weights: Weights, ranks: Ranks) -> None:
        super().__init__()
        self.active = m.active
        self.router = weights.matrix(hidden, m.experts)
        self.experts = nn.ModuleList(Mlp(hidden, m.width, m.gated, weights, ranks) for _ in range(m.experts))
        self.shared = Mlp(hidden, m.shared_width, m.gated, weights, ranks) if m.shared_width else None

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, hidden]`` to the same."""
        flat = x.flatten(0, 1)
        scores, chosen = F.linear(flat, self.router).float().softmax(-1).topk(self.active)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            token, place = (chosen == i).nonzero(as_tuple=True)
            if len(token):
                out[token] += expert(flat[token]) * scores[token, place, None].to(x.dtype)
        return (out if self.shared is None else out + self.shared(flat)).view_as(x)


# --- the model -------------------------------------------------------------------------------------------------------


def owner_of(index: int, layer: Layer) -> int:
    """The layer whose KV a layer reads."""
    reads: int | None = getattr(layer.mixers[0], "reads", None)
    return index if reads is None else reads


class Block(nn.Module):
    """One layer: its mixer and MLP, and whose cache it looks at."""

    def __init__(self, index: int, layer: Layer, hidden: int, weights: Weights, ranks: Ranks, owns: bool) -> None:
        super().__init__()
        self.index, self.passes, self.last = index, layer.prefill_passes, layer.prefill_last
        self.mixer: Any = None
        self.memory: Memory | None = None
        self.owner = index
        self.pool: tuple[int, int] | None = None
        if layer.mixers:
            fact: Any = layer.mixers[0]
            makers: dict[type, Any] = {
                Attention: Heads,
                Latent: LatentHeads,
                Factored: FactorHeads,
                Recurrent: Recurrence,
            }
            self.mixer = makers[type(fact)](hidden, fact, weights, ranks, owns)
            self.owner = owner_of(index, layer)
            self.pool = getattr(fact, "pool", None)
            if isinstance(fact, Attention) and fact.extra_parts:
                low, high = part(fact.heads, ranks)
                self.memory = Memory(high - low, weights)
        self.mlp: Any = None
        for mlp in layer.mlps:
            if isinstance(mlp, Dense) and mlp.width:
                self.mlp = Mlp(hidden, mlp.width, mlp.gated, weights, ranks)
            elif isinstance(mlp, MoE):
                self.mlp = Experts(hidden, mlp, weights, ranks)

    @property
    def upward(self) -> bool:
        """Whether it reads a layer above itself, whose KV of the newest token is not there yet."""
        return self.owner > self.index


class Transformer(nn.Module):
    """Runs the plan of a spec. Raises Unsupported where the spec holds something that it cannot run.

    ``reserve`` allocates caches for that many tokens at once, as serving does. ``layers`` builds one pipeline stage,
    ``ranks`` one tensor-parallel rank: ``through`` then takes and gives hidden states.
    """

    def __init__(
        self,
        spec: ModelSpec,
        formats: Formats,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        *,
        seed: int = 0,
        ranks: Ranks = ALONE,
        layers: range | None = None,
        reserve: int = 0,
    ) -> None:
        super().__init__()
        reason = refusal(spec)
        if reason:
            raise Unsupported(f"the small transformer cannot run {spec.name}: {reason}")
        self.formats, self.dtype, self.device, self.reserve = formats, dtype, device, reserve
        self.share, self.ranks = spec.offload.cpu, ranks
        self.span = layers or range(len(spec.layers))
        weights = Weights(seed, dtype, device)
        self.embedding = weights.matrix(spec.hidden, spec.vocab)
        self.head = self.embedding if spec.tied else weights.matrix(spec.hidden, spec.vocab)
        owners = {i: owner_of(i, layer) for i, layer in enumerate(spec.layers) if layer.mixers}
        self.read = {owners[i] for i in self.span if i in owners}
        if not all(owner in self.span for owner in self.read):
            raise Unsupported("layers that share KV must lie in one stage")
        # every stage and rank draws the same weights: a seed per layer
        self.blocks = nn.ModuleList(
            Block(i, spec.layers[i], spec.hidden, Weights(seed + 1 + i, dtype, device), ranks, i in self.read)
            for i in self.span
        )
        self.runs = list(self._runs())
        self.forget()

    def each(self) -> Iterator[Any]:
        """The blocks, in order."""
        yield from self.blocks

    # --- caches ------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Empties every cache."""
        self.stores: dict[int, Store] = {}
        self.pools: dict[int, Store] = {}
        self.states: dict[int, State] = {}
        self.chosen: dict[int, Tensor] = {}  # how much a prompt's last query looked at each entry, for budgets
        self.tokens = 0
        for b in self.each():
            if isinstance(b.mixer, Recurrence):
                self.states[b.index] = State()
            elif b.mixer is not None and b.index in self.read:
                self.stores[b.index] = Store(
                    self._longest(b.index), self._formats(), self.dtype, self.share, self.reserve
                )
                if b.pool:
                    reserve = self.reserve // b.pool[0]
                    self.pools[b.index] = Store(Growth(), self._formats(), self.dtype, self.share, reserve)
            if b.memory is not None:
                self.states[b.index] = State()

    def _longest(self, owner: int) -> Growth:
        """What the reader of a store that looks back furthest needs."""
        found = [b.mixer.window for b in self.each() if b.mixer is not None and b.owner == owner]
        full = [g for g in found if g.kind == "full"]
        longest: Growth = full[0] if full else max(found, key=lambda g: g.limit)
        if longest.kind == "budget" and any(b.upward for b in self.each() if b.owner == owner):
            raise Unsupported("a budget under layers that read a layer above them is not run")
        return longest

    def _formats(self) -> dict[str, str]:
        key, value, latent = self.formats
        return {
            "key": key, "value": value, "latent": latent, "rope": latent,
            "key_heads": key, "key_dims": key, "value_heads": value, "value_dims": value,
        }  # fmt: skip

    def allocate(self, batch: int, tokens: int) -> None:
        """Caches of ``reserve`` tokens at once, as if ``tokens`` of random entries were there: no prompt is run."""
        self.forget()
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        for b in self.each():
            if b.index in self.stores:
                if b.pool or b.memory is not None:
                    raise Unsupported("pooled entries and memories are not allocated at full length")
                self.stores[b.index].allocate(b.mixer.empty(batch, 0, like), tokens)
        self.tokens = tokens

    def cache_tensors(self) -> list[Tensor]:
        """Every tensor that holds cached entries or state on the device."""
        holders: list[Any] = [*self.stores.values(), *self.pools.values(), *self.states.values()]
        return [t for holder in holders for t in holder.tensors()]

    def host_tensors(self) -> list[Tensor]:
        """Every tensor that holds them in host memory."""
        return [t for store in (*self.stores.values(), *self.pools.values()) for t in store.host_tensors()]

    # --- a prompt ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prefill(self, tokens: Tensor, *, sequential: bool = False) -> Tensor:
        """Logits ``[batch, vocab]`` of a prompt's last token ``[batch, tokens]``; fills the caches.

        ``sequential`` runs token by token, which is what layers that read above themselves mean; otherwise the blocks
        between a reader and the layer that it reads run several times over the whole prompt (LCKV's iteration).
        """
        self.forget()
        if sequential:
            for t in range(tokens.shape[1] - 1):
                self.step(tokens[:, t])
            return self.step(tokens[:, -1])
        return self.logits(self.prompt(F.embedding(tokens, self.embedding)))

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the last token."""
        return F.linear(rms(x[:, -1]), self.head)

    @torch.no_grad()
    def prompt(self, x: Tensor) -> Tensor:
        """Hidden states of a prompt through this stage's layers."""
        at = torch.arange(x.shape[1], device=x.device)
        made: dict[int, Parts] = {}  # entries of the whole prompt, by the layer that made them
        for run, passes in self.runs:
            start = x
            for _ in range(passes):
                x = start
                before = dict(made)  # layers that read above themselves see what the pass before made
                for b in run:
                    x = self._layer_prompt(b, x, at, made, before)
        for owner, parts in made.items():
            self._store_prompt(owner, parts)
        self.tokens = len(at)
        return x

    def _runs(self) -> Iterator[tuple[list[Any], int]]:
        """Layers that a prompt passes together and how often: one alone, or from a reader up to the layer that it reads."""
        blocks, i = list(self.each()), 0
        while i < len(blocks):
            end, top = i, blocks[i].index
            while end < len(blocks) and blocks[end].index <= top:
                top = max(top, blocks[end].owner)
                end += 1
            yield blocks[i:end], blocks[i].passes if end - i > 1 else 1
            i = end

    def _layer_prompt(self, b: Any, x: Tensor, at: Tensor, made: dict[int, Parts], before: dict[int, Parts]) -> Tensor:
        normed = rms(x)
        if isinstance(b.mixer, Recurrence):
            self.states[b.index] = State()
            x = x + b.mixer(normed, self.states[b.index])
        elif b.mixer is not None:
            if b.index in self.read:
                if x.shape[1] < len(at):
                    raise Unsupported("a layer that keeps KV after the prompt has left early")
                made[b.index] = b.mixer.make(normed, at)
            if b.last:
                x, normed = x[:, -1:], normed[:, -1:]
            parts = before.get(b.owner) if b.upward else made[b.owner]
            if parts is None:  # the first pass: nothing is there yet
                parts = b.mixer.empty(len(x), len(at), x)
            x = x + self._attend_prompt(b, normed, at, parts)
        elif b.last:
            x = x[:, -1:]
        return x if b.mlp is None else x + b.mlp(rms(x))

    def _attend_prompt(self, b: Any, x: Tensor, at: Tensor, parts: Parts) -> Tensor:
        mask = prompt_mask(b.mixer.window, len(at), b.upward, x.device)[-x.shape[1] :]
        queries_at = at[-x.shape[1] :]
        if b.pool:
            far = pooled(parts, b.pool[0])
            groups = torch.arange(far["key"].shape[2], device=x.device)
            mask = torch.cat([mask, (groups[None] + 1) * b.pool[0] <= queries_at[:, None] + 1], 1)
            parts = {name: torch.cat([parts[name], far[name]], 2) for name in parts}
        if b.memory is not None:
            return self._recall_prompt(b, x, queries_at, parts, mask)
        out, weights = b.mixer.prompt(x, queries_at, parts, mask, at)
        if b.owner == b.index and b.mixer.window.kind == "budget":
            self.chosen[b.index] = weights
        return out  # type: ignore[no-any-return]

    def _recall_prompt(self, b: Any, x: Tensor, at: Tensor, parts: Parts, mask: Tensor) -> Tensor:
        """Segment by segment: recall from the memory, then fold the segment in once it is complete."""
        state, segment = State(), b.mixer.window.limit
        queries, _ = b.mixer.queries(x, at)
        group = queries.shape[1] // parts["key"].shape[1]
        keys, values = (parts[name].repeat_interleave(group, 1) for name in ("key", "value"))
        state.held = torch.zeros(*queries.shape[:2], keys.shape[3], values.shape[3] + 1, device=x.device)
        local, _ = weigh(b.mixer.scores((queries, queries), parts["key"]), parts["value"], mask, b.mixer.scale)
        local = local.unflatten(2, (-1, x.shape[1])).flatten(1, 2)
        recalled = []
        for low in range(0, len(at), segment):
            recalled.append(b.memory.recall(state.held, queries[:, :, low : low + segment]))
            if low + segment <= len(at):
                b.memory.fold(state, keys[:, :, low : low + segment], values[:, :, low : low + segment])
        self.states[b.index] = state
        return b.mixer.out(b.memory.mix(torch.cat(recalled, 2), local))  # type: ignore[no-any-return]

    def _store_prompt(self, owner: int, parts: Parts) -> None:
        store = self.stores[owner]
        store.append(parts)
        if owner in self.chosen:
            store.choose(self.chosen.pop(owner))
        if owner in self.pools:
            b = next(b for b in self.each() if b.index == owner)
            far = pooled(parts, b.pool[0])
            if far["key"].shape[2]:
                self.pools[owner].append(far)

    # --- one more token ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``[batch, vocab]`` after one more token ``[batch]`` of each sequence."""
        return self.logits(self.through(F.embedding(tokens[:, None], self.embedding)))

    @torch.no_grad()
    def through(self, x: Tensor) -> Tensor:
        """Hidden states of one new token through this stage's layers; the caches grow by it."""
        at = torch.tensor([self.tokens], device=x.device)
        for b in self.each():
            normed = rms(x)
            if isinstance(b.mixer, Recurrence):
                x = x + b.mixer(normed, self.states[b.index])
            elif b.mixer is not None:
                x = x + self._attend_step(b, normed, at)
            if b.mlp is not None:
                x = x + b.mlp(rms(x))
        self.tokens += 1
        return x

    def _attend_step(self, b: Any, x: Tensor, at: Tensor) -> Tensor:
        if b.upward:
            out = self._attend_above(b, x, at)
            if b.index in self.read:  # others read what this layer makes
                self.stores[b.index].append(b.mixer.make(x, at))
            return out
        if b.index in self.read:
            own = self.stores[b.index]
            own.append(b.mixer.make(x, at))
            if b.pool and own.seen % b.pool[0] == 0:
                self.pools[b.index].append(pooled(own.read(b.pool[0]), b.pool[0]))
        store, window = self.stores[b.owner], b.mixer.window
        last = {"window": window.limit, "chunk": (store.seen - 1) % window.limit + 1 if window.limit else 0}.get(
            window.kind
        )
        parts = store.read(last, window.sinks)
        if b.pool and self.pools[b.owner].seen:
            far = self.pools[b.owner].read()
            parts = {name: torch.cat([parts[name], far[name]], 2) for name in parts}
        entries = next(iter(parts.values())).shape[2]
        mask = torch.ones(1, entries, dtype=torch.bool, device=x.device)
        if b.memory is not None:
            return self._recall_step(b, x, at, parts, mask, store)
        out, weights = b.mixer.step(x, at, parts, mask, self._positions(window, entries, store.seen, x.device))
        if window.kind == "budget" and b.owner == b.index:
            store.choose(weights)
        return out  # type: ignore[no-any-return]

    def _attend_above(self, b: Any, x: Tensor, at: Tensor) -> Tensor:
        """A look at a layer above: its tokens so far, and an empty place for the new one, masked but for the first token."""
        store, window = self.stores[b.owner], b.mixer.window
        last = {"window": window.limit - 1, "chunk": store.seen % window.limit if window.limit else 0}.get(window.kind)
        empty = b.mixer.empty(len(x), 1, x)
        parts = (store.read_with_place() if last is None and store.seen else None) or empty
        if parts is empty and store.seen and last != 0:
            held = store.read(last, window.sinks)
            parts = {name: torch.cat([held[name], empty[name]], 2) for name in empty}
        entries = next(iter(parts.values())).shape[2]
        mask = torch.arange(entries, device=x.device)[None] < max(entries - 1, 1)
        out, _ = b.mixer.step(x, at, parts, mask, self._positions(window, entries, store.seen + 1, x.device))
        return out  # type: ignore[no-any-return]

    def _recall_step(self, b: Any, x: Tensor, at: Tensor, parts: Parts, mask: Tensor, store: Store) -> Tensor:
        queries, _ = b.mixer.queries(x, at)
        state, segment = self.states[b.index], b.mixer.window.limit
        if state.held is None:
            width = b.mixer.a.value_dim + 1
            state.held = torch.zeros(*queries.shape[:2], b.mixer.a.key_dim, width, device=x.device)
        local, _ = weigh(b.mixer.scores((queries, queries), parts["key"]), parts["value"], mask, b.mixer.scale)
        local = local.unflatten(2, (-1, 1)).flatten(1, 2)
        out = b.mixer.out(b.memory.mix(b.memory.recall(state.held, queries), local))
        if store.seen % segment == 0:
            group = queries.shape[1] // parts["key"].shape[1]
            b.memory.fold(state, *(parts[name].repeat_interleave(group, 1) for name in ("key", "value")))
        return out  # type: ignore[no-any-return]

    @staticmethod
    def _positions(window: Growth, entries: int, seen: int, device: Any) -> Tensor:
        """The positions of the entries read: the newest ones, behind the sinks."""
        newest = torch.arange(seen - entries, seen, device=device)
        return torch.cat([torch.arange(window.sinks, device=device), newest[window.sinks :]])


def pooled(parts: Parts, size: int) -> Parts:
    """The means of complete groups of ``size`` entries."""
    whole = {name: held[:, :, : held.shape[2] // size * size] for name, held in parts.items()}
    return {name: held.unflatten(2, (-1, size)).mean(3) for name, held in whole.items()}


def refusal(spec: ModelSpec) -> str:
    """Why a spec cannot be run, or nothing."""
    for i, layer in enumerate(spec.layers):
        if len(layer.mixers) > 1 or len(layer.mlps) > 1:
            return f"layer {i} runs several mixers or MLPs"
        for mixer in layer.mixers:
            low_rank = isinstance(mixer, Attention) and (mixer.rank_k or mixer.rank_v)
            if low_rank and owner_of(i, layer) != i:
                return (
                    f"layer {i} reads another layer's low-rank entries: no paper says whose second factor expands them"
                )
            reason = _mixer_refusal(mixer)
            if reason:
                return f"layer {i} {reason}"
    if spec.offload.disk:
        return "a share of its cache lies on a disk"
    return ""


def _mixer_refusal(mixer: Any) -> str:
    if isinstance(mixer, Recurrent):
        known = mixer.kind in ("linear_attention", "gated retention") and any(
            "q_proj" in w.module for w in mixer.weights
        )
        return "" if known and not mixer.conv else f"is recurrent ({mixer.kind})"
    if not isinstance(mixer, (Attention, Latent, Factored)):
        return f"pools its entries ({type(mixer).__name__})"
    growth = looks(mixer)
    if growth.kind not in ("full", "window", "chunk", "budget"):
        return f"keeps {growth.kind} entries"
    if mixer.sparse is not None or getattr(mixer, "indexer", None) is not None:
        return "selects what it reads"
    if growth.sinks and not isinstance(mixer, Attention):
        return "keeps sinks beside latents or factors"
    if growth.kind == "budget" and (
        isinstance(mixer, Factored) or (isinstance(mixer, Attention) and bool(mixer.rank_k or mixer.rank_v))
    ):
        return "chooses a budget of factors or low-rank entries"
    if isinstance(mixer, Attention):
        if mixer.cross or not mixer.cached:
            return "looks at an encoder, or is one"
        if mixer.merged or mixer.seen:
            return "merges its cache with another layer's"
        if mixer.extra_parts and [p.name for p in mixer.extra_parts] != ["memory"]:
            return "keeps parts beside keys and values"
    return ""
