"""Attention of documents side by side: both ways of computing it equal the definition, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv.distill import attention
from swiftkv.distill.attention import Spans, all_at_once, attend, fused, one_by_one
from tests.helpers.distillation import plain_varlen

CPU = torch.device("cpu")
HEADS, KV_HEADS, SIZE = 4, 2, 8


@st.composite
def layouts(draw):
    """Lengths of documents, and which tokens are queries: at least one."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    chosen = draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths)).filter(any))
    bounds = (0, *torch.tensor(lengths).cumsum(0).tolist())
    return torch.tensor(chosen).nonzero().flatten(), bounds


def states(index, bounds, seed: int = 0):
    """Random queries, keys and values that want gradients."""
    torch.manual_seed(seed)
    shapes = ((HEADS, len(index)), (KV_HEADS, bounds[-1]), (KV_HEADS, bounds[-1]))
    return [torch.randn(1, *shape, SIZE, requires_grad=True) for shape in shapes]


def definition(query, key, value, index, bounds):
    """Attention under a mask over the whole row."""
    document = torch.bucketize(torch.arange(bounds[-1]), torch.tensor(bounds[1:]), right=True)
    keys = torch.arange(bounds[-1])
    visible = (document[index][:, None] == document) & (keys <= index[:, None])
    key, value = (states.repeat_interleave(HEADS // KV_HEADS, 1) for states in (key, value))
    scores = (query @ key.mT / SIZE**0.5).masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@settings(deadline=None, max_examples=60)
@given(layouts(), st.integers(0, 100))
@pytest.mark.parametrize("way", [one_by_one, all_at_once])
def test_both_ways_are_the_definition(way, layout, seed):
    index, bounds = layout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "varlen_kernel", plain_varlen)
        given_states, expected_states = states(index, bounds, seed), states(index, bounds, seed)
        found = way(*given_states, Spans(index, bounds, CPU), None)
        expected = definition(*expected_states, index, bounds)
    torch.testing.assert_close(found, expected)
    for one, two in zip(given_states, expected_states, strict=True):
        weights = torch.linspace(-1, 1, found.numel()).reshape(found.shape)
        torch.testing.assert_close(
            torch.autograd.grad((found * weights).sum(), one, retain_graph=True)[0],
            torch.autograd.grad((expected * weights).sum(), two, retain_graph=True)[0],
        )


def test_without_spans_every_row_is_a_document():
    query, key, value = (torch.randn(2, heads, 6, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    together, weights = attend(None, query, key, value, None)
    assert weights is None
    for row in range(2):
        alone = definition(*(x[row : row + 1] for x in (query, key, value)), torch.arange(6), (0, 6))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_without_queries_keys_get_a_gradient_of_zeros():
    query, key, value = states(torch.arange(0), (0, 4))
    out, _ = attend(None, query, key, value, None, spans=Spans(torch.arange(0), (0, 4), CPU))
    out.sum().backward()
    assert out.shape == (1, 0, HEADS, SIZE) and not key.grad.any() and not value.grad.any()


def test_every_token_a_query_needs_no_mask_and_no_copy_of_the_keys():
    spans = Spans(torch.arange(10), (0, 3, 10), CPU)
    assert [spans.mask(number, torch.float32) for number in range(2)] == [None, None]
    assert spans.runs.keys is None and spans.runs.query_ends.tolist() == spans.runs.key_ends.tolist() == [0, 3, 10]


def too_large(*arguments, scale):
    return 1.1 * plain_varlen(*arguments, scale=scale)


def missing(*arguments, scale):
    raise RuntimeError("no such kernel")


KERNELS = {"right": (plain_varlen, True), "wrong": (too_large, False), "missing": (missing, False)}


class Pretended(str):
    """The CPU in a GPU's place: `fused` asks the device for its type alone."""

    type = "cuda"


@pytest.mark.parametrize(("kernel", "used"), KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_kernel_of_a_gpu_is_used_where_it_is_right(monkeypatch, capsys, kernel, used, mode):
    """Whatever the grad mode of the first caller, which is the teacher's: the answer is kept for the students."""
    monkeypatch.setattr(attention, "varlen_kernel", kernel)
    fused.cache_clear()
    with mode():
        assert fused(Pretended("cpu"), torch.bfloat16, HEADS, KV_HEADS, SIZE) is used
    said = capsys.readouterr().out
    assert ("is not used here" in said) == (not used) and ("no such kernel" in said) == (kernel is missing)
    assert not fused(CPU, torch.bfloat16, HEADS, KV_HEADS, SIZE)
    fused.cache_clear()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_kernel_with_wrong_gradients_is_found_by_a_caller_that_wants_none(monkeypatch, mode):
    def detached(query, *arguments, scale):
        return plain_varlen(query.detach() + 0 * query, *arguments, scale=scale)

    monkeypatch.setattr(attention, "varlen_kernel", detached)
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        furthest, why = attention.disagreement(CPU, torch.float64, HEADS, KV_HEADS, SIZE)
    assert furthest == 1 and why == "it is off by 1"


def test_precision_of_the_caller_does_not_count(monkeypatch):
    monkeypatch.setattr(attention, "varlen_kernel", plain_varlen)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention.disagreement(CPU, torch.float32, HEADS, KV_HEADS, SIZE)[0] < 1e-5


def of_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert is_causal and key.shape[1] == query.shape[1]
    return plain_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, query.shape[-1] ** -0.5)


def of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    assert window_size == (-1, 0) and key.shape[1] == query.shape[1]
    return plain_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale)


def of_2_12(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    assert window_size == (-1, 0) and enable_gqa and key.shape[1] < query.shape[1]
    return plain_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale)


@pytest.mark.parametrize("release", [of_2_10, of_2_11, of_2_12])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_kernel_is_called_as_each_release_wants_it(monkeypatch, release, scale):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", release)
    index, bounds = torch.tensor([1, 2, 5, 6]), (0, 4, 9)
    spans, given_states = Spans(index, bounds, CPU), states(index, bounds)
    torch.testing.assert_close(all_at_once(*given_states, spans, scale), one_by_one(*given_states, spans, scale))
