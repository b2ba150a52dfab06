"""How the embedded base model starts: two changes to a random Llama that make look-up in context form early.

Look-up ("what followed this word before?") needs heads that attend one token back, whatever stands there. Llama has
no biases, so at the start nothing tells position apart from content, and training on the tasks alone stays for
millions of tokens at guessing among the names of the context. Hence (a) all embeddings share a direction (which
cannot change the order of tied logits), and (b) the first layer's queries and keys start on that direction alone,
rotated so that the score peaks one token back. Everything is trained from there. In the spirit of mimetic
initialisation (https://arxiv.org/abs/2305.09828).
"""

import torch
from transformers import LlamaForCausalLM

SHARED_LENGTH = 2.0  # of the shared direction, in units of an embedding's own length
LOOK_BACK_GAIN = 0.44  # makes the peak about e^4 times the score of its neighbours
FAST = 0.05  # radians per token from which a rotary frequency can tell neighbours apart


@torch.no_grad()
def initialise(model: LlamaForCausalLM) -> None:
    """Apply both changes in place, drawing from torch's global random state."""
    config = model.config
    shared = torch.randn(config.hidden_size) * config.initializer_range * SHARED_LENGTH
    model.model.embed_tokens.weight.add_(shared)
    look_back(model.model.layers[0].self_attn, model.model.rotary_emb.inv_freq, shared / shared.norm())


def look_back(attention, frequencies: torch.Tensor, direction: torch.Tensor) -> None:
    """Let every head attend to the previous token: keys are queries turned on by one position."""
    half, head_dim = len(frequencies), attention.head_dim
    heads = attention.q_proj.out_features // attention.k_proj.out_features
    cosine, sine = frequencies.cos(), frequencies.sin()
    for number in range(attention.k_proj.out_features // head_dim):
        # Slow frequencies hardly turn within a token, so they would score all neighbours alike: they start at zero.
        # RoPE pairs dimension i with i + half, and both turn at frequency i.
        query = torch.randn(head_dim).sign() * (frequencies > FAST).repeat(2)
        first, second = query[:half], query[half:]
        key = torch.cat([first * cosine - second * sine, second * cosine + first * sine])
        rows = slice(number * head_dim, (number + 1) * head_dim)
        attention.k_proj.weight[rows] = LOOK_BACK_GAIN * torch.outer(key, direction)
        rows = slice(number * heads * head_dim, (number + 1) * heads * head_dim)
        attention.q_proj.weight[rows] = LOOK_BACK_GAIN * torch.outer(query, direction).repeat(heads, 1)
