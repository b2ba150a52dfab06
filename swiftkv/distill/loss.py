"""The distillation loss from hidden states, in chunks: full logits never exist at once.

Loss per student = T^2 KL(teacher || student) at temperature T, mean over the loss positions, plus `hidden_loss`
times the mean squared error between the inputs of the last decoder layer (before any final norm), over all
positions. ArcticTraining averages the KL over every position, answers or not, which scales it by the answers'
share; otherwise the same (https://github.com/snowflakedb/ArcticTraining, projects/swiftkv).
"""

import torch
import torch.nn.functional as F

from swiftkv.costmodel.memory import CHUNK_ELEMENTS


class Targets:
    """The teacher's side of the loss at N positions, by chunk of `rows` positions; the latest chunk is kept, so
    that students of one batch share it if all positions fit in one.

    `hidden` [N, D] is after the final norm, `head` the frozen language-model head.
    """

    def __init__(self, hidden: torch.Tensor, head, temperature: float, rows: int | None = None):
        self.hidden, self.head, self.temperature = hidden.detach(), head, temperature
        self.rows = rows or max(1, CHUNK_ELEMENTS // head.weight.shape[0])
        self.latest: tuple | None = None

    def chunks(self) -> list[slice]:
        return [slice(first, first + self.rows) for first in range(0, len(self.hidden), self.rows)]

    @torch.no_grad()
    def of(self, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """log softmax(logits / T) [n, V] in float32 and the most likely tokens [n] of a chunk."""
        if self.latest is None or self.latest[0] != chunk:
            logits = self.head(self.hidden[chunk]).float()
            self.latest = chunk, (F.log_softmax(logits / self.temperature, dim=-1), logits.argmax(-1))
        return self.latest[1]


def divergence(logits: torch.Tensor, teacher_log: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher || student), summed over N; logits [N, V] of the student, the teacher's log softmax at T."""
    student_log = F.log_softmax(logits / temperature, dim=-1)
    return temperature**2 * F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)


class ChunkedDivergence(torch.autograd.Function):
    """Sum of `divergence` and count of equal top tokens from the student's final hidden states [N, D]; the
    gradient is made chunk by chunk in the forward pass, which is all of it because the head is frozen."""

    @staticmethod
    def forward(ctx, student: torch.Tensor, targets: Targets):
        total, agreeing = student.new_zeros((), dtype=torch.float32), student.new_zeros((), dtype=torch.long)
        gradient = torch.empty_like(student)
        for chunk in targets.chunks():
            teacher_log, top = targets.of(chunk)
            with torch.enable_grad():
                hidden = student[chunk].detach().requires_grad_()
                logits = targets.head(hidden).float()
                loss = divergence(logits, teacher_log, targets.temperature)
                (gradient[chunk],) = torch.autograd.grad(loss, hidden)
            total += loss.detach()
            agreeing += (logits.argmax(-1) == top).sum()
        ctx.save_for_backward(gradient)
        return total, agreeing

    @staticmethod
    def backward(ctx, of_total, _of_agreeing):
        return of_total * ctx.saved_tensors[0], None


def kl_sum(student: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """T^2 KL, summed over N positions, and how many have the teacher's top token; `student` [N, D] is after the final
    norm. No position gives 0 and 0, still with a gradient."""
    if len(student) == 0:
        return student.sum(), torch.zeros((), dtype=torch.long, device=student.device)
    return ChunkedDivergence.apply(student, targets)
