"""Token counts of texts in a model's own tokenizer."""

from pathlib import Path

from swiftkv.errors import UserError


def load_tokenizer(model_dir: str | Path):
    """The tokenizer saved in `model_dir`. Raises UserError if the directory or its tokenizer is missing.

    Transformers reads the model's config.json, too, so the classes of students are registered first: in one of a model
    type that it does not know, it cannot read Llama 3.1's RoPE.
    """
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise UserError(f"{model_dir}: no such model directory")
    if not any((model_dir / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"{model_dir}: holds no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    from transformers import AutoTokenizer

    import swiftkv.modeling  # noqa: F401 - registers the SwiftKV classes

    return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True)


def pad_id(tokenizer) -> int:
    """What rows are filled up with: the padding token, or the end-of-sequence token of models without one (Llama 3.x).
    Raises UserError if the tokenizer has neither; a document must be given an end, too."""
    if tokenizer.eos_token_id is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token (eos_token)")
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def bos_id(tokenizer) -> int | None:
    """The beginning-of-sequence token, where the tokenizer begins every text with it by itself."""
    if tokenizer.bos_token_id is None or tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
        return None
    return tokenizer.bos_token_id


def bos_text(tokenizer) -> str:
    """`bos_id`'s token as a prompt has it written out, for what adds no special tokens; nothing without one."""
    return "" if bos_id(tokenizer) is None else tokenizer.bos_token


def count_tokens(tokenizer, texts: list[str]) -> list[int]:
    """Tokens of each text, without special tokens (no BOS, no EOS)."""
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
