"""A tokenizer gives texts back, or the base is refused; what tokenizers may change is no loss."""

import json
import shutil
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from swiftkv.base_model import fetch, round_trip
from swiftkv.config import ROOT, RunConfig
from swiftkv.errors import UserError

BASE = ROOT / "workflow" / "resources" / "base"
ASCII = list(string.printable[:-2])


def saved(tmp_path, tokenizer: Tokenizer, **settings):
    directory = tmp_path / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings).save_pretrained(directory)
    return directory


def byte_level(normalizer=None, decoder=None) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoder or decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer


def characters(known: list[str], unknown: str | None) -> Tokenizer:
    """One token a character, and one for the others, if `unknown` is one."""
    words = ["<unk>", *known]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], unk_token=unknown))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def test_the_embedded_base_gives_texts_back():
    round_trip.check_tokenizer(BASE, 1280)


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_level(),
        byte_level(normalizers.NFC()),
        byte_level(normalizers.NFKC()),
        byte_level(normalizers.Prepend(" ")),
        characters(ASCII, "<unk>"),
        characters(ASCII, None),
    ],
    ids=["bytes", "NFC", "NFKC", "a blank first", "ASCII alone", "ASCII alone, others dropped"],
)
def test_what_tokenizers_may_do(tokenizer, tmp_path):
    round_trip.check_tokenizer(saved(tmp_path, tokenizer, unk_token="<unk>"), 300)


@pytest.mark.parametrize(
    ("normalizer", "lost"),
    [
        (normalizers.Replace(" ", ""), "Thequick"),
        (normalizers.Replace("\n", " "), ":     if"),
        (normalizers.Replace("  ", " "), r":\\n  if"),
        (normalizers.Replace("\t", " "), r"\{\\n sum"),
        (normalizers.Lowercase(), "the quick"),
        (normalizers.StripAccents(), "naive"),
        (normalizers.Replace("3", ""), r".14159"),
    ],
)
def test_what_is_lost_is_shown(normalizer, lost, tmp_path):
    normalizer = normalizers.Sequence([normalizers.NFD(), normalizer]) if "naive" in lost else normalizer
    with pytest.raises(
        UserError, match=rf"does not give texts back: .* comes out as .*{lost}.*tokenizer_class"
    ) as error:
        round_trip.check_tokenizer(saved(tmp_path, byte_level(normalizer)), 300)
    assert "\n" not in str(error.value)


@settings(max_examples=25)
@given(st.sampled_from(string.printable[:-3]))
def test_whichever_character_is_dropped(character):
    """Every printable one of ASCII, the tabulator and the line break."""
    with tempfile.TemporaryDirectory() as folder, pytest.raises(UserError, match="does not give texts back"):
        round_trip.check_tokenizer(saved(Path(folder), byte_level(normalizers.Replace(character, ""))), 300)


def test_blanks_that_another_class_drops(tmp_path):
    """SmolLM2 as Transformers 4.57 saved it: byte-level words under the name of Llama's class."""
    shutil.copytree(BASE, tmp_path / "base")
    path = tmp_path / "base" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"}))
    base = {"source": "local", "path": str(tmp_path / "base")}
    with pytest.raises(UserError, match=r"base: the tokenizer does not give texts back: .*LlamaTokenizer"):
        fetch.resolve_base(RunConfig({"scale": "x", "seed": 0, "base": base}, "x"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_token_without_a_row(tmp_path):
    with pytest.raises(UserError, match=r"token '.*' has the id 255, and the embedding 255 rows"):
        round_trip.check_tokenizer(saved(tmp_path, byte_level()), 255)


def test_a_tokenizer_that_cannot_be_read(tmp_path):
    directory = saved(tmp_path, byte_level())
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="the tokenizer cannot be read"):
        round_trip.check_tokenizer(directory, 300)
