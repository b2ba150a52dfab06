"""What one distillation step asks of a GPU: kernels, bytes and FLOPs, against what the device can do. Needs no GPU.

    python benchmarks/distill_counts.py --base DIR [--skips 0.25,0.5] [--batch-tokens 32768] [--gpu H100]

The step runs on `meta` tensors, which have shapes but no memory; every operator that is not a view counts as one kernel
that reads its inputs and writes its outputs once. That is a bound from the operators' side: a kernel may read more
often, and none is fused with another. Attention is PyTorch's variable-length kernel, one call each way. Three times
follow that a step cannot beat: FLOPs at the peak, bytes at the bandwidth, and kernels at LAUNCH_S each, which is what a
host takes to issue one. Optimiser, data and the casts of autocast are not in it.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swiftkv import files
from swiftkv.cli import end_in_one_line
from swiftkv.config import SwiftKVVariant, load_config
from swiftkv.costmodel import memory
from swiftkv.costmodel.training import step_flops
from swiftkv.distill import attention
from swiftkv.distill.data import documents, select
from swiftkv.distill.parallel import World
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import Teacher
from swiftkv.modeling.checkpoint import read_config
from swiftkv.planning import roofline
from swiftkv.provenance import Provenance
from swiftkv.workloads.stream import Batch

LAUNCH_S = 6e-6  # of a small kernel from PyTorch's eager mode, a usual figure; a profile of the device says more
TEMPERATURE = 2.0


class Kernels(TorchDispatchMode):
    """Counts operators that compute, and the bytes of their tensors, by operator."""

    def __init__(self):
        super().__init__()
        self.calls: dict[str, int] = {}
        self.bytes: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        storages = {tensor.untyped_storage()._cdata for tensor in given}
        writes = any(argument.alias_info and argument.alias_info.is_write for argument in function._schema.arguments)
        on_device = any(tensor.device.type == "meta" for tensor in (*given, *made))  # the rest is the host's
        if on_device and (writes or any(tensor.untyped_storage()._cdata not in storages for tensor in made)):
            name = function._overloadpacket.__name__
            if not name.startswith(("empty", "new_empty", "detach")):
                self.calls[name] = self.calls.get(name, 0) + 1
                size = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
                self.bytes[name] = self.bytes.get(name, 0) + size
        return result


def batch_of(tokens: int, document: int, answers: float) -> Batch:
    """Documents of one length side by side in a row, each of which ends with an answer."""
    count = max(1, tokens // document)
    place = torch.arange(document).repeat(count)[None]
    flags = place >= document - round(answers * document)
    return Batch(torch.ones_like(place), flags, torch.tensor([place.numel()]), place)


def count(base: Path, skips: list[float], batch: Batch) -> tuple[Kernels, list[Student]]:
    """One step without the optimiser."""
    teacher = Teacher(base, World(device=torch.device("meta")), keep_bytes=memory.SHARED_BYTES["cuda"])
    recipe = load_config().distill
    students = [Student(SwiftKVVariant(f"skip{skip}", skip), teacher, recipe) for skip in skips]
    for tensor in (tensor for student in students for tensor in student.trained.values()):
        tensor.data = tensor.data.bfloat16()  # as autocast, which `meta` does not know, has them at work
    with Kernels() as kernels:
        passed = teacher.run(batch, set().union(*(student.kept_layers for student in students)))
        for student in students:
            student.sums(passed).kl.backward()
    return kernels, students


def main(
    base: Annotated[Path, typer.Option(help="Directory of the base model.")],
    skips: Annotated[str, typer.Option(help="Share of the layers that each student skips.")] = "0.25,0.5",
    batch_tokens: Annotated[int, typer.Option(min=1)] = 32_768,
    document: Annotated[int, typer.Option(min=2, help="Tokens of a document.")] = 500,
    answers: Annotated[float, typer.Option(min=0, max=1, help="Share of answer tokens.")] = 0.37,
    gpu: Annotated[str, typer.Option(help="Name of a GPU as in `swiftkv plan --gpu`.")] = "H100",
    out: Path = Path("results/benchmarks/distill-counts.json"),
) -> None:
    """Count a step and print what bounds it."""
    shares, machine = [float(skip) for skip in skips.split(",")], roofline.gpu(gpu, 1.0, 1.0)
    # On `meta` as on a GPU: its kernel of attention, and its chunks.
    attention.fused = lambda *_: True
    memory.CHUNK_ELEMENTS["cpu"] = memory.CHUNK_ELEMENTS["cuda"]
    asked = {"skips": shares, "batch_tokens": batch_tokens, "document": document, "answers": answers, "gpu": gpu}
    with Provenance("distill-counts", seeds={}, **asked, out=[out]) as provenance:
        batch = batch_of(batch_tokens, document, answers)
        kernels, students = count(base, shares, batch)
        shape, at_loss = read_config(base), int(select(documents(batch), "answers", False).loss.sum())
        cuts = [(student.cut, student.group) for student in students]
        flops = step_flops(shape, cuts, batch.tokens, at_loss, document)
        calls, moved = sum(kernels.calls.values()), sum(kernels.bytes.values())
        seconds = {"flops": flops / machine.flops[-1], "bytes": moved / machine.bandwidth, "kernels": calls * LAUNCH_S}
        largest = dict(sorted(kernels.bytes.items(), key=lambda item: -item[1])[:12])
        result = {"flops": flops, "bytes": moved, "kernels": calls, "seconds": seconds, "largest": largest}
        files.write_json(out, asked | result | {"calls": kernels.calls})
        provenance.save(out)
    bounds = ", ".join(f"{1e3 * bound:.0f} ms by {what}" for what, bound in seconds.items())
    print(
        f"distill_counts: {batch.tokens:,} tokens, {len(students)} students: {flops:.3g} FLOPs, {moved / 1e9:.0f} GB, "
        f"{calls:,} kernels; on {machine.name} at least {bounds}"
    )


if __name__ == "__main__":
    end_in_one_line(lambda: typer.run(main))
