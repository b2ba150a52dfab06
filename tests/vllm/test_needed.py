"""Which tokens of a step run the late layers, and the attention metadata that they get."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swiftkv.errors import UserError

pytestmark = pytest.mark.vllm
REQUESTS = st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.integers(0, 50)), min_size=1, max_size=8)


def step_of(lengths, before, **more):
    """vLLM's metadata of a step of `lengths` new tokens per request, after `before` computed ones."""
    from vllm.v1.attention.backend import CommonAttentionMetadata

    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    more = {name: value for name, value in more.items() if name in {f.name for f in fields(CommonAttentionMetadata)}}
    return CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=torch.tensor(lengths) + torch.tensor(before),
        num_reqs=len(lengths),
        num_actual_tokens=sum(lengths),
        max_query_len=max(lengths),
        max_seq_len=100,
        block_table_tensor=torch.arange(len(lengths), dtype=torch.int32)[:, None].repeat(1, 4),
        slot_mapping=torch.arange(sum(lengths)),
        **more,
    )


def told(unanswered):
    from swiftkv.vllm.needed import Step

    step = Step()
    step.unanswered = None if unanswered is None else np.array(unanswered, dtype=bool)
    return step


@given(REQUESTS, st.integers(1, 4))
def test_the_last_tokens_of_answered_requests_run_the_late_layers(requests, window):
    """Rows, queries and sequences against a plain loop over requests; requests without tokens are padding."""
    from swiftkv.vllm.needed import needed_of

    lengths, unanswered, before = zip(*requests, strict=True)
    batch = step_of(lengths, before)
    found = needed_of(batch, window, told(unanswered))
    if max(lengths) <= window:
        assert found is None
        return
    kept = [
        (number, min(length, window), sum(lengths[: number + 1]))
        for number, (length, late, _) in enumerate(requests)
        if length and not late
    ]
    rows = [row for _, count, end in kept for row in range(end - count, end)]
    needed, reduced = found
    assert needed.indices.tolist() == rows and needed.number == len(rows)
    if len(kept) < len(requests):
        assert needed.last.tolist() == [sum(lengths[: number + 1]) - 1 for number in range(len(requests))]
    if not kept:
        assert reduced is batch
        return
    assert reduced.query_start_loc.tolist() == np.cumsum([0, *(count for _, count, _ in kept)]).tolist()
    assert torch.equal(reduced.query_start_loc, reduced.query_start_loc_cpu)
    assert (reduced.num_reqs, reduced.num_actual_tokens) == (len(kept), len(rows))
    assert reduced.max_query_len == max(count for _, count, _ in kept)
    assert reduced.seq_lens.tolist() == [lengths[number] + before[number] for number, *_ in kept]
    assert reduced.block_table_tensor[:, 0].tolist() == [number for number, *_ in kept]


@pytest.mark.parametrize("lengths", [[5, 1, 300], [1, 1, 1], [7], [1, 40]])
def test_metadata_of_answered_requests_are_those_of_vllms_own_early_exit(lengths):
    """Without asking the GPU how many there are, and without a flag."""
    from vllm.v1.attention.backends.utils import make_kv_sharing_fast_prefill_common_attn_metadata

    from swiftkv.vllm.needed import needed_of

    last = torch.tensor(lengths).cumsum(0).int() - 1
    known = {"logits_indices_padded": last, "num_logits_indices": len(lengths), "max_logits_per_req": 1}
    batch = step_of(lengths, [3] * len(lengths), **known)
    found, theirs = needed_of(batch, 1, told([False] * 8)), make_kv_sharing_fast_prefill_common_attn_metadata(batch)
    assert (found is None) == (theirs is batch) == (max(lengths) == 1)
    if found is None:
        return
    needed, ours = found
    assert torch.equal(needed.indices, last.long()) and needed.last is None
    for field in fields(batch):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b, field.name


def test_every_token_runs_every_layer_where_nobody_knows_which_are_answered():
    from swiftkv.vllm.needed import needed_of

    assert needed_of(step_of([5, 300], [0, 0]), 1, told(None)) is None


class Builder:
    """A backend's metadata builder, as far as an early exit's needs one."""

    support = "ALWAYS"

    def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
        pass

    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec):
        from vllm.v1.attention.backend import AttentionCGSupport

        return AttentionCGSupport[cls.support]

    def build_for_cudagraph_capture(self, common_attn_metadata):
        return "captured"


@pytest.fixture
def early_exit_builder():
    from types import SimpleNamespace

    from swiftkv.vllm.attention import early_exit_builder

    layers = {"late": SimpleNamespace(step=told(None))}
    config = SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context=layers), speculative_config=None)
    return early_exit_builder(Builder)(None, ["late"], config, None)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("ALWAYS", "UNIFORM_BATCH"), ("UNIFORM_BATCH", "UNIFORM_BATCH"), ("NEVER", "NEVER")]
)
def test_no_cuda_graph_of_a_whole_step_with_prompts(early_exit_builder, monkeypatch, theirs, ours):
    """FlashAttention 3 would take one; vLLM then keeps whole graphs to decode-only steps."""
    monkeypatch.setattr(Builder, "support", theirs)
    assert early_exit_builder.get_cudagraph_support(None, None).name == ours
    assert early_exit_builder.build_for_cudagraph_capture(step_of([1, 1], [4, 4])) == "captured"
    with pytest.raises(UserError, match="FULL"):
        early_exit_builder.build_for_cudagraph_capture(step_of([7], [0]))
