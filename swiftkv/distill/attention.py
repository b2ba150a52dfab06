"""Attention in which documents that lie side by side in one row do not see each other, without a mask over the row.

Teacher and students run it under the name NAME of Transformers' attention interface. A batch is one row of M tokens,
document after document; N queries at chosen tokens see the keys of their own document up to themselves. On a CPU every
document is a call of its own to PyTorch's scaled_dot_product_attention: a mask over rows of 2,048 tokens with documents
of 500 computes four times as much. On a GPU one call of PyTorch's variable-length kernel takes all of them.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from swiftkv.distill.data import send

NAME = "swiftkv_documents"
TOLERANCE = 0.03  # of the fused kernel, as a share of the largest number: bfloat16 has 8 bits


class Runs(NamedTuple):
    """Neighbouring queries of one document with the keys up to the last of them, as the variable-length kernel takes
    them: ends of the runs among queries and among keys [R + 1] int32, which of the M keys stand there (None: each
    once, in order), and the longest run of either."""

    query_ends: torch.Tensor
    key_ends: torch.Tensor
    keys: torch.Tensor | None
    longest_query: int
    longest_key: int


class Spans:
    """Which keys each query sees: `index` [N] int64 on the CPU, ascending, says which of the M tokens is a query;
    documents begin at `bounds`, whose last entry is M."""

    def __init__(self, index: torch.Tensor, bounds: Sequence[int], device: torch.device):
        self.index, self.bounds, self.device = index, bounds, device
        self.masks: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        cuts = torch.searchsorted(index, torch.tensor(bounds)).tolist()
        # Tokens and queries of every document, and those documents that have queries.
        self.sizes, self.query_sizes = ([end - first for first, end in pairwise(edges)] for edges in (bounds, cuts))
        self.numbers = [number for number, queries in enumerate(self.query_sizes) if queries]
        self.documents = [
            (slice(cuts[number], cuts[number + 1]), slice(bounds[number], int(index[cuts[number + 1] - 1]) + 1))
            for number in self.numbers
        ]

    def mask(self, number: int, dtype: torch.dtype) -> torch.Tensor | None:
        """Additive mask [queries, keys] of a document; None where every token up to the last key is a query."""
        queries, keys = self.documents[number]
        if queries.stop - queries.start == keys.stop - keys.start:
            return None
        if (number, dtype) not in self.masks:
            later = torch.arange(keys.start, keys.stop) > self.index[queries, None]
            mask = torch.zeros(later.shape, dtype=dtype).masked_fill_(later, float("-inf"))
            self.masks[number, dtype] = send(mask, self.device)
        return self.masks[number, dtype]

    @cached_property
    def runs(self) -> Runs:
        """The queries in runs of neighbours. A run's last query stands at its last key, so that a causal kernel, which
        aligns the ends of queries and keys, hides exactly the later ones."""
        begins = torch.ones(len(self.index), dtype=torch.bool)
        begins[1:] = self.index.diff() != 1
        begins[[queries.start for queries, _ in self.documents]] = True
        first = begins.nonzero().flatten()
        ends = torch.cat([first[1:], torch.tensor([len(self.index)])])
        last = self.index[ends - 1] + 1
        bounds = torch.tensor(self.bounds)
        start = bounds[torch.searchsorted(bounds, last - 1, right=True) - 1]
        sizes = last - start
        key_ends = F.pad(sizes.cumsum(0), (1, 0))
        whole = len(self.index) == self.bounds[-1]
        keys = None if whole else torch.cat([torch.arange(a, b) for a, b in zip(start, last, strict=True)])
        return Runs(
            query_ends=send(F.pad(ends, (1, 0)).int(), self.device),
            key_ends=send(key_ends.int(), self.device),
            keys=None if keys is None else send(keys, self.device),
            longest_query=int((ends - first).max()),
            longest_key=int(sizes.max()),
        )


def one_by_one(query, key, value, spans: Spans, scaling: float | None) -> torch.Tensor:
    """Queries [1, H, N, d] and keys, values [1, Hkv, M, d] -> [1, N, H, d], a document at a time."""
    outputs = []
    # Split and not sliced: the gradient of a slice is as large as what it was cut from.
    queries, keys, values = query.split(spans.query_sizes, 2), key.split(spans.sizes, 2), value.split(spans.sizes, 2)
    for number, document in enumerate(spans.numbers):
        mask, seen = spans.mask(number, query.dtype), spans.documents[number][1]
        length = seen.stop - seen.start
        parts = (queries[document], keys[document][:, :, :length], values[document][:, :, :length])
        out = F.scaled_dot_product_attention(*parts, mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, 1)


@cache
def parameters_of(function: Callable) -> frozenset[str]:
    """The names of a function's parameters."""
    return frozenset(inspect.signature(function).parameters)


