"""The students of one distillation run; all their frozen weights are the teacher's own tensors."""

from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from swiftkv.config import SwiftKVVariant
from swiftkv.config.training import Distill
from swiftkv.distill.loss import kl_sum
from swiftkv.distill.teacher import Teacher, TeacherPass, View, fill
from swiftkv.modeling import FAMILIES
from swiftkv.modeling import trained as trained_tensors
from swiftkv.modeling.convert import frozen_tensors, initial_tensors
from swiftkv.modeling.decoder import SharedKV


@dataclass(frozen=True)
class Sums:
    """One student's loss on a batch, as sums: T^2 KL over the loss positions and how many of them have the teacher's
    top token, and squared error of the last layer's input over every position that was run and every channel."""

    kl: torch.Tensor
    agreeing: torch.Tensor
    squares: torch.Tensor


def build_student(base: PreTrainedModel, cut: int, group: int, init: str, train: str) -> PreTrainedModel:
    """An undistilled student whose frozen weights are the tensors of `base`; only what is trained is its own.

    Its own are float32 and trainable: q, k and v_proj_swiftkv and norm_swiftkv, and with `train="layers"` every
    other weight of the decoder layers and the final norm.
    """
    tensors, layers = dict(base.named_parameters()), base.config.num_hidden_layers
    shape = {k: v for k, v in base.config.to_dict().items() if k not in ("model_type", "architectures")}
    family = FAMILIES[base.config.model_type]
    config = family.config_class(**shape, num_key_value_layers=cut, key_value_group_size=group)
    config._attn_implementation = base.config._attn_implementation
    with torch.device("meta"):
        student = family(config)
    frozen = frozen_tensors(tensors, layers, cut, group)
    own = initial_tensors(tensors, layers, cut, group, init)
    if train == "layers":
        own |= {n: t.detach().clone() for n, t in frozen.items() if n.startswith(("model.layers.", "model.norm."))}
    own = {name: tensor.float() for name, tensor in own.items()}
    fill(student, frozen | own)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in own and cut < layers)
    return student.train()


class Student:
    """One variant: its late half on what the teacher leaves, and its loss. `recipe` holds the settings that all
    students `shared`, with the variant's own in their place."""

    def __init__(self, variant: SwiftKVVariant, teacher: Teacher, shared: Distill, recompute: bool = False):
        self.recipe, self.recompute = variant.recipe(shared), recompute
        self.name, self.teacher = variant.name, teacher
        self.cut = variant.num_key_value_layers(teacher.last + 1)
        self.group, self.own_trunk = variant.key_value_group_size, self.recipe.train == "layers"
        init, train = self.recipe.init, self.recipe.train
        self.model = build_student(teacher.model, self.cut, self.group, init, train).model
        self.start = variant.start_file
        self.early, self.late = list(self.model.layers[: self.cut]), list(self.model.layers[self.cut :])
        if not self.own_trunk:  # the teacher runs these
            self.early = []
            self.model.layers = torch.nn.ModuleList([torch.nn.Identity() for _ in range(self.cut)] + self.late)

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """Trained tensors by published name; none at l = L, where the student is the base model."""
        return {f"model.{n}": p for n, p in self.model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def go_on_from_start(self, base_sha256: str) -> dict:
        """Take the trained tensors that the configuration names as `start`; returns the record of their training.

        Raises UserError if they are those of another base, cut, group or choice of weights.
        """
        trained = self.trained
        shapes = {name: list(tensor.shape) for name, tensor in trained.items()}
        of = trained_tensors.about(base_sha256, self.cut, self.group)
        tensors, record = trained_tensors.read(self.start, of, shapes)
        for name, tensor in tensors.items():
            trained[name].copy_(tensor)
        return record

    @property
    def kept_layers(self) -> set[int]:
        """Layers whose inputs this student needs of the teacher."""
        return {0 if self.own_trunk else self.cut, self.teacher.last}

    @property
    def chosen(self) -> tuple[str, bool]:
        """Which tokens carry the loss, and whether all are run: `loss_on` and `every_position` of `select`."""
        return self.recipe.loss_on, self.recipe.hidden_loss > 0

    def view(self, passed: TeacherPass) -> View:
        """The tokens at which this student runs."""
        return passed.view(*self.chosen, self.recipe.temperature)

    def run(self, layer, hidden: torch.Tensor, **kwargs) -> torch.Tensor:
        """One layer, with its activations kept for the backward pass or made again there."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, hidden, use_reentrant=False, **kwargs)
        return layer(hidden, **kwargs)

    def trunk(self, passed: TeacherPass) -> torch.Tensor:
        """x_l [1, M, D]: the teacher's, unless this student trains its own early layers."""
        if not self.own_trunk:
            return passed.inputs[self.cut]
        hidden = passed.inputs[0]
        for layer in self.early:
            hidden = self.run(layer, hidden, position_embeddings=passed.rope, spans=passed.every)
        return hidden

    def late_half(self, passed: TeacherPass, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        """Run layers l+1..L at the view's tokens only. Returns the last layer's input and output [N, D]."""
        x_l, shared = self.trunk(passed), SharedKV(self.model.norm_swiftkv, passed.rope)
        shared.cut(x_l)
        hidden = before = x_l[:, view.index]
        for layer in self.late:
            before = hidden
            hidden = self.run(layer, hidden, position_embeddings=view.rope, shared_kv=shared, spans=view.spans)
        return before[0], hidden[0]

    def final(self, passed: TeacherPass, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        """The last layer's input [N, D], and the normalised output where the loss is [K, D]."""
        before, hidden = self.late_half(passed, view)
        return before, self.model.norm(view.loss_states(hidden))

    def squared_error(self, passed: TeacherPass, view: View, before: torch.Tensor) -> torch.Tensor:
        """Squared error between the inputs of the last layer, summed over every token that was run."""
        target = passed.inputs[self.teacher.last][0, view.index]
        return (before.float() - target.float()).square().sum()

    def sums(self, passed: TeacherPass) -> Sums:
        """The loss of this student on one batch, with gradient."""
        view = self.view(passed)
        before, final = self.final(passed, view)
        kl, agreeing = kl_sum(final, view.targets)
        error = self.squared_error(passed, view, before) if self.recipe.hidden_loss > 0 else torch.zeros_like(kl)
        return Sums(kl, agreeing, error)
