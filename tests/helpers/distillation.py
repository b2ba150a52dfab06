"""A distillation small enough for a test: its configuration and its batches."""

import torch
import torch.nn.functional as F

from swiftkv.config import RunConfig
from swiftkv.workloads.stream import Batch
from tests.helpers.config import make_config

PAD = 0
VARIANTS = [
    {"name": "late", "skip": 0.25},
    {"name": "half", "skip": 0.5},
    {"name": "half-across4", "skip": 0.5, "key_value_group_size": 4},
]
SETTINGS = {
    "steps": 24, "sequence_length": 64, "batch_tokens": 512, "learning_rate": 0.003, "warmup": 0.1,
    "temperature": 2.0, "hidden_loss": 0.0, "loss_on": "answers",
    "schedule": "cosine", "init": "group-mean", "train": "qkv", "data": {"source": "tasks"},
}  # fmt: skip


def distill_config(variants=VARIANTS, **changes) -> RunConfig:
    return make_config(instead={"variants": variants, "distill": SETTINGS | changes})


def make_batch(index: int, rows: int = 8, length: int = 32) -> Batch:
    """Random rows of different lengths whose second half is the answer; depends on the index alone."""
    generator = torch.Generator().manual_seed(index)
    ids = torch.randint(2, 300, (rows, length), generator=generator)
    ends = torch.randint(length // 2, length + 1, (rows, 1), generator=generator)
    places = torch.arange(length)
    ids[places >= ends] = PAD
    answers = (places >= ends // 2) & (places < ends)
    return Batch(ids, answers, ends[:, 0])


def plain_varlen(query, key, value, query_ends, key_ends, longest_query, longest_key, scale):
    """What the kernel behind `attention.varlen_kernel` computes by its documentation: ends of queries and keys are
    aligned."""
    assert longest_query == query_ends.diff().max() and longest_key == key_ends.diff().max()
    outputs = []
    for number in range(len(query_ends) - 1):
        q, k, v = (
            x[ends[number] : ends[number + 1]].transpose(0, 1)[None]
            for x, ends in ((query, query_ends), (key, key_ends), (value, key_ends))
        )
        later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(k.shape[2] - q.shape[2] + 1)
        mask = torch.zeros(later.shape).masked_fill(later, float("-inf"))
        outputs.append(F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(outputs)
