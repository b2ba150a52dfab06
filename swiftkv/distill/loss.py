"""The distillation loss from hidden states, in chunks: full logits never exist at once.

Loss per student = T^2 KL(teacher || student) at temperature T, mean over the loss positions, plus `hidden_loss`
times the mean squared error between the inputs of the last decoder layer (before any final norm), over all
positions. ArcticTraining averages the KL over every position, answers or not, which scales it by the answers'
share; otherwise the same (https://github.com/snowflakedb/ArcticTraining, projects/swiftkv).
"""

import torch
import torch.nn.functional as F

from swiftkv.costmodel.memory import chunk_elements


class Targets:
    """The teacher's side of the loss at N tokens, by chunk of `rows`. Students of one batch share the latest chunk, and
    as many others as `keep_bytes` hold.

    `hidden` [N, D] is after the final norm, `head` the frozen language-model head.
    """

    def __init__(self, hidden: torch.Tensor, head, temperature: float, rows: int | None = None, keep_bytes: int = 0):
        self.hidden, self.head, self.temperature = hidden.detach(), head, temperature
        self.rows = rows or max(1, chunk_elements(hidden.device.type) // head.weight.shape[0])
        self.room, self.latest = keep_bytes, (None, None)
        self.made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def chunks(self) -> list[slice]:
        return [slice(first, first + self.rows) for first in range(0, len(self.hidden), self.rows)]

    @torch.no_grad()
    def teacher(self, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """log softmax(logits / T) [n, V] in float32 and the most likely tokens [n] of a chunk."""
        if chunk.start in self.made:
            return self.made[chunk.start]
        if self.latest[0] != chunk.start:
            self.latest = None, None  # frees a chunk before the next one is made
            logits = self.head(self.hidden[chunk])
            self.latest = chunk.start, (log_softmax(logits, self.temperature), logits.argmax(-1))
            if self.latest[1][0].nbytes <= self.room:
                self.room -= self.latest[1][0].nbytes
                self.made[chunk.start] = self.latest[1]
        return self.latest[1]


def log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """log softmax(logits / T) in float32."""
    scaled = logits.float()
    scaled = scaled / temperature if scaled is logits else scaled.div_(temperature)  # no third copy where one is made
    return F.log_softmax(scaled, dim=-1)


def divergence(
    logits: torch.Tensor, teacher_log: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """T^2 KL(teacher || student), summed over N, and its gradient with respect to the logits, [N, V] in float32:
    T (softmax(logits / T) - teacher). `logits` [N, V] are the student's, `teacher_log` the teacher's log softmax at T.
    """
    student_log, teacher = log_softmax(logits, temperature), teacher_log.exp()
    total = temperature**2 * (teacher_log - student_log).mul_(teacher).sum()
    return total, student_log.exp_().sub_(teacher).mul_(temperature)


def chunk_loss(
    student: torch.Tensor, targets: Targets, chunk: slice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`divergence` of a chunk's hidden states [n, D], its count of equal top tokens, and its gradient [n, D].

    A function of its own, so that no logits of a chunk live on while the next ones are made.
    """
    teacher_log, top = targets.teacher(chunk)
    logits = targets.head(student)
    agreeing = (logits.argmax(-1) == top).sum()
    total, slope = divergence(logits, teacher_log, targets.temperature)
    return total, agreeing, slope.to(logits.dtype) @ targets.head.weight


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
