"""Tokenizers from GGUF files are those that Transformers builds where it can, and the same where it cannot."""

import json
import sys

import pytest

from swiftkv.base_model import gguf_words
from swiftkv.base_model.gguf_file import open_gguf
from swiftkv.base_model.gguf_tokenizer import SPECIAL, read_tokenizer, without_others
from swiftkv.errors import UserError
from tests.helpers.gguf_files import tiny_model, write_gguf

FAMILIES = ("llama", "qwen2", "qwen3")
SPECIAL_WORDS = ["<s>", "</s>", "<|endoftext|>", "<|plain words|>", "<｜Anfang｜>"]
DEFINED = ["<think>", "日本", "Ġdefined"]
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", *"abcdefgh", "▁a", "ab", "abc", "▁abc"]


def byte_level(pre):
    """A vocabulary with control and user-defined tokens, in the alphabet of bytes and outside it."""

    def vocabulary(writer):
        words = [*SPECIAL_WORDS, *sorted(gguf_alphabet()), "ab", "abc", *DEFINED]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(words)
        kinds = [3] * len(SPECIAL_WORDS) + [1] * (len(words) - len(SPECIAL_WORDS) - len(DEFINED)) + [4] * len(DEFINED)
        writer.add_token_types(kinds)
        writer.add_token_merges(["a b", "ab c"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_chat_template("{{ messages }}")

    return vocabulary


def sentencepiece(writer):
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*PIECES, "<|user|>"])
    writer.add_token_scores([0.0] * 259 + [-float(n) for n in range(len(PIECES) - 259)] + [0.0])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(PIECES) - 259) + [4])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def gguf_alphabet():
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def opened(tmp_path, vocabulary, family="llama", **more):
    return open_gguf(write_gguf(tmp_path / "tiny.gguf", tiny_model(family), vocabulary, **more), FAMILIES)


def of_transformers():
    """Transformers' own reading, which releases before 5.19 lack."""
    module = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    if not hasattr(module, "convert_gguf_tokenizer"):
        pytest.skip("this release of Transformers reads no tokenizers of these families")
    return module


CASES = [*((family, pre) for family in FAMILIES for pre in ("gpt-2", "qwen2", "tekken")), ("llama", None)]


@pytest.mark.parametrize(("family", "pre"), CASES)
def test_it_is_that_of_transformers(family, pre, tmp_path):
    theirs = of_transformers()
    gguf = opened(tmp_path, byte_level(pre) if pre else sentencepiece, family)
    architecture, described, settings = theirs.get_gguf_tokenizer(str(gguf.path))
    backend, _ = theirs.convert_gguf_tokenizer(architecture, described)
    tokenizer = read_tokenizer(gguf)
    found = json.loads(tokenizer.backend_tokenizer.to_str())
    expected = json.loads(without_others(backend, len(described["tokens"])).to_str())
    if pre in gguf_words.WORDS_FIRST:
        expected["model"]["ignore_merges"] = True
    # Where a BOS goes is not in the file's lists, and set by the class that holds the tokenizer.
    assert found | {"post_processor": None} == expected | {"post_processor": None}
    assert {name: getattr(tokenizer, name) for name in SPECIAL} == {name: settings[name] for name in SPECIAL}
    assert tokenizer.chat_template == settings.get("chat_template")


def test_words_are_cut_as_transformers_cuts_them():
    assert of_transformers().GGUF_PRE_TOKENIZER_SPLITS == gguf_words.SPLITS


@pytest.mark.parametrize("vocabulary", [byte_level("qwen2"), sentencepiece], ids=["byte-level", "sentencepiece"])
def test_nothing_is_needed_of_transformers_own_reading(vocabulary, tmp_path, monkeypatch):
    """Of which releases have different parts in different places."""
    gguf = opened(tmp_path, vocabulary)
    expected = read_tokenizer(gguf).backend_tokenizer.to_str()
    for name in [name for name in sys.modules if name.startswith("transformers.integrations.gg")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("gguf", "ggml"):
        monkeypatch.setitem(sys.modules, f"transformers.integrations.{name}", None)
    assert read_tokenizer(gguf).backend_tokenizer.to_str() == expected


def test_tokens_that_the_file_marks_stay_whole(tmp_path):
    tokenizer = read_tokenizer(opened(tmp_path, byte_level("qwen2")))
    assert tokenizer.tokenize("a<think>b</s>") == ["a", "<think>", "b", "</s>"]
    assert {"<|endoftext|>", "<think>"} <= tokenizer.get_added_vocab().keys()
    assert "<|plain words|>" not in tokenizer.get_vocab() and "<|plainĠwords|>" in tokenizer.get_vocab()
    assert len(tokenizer) == len(SPECIAL_WORDS) + 256 + 2 + len(DEFINED)


def without(key):
    """A byte-level vocabulary that lacks what one method of the writer adds."""

    def vocabulary(writer):
        setattr(writer, key, lambda *_: None)
        byte_level("qwen2")(writer)

    return vocabulary


def unknown_kind(writer):
    writer.add_tokenizer_model("t5")
    writer.add_token_list(PIECES)


def short_scores(writer):
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores([0.0])


@pytest.mark.parametrize(
    ("vocabulary", "more", "words"),
    [
        (unknown_kind, {}, r"tokenizer.ggml.model is 't5', which is not supported; allowed is gpt2 or llama"),
        (without("add_tokenizer_model"), {}, r"tokenizer.ggml.model is None, which is not supported"),
        (without("add_tokenizer_pre"), {}, r"tokenizer.ggml.pre is None, whose rules are not known; allowed is .*qwen"),
        (without("add_token_list"), {}, r"cannot be rebuilt \(ValueError: it has no tokenizer.ggml.tokens\)"),
        (without("add_token_merges"), {}, r"cannot be rebuilt \(ValueError: it has no tokenizer.ggml.scores\)"),
        (short_scores, {}, r"cannot be rebuilt \(ValueError: .*shorter"),
        (byte_level("qwen2"), {"tokenizer.ggml.padding_token_id": 4000}, r"cannot be rebuilt \(IndexError"),
    ],
    ids=["kind", "no kind", "no rules", "no tokens", "no merges", "too few scores", "no such token"],
)
def test_what_is_missing_or_unknown_is_told(vocabulary, more, words, tmp_path):
    gguf = opened(tmp_path, vocabulary, more=more)
    with pytest.raises(UserError, match=words) as error:
        read_tokenizer(gguf)
    assert str(gguf.path) in str(error.value) and "\n" not in str(error.value)
