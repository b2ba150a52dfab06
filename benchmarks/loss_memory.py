"""Peak memory of the distillation loss in chunks against full logits of teacher and student.

    python benchmarks/loss_memory.py [--vocabulary 128256] [--tokens 8192] [--hidden 4096] [--out FILE]

Counted is what forward and backward add to their inputs: the final hidden states of teacher and student and the
weight of the head are there before, on both sides. Both sides compute the same loss; they differ in how many logits
exist at once. A side that needs more than --allocate-gib is counted on `meta` tensors, which have
shapes but no memory; the result says which. Ends with code 2 and one line if ours needs more than 1/8.
"""

import resource
import weakref
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

import psutil
import torch
import torch.nn.functional as F
import typer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swiftkv import files
from swiftkv.cli import end_in_one_line
from swiftkv.distill.loss import ChunkedDivergence, Targets
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance

TEMPERATURE = 2.0
BOUND = 1 / 8
GIB = 2**30


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage made inside the block, as long as it lives; `peak` is the most at once.

    Works on any device, `meta` included. What an operator allocates and frees within itself is not seen.
    """

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {storage._cdata for storage in storages((args, kwargs))}
        result = function(*args, **kwargs)
        for storage in storages(result):
            if storage._cdata not in given and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


def storages(tree) -> list[torch.UntypedStorage]:
    """The storages of all tensors in nested arguments or results."""
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def inputs(vocabulary: int, tokens: int, hidden: int, dtype: torch.dtype, device: str) -> tuple:
    """Final hidden states [N, D] of student and teacher, random, and a frozen head [V, D]; no temporary memory."""
    with torch.device(device):
        student, teacher = (torch.empty(tokens, hidden, dtype=dtype).uniform_(-1, 1) for _ in range(2))
        head = torch.nn.Linear(hidden, vocabulary, bias=False, dtype=dtype).requires_grad_(False)
    return student.requires_grad_(), teacher, head


def chunked(student: torch.Tensor, teacher: torch.Tensor, head) -> torch.Tensor:
    """Our loss."""
    return ChunkedDivergence.apply(student, Targets(teacher, head, TEMPERATURE))[0] / len(student)


def materialised(student: torch.Tensor, teacher: torch.Tensor, head) -> torch.Tensor:
    """The same loss from all logits at once, log softmax in float32."""
    with torch.no_grad():
        teacher_log = torch.log_softmax(head(teacher).float() / TEMPERATURE, dim=-1)
    student_log = torch.log_softmax(head(student).float() / TEMPERATURE, dim=-1)
    total = TEMPERATURE**2 * F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
    return total / len(student)


SIDES = {"chunked": chunked, "materialised": materialised}


def measure(side: str, vocabulary: int, tokens: int, hidden: int, dtype: str, device: str) -> dict:
    """Peak bytes that forward and backward add; with memory (not on `meta`) also the loss and by how much the process
    grew at most, which includes what operators use within themselves, such as a reordered copy of the head.

    The growth is true in a process of its own alone: the largest size ever is read.
    """
    torch.manual_seed(0)
    student, teacher, head = inputs(vocabulary, tokens, hidden, getattr(torch, dtype), device)
    before = psutil.Process().memory_info().rss
    with LiveBytes() as counted:
        loss = SIDES[side](student, teacher, head)
        loss.backward()
    found = {"peak_bytes": counted.peak, "allocated": device != "meta"}
    if found["allocated"]:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        found |= {"process_growth_bytes": grown, "loss": loss.item()}
    return found


def alone(*arguments) -> dict:
    """`measure` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def main(
    vocabulary: Annotated[int, typer.Option(min=2)] = 128_256,
    tokens: Annotated[int, typer.Option(min=1)] = 8192,
    hidden: Annotated[int, typer.Option(min=1)] = 4096,
    dtype: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Of hidden states and head.")] = "bfloat16",
    allocate_gib: Annotated[float, typer.Option(help="Most memory to allocate in earnest.")] = 8.0,
    out: Path = Path("results/benchmarks/loss-memory.json"),
) -> None:
    """Measure both sides."""
    shape = {"vocabulary": vocabulary, "tokens": tokens, "hidden": hidden, "dtype": dtype}
    with Provenance("loss-memory", seeds={"seed": 0}, **shape, out=[out]) as provenance:
        result = {}
        for side in SIDES:
            result[side] = measure(side, *shape.values(), "meta")
            if result[side]["peak_bytes"] <= allocate_gib * GIB:
                result[side] = alone(side, *shape.values(), "cpu")
            print(f"loss_memory: {side}: {result[side]}", flush=True)
        share = result["chunked"]["peak_bytes"] / result["materialised"]["peak_bytes"]
        files.write_json(out, shape | result | {"share": share})
        provenance.save(out)
    if share > BOUND:
        raise UserError(f"loss_memory: the loss in chunks needs {share:.3f} of what full logits need; see {out}")
    print(f"loss_memory: the loss in chunks needs {share:.4f} of what full logits need")


if __name__ == "__main__":
    end_in_one_line(lambda: typer.run(main))
