"""Every formula of kvplan: pure functions of named numbers, two to five lines, one sentence and a source each.

Only ``+ - *`` and the helpers of ``num.py`` appear, so that each runs on ints, arrays and symbols alike; a test
walks the syntax tree and another compares the three worlds. One multiply-add is 2 FLOPs.
"""

from __future__ import annotations

from kvplan.num import Num, ceildiv, maximum, minimum

# --- entries: how many a part holds after `tokens` -------------------------------------------------------------------


def entries_full(tokens: Num) -> Num:
    """Entries of a full cache: one per token (Vaswani et al. 2017, arXiv 1706.03762)."""
    return tokens


def entries_window(tokens: Num, window: Num) -> Num:
    """Entries of a sliding window: the last `window` tokens (Mistral 7B, arXiv 2310.06825)."""
    return minimum(tokens, window)


def entries_window_transformers(tokens: Num, window: Num) -> Num:
    """Entries a sliding layer of transformers 5 returns after a prefill: window - 1 (cache_utils.DynamicSlidingWindowLayer)."""
    return minimum(tokens, window - 1)


def entries_compressed(tokens: Num, ratio: Num) -> Num:
    """Entries after pooling `ratio` tokens into one, complete groups only (DeepSeek-V4 compressors, NSA arXiv 2502.11089)."""
    return ceildiv(tokens - ratio + 1, ratio)


def entries_remainder(tokens: Num, ratio: Num) -> Num:
    """Tokens of the group of `ratio` that is still open: tokens mod ratio (the buffer of a DeepSeek-V4 compressor)."""
    return tokens - ratio * ceildiv(tokens - ratio + 1, ratio)


def entries_last_group(tokens: Num, ratio: Num) -> Num:
    """Tokens of the newest complete group, once there is one (the overlap state of DeepSeek-V4's CSA compressor)."""
    return ratio * minimum(ceildiv(tokens - ratio + 1, ratio), 1)


def entries_landmark(tokens: Num, block: Num) -> Num:
    """Entries when every complete block of `block` tokens carries a landmark of its own (arXiv 2305.16300)."""
    return tokens + ceildiv(tokens - block + 1, block)


# --- bytes -----------------------------------------------------------------------------------------------------------


def row_bits(heads: Num, width: Num, block: Num, block_bits: Num) -> Num:
    """Bits of one cache entry: each head's row is cut into blocks that carry their own scales."""
    return heads * ceildiv(width, block) * block_bits


def row_bits_spread(heads: Num, width: Num, block: Num, block_bits: Num, bits: Num, per: Num) -> Num:
    """Bits of one cache entry with `bits` more for every `per` elements wherever they lie: outliers, scales of scales."""
    return heads * ceildiv(width, block) * block_bits + ceildiv(heads * width * bits, per)


def part_bytes(entries: Num, bits_per_entry: Num) -> Num:
    """Bytes of one stored part, rounded up once."""
    return ceildiv(entries * bits_per_entry, 8)


def part_bytes_residual(entries: Num, bits_per_entry: Num, residual: Num, residual_bits: Num) -> Num:
    """Bytes of a quantised part whose newest `residual` entries stay in the compute dtype (KIVI, arXiv 2402.02750)."""
    kept = minimum(entries, residual)
    return ceildiv((entries - kept) * bits_per_entry + kept * residual_bits, 8)


def heads_per_rank(heads: Num, tp: Num) -> Num:
    """KV heads on one tensor-parallel rank: split while they last, then replicated (vLLM, TensorRT-LLM)."""
    return maximum(ceildiv(heads, tp), 1)


# --- pairs: (query, key) pairs that a mask allows, one sequence, one head --------------------------------------------


def pairs_square(tokens: Num) -> Num:
    """All S x S scores, as an eager kernel computes them (convention `full`)."""
    return tokens * tokens


def pairs_causal(tokens: Num) -> Num:
    """Pairs under a causal mask: S(S+1)/2."""
    return ceildiv(tokens * (tokens + 1), 2)


def pairs_window(tokens: Num, window: Num) -> Num:
    """Pairs under a causal window of `window` keys, the query's own included."""
    head = minimum(tokens, window)
    return ceildiv(head * (head + 1), 2) + (tokens - head) * window


def pairs_chunk(tokens: Num, chunk: Num) -> Num:
    """Pairs when attention restarts every `chunk` tokens (Llama 4's local layers)."""
    whole = ceildiv(tokens - chunk + 1, chunk)
    rest = tokens - whole * chunk
    return whole * ceildiv(chunk * (chunk + 1), 2) + ceildiv(rest * (rest + 1), 2)


def pairs_compressed(tokens: Num, ratio: Num) -> Num:
    """Pairs of queries with complete compressed groups: sum of floor(i / ratio) for i = 1..S."""
    whole = ceildiv(tokens - ratio + 1, ratio)
    return ceildiv(ratio * whole * (whole - 1), 2) + whole * (tokens - ratio * whole + 1)


