"""Several processes: data parallel over the rows of a batch, weights sharded layer by layer with FSDP2.

Started by torchrun or `accelerate launch`, which say rank and size in the environment. Embeddings, head and norms are
replicated; everything in a decoder layer is sharded. Source: torch.distributed.fsdp.fully_shard
(https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
"""

import os
import sys
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among all of a run. `mesh` is None for a process alone."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    mesh: DeviceMesh | None = None

    @property
    def first(self) -> bool:
        """Whether this process prints and writes what all share."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a small tensor of statistics."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, gradient: torch.Tensor) -> None:
        """Average a replicated gradient in place, as FSDP does with sharded ones."""
        if self.size > 1:
            dist.all_reduce(gradient)
            gradient /= self.size

    def agree(self, wish: bool) -> bool:
        """What the first process wishes, on all of them."""
        return bool(self.total(torch.tensor([float(wish and self.first)], device=self.device)).item())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def join() -> World:
    """This process's world, from the variables that torchrun sets; a process alone needs none of them."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if size == 1:
        return World(device=device)
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return World(rank, size, device, init_device_mesh(device.type, (size,)))


def launch(processes: int) -> None:
    """Let torchrun start `processes` processes that run this very command in place of this one; they return at once."""
    if processes == 1 or "RANK" in os.environ:
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    os.execv(sys.executable, [*command, "-m", "swiftkv.cli", *sys.argv[1:]])


def leave() -> None:
    """End the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


class SharedLayer(nn.Module):
    """One decoder layer of the teacher and of every student that has its own version of it: one FSDP unit, because
    they share their frozen weights."""

    def __init__(self, teacher: nn.Module, students: list[nn.Module]):
        super().__init__()
        self.teacher, self.students = teacher, nn.ModuleList(students)

    def forward(self, *args, student: int | None = None, **kwargs):
        """The layer of the teacher, or that of student number `student`."""
        return (self.teacher if student is None else self.students[student])(*args, **kwargs)


def shard(teacher, students: list) -> None:
    """Move a teacher and its students to the device, every decoder layer sharded; trained projections are units of
    their own, so that only their gradients travel."""
    world, stack = teacher.world, teacher.model.model
    for number, layer in enumerate(stack.layers):
        users = [student for student in students if number >= student.cut]
        unit = SharedLayer(layer, [student.model.layers[number] for student in users])
        for student in users:
            for name, projection in student.model.layers[number].self_attn.named_children():
                if name.endswith("_swiftkv"):
                    fully_shard(projection, mesh=world.mesh)
        stack.layers[number] = fully_shard(unit, mesh=world.mesh)
        for place, student in enumerate(users):
            student.late[number - student.cut] = partial(unit, student=place)
    for module in (stack.embed_tokens, stack.norm, stack.rotary_emb, teacher.model.lm_head):
        module.to(world.device)
    for student in students:
        student.model.norm_swiftkv.to(world.device)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the CPU, gathered if it is sharded (all processes must call)."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def gradient_norm(parameters: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients, sharded and replicated ones together."""
    norms = []
    for sharded in (True, False):
        if gradients := [p.grad for p in parameters if isinstance(p, DTensor) == sharded and p.grad is not None]:
            norms.append(whole(nn.utils.get_total_norm(gradients)))
    return torch.linalg.vector_norm(torch.stack(norms))
