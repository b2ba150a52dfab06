"""The students of one distillation run; all their frozen weights are the teacher's own tensors."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from swiftkv.config import SwiftKVVariant
from swiftkv.convert import frozen_tensors, initial_tensors
from swiftkv.distill.loss import kl_loss
from swiftkv.distill.teacher import Teacher, TeacherPass
from swiftkv.errors import UserError
from swiftkv.modeling import FAMILIES
from swiftkv.modeling.decoder import SharedKV

CLIP = 1.0  # largest norm of a student's gradient


@dataclass(frozen=True)
class Losses:
    """One student's loss on a batch: what is minimised, its parts, and top-1 agreement with the teacher."""

    loss: torch.Tensor
    kl: torch.Tensor
    hidden: torch.Tensor
    agreement: torch.Tensor


def build_student(base: PreTrainedModel, cut: int, group: int) -> PreTrainedModel:
    """An undistilled student whose frozen weights are the tensors of `base`; only SwiftKV tensors are its own.

    Its own are float32 and trainable: q, k and v_proj_swiftkv and norm_swiftkv.
    """
    tensors, layers = dict(base.named_parameters()), base.config.num_hidden_layers
    shape = {k: v for k, v in base.config.to_dict().items() if k not in ("model_type", "architectures")}
    family = FAMILIES[base.config.model_type]
    config = family.config_class(**shape, num_key_value_layers=cut, key_value_group_size=group)
    config._attn_implementation = base.config._attn_implementation
    with torch.device("meta"):
        student = family(config)
    own = {name: tensor.float() for name, tensor in initial_tensors(tensors, layers, cut, group).items()}
    student.load_state_dict(frozen_tensors(tensors, layers, cut, group) | own, strict=False, assign=True)
    student.tie_weights()
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in own and cut < layers)
    return student.train()


class Student:
    """One variant in training: its late half, its loss and its optimiser."""

    def __init__(self, variant: SwiftKVVariant, teacher: Teacher, settings: dict):
        base = teacher.model
        self.name, self.teacher, self.hidden_weight = variant.name, teacher, settings["hidden_loss"]
        self.cut = variant.num_key_value_layers(base.config.num_hidden_layers)
        self.group = variant.key_value_group_size
        self.model = build_student(base, self.cut, self.group).model
        self.last = len(self.model.layers) - 1
        self.trained = {f"model.{n}": p for n, p in self.model.named_parameters() if p.requires_grad}
        # At l = L the student is the base model: nothing to train.
        self.optimizer = self.trained and torch.optim.AdamW(
            self.trained.values(), lr=settings["learning_rate"], betas=(0.9, 0.999), weight_decay=0.0
        )

    def late_half(self, passed: TeacherPass) -> tuple[torch.Tensor, torch.Tensor]:
        """Run layers l+1..L at the selected positions only. Returns the last layer's input and output [B, Q, D]."""
        selection, x_l, late = passed.selection, passed.inputs[self.cut], self.model.layers[self.cut :]
        shared = SharedKV(self.model.norm_swiftkv)
        shared.write_all(late, x_l, passed.rope)
        hidden = before = x_l[selection.rows, selection.positions]
        for layer in late:
            before = hidden
            hidden = layer(
                hidden, attention_mask=passed.mask, position_embeddings=passed.rope_selected, shared_kv=shared
            )
        return before, hidden

    def hidden_error(self, passed: TeacherPass, before: torch.Tensor) -> torch.Tensor:
        """Mean squared error between the inputs of the last layer, over every position that was run."""
        selection = passed.selection
        target = passed.inputs[self.last][selection.rows, selection.positions]
        return torch.nn.functional.mse_loss(before[selection.run].float(), target[selection.run].float())

    def losses(self, passed: TeacherPass) -> Losses:
        """The loss of this student on one batch, with gradient."""
        before, hidden = self.late_half(passed)
        final = self.teacher.model.model.norm(hidden[passed.selection.loss])
        kl, agreement = kl_loss(final, passed.targets)
        error = self.hidden_error(passed, before) if self.hidden_weight else torch.zeros(())
        total = kl + self.hidden_weight * error if self.hidden_weight else kl
        return Losses(total, kl.detach(), error.detach(), agreement)

    def step(self, passed: TeacherPass, rate: float, number: int) -> Losses:
        """One update at learning rate `rate`. Raises UserError naming student and step if the loss is not finite."""
        with self.teacher.autocast():
            losses = self.losses(passed)
        if not torch.isfinite(losses.loss):
            raise self.failure("loss", losses.loss, number)
        losses.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), CLIP)
        if not torch.isfinite(norm):
            raise self.failure("gradient norm", norm, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses

    def failure(self, what: str, value: torch.Tensor, number: int) -> UserError:
        return UserError(
            f"distill: variant {self.name}: {what} is {value.item()} at step {number}; "
            "the last checkpoint is kept (a lower distill.learning_rate may help)"
        )
