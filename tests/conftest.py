"""Fixtures shared by all tests."""

import atexit
import os

import hypothesis
import pytest

# How long an example takes depends on what else the machine does; timings belong in benchmarks.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

TINY_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 300,
    "max_position_embeddings": 2048,
}


@atexit.register
def silence_the_end() -> None:
    """Triton's bindings say what they leak when the interpreter ends; pytest's summary is to be the last line."""
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 2)


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


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level tokenizer of 300 tokens, trained on a few contexts of the four tasks."""
    from swiftkv.base_model.tokenizer import train_tokenizer
    from swiftkv.config import load_config

    return train_tokenizer(load_config()["tasks"], 300, seed=0, contexts=5)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory, tiny_tokenizer):
    """Directory of a saved random Llama with tokenizer: hidden 64, 8 layers, 2 heads of 32, 1 KV head, vocab 300."""
    directory = tmp_path_factory.mktemp("models") / "tiny-base"
    save_tiny_base(directory, tiny_tokenizer)
    return directory


@pytest.fixture(scope="session")
def tiny_student(tiny_base, tmp_path_factory):
    """Directory of an undistilled student of the tiny base: cut 4 of 8, AcrossKV 2."""
    from swiftkv.modeling.convert import convert

    directory = tmp_path_factory.mktemp("models") / "tiny-student"
    convert(tiny_base, directory, 4, 2)
    return directory
