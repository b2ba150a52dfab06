"""Tiny GGUF files, written as llama.cpp's converter writes them."""

import json
import zipfile
from pathlib import Path

import gguf
import numpy as np
import torch

from tests.helpers.models import TINY_SHAPE

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
HEAD_DIM = {"llama": 32, "qwen2": 32, "qwen3": 64}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>\n{% endfor %}assistant:"


def tiny_model(family: str, seed: int = 0, **changes):
    """A random model whose weights are numbers of bfloat16, with no norm of one and no bias of zero."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = TINY_SHAPE | {"num_hidden_layers": 2, "head_dim": HEAD_DIM[family], "tie_word_embeddings": True} | changes
    config = AutoConfig.for_model(family, **shape, bos_token_id=None, initializer_range=0.15)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.6, 1.4)
            if "bias" in name:
                parameter.normal_(0, 0.3)
            parameter.copy_(parameter.bfloat16())
    return model


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in llama.cpp's order: both halves of a rotary pair side by side."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors_of(model) -> dict[str, np.ndarray]:
    """The model's tensors by their GGUF names, in float32."""
    config, family = model.config, model.config.model_type
    names = gguf.get_tensor_name_map(ARCHITECTURES[family], config.num_hidden_layers)
    found = {}
    for name, parameter in model.named_parameters():  # a tied head is no parameter of its own
        stem, _, kind = name.rpartition(".")
        value = parameter.detach().float().numpy()
        if family == "llama" and ".q_proj" in name:
            value = permute(value, config.num_attention_heads)
        if family == "llama" and ".k_proj" in name:
            value = permute(value, config.num_key_value_heads)
        found[f"{names.get_name(stem)}.{kind}"] = value
    return found


def add_byte_level(writer, tokenizer, vocab_size: int, pre: str) -> None:
    """The vocabulary, merges and special tokens of a byte-level BPE tokenizer, filled up to `vocab_size`."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = {token["content"] for token in described["added_tokens"]}
    kinds = [gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words]
    unused = vocab_size - len(words)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*words, *(f"[PAD{len(words) + n}]" for n in range(unused))])
    writer.add_token_types([*kinds, *[gguf.TokenType.UNUSED] * unused])
    writer.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)


def write_gguf(
    path: Path,
    model,
    tokenizer,
    kind: str = "F32",
    pre: str = "gpt-2",
    architecture: str | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    drop: tuple[str, ...] = (),
    more: dict | None = None,
    name: str = "Tiny",
) -> Path:
    """Write `model` with matrices stored as `kind`. `tensors` are added, those named in `drop` left out, and `more` are
    metadata beside the model's; a callable `tokenizer` adds the vocabulary itself."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture or config.model_type)
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim if hasattr(config, "head_dim") else HEAD_DIM[config.model_type])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.model_type == "llama":
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_vocab_size(config.vocab_size)
    if callable(getattr(tokenizer, "get_vocab", None)):
        add_byte_level(writer, tokenizer, config.vocab_size, pre)
        writer.add_chat_template(TEMPLATE)
    else:
        tokenizer(writer)
    for key, value in (more or {}).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(key, value)
    wanted = gguf.GGMLQuantizationType[kind]
    for name, value in (tensors_of(model) | (tensors or {})).items():
        if name not in drop:
            stored = wanted if value.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, name: str, version: str, members: dict[str, bytes]) -> Path:
    """A wheel with these files, whose one module stops whoever imports it."""
    stem, info = f"{name}-{version}", f"{name}-{version}.dist-info"
    texts = {
        f"{name}/__init__.py": b"raise SystemExit('imported')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (texts | members).items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in texts | members))
    return path
