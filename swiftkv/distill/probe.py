"""How close students are to their base on held-out text, from teacher-forced passes: no generation is needed.

Greedy generation reproduces an answer exactly if and only if every token of it is the most likely one given those
before, so exact match can be read off one forward pass.
"""

from dataclasses import dataclass

import torch

from swiftkv.distill.loss import divergence
from swiftkv.distill.students import Student
from swiftkv.distill.teacher import Teacher, TeacherPass, View
from swiftkv.workloads.stream import Batch


@dataclass
class Tally:
    """Sums over the probed positions, and over the answers they make up: `kept` are as the base would have it, `right`
    as the data have it."""

    kl: float = 0.0
    tokens: int = 0
    tokens_kept: int = 0
    answers: int = 0
    answers_kept: int = 0
    answers_right: int = 0

    def row(self, suffix: str = "") -> dict:
        """The means as columns."""
        return {
            f"kl{suffix}": self.kl / self.tokens,
            f"tokens_kept{suffix}": self.tokens_kept / self.tokens,
            f"answers_kept{suffix}": self.answers_kept / self.answers,
            f"answers_right{suffix}": self.answers_right / self.answers,
        }


def answer_numbers(at: torch.Tensor) -> torch.Tensor:
    """For loss positions `at` [N] among the tokens of a batch, ascending: the number of the answer each belongs to.
    Neighbours belong to one; answers of two documents have the first token of the second between them."""
    starts = torch.ones_like(at)
    starts[1:] = at.diff() != 1
    return starts.cumsum(0) - 1


def unbroken(right: torch.Tensor, numbers: torch.Tensor) -> int:
    """How many answers have every token right; flags and answer numbers [N]."""
    wrong = torch.zeros(int(numbers.max()) + 1, dtype=torch.long, device=right.device)
    return int((wrong.index_add_(0, numbers, (~right).long()) == 0).sum())


@torch.no_grad()
def add(tally: Tally, final: torch.Tensor, passed: TeacherPass, view: View) -> None:
    """Add one batch: `final` [N, D] are normalised hidden states at the view's loss positions."""
    targets, at = view.targets, view.loss_states(view.index).cpu()
    expected = passed.texts.ids.roll(-1)[at].to(final.device)
    given, kept = [], []
    for chunk in targets.chunks():
        side, logits = targets.teacher(chunk), targets.logits(final[chunk].to(targets.hidden.dtype))
        tally.kl += divergence(logits, side, targets.temperature)[0].item()
        given.append(logits.argmax(-1))
        kept.append(given[-1] == side.top)
    given, kept, numbers = torch.cat(given), torch.cat(kept), answer_numbers(at).to(final.device)
    tally.tokens, tally.tokens_kept = tally.tokens + len(kept), tally.tokens_kept + int(kept.sum())
    tally.answers, tally.answers_kept = (
        tally.answers + int(numbers.max()) + 1,
        tally.answers_kept + unbroken(kept, numbers),
    )
    tally.answers_right += unbroken(given == expected, numbers)


@torch.no_grad()
def exit_states(teacher: Teacher, passed: TeacherPass, view: View, cut: int) -> torch.Tensor:
    """What leaving at the cut would give: x_l through the final norm, at the loss positions [N, D]."""
    return teacher.model.model.norm(passed.inputs[cut][0, view.loss_states(view.index)])


@torch.no_grad()
def probe(
    teacher: Teacher, students: list[Student], texts: list[Batch], exits: tuple[int, ...] = ()
) -> tuple[list[Tally], list[Tally]]:
    """A tally per student, and one per cut of `exits` for early exit there; one teacher pass per batch."""
    tallies, left = [Tally() for _ in students], [Tally() for _ in exits]
    layers = set().union(*(student.kept_layers for student in students), exits)
    for number, data in enumerate(texts, 1):
        passed = teacher.run(data, layers)
        view = passed.view("answers", False, 1.0)
        with teacher.autocast():
            for student, tally in zip(students, tallies, strict=True):
                add(tally, student.final(passed, view)[1], passed, view)
            for cut, tally in zip(exits, left, strict=True):
                add(tally, exit_states(teacher, passed, view, cut), passed, view)
        print(f"probe: {number} of {len(texts)} held-out batches", flush=True)
    return tallies, left