def pairs_compressed_topk(tokens: Num, ratio: Num, top_k: Num) -> Num:
    """Pairs of queries with at most `top_k` complete compressed groups: sum of min(floor(i / ratio), k)."""
    below = minimum(tokens, ratio * top_k - 1)
    whole = ceildiv(below - ratio + 1, ratio)
    ramp = ceildiv(ratio * whole * (whole - 1), 2) + whole * (below - ratio * whole + 1)
    return ramp + (tokens - below) * top_k


def pairs_blocks(tokens: Num, top_k: Num, block: Num) -> Num:
    """Pairs when a query keeps `top_k` keys in whole blocks, its own unfinished block among them (MiniMax-M3, NSA)."""
    head = minimum(tokens, top_k)
    return ceildiv(head * (head + 1), 2) + (tokens - head) * (top_k - block) + pairs_chunk(tokens - head, block)


def pairs_blocks_window(tokens: Num, top_k: Num, block: Num, window: Num) -> Num:
    """Pairs as in `pairs_blocks` where a window hides all but the last `window` keys: sum of min(window, kept keys)."""
    head = minimum(tokens, top_k)
    rest = tokens - head
    inner = minimum(maximum(window - top_k + block, 0), block)
    whole = ceildiv(rest - block + 1, block)
    partly = whole * pairs_window(block, inner) + pairs_window(rest - whole * block, inner)
    return pairs_window(head, window) + rest * minimum(top_k - block, window) + partly


def keys_blocks(tokens: Num, top_k: Num, block: Num) -> Num:
    """Keys the next query keeps after `tokens` cached: all, or whole blocks and its own block as far as it goes."""
    return minimum(tokens + 1, top_k - block + keys_chunk(tokens, block))


def keys_sparse(keys: Num, fixed: Num, stride: Num) -> Num:
    """Of `keys` entries those read: `fixed` always, and one more per `stride` (Quest's pages, NSA's pooled tokens)."""
    return minimum(keys, fixed + ceildiv(keys, stride))


def pairs_sparse(tokens: Num, fixed: Num, stride: Num) -> Num:
    """Pairs when every query reads min(i, fixed + ceil(i / stride)) keys; `stride` is at least 2."""
    head = minimum(tokens, fixed + ceildiv(fixed - stride + 2, stride - 1) + 1)
    ones = tokens - head
    blocks = pairs_compressed(tokens - 1, stride) - pairs_compressed(head - 1, stride)
    return ceildiv(head * (head + 1), 2) + ones * (fixed + 1) + blocks


def keys_chunk(tokens: Num, chunk: Num) -> Num:
    """Keys the next query sees in its own chunk after `tokens` cached: tokens mod chunk, and itself."""
    return tokens - chunk * ceildiv(tokens - chunk + 1, chunk) + 1


# --- FLOPs -----------------------------------------------------------------------------------------------------------


def linear_flops(tokens: Num, parameters: Num) -> Num:
    """2 FLOPs per weight that a token multiplies (Kaplan et al. 2020, arXiv 2001.08361)."""
    return 2 * tokens * parameters


def attention_flops(pairs: Num, heads: Num, score_dim: Num, value_dim: Num) -> Num:
    """Scores and weighted sum: 2 FLOPs per multiply-add, per pair and head."""
    return 2 * pairs * heads * (score_dim + value_dim)


def experts_touched(experts: Num, untouched: Num) -> Num:
    """Experts that a batch touches in expectation: E - E (1 - k/E)^T under uniform routing; `untouched` is the second term."""
    return experts - untouched


# --- capacity, the inverse forms -------------------------------------------------------------------------------------


def kv_pool(memory: Num, reserved: Num, weights: Num, activations: Num, runtime: Num) -> Num:
    """Bytes left for caches on one GPU."""
    return memory - reserved - weights - activations - runtime


def gpu_share(size: Num, away: Num) -> Num:
    """Bytes that stay on the GPU when `away` millionths of a cache lie in host memory or on disk (FlexGen)."""
    return ceildiv(size * (1000000 - away), 1000000)


# --- estimates -------------------------------------------------------------------------------------------------------


def activation_bytes(tokens: Num, hidden: Num, width: Num, element: Num) -> Num:
    """Transient activations of one layer: the residual and its normed copy, and gate, up and their product (estimate)."""
    return tokens * (2 * hidden + 3 * width) * element


def prompt_bytes(tokens: Num, sequences: Num, per_token: Num, per_pair: Num) -> Num:
    """Transient bytes of one layer over whole prompts: what grows with a token, and with every pair of them (estimate)."""
    return sequences * tokens * (per_token + tokens * per_pair)


def masks_bytes(tokens: Num, masks: Num, element: Num) -> Num:
    """Attention masks of whole prompts, one for all sequences: an element for every pair of tokens (estimate)."""
    return masks * tokens * tokens * element


def logits_bytes(rows: Num, vocab: Num, each: Num) -> Num:
    """Logits of the sampled rows: in the compute dtype, and where the engine makes one a float32 copy (estimate)."""
    return rows * vocab * each


def prefill_storage_bytes(tokens: Num, kept: Num, bits_per_entry: Num) -> Num:
    """What a window's view keeps alive behind it after a one-shot prefill: the full-length tensor less the window."""
    return ceildiv((tokens - kept) * bits_per_entry, 8)
