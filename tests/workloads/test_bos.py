"""A tokenizer that begins texts with a BOS: prompts, training rows and probes begin as those that a server is sent."""

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from swiftkv.evals import accuracy, diagnose
from swiftkv.workloads import stream
from swiftkv.workloads.tokens import bos_text
from tests.helpers.config import make_config

CONFIG = make_config({"accuracy": {"items_per_task": 2}})


@pytest.fixture(scope="module")
def with_bos(tiny_tokenizer, tmp_path_factory):
    """The tiny tokenizer with a BOS that it puts before every text."""
    directory = tmp_path_factory.mktemp("bos")
    tiny_tokenizer.save_pretrained(directory)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    start = [("<s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair=None, special_tokens=start)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def test_generated_prompts_begin_as_a_server_would_begin_them(with_bos, tiny_tokenizer):
    for items, plain in zip(
        accuracy.test_items(CONFIG, with_bos).values(),
        accuracy.test_items(CONFIG, tiny_tokenizer).values(),
        strict=True,
    ):
        for item, other in zip(items, plain, strict=True):
            assert with_bos(item.prompt, add_special_tokens=False)["input_ids"] == with_bos(other.prompt)["input_ids"]
            assert item.answer == other.answer


def test_training_rows_and_probes_begin_so_too(with_bos, tiny_tokenizer):
    batch = stream.batch(CONFIG.tasks, with_bos, 4, 1024, 0, 0)
    assert batch.input_ids[:, 0].eq(with_bos.bos_token_id).all()
    assert batch.input_ids[:, 1:].ne(with_bos.bos_token_id).all(), "once"
    plain = stream.batch(CONFIG.tasks, tiny_tokenizer, 4, 1024, 0, 0)
    assert batch.lengths.tolist() == [length + 1 for length in plain.lengths.tolist()]
    probes = diagnose.probes_of(with_bos, "sql", 2, 0, CONFIG.tasks["sql"])
    assert all(probe.prompt[0] == with_bos.bos_token_id not in probe.answer for probe in probes)


def test_a_tokenizer_without_one_adds_nothing(tiny_tokenizer):
    assert bos_text(tiny_tokenizer) == ""
