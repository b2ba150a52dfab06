"""Filling in the middle: the tokens by which a model is given code before and after a gap, and asked for what is
between (https://arxiv.org/abs/2207.14255). The order is prefix, suffix, middle."""

# Prefix, suffix, middle: Qwen2.5-Coder and Qwen3; StarCoder and Granite; DeepSeek-Coder.
FIM_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)


def fim_marks(tokenizer) -> tuple[str, str, str] | None:
    """The marks of prefix, suffix and middle that the tokenizer has as tokens, if it has any."""
    known = tokenizer.get_vocab()
    return next((marks for marks in FIM_TOKENS if {*marks} <= known.keys()), None)


def fim_prompt(marks: tuple[str, str, str], prefix: str, suffix: str) -> str:
    """What a model goes on from with the middle."""
    return f"{marks[0]}{prefix}{marks[1]}{suffix}{marks[2]}"
