"""Small models: the shape of most of them, saved random ones of every family, and shapes for hypothesis."""

from hypothesis import strategies as st

TINY_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 300,
    "max_position_embeddings": 2048,
}

FAMILY_SHAPE = TINY_SHAPE | {"tie_word_embeddings": True, "bos_token_id": None}
# What sets each family apart: RoPE scaling (Llama 3.x), biases (Qwen2), head size and norms (Qwen3), its own head.
FAMILY_CHANGES = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "qwen2": {},
    "qwen3": {"head_dim": 64},
    "mistral": {"sliding_window": None, "tie_word_embeddings": False},
}


def save_tiny_base(directory, tokenizer, seed: int = 0, std: float = 0.15, **changes) -> None:
    """Save a random Llama whose weights are large enough for clearly different logits per position."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(**{**TINY_SHAPE, "initializer_range": std, "tie_word_embeddings": True, **ids, **changes})
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # weights of one would hide a wrong norm
                parameter.uniform_(0.6, 1.4)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def save_family_base(directory, family: str, **changes) -> None:
    """Save a random model of the family in which no norm is one and no bias zero."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = FAMILY_SHAPE | FAMILY_CHANGES.get(family, {}) | changes
    config = AutoConfig.for_model(family, **shape, initializer_range=0.15)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.6, 1.4)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3)
    model.save_pretrained(directory)


@st.composite
def shapes(draw):
    """A shape with a cut and a group that divides the late layers."""
    heads = draw(st.sampled_from([1, 2, 4, 8]))
    shape = {
        "hidden_size": 16 * heads * draw(st.integers(1, 4)),
        "intermediate_size": draw(st.integers(16, 512)),
        "num_hidden_layers": draw(st.integers(1, 24)),
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from([h for h in (1, 2, 4, 8) if heads % h == 0])),
        "vocab_size": draw(st.integers(16, 4096)),
    }
    cut = draw(st.integers(1, shape["num_hidden_layers"]))
    late = shape["num_hidden_layers"] - cut
    group = draw(st.sampled_from([n for n in range(1, late + 1) if late % n == 0] or [1]))
    return shape, cut, group