def varlen_kernel(query, key, value, *runs, scale: float | None) -> torch.Tensor:
    """PyTorch's variable-length attention, causal, of [N, H, d] queries and [M, Hkv, d] keys and values -> [N, H, d].

    Its arguments changed between releases: 2.10 has `is_causal` and no scale, 2.12 is the first that takes fewer heads
    of keys than of queries (https://docs.pytorch.org/docs/2.12/nn.attention.varlen.html).
    """
    from torch.nn.attention.varlen import varlen_attn

    names = parameters_of(varlen_attn)
    options = {"is_causal": True} if "is_causal" in names else {"window_size": (-1, 0)}
    if "scale" in names:
        options["scale"] = scale
    elif scale is not None:
        query = query * (scale * query.shape[-1] ** 0.5)
    if "enable_gqa" in names:
        options["enable_gqa"] = True
    else:
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], 1) for states in (key, value))
    return varlen_attn(query, key, value, *runs, **options)


def all_at_once(query, key, value, spans: Spans, scaling: float | None) -> torch.Tensor:
    """As `one_by_one`, in one call of the variable-length kernel."""
    runs = spans.runs
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    if runs.keys is not None:
        key, value = key[runs.keys], value[runs.keys]
    longest = (runs.longest_query, runs.longest_key)
    return varlen_kernel(
        *(states.contiguous() for states in (query, key, value)),
        runs.query_ends,
        runs.key_ends,
        *longest,
        scale=scaling,
    )[None]


@cache
def fused(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, size: int) -> bool:
    """Whether `all_at_once` can be used for these shapes: `disagreement` finds none beyond rounding. Says so in a line
    where a GPU's cannot."""
    if device.type != "cuda" or dtype == torch.float32:
        return False
    furthest, why = disagreement(device, dtype, heads, kv_heads, size)
    if furthest > TOLERANCE:
        print(f"distill: PyTorch's variable-length attention is not used here ({why}); documents run one by one")
    return furthest <= TOLERANCE


def disagreement(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, size: int) -> tuple[float, str]:
    """How far `all_at_once` is from `one_by_one`, in outputs and gradients, as a share of the largest number, on three
    documents of which some tokens are no queries; and what is wrong in words. Infinitely far if it cannot run.

    The caller's grad mode and autocast do not count: the teacher asks first, which wants no gradients.
    """
    generator, results = torch.Generator().manual_seed(0), []
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        index = torch.tensor([1, 2, 5, 6, 9, 10, 11, 30, 31])
        shapes = ((heads, len(index)), (kv_heads, 40), (kv_heads, 40))
        spans = Spans(index, (0, 4, 12, 40), device)
        states = [torch.randn(1, *shape, size, generator=generator).to(device, dtype) for shape in shapes]
        try:
            for function in (one_by_one, all_at_once):
                inputs = [state.clone().requires_grad_() for state in states]
                output = function(*inputs, spans, None)
                results.append([output.detach(), *torch.autograd.grad(output.float().square().sum(), inputs)])
        except (ImportError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            return float("inf"), " ".join(str(error).split())
    furthest = max(((one - two).abs().max() / one.abs().max()).item() for one, two in zip(*results, strict=True))
    return furthest, f"it is off by {furthest:.2g}"


def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, spans: Spans | None = None, **_):
    """An attention function as Transformers calls it; without `spans` every row is one document. No mask is read, and
    there is no dropout (distillation has none). Returns [B, N, H, d] and no weights."""
    if spans is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    shape = (query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3])
    if not spans.documents:  # no query at all: nothing comes out, but keys and values still get a gradient, of zeros
        return (query + 0 * (key.sum() + value.sum())).transpose(1, 2), None
    function = all_at_once if fused(*shape) else one_by_one
    return function(query, key, value, spans, scaling), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
