"""The embedded base model's own tokenizer: byte-level BPE trained on the training split of the tasks.

A word keeps one token wherever it stands: names are written `first_second`, a first half always follows a blank
and a second half an underscore, and the pre-tokeniser cuts there. Any other text still encodes, byte by byte.
"""

from collections.abc import Iterable
from itertools import chain
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from swiftkv.workloads import tasks
from swiftkv.workloads.stream import segments

PIECES = r"[ _]?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}_]+|_|\s"
EOS, PAD = "<|end|>", "<|pad|>"


def corpus(settings: dict, contexts: int, seed: int):
    """Training-split texts of all tasks in turn."""
    for index in range(contexts):
        for task in settings:
            context = tasks.context(task, "train", Random(f"tokenizer/{task}/{seed}/{index}"), settings[task])
            yield from (text for text, _ in segments(context, ""))


def train_tokenizer(
    settings: dict, vocab_size: int, seed: int, contexts: int = 2000, texts: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `contexts` contexts of each task, and on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(corpus(settings, contexts, seed), texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
