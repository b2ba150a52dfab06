"""Whether a base model's tokenizer gives texts back. What it loses is lost to the base and to its students alike, so no
comparison of the two shows it: distillation runs on without a word.

It happens where `tokenizer_class` names a class whose rules are not those of the vocabulary: Transformers 5 builds such
a tokenizer anew from its words (a byte-level one that says "LlamaTokenizer" loses every blank).
"""

import unicodedata
from pathlib import Path

from swiftkv.errors import UserError
from swiftkv.workloads.tokens import load_tokenizer

SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "def area(width, height):\n    if width < 0:\n        return None\n\n    return width * height  # 3.14159\n",
    "for (int i = 0; i < 10; ++i) {\n\tsum += a[i];\n}\n",
    "SELECT name, COUNT(*) FROM users AS u WHERE u.age >= 21 AND u.city <> 'Rome' GROUP BY name;",
    'She said: "It is 7:45 - let us go!" (and so they did, didn\'t they?)',
    "two  blanks,   three,    four\nand 1 line\n\nand 2 lines",
    "0 1 23 456 7890 1234567 3.50 1e-6 0x1F",
    "".join(map(chr, range(33, 127))),
    "naïve café – 12 €, данные, 数据, 🙂",
)
BYTES = {"byte-level": "Ã", "byte fallback": "<0xC3>"}  # how a vocabulary spells one of the 256 bytes
AROUND = 12  # characters shown on each side of the first difference


def check_tokenizer(directory: Path, rows: int, where: str = "") -> None:
    """Check the tokenizer of a base model whose embedding has `rows` rows; `where` names it in errors.

    Raises UserError if there is none, if it cannot be read, if a text does not come back, or if a token has no row.
    Allowed is a blank more or less at the beginning, another form of the same characters (NFC, NFKC), and texts with
    characters that the vocabulary lacks.
    """
    where = where or str(directory)
    try:
        tokenizer = load_tokenizer(directory)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{where}: the tokenizer cannot be read ({reason})") from None
    vocabulary = tokenizer.get_vocab()
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    if largest >= rows:
        raise UserError(
            f"{where}: token {token!r} has the id {largest}, and the embedding {rows} rows; take the tokenizer that "
            "belongs to the weights"
        )
    everything = any(spelling in vocabulary for spelling in BYTES.values())
    for text in SAMPLES:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.unk_token_id in ids:
            continue
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        before, after = plain(text, everything), plain(back, everything)
        if before != after:
            before, after = excerpts(before, after)
            raise UserError(
                f"{where}: the tokenizer does not give texts back: {before!r} comes out as {after!r}; it is read as "
                f"{type(tokenizer).__name__}: name the right tokenizer_class in tokenizer_config.json "
                "(PreTrainedTokenizerFast takes tokenizer.json as it is)"
            )


def plain(text: str, everything: bool) -> str:
    """A text without what a tokenizer may change; without `everything`, what is not ASCII may be left out, too."""
    text = unicodedata.normalize("NFKC", text)
    return (text if everything else "".join(filter(str.isascii, text))).removeprefix(" ")


def excerpts(text: str, back: str) -> tuple[str, str]:
    """Both texts around the first character in which they differ."""
    pairs = zip(text, back, strict=False)
    at = next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(text), len(back)))
    part = slice(max(0, at - AROUND), at + AROUND)
    return text[part], back[part]
