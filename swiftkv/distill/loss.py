"""The distillation loss from hidden states, in chunks: full logits never exist at once.

Loss per student = T^2 KL(teacher || student) at temperature T, mean over the loss positions, plus `hidden_loss`
times the mean squared error between the inputs of the last decoder layer (before any final norm), over all
positions. ArcticTraining averages the KL over every position, answers or not, which scales it by the answers'
share; otherwise the same (https://github.com/snowflakedb/ArcticTraining, projects/swiftkv).
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F

from swiftkv.costmodel.memory import chunk_elements


class TeacherSide(NamedTuple):
    """A chunk of n tokens as the teacher sees it, at temperature T: `probabilities` [n, V] and their `entropy` [n],
    both in float32, and the most likely tokens `top` [n]."""

    probabilities: torch.Tensor
    entropy: torch.Tensor
    top: torch.Tensor


class Targets:
    """The teacher's side of the loss at N tokens, by chunk of `rows`. Students of one batch share the latest chunk, and
    as many others as `keep_bytes` hold.

    `hidden` [N, D] is after the final norm, `head` the frozen language-model head.
    """

    def __init__(self, hidden: torch.Tensor, head, temperature: float, rows: int | None = None, keep_bytes: int = 0):
        self.hidden, self.head, self.temperature = hidden.detach(), head, temperature
        self.rows = rows or max(1, chunk_elements(hidden.device.type) // head.weight.shape[0])
        self.room, self.latest = keep_bytes, (None, None)
        self.made: dict[int, TeacherSide] = {}

    def chunks(self) -> list[slice]:
        return [slice(first, first + self.rows) for first in range(0, len(self.hidden), self.rows)]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits / T [n, V] of hidden states [n, D]. It is these that are divided, not the many more logits."""
        return self.head(hidden / self.temperature)

    @torch.no_grad()
    def teacher(self, chunk: slice) -> TeacherSide:
        """The teacher's side of a chunk."""
        if chunk.start in self.made:
            return self.made[chunk.start]
        if self.latest[0] != chunk.start:
            self.latest = None, None  # frees a chunk before the next one is made
            side = teacher_side(self.logits(self.hidden[chunk]))
            self.latest = chunk.start, side
            if side.probabilities.nbytes <= self.room:
                self.room -= side.probabilities.nbytes
                self.made[chunk.start] = side
        return self.latest[1]


def row_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Dot products of the rows of two [n, V] tensors in float32 [n], which autocast would make in bfloat16."""
    kind = a.device.type
    plain = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
    with plain:
        return torch.linalg.vecdot(a, b)


def teacher_side(logits: torch.Tensor) -> TeacherSide:
    """What logits / T [n, V] say."""
    top, log = logits.argmax(-1), F.log_softmax(logits, dim=-1, dtype=torch.float32)
    probabilities = log.exp()
    return TeacherSide(probabilities, -row_dots(probabilities, log), top)


def divergence(logits: torch.Tensor, side: TeacherSide, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """T^2 KL(teacher || student), summed over n tokens, and softmax(logits / T) - teacher [n, V] in the logits' dtype,
    which is 1 / T of its gradient with respect to the logits. `logits` [n, V] are the student's, divided by T.

    Written so that a GPU, whose memory is what limits it here, reads and writes [n, V] as seldom as it can.
    """
    log = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    cross = row_dots(side.probabilities, log)
    # Row by row a small difference of two numbers around the entropy; in double precision where rows add up.
    total = temperature**2 * (-side.entropy - cross).double().sum().float()
    return total, torch.sub(log.exp_(), side.probabilities, out=torch.empty_like(logits))


def chunk_loss(
    student: torch.Tensor, targets: Targets, chunk: slice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`divergence` of a chunk's hidden states [n, D], its count of equal top tokens, and its gradient [n, D].

    A function of its own, so that no logits of a chunk live on while the next ones are made.
    """
    side, logits = targets.teacher(chunk), targets.logits(student)
    agreeing = (logits.argmax(-1) == side.top).sum()
    total, slope = divergence(logits, side, targets.temperature)
    return total, agreeing, targets.temperature * (slope @ targets.head.weight)


class ChunkedDivergence(torch.autograd.Function):
    """Sum of `divergence` and count of equal top tokens from the student's final hidden states [N, D]; the
    gradient is made chunk by chunk in the forward pass, which is all of it because the head is frozen."""

    @staticmethod
    def forward(ctx, student: torch.Tensor, targets: Targets):
        total, agreeing = student.new_zeros((), dtype=torch.float32), student.new_zeros((), dtype=torch.long)
        gradient = torch.empty_like(student)
        for chunk in targets.chunks():
            value, same, gradient[chunk] = chunk_loss(student[chunk], targets, chunk)
            total += value
            agreeing += same
        ctx.save_for_backward(gradient)
        return total, agreeing

    @staticmethod
    def backward(ctx, of_total, _of_agreeing):
        return of_total * ctx.saved_tensors[0], None


def kl_sum(student: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """T^2 KL, summed over N positions, and how many have the teacher's top token; `student` [N, D] is after the final
    norm. No token gives 0 and 0, still with a gradient."""
    if len(student) == 0:
        return student.sum(), torch.zeros((), dtype=torch.long, device=student.device)
    return ChunkedDivergence.apply(student, targets)
