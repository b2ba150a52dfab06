"""Small models: the shape of most of them, saved random ones, and shapes in general for hypothesis."""

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
