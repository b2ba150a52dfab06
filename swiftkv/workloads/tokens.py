"""Token counts of texts in a model's own tokenizer."""

from pathlib import Path

from swiftkv.errors import UserError


def load_tokenizer(model_dir: str | Path):
    """The tokenizer saved in `model_dir`. Raises UserError if the directory or its tokenizer is missing."""
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise UserError(f"{model_dir}: no such model directory")
    if not any((model_dir / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"{model_dir}: holds no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True)


def count_tokens(tokenizer, texts: list[str]) -> list[int]:
    """Tokens of each text, without special tokens (no BOS, no EOS)."""
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
