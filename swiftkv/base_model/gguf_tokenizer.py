"""The tokenizer that a GGUF file describes, as `tokenizer.json`.

The file has its vocabulary, merges and special tokens, and names its rules; Transformers' classes of GPT-2 and Llama 2
bring the rest. Transformers' own reading differs between releases (5.17 builds another tokenizer than 5.19, from other
modules), so it is not used; the result is that of 5.19, with what it leaves out: whether texts begin with a BOS, how
SmolLM2 cuts digits, that Llama 3 looks a word up before it merges.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from swiftkv import files
from swiftkv.base_model.gguf_file import GgufFile
from swiftkv.base_model.gguf_words import BOS_FIRST, KNOWN, apply_rules
from swiftkv.errors import UserError

# Special tokens by the names of their keys, "tokenizer.ggml.<name>_token_id".
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())
IN_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens (https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h)
# Tokens at which llama.cpp ends an answer, whichever of them is the file's EOS.
ENDS = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>"}


def read_tokenizer(gguf: GgufFile):
    """The tokenizer of a file, as `AutoTokenizer` finds it again once it is saved. Raises UserError for one that cannot
    be rebuilt."""
    from transformers import PreTrainedTokenizerFast

    kind, named = described(gguf, "model"), described(gguf, "pre")
    if kind not in (BYTE_LEVEL, SENTENCEPIECE):
        allowed = f"{BYTE_LEVEL} or {SENTENCEPIECE}"
        raise UserError(f"{gguf.path}: tokenizer.ggml.model is {kind!r}, which is not supported; allowed is {allowed}")
    if kind == BYTE_LEVEL and named not in KNOWN:
        raise UserError(
            f"{gguf.path}: tokenizer.ggml.pre is {named!r}, whose rules are not known; allowed is "
            f"{', '.join(sorted(KNOWN))}"
        )
    try:
        backend = build(gguf)
        special = special_tokens(gguf)
    except Exception as error:
        # A list that is missing, or that the tokenizers library refuses: it raises Exception itself.
        raise UserError(
            f"{gguf.path}: its tokenizer cannot be rebuilt ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None
    begins = {f"add_{name}_token": described(gguf, f"add_{name}_token") for name in ("bos", "eos")}
    if begins["add_bos_token"] is None:
        begins["add_bos_token"] = kind == SENTENCEPIECE or named in BOS_FIRST
    settings = {"chat_template": gguf.metadata.get("tokenizer.chat_template"), **special, **begins}
    # Not the family's own class: that would build its own rules again from the vocabulary alone.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=gguf.of_model("context_length"),
        **{name: value for name, value in settings.items() if value is not None and value is not False},
    )


def described(gguf: GgufFile, key: str) -> Any:
    """What the file says of its tokenizer under a key, if anything."""
    return gguf.metadata.get(f"tokenizer.ggml.{key}")


def listed(gguf: GgufFile, key: str) -> list:
    """A list that a vocabulary is made of. Raises ValueError if the file has none."""
    if (found := described(gguf, key)) is None:
        raise ValueError(f"it has no tokenizer.ggml.{key}")
    return found


def special_tokens(gguf: GgufFile) -> dict[str, str]:
    """Special tokens by Transformers' names for them, those that the file has."""
    tokens = listed(gguf, "tokens")
    ids = {name: described(gguf, f"{stem}_token_id") for name, stem in SPECIAL.items()}
    return {name: tokens[number] for name, number in ids.items() if number is not None}


def build(gguf: GgufFile) -> Tokenizer:
    """The tokenizer with the rules, the added tokens, and no others, of a file."""
    from transformers import GPT2Tokenizer, LlamaTokenizer

    tokens, byte_level = listed(gguf, "tokens"), described(gguf, "model") == BYTE_LEVEL
    vocabulary = {spelled(token) if byte_level else token: number for number, token in enumerate(tokens)}
    family = GPT2Tokenizer if byte_level else LlamaTokenizer
    backend = family(vocab=vocabulary, merges=merges_of(gguf)).backend_tokenizer
    add_tokens(backend, gguf)
    if byte_level:
        apply_rules(backend, described(gguf, "pre"))
    return without_others(backend, len(tokens))


def spelled(token: str) -> str:
    """A token of a byte-level vocabulary in its alphabet: files have some, such as special ones, in plain letters."""
    if ALPHABET.issuperset(token):
        return token
    return "".join(piece for piece, _ in IN_BYTES.pre_tokenize_str(token))


def merges_of(gguf: GgufFile) -> list[tuple[str, ...]]:
    """The merges that a file lists, or those that its pieces and their scores imply."""
    from transformers.tokenization_utils_base import generate_merges

    if (merges := described(gguf, "merges")) is not None:
        return [tuple(merge.split(" ")) for merge in merges]
    tokens = listed(gguf, "tokens")
    scores = dict(zip(tokens, listed(gguf, "scores"), strict=True))
    return generate_merges({token: number for number, token in enumerate(tokens)}, scores)


def add_tokens(backend: Tokenizer, gguf: GgufFile) -> None:
    """Have the tokens that a file marks as control or as user-defined looked for in texts, as llama.cpp does.

    Control tokens of a byte-level vocabulary outside its alphabet are passed over: they stand under another spelling
    in it, and would be new ones.
    """
    if (kinds := described(gguf, "token_type")) is None:
        return
    kinds = list(zip(listed(gguf, "tokens"), kinds, strict=True))
    byte_level = described(gguf, "model") == BYTE_LEVEL
    control = [token for token, kind in kinds if kind == CONTROL and (not byte_level or ALPHABET.issuperset(token))]
    known = backend.get_vocab()
    defined = [token for token, kind in kinds if kind == USER_DEFINED and token in known]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in defined])


def without_others(backend: Tokenizer, size: int) -> Tokenizer:
    """A tokenizer without tokens beyond the `size` that the file lists, for which the embedding has no rows: classes
    add their own, such as GPT-2's end of text."""
    written = json.loads(backend.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["id"] < size]
    return Tokenizer.from_str(json.dumps(written))


def save(tokenizer, directory: Path) -> None:
    """Write the tokenizer's files. Special tokens that it lacks are said to be none: `AutoTokenizer` takes the family's
    class for Qwen2, which adds those that nothing is said of."""
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    absent = {name: None for name in SPECIAL if getattr(tokenizer, name) is None}
    files.write_json(path, files.read_json(path) | absent)


def end_ids(tokenizer) -> list[int]:
    """The tokens at which an answer ends, the EOS first."""
    vocabulary = tokenizer.get_added_vocab()
    others = sorted(vocabulary[token] for token in ENDS & vocabulary.keys())
    return list(dict.fromkeys([tokenizer.eos_token_id, *others]))
