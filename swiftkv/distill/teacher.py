"""The teacher: the frozen base model, run once per batch for all students."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from swiftkv.devices import fast_bfloat16
from swiftkv.distill import attention
from swiftkv.distill.attention import Spans
from swiftkv.distill.data import Documents, documents, select, send
from swiftkv.distill.loss import Targets
from swiftkv.distill.parallel import World
from swiftkv.modeling.checkpoint import load_tensors
from swiftkv.workloads.stream import Batch

Rope = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class View:
    """One student's choice of tokens: `index` [N] of the M tokens run the late layers, and of those `at_loss` [K] carry
    the loss (None: all of them). `rope` [1, N, H] and `spans` belong to the queries, `targets` to the loss."""

    index: torch.Tensor
    at_loss: torch.Tensor | None
    rope: Rope
    spans: Spans
    targets: Targets

    def loss_states(self, states: torch.Tensor) -> torch.Tensor:
        """[N, D] -> [K, D]."""
        return states if self.at_loss is None else states[self.at_loss]


@dataclass
class TeacherPass:
    """What one pass over a batch of M tokens leaves for the students.

    `inputs[j]` [1, M, D] is the input of layer j (0-based) for every layer asked for; `final` [1, M, D] is after the
    last norm; `rope` is (cos, sin), each [1, M, H]; `keep_bytes` bounds what Targets keep for the next student.
    """

    texts: Documents
    inputs: dict[int, torch.Tensor]
    final: torch.Tensor
    rope: Rope
    head: torch.nn.Module
    every: Spans
    keep_bytes: int = 0
    views: dict = field(default_factory=dict)

    def view(self, loss_on: str, every_position: bool, temperature: float) -> View:
        """The tokens of `select` with what belongs to them; students that ask for the same share it."""
        key = loss_on, every_position, temperature
        if key not in self.views:
            device, chosen = self.final.device, select(self.texts, loss_on, every_position)
            # All of this is decided on the CPU, where the tokens come from: no step waits for the device.
            index, loss = send(chosen.index, device), send(chosen.index[chosen.loss], device)
            self.views[key] = View(
                index=index,
                at_loss=None if bool(chosen.loss.all()) else send(chosen.loss.nonzero().flatten(), device),
                rope=tuple(part[:, index] for part in self.rope),
                spans=Spans(chosen.index, self.texts.bounds, device),
                targets=Targets(self.final[0, loss], self.head, temperature, keep_bytes=self.keep_bytes),
            )
        return self.views[key]


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

    `model` is still on the CPU if the world has several processes. `keep_bytes`: see TeacherPass.
    """

    def __init__(self, base_dir: Path, world: World, float32: bool = False, keep_bytes: int = 0):
        self.world, self.device, self.keep_bytes = world, world.device, keep_bytes
        self.half = fast_bfloat16(world.device) and not float32
        self.model = load_frozen(base_dir, torch.bfloat16 if self.half else torch.float32, attention.NAME)
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
    def run(self, batch: Batch, layers: set[int]) -> TeacherPass:
        """Run a batch that lies on the CPU, keeping the inputs of `layers` (0-based)."""
        inputs: dict[int, torch.Tensor] = {}

        def keep(layer: int):
            def hook(module, args) -> None:
                inputs[layer] = args[0]

            return hook

        texts, stack = documents(batch), self.model.model
        every = Spans(torch.arange(len(texts.ids)), texts.bounds, self.device)
        ids, place = (send(tensor[None], self.device) for tensor in (texts.ids, texts.place))
        handles = [stack.layers[number].register_forward_pre_hook(keep(number)) for number in layers]
        try:
            output = stack(input_ids=ids, position_ids=place, use_cache=False, spans=every)
        finally:
            for handle in handles:
                handle.remove()
        final = output.last_hidden_state
        rope = stack.rotary_emb(final, place)
        return TeacherPass(texts, inputs, final, rope, self.model.lm_head, every, self.keep_bytes)
