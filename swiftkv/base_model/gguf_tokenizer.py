"""The tokenizer that a GGUF file describes, as `tokenizer.json`: Transformers' reading of it, with what it leaves out.

That is whether texts begin with a BOS, how SmolLM2 cuts digits, and that Llama 3 looks a word up before it merges:
rules that llama.cpp has by name (src/llama-vocab.cpp). A name that nobody here knows is refused, because its words
would be cut in another way than in training, which nothing else would tell.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers

from swiftkv import files
from swiftkv.base_model.gguf_file import GgufFile
from swiftkv.errors import UserError

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
# Names of pre-tokenizers of byte-level BPE beside those that Transformers knows.
DIGITS_APART = {"smollm"}
AS_GPT2 = {"gpt-2"}
WORDS_FIRST = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken"}
BOS_FIRST = {"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"}
# Tokens at which llama.cpp ends an answer, whichever of them is the file's EOS.
ENDS = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>"}


def read_tokenizer(gguf: GgufFile):
    """The tokenizer of a file, as `AutoTokenizer` finds it again once it is saved. Raises UserError for one that cannot
    be rebuilt."""
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    try:
        architecture, described, settings = get_gguf_tokenizer(str(gguf.path))
        backend, _ = convert_gguf_tokenizer(architecture, described)
    except Exception as error:
        raise UserError(
            f"{gguf.path}: its tokenizer cannot be rebuilt ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None
    backend = without_others(backend, len(described["tokens"]))
    byte_level = described["tokenizer_type"] == "gpt2"
    named = described.get("pre_tokenizer_type")
    if byte_level:
        apply_rules(backend, named, gguf)
    begins = {f"add_{name}_token": gguf.metadata.get(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos")}
    if begins["add_bos_token"] is None:
        begins["add_bos_token"] = not byte_level or named in BOS_FIRST
    # Not the family's own class: that would build its own rules again from the vocabulary alone.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=gguf.of_model("context_length"),
        **{name: value for name, value in (settings | begins).items() if value is not None and value is not False},
    )


def without_others(backend: Tokenizer, size: int) -> Tokenizer:
    """A tokenizer without tokens beyond the `size` that the file lists, for which the embedding has no rows: classes
    add their own, such as GPT-2's end of text."""
    written = json.loads(backend.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["id"] < size]
    return Tokenizer.from_str(json.dumps(written))


def apply_rules(backend: Tokenizer, named: str | None, gguf: GgufFile) -> None:
    """Set the rules of the pre-tokenizer called `named` that Transformers does not. Raises UserError for an unknown
    name."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if named in DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif named not in GGUF_PRE_TOKENIZER_SPLITS and named not in AS_GPT2:
        known = sorted({*GGUF_PRE_TOKENIZER_SPLITS, *DIGITS_APART, *AS_GPT2})
        raise UserError(
            f"{gguf.path}: tokenizer.ggml.pre is {named!r}, whose rules are not known; allowed is {', '.join(known)}"
        )
    if named in WORDS_FIRST:
        backend.model.ignore_merges = True


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
