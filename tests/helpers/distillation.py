"""A distillation small enough for a test: its configuration and its batches."""

import torch

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
