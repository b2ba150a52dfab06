"""GGUF files as bases: what is read is what was written, and what would load wrongly is refused by name."""

import json
import re
import sys
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from swiftkv.base_model import dequantise, fetch
from swiftkv.base_model.gguf_file import open_gguf
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.files import sha256
from swiftkv.modeling.checkpoint import check_checkpoint
from swiftkv.modeling.convert import convert
from swiftkv.workloads.tokens import load_tokenizer
from tests.helpers.gguf_files import tiny_model, write_gguf

IDS = torch.tensor([[5, 90, 200, 31, 7, 150, 150, 12]])
FAMILIES = ("llama", "qwen2", "qwen3")
LARGER = np.ones((320, 64), "f4")


def fetched(path, out, **settings):
    """The directory that `swiftkv fetch-base` makes of a local GGUF file."""
    base = {"source": "local", "path": str(path), **settings}
    fetch.resolve_base(RunConfig({"scale": "x", "seed": 0, "base": base}, "x"), out)
    return out


def refused(path, out) -> str:
    with pytest.raises(UserError) as error:
        fetched(path, out)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and not out.exists()
    return message


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.float().eval()(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model_comes_out(family, tied, tiny_tokenizer, tmp_path):
    """Rotary rows, biases, norms and head included: weights of bfloat16, stored whole, give the same logits."""
    model = tiny_model(family, tie_word_embeddings=tied)
    out = fetched(write_gguf(tmp_path / "tiny.gguf", model, tiny_tokenizer), tmp_path / "base")
    read = AutoModelForCausalLM.from_pretrained(out)
    assert type(read) is type(model) and read.dtype == torch.bfloat16
    torch.testing.assert_close(logits(read), logits(model), rtol=0, atol=1e-5)
    raw = json.loads((out / "config.json").read_text())
    assert raw["architectures"] == [type(model).__name__] and "quantization_config" not in raw
    assert raw["tie_word_embeddings"] is tied and ("lm_head.weight" in load_file(out / "model.safetensors")) is not tied
    assert (raw["bos_token_id"], raw["eos_token_id"], raw["pad_token_id"]) == (None, 1, 0)
    # The student that stands for the base in every comparison is this model, too.
    convert(out, tmp_path / "student", 2, 1)
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    torch.testing.assert_close(logits(student), logits(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "step"), [("F16", 0.0), ("Q8_0", 1 / 127), ("Q4_1", 2 / 15), ("Q5_0", 2 / 31)])
def test_weights_are_within_a_step_of_the_quantisation(kind, step, tiny_tokenizer, tmp_path):
    """`step` is the distance of two levels for a block whose largest number is 1."""
    model = tiny_model("llama")
    out = fetched(write_gguf(tmp_path / "tiny.gguf", model, tiny_tokenizer, kind), tmp_path / "base")
    read = load_file(out / "model.safetensors")
    quantised = 0
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert torch.equal(read[name].float(), weight), name
            continue
        blocks = weight.detach().reshape(-1, 32)
        largest = blocks.abs().amax(1, keepdim=True).expand_as(blocks).reshape(weight.shape)
        off = (read[name].float() - weight).abs()
        assert (off <= step * largest + weight.abs() * 2**-8 + 1e-6).all(), name
        quantised += int((off > 0).sum())
    assert (quantised > 1000) is (kind != "F16")


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_template_and_ends_arrive(family, tiny_tokenizer, tmp_path):
    """And no token more than the file lists, whichever class reads it."""
    out = fetched(write_gguf(tmp_path / "tiny.gguf", tiny_model(family), tiny_tokenizer), tmp_path / "base")
    tokenizer = load_tokenizer(out)
    assert len(tokenizer) == 300
    assert (out / "tokenizer.json").is_file() and (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<|pad|>")
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert shown == "user: hi<|end|>\nassistant:"
    assert tokenizer("a<|end|>")["input_ids"][-1] == tokenizer.eos_token_id == 1
    ends = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert ends in (1, [1])


def test_what_it_is_stands_beside_it(tiny_tokenizer, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("qwen2"), tiny_tokenizer, "Q8_0")
    out = fetched(path, tmp_path / "base", sha256=sha256(path))
    record = json.loads((out / "config.json.provenance.json").read_text())["gguf"]
    assert (record["file"], record["sha256"], record["quantisation"]) == ("tiny.gguf", sha256(path), "Q8_0")
    assert record["gguf_version"] == 3 and record["tensors"]["Q8_0"] == 15 and record["library"]
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and "dequantised from Q8_0" in card
    assert sha256(path) in card and "not with published scores" in card


def test_numbers_stand_alone_for_smollm2(tiny_tokenizer, tmp_path):
    """The blank before a number is a token of its own, as SmolLM2 was trained."""
    cut = {}
    for pre in ("smollm", "gpt-2"):
        path = write_gguf(tmp_path / f"{pre}.gguf", tiny_model("llama"), tiny_tokenizer, pre=pre)
        tokenizer = load_tokenizer(fetched(path, tmp_path / pre))
        backend = tokenizer.backend_tokenizer.pre_tokenizer
        cut[pre] = [piece for piece, _ in backend.pre_tokenize_str("x  12")]
    assert cut == {"smollm": ["x", "ĠĠ", "1", "2"], "gpt-2": ["x", "Ġ", "Ġ12"]}


@pytest.mark.parametrize("pre", ["llama-bpe", "gpt-2"])
def test_llama3_begins_with_bos_and_takes_whole_words_first(pre, tiny_tokenizer, tmp_path):
    def vocabulary(writer):
        words = ["<s>", "</s>", *gguf_alphabet(), "ab", "abc"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(words)
        writer.add_token_types([3, 3] + [1] * (len(words) - 2))
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)

    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama", vocab_size=260), vocabulary)
    tokenizer = load_tokenizer(fetched(path, tmp_path / "base"))
    ids = tokenizer("abc")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == (["<s>", "abc"] if pre == "llama-bpe" else ["ab", "c"])


def gguf_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def test_a_sentencepiece_vocabulary(tmp_path):
    """As Llama 2 has it: a blank before the first word, bytes for what has no piece."""
    letters = "abcdefghijklmnopqrstuvwxyzT."
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", *letters, "▁t", "he", "▁the"]

    def vocabulary(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores([0.0] * 259 + [-float(n) for n in range(len(pieces) - 259 - 3)] + [-1.0, -2.0, -3.0])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama", vocab_size=len(pieces)), vocabulary)
    tokenizer = load_tokenizer(fetched(path, tmp_path / "base"))
    ids = tokenizer("the end\n  x")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[:2] == ["<s>", "▁the"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the end\n  x"


def llama3_factors(theta: float = 10000.0, factor: float = 8.0, width: int = 32) -> np.ndarray:
    """As llama.cpp's converter computes them for Llama 3.1."""
    found = []
    for exponent in range(0, width, 2):
        wavelength = 2 * np.pi * theta ** (exponent / width)
        smooth = (8192 / wavelength - 1) / (4 - 1)
        near, far = wavelength < 8192 / 4, wavelength > 8192
        found.append(1.0 if near else factor if far else 1 / ((1 - smooth) / factor + smooth))
    return np.array(found, dtype=np.float32)


def test_llama31_has_its_rotary_scaling(tiny_tokenizer, tmp_path):
    factors = {"rope_freqs.weight": llama3_factors()}
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), tiny_tokenizer, tensors=factors)
    rope = check_checkpoint(fetched(path, tmp_path / "base")).rope_parameters
    assert rope["rope_type"] == "llama3" and rope["factor"] == 8.0 and rope["original_max_position_embeddings"] == 8192


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensors": {"rope_freqs.weight": llama3_factors()[::-1].copy()}}, "rope_freqs.weight is not Llama 3.1's"),
        ({"tensors": {"blk.0.attn_q.bias": np.ones(64, "f4")}}, "beside those of a llama model, the tensor .*q.bias"),
        ({"drop": ("blk.1.ffn_up.weight",)}, "lacks the tensor blk.1.ffn_up.weight"),
        ({"tensors": {"token_embd.weight": LARGER}}, r"shape \[320, 64\], its metadata say \[300, 64\]"),
        ({"name": "mistral"}, "general.name is 'mistral'.*gguf-set-metadata"),
        ({"more": {"llama.rope.scaling.type": "yarn"}}, "rotary scaling 'yarn'"),
        ({"more": {"llama.attention.sliding_window": 4096}}, "sliding window of 4096"),
        ({"more": {"split.count": 3}}, "one of 3 parts.*llama-gguf-split --merge"),
        ({"pre": "tomorrow"}, "tokenizer.ggml.pre is 'tomorrow'.*allowed is .*smollm"),
        ({"architecture": "gemma3"}, "architecture 'gemma3', which is not supported; allowed is llama or qwen2"),
    ],
)  # fmt: skip
def test_what_would_load_wrongly_is_refused(change, words, tiny_tokenizer, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), tiny_tokenizer, **change)
    assert re.search(words, refused(path, tmp_path / "base"))


