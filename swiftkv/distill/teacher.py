"""The teacher: the frozen base model, run once per batch for all students."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from swiftkv.distill.data import Selection
from swiftkv.distill.loss import Targets

Rope = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class TeacherPass:
    """What one pass over a [B, T] batch leaves for the students.

    `inputs[j]` [B, T, D] is the input of layer j (0-based) for every cut and for the last layer; `targets` is the
    loss side at the loss positions; `rope` is (cos, sin), each [1, T, H]; `rope_selected` [B, Q, H] and
    `mask` [B, 1, Q, T] belong to the queries at the selected positions.
    """

    selection: Selection
    inputs: dict[int, torch.Tensor]
    targets: Targets
    rope: Rope
    rope_selected: Rope
    mask: torch.Tensor


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products beat float32 there: on GPUs, and on CPUs with AVX-512."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Teacher:
    """The frozen base model of `base_dir` in bfloat16 where that is fast, else in float32.

    Attention is eager on a CPU: with an explicit mask, forward and backward, it is several times faster there
    than scaled_dot_product_attention in bfloat16.
    """

    def __init__(self, base_dir: Path, device: torch.device):
        self.device, self.half = device, fast_bfloat16(device)
        model = AutoModelForCausalLM.from_pretrained(
            base_dir,
            dtype=torch.bfloat16 if self.half else torch.float32,
            attn_implementation="eager" if device.type == "cpu" else "sdpa",
            local_files_only=True,
        )
        self.model = model.to(device).eval().requires_grad_(False)

    def autocast(self) -> torch.autocast:
        """Mixed precision for the students' float32 parameters."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    @torch.no_grad()
    def look(self, input_ids: torch.Tensor, selection: Selection, layers: set[int], temperature: float) -> TeacherPass:
        """Run ids [B, T], keeping the inputs of `layers` (0-based); right padding needs no mask."""
        output = self.model.model(input_ids=input_ids, use_cache=False, output_hidden_states=True)
        final, tokens = output.last_hidden_state, input_ids.shape[1]
        rope = self.model.model.rotary_emb(final, torch.arange(tokens, device=self.device)[None])
        chosen = final[selection.rows, selection.positions][selection.loss]
        return TeacherPass(
            selection=selection,
            inputs={layer: output.hidden_states[layer] for layer in layers},
            targets=Targets(chosen, self.model.lm_head, temperature),
            rope=rope,
            rope_selected=tuple(part[0][selection.positions] for part in rope),
            mask=selection.mask(tokens, final.dtype),
        )
