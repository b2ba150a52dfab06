"""The teacher: the frozen base model, run once per batch for all students."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from swiftkv.devices import fast_bfloat16
from swiftkv.distill.data import Selection, places, select
from swiftkv.distill.loss import Targets
from swiftkv.distill.parallel import World
from swiftkv.modeling.checkpoint import load_tensors
from swiftkv.workloads.stream import Batch

Rope = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class View:
    """One student's choice of positions: `rope` [B, Q, H] and `mask` [B, 1, Q, T] belong to the queries there,
    `targets` to the loss positions."""

    selection: Selection
    rope: Rope
    mask: torch.Tensor
    targets: Targets


@dataclass
class TeacherPass:
    """What one pass over a [B, T] batch leaves for the students.

    `inputs[j]` [B, T, D] is the input of layer j (0-based) for every layer asked for; `final` [B, T, D] is after the
    last norm; `rope` is (cos, sin), each [B, T, H].
    """

    batch: Batch
    inputs: dict[int, torch.Tensor]
    final: torch.Tensor
    rope: Rope
    head: torch.nn.Module
    views: dict = field(default_factory=dict)

    def view(self, loss_on: str, every_position: bool, temperature: float) -> View:
        """The positions of `select` with what belongs to them; students that ask for the same share it."""
        key = loss_on, every_position, temperature
        if key not in self.views:
            chosen = select(self.batch, loss_on, every_position)
            at_loss = self.final[chosen.rows, chosen.positions][chosen.loss]
            self.views[key] = View(
                selection=chosen,
                rope=tuple(part[chosen.rows, chosen.positions] for part in self.rope),
                mask=chosen.mask(self.final.shape[1], self.final.dtype),
                targets=Targets(at_loss, self.head, temperature),
            )
        return self.views[key]

    def causal_mask(self) -> torch.Tensor:
        """Additive mask [B, 1, T, T] of every position."""
        place = places(self.batch)
        every = torch.arange(place.shape[1], device=place.device).expand(place.shape)
        return Selection(every, every >= 0, every < 0, every - place).mask(place.shape[1], self.final.dtype)


def fill(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> None:
    """Make `tensors` the parameters of `model`, and tie embeddings and head as `from_pretrained` does: where the
    configuration asks for it, and the checkpoint does not hold a head of another content."""
    missing = model.load_state_dict(tensors, strict=False, assign=True).missing_keys
    model.tie_weights(missing_keys=set(missing), recompute_mapping=False)


def load_frozen(base_dir: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The base model on the CPU, its weights memory-mapped where the file has them in `dtype`: the processes of one
    machine share them until each takes its part to its device. `base_dir` must have passed `check_checkpoint`."""
    config = AutoConfig.from_pretrained(base_dir, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    tensors = {name: tensor.to(dtype) for name, tensor in load_tensors(base_dir).items()}
    fill(model, tensors)
    return model.eval().requires_grad_(False)


class Teacher:
    """The frozen base model of `base_dir` in bfloat16 where that is fast and float32 is not asked for.

    Attention is eager on a CPU: with an explicit mask, forward and backward, it is several times faster there
    than scaled_dot_product_attention in bfloat16. `model` is still on the CPU if the world has several processes.
    """

    def __init__(self, base_dir: Path, world: World, float32: bool = False):
        self.world, self.device = world, world.device
        self.half = fast_bfloat16(world.device) and not float32
        dtype = torch.bfloat16 if self.half else torch.float32
        self.model = load_frozen(base_dir, dtype, "eager" if self.device.type == "cpu" else "sdpa")
        if world.size == 1:
            self.model.to(self.device)

    @property
    def last(self) -> int:
        """Number of the last layer, 0-based."""
        return self.model.config.num_hidden_layers - 1

    def autocast(self) -> torch.autocast:
        """Mixed precision for the students' float32 parameters."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    @torch.no_grad()
    def look(self, batch: Batch, layers: set[int]) -> TeacherPass:
        """Run a batch, keeping the inputs of `layers` (0-based). Right padding needs no mask; where rows pack several
        documents, Transformers masks them from each other by their positions."""
        inputs: dict[int, torch.Tensor] = {}

        def keep(layer: int):
            def hook(module, args) -> None:
                inputs[layer] = args[0]

            return hook

        stack = self.model.model
        handles = [stack.layers[number].register_forward_pre_hook(keep(number)) for number in layers]
        try:
            output = stack(input_ids=batch.input_ids, position_ids=batch.positions, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        rope = stack.rotary_emb(output.last_hidden_state, places(batch))
        return TeacherPass(batch, inputs, output.last_hidden_state, rope, self.model.lm_head)