def test_a_truncated_file_and_another_kind_of_file(tiny_tokenizer, tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", tiny_model("llama"), tiny_tokenizer).read_bytes()
    for length in (6, 500, len(whole) // 2, len(whole) - 4):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        assert "a truncated or damaged GGUF file" in refused(tmp_path / "cut.gguf", tmp_path / "base")
    for other in (b"", b"PK\x03\x04", b"{}"):
        (tmp_path / "other.gguf").write_bytes(other)
        assert "not a GGUF file" in refused(tmp_path / "other.gguf", tmp_path / "base")


def test_a_directory_of_gguf_files_is_no_model(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gguf").write_bytes(b"GGUF")
    assert "let base.path name one, such as tiny.gguf" in refused(tmp_path / "models", tmp_path / "base")


def test_missing_library_is_told(tiny_tokenizer, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), tiny_tokenizer)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="needs the package gguf: `pip install gguf`"):
        fetched(path, tmp_path / "base")


def test_an_older_transformers_is_told(tiny_tokenizer, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), tiny_tokenizer)
    monkeypatch.setattr(dequantise, "transformers", SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(UserError, match=r"needs a newer Transformers .*5\.0\.0 is installed"):
        fetched(path, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_storage_by_name_where_the_file_has_no_type(tiny_tokenizer, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), tiny_tokenizer, "Q5_0")
    assert open_gguf(path, ("llama",)).quantisation == "Q5_0"
    path = write_gguf(path, tiny_model("llama"), tiny_tokenizer, "Q5_0", more={"general.file_type": 15})
    opened = open_gguf(path, ("llama",))
    assert gguf.LlamaFileType(15).name == "MOSTLY_Q4_K_M" and opened.quantisation == "Q4_K_M" and opened.is_quantised
