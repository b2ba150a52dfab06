"""SwiftKV decoders of Llama and Qwen2 written down from the papers, for what an outsider makes of a student directory.

Read are config.json, under the names of Transformers before 5, and the safetensors; nothing of this project or of
Transformers. RMSNorm, SwiGLU and RoPE as in Llama (arXiv:2302.13971), scaled frequencies as in Llama 3.1
(arXiv:2407.21783), late layers as in SwiftKV (arXiv:2410.03960, sections 3.2 and 3.3). All in float64.
"""

import json
import math

import torch
from safetensors.torch import load_file


class PublishedDecoder:
    """The student in `directory`; `theta` in place of its rotary base, if given."""

    def __init__(self, directory, theta: float | None = None):
        self.config = json.loads((directory / "config.json").read_text())
        self.weights = {k: v.double() for k, v in load_file(directory / "model.safetensors").items()}
        self.heads, self.kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.size = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        theta = theta or self.config.get("rope_theta", 10000.0)
        self.frequencies = self.scaled(theta ** (-torch.arange(0, self.size, 2).double() / self.size))

    def scaled(self, frequencies: torch.Tensor) -> torch.Tensor:
        """Wavelengths beyond the trained context are stretched, those well inside it kept, those between blended."""
        rule = self.config.get("rope_scaling")
        if rule is None:
            return frequencies
        assert rule["rope_type"] == "llama3"
        low, high, factor = rule["low_freq_factor"], rule["high_freq_factor"], rule["factor"]
        turns = rule["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return kept * frequencies + (1 - kept) * frequencies / factor

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean = x.pow(2).mean(-1, keepdim=True)
        return x / (mean + self.config["rms_norm_eps"]).sqrt() * self.weights[f"model.{name}.weight"]

    def project(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ self.weights[f"model.{name}.weight"].T + self.weights.get(f"model.{name}.bias", 0)

    def rotated(self, x: torch.Tensor, positions: torch.Tensor, heads: int) -> torch.Tensor:
        """[T, heads * size] -> [T, heads, size], the halves of each head turned by position times frequency."""
        angles = (positions[:, None] * self.frequencies)[:, None]
        first, second = x.unflatten(-1, (heads, self.size)).chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def layer(self, j: int, x: torch.Tensor, positions: torch.Tensor, query: str, kv) -> torch.Tensor:
        """Layer j at `positions`, attending to K [S, kv_heads, size] and V of positions 0..S-1 that lie before."""
        h = self.norm(x, f"layers.{j}.input_layernorm")
        q = self.rotated(self.project(h, f"layers.{j}.self_attn.{query}"), positions, self.heads)
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, 1) for part in (kv or self.kv(j, h, positions, "")))
        scores = torch.einsum("thd,shd->hts", q, k) / self.size**0.5
        ahead = torch.arange(len(k)) > positions[:, None]
        mixed = torch.einsum("hts,shd->thd", scores.masked_fill(ahead, -torch.inf).softmax(-1), v)
        x = x + self.project(mixed.flatten(1), f"layers.{j}.self_attn.o_proj")
        h = self.norm(x, f"layers.{j}.post_attention_layernorm")
        gate, up = (self.project(h, f"layers.{j}.mlp.{name}_proj") for name in ("gate", "up"))
        return x + self.project(torch.nn.functional.silu(gate) * up, f"layers.{j}.mlp.down_proj")

    def kv(self, j: int, z: torch.Tensor, positions: torch.Tensor, suffix: str) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of layer j from z."""
        k, v = (self.project(z, f"layers.{j}.self_attn.{name}_proj{suffix}") for name in "kv")
        return self.rotated(k, positions, self.kv_heads), v.unflatten(-1, (self.kv_heads, self.size))

    def logits(self, ids: torch.Tensor, early_exit: bool = False) -> torch.Tensor:
        """Token ids [T] -> logits [T, vocabulary]; with early exit [1, vocabulary]: layers above the cut run the last
        token alone."""
        cut, layers = self.config["num_key_value_layers"], self.config["num_hidden_layers"]
        group, positions = self.config["key_value_group_size"], torch.arange(len(ids))
        x = self.weights["model.embed_tokens.weight"][ids]
        for j in range(cut):
            x = self.layer(j, x, positions, "q_proj", None)
        z = self.norm(x, "norm_swiftkv")
        shared = {j: self.kv(j, z, positions, "_swiftkv") for j in range(cut, layers, group)}
        rows = positions[-1:] if early_exit else positions
        x = x[rows]
        for j in range(cut, layers):
            x = self.layer(j, x, rows, "q_proj_swiftkv", shared[j - (j - cut) % group])
        head = "model.embed_tokens.weight" if self.config["tie_word_embeddings"] else "lm_head.weight"
        return self.norm(x, "norm") @ self.weights[head].T
