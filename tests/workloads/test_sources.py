"""Sources of training data: splits apart, what is dropped is counted, any batch comes again, clear errors."""

import json

import datasets
import pytest
import torch

from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.workloads import stream
from swiftkv.workloads.sources import split_of, stream_of
from tests.helpers.chat_templates import FOLDED, PLAIN, chat, with_template
from tests.helpers.config import make_config

REVISION = "0" * 40
HUB = [
    {"path": "org/large", "revision": REVISION, "split": "train_sft", "samples": 30},
    {"path": "org/small", "revision": REVISION, "name": "en", "split": "train", "samples": 10},
]


def config_of(data: dict, length: int = 64, rows: int = 4) -> RunConfig:
    distill = make_config().raw["distill"] | {"data": data, "sequence_length": length, "batch_tokens": length * rows}
    return make_config(instead={"distill": distill})


def write(path, conversations) -> dict:
    """A file of conversations, as the configuration's `data`."""
    path.write_text("".join(json.dumps({"messages": conversation}) + "\n" for conversation in conversations))
    return {"source": "jsonl", "files": [str(path)]}


def first(config, tokenizer, split: str = "train"):
    return next(stream_of(config, tokenizer, split)(0))


def texts_in(batch, tokenizer) -> list[str]:
    """Texts of a batch's documents, without the padding."""
    return "".join(map(tokenizer.decode, batch.input_ids)).replace("<|pad|>", "").split("<|bos|>")[1:]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return with_template(tiny_tokenizer, PLAIN)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """200 short conversations in a file."""
    return write(tmp_path_factory.mktemp("chats") / "chats.jsonl", [chat(f"q {n}", f"a {n}") for n in range(200)])


def test_tasks_are_the_stream_of_the_tasks(tiny_tokenizer):
    config = config_of({"source": "tasks"}, length=1024, rows=2)
    batch = next(stream_of(config, tiny_tokenizer)(3))
    expected = next(stream.batches(config.tasks, tiny_tokenizer, 2, 1024, config.seed, 3))
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert batch.positions is None


def test_a_resumed_run_sees_the_same_batches(tokenizer, many):
    whole = stream_of(config_of(many), tokenizer)(0)
    batches = [next(whole) for _ in range(60)]  # beyond an epoch
    resumed = next(stream_of(config_of(many), tokenizer)(59))
    assert resumed.input_ids.shape == (4, 64)
    assert torch.equal(resumed.input_ids, batches[59].input_ids)
    assert torch.equal(resumed.positions, batches[59].positions)


def test_splits_are_disjoint_and_counted(tokenizer, many, capsys):
    parts = []
    for split in ("train", "test"):
        size = sum(split_of(chat(f"q {n}")) == split for n in range(200))
        parts.append(set(texts_in(first(config_of(many, length=size * 64, rows=1), tokenizer, split), tokenizer)))
        assert len(parts[-1]) == size > 0
        assert f"{split} split of {size} conversations" in capsys.readouterr().out
    assert len(parts[0] | parts[1]) == 200


def test_short_and_late_answers_are_dropped_and_long_chats_cut(tiny_tokenizer, tmp_path, capsys):
    tokenizer = with_template(tiny_tokenizer, FOLDED)
    backwards = chat("a", "b c d")[::-1]
    cut, whole = chat("q q", "a b c " * 100), chat("q", "a b", "c", "d")
    rows = [chat("q"), chat("q", "a"), chat("q " * 100, "a b c d"), backwards, cut, whole]
    assert all(split_of(row) == "train" for row in rows)
    batch = first(config_of(write(tmp_path / "chats.jsonl", rows) | {"min_answer_tokens": 5}, rows=2), tokenizer)
    out = capsys.readouterr().out
    assert "train split of 2 conversations" in out
    assert "2 with fewer than 5 answer tokens" in out
    assert "1 whose answer begins after 64 tokens" in out
    assert "1 refused by the chat template (roles must take turns)" in out
    full = tokenizer.apply_chat_template(cut, return_dict=False)[:64]
    assert full in batch.input_ids.tolist()
    assert "[q]a b<|end|>[c]d<|end|>" in texts_in(batch, tokenizer)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "chats.jsonl: empty file"),
        (json.dumps({"messages": chat("q", "a")}) + "\n{broken\n", "chats.jsonl:2: not valid JSON"),
        ("[1]\n", "chats.jsonl:1: .* is not an object"),
        (json.dumps({"messages": chat("q")}), "no conversation is left for the train split; dropped: 1 with fewer"),
        ("\udcff", "chats.jsonl: damaged"),
    ],
)
def test_files_that_cannot_be_used_are_named(tokenizer, tmp_path, text, reason):
    path = tmp_path / "chats.jsonl"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=reason):
        first(config_of({"source": "jsonl", "files": [str(path)]}), tokenizer)


def test_a_missing_file_and_a_missing_template_are_named(tokenizer, tiny_tokenizer, many, tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl: no such file"):
        first(config_of({"source": "jsonl", "files": [str(tmp_path / "none.jsonl")]}), tokenizer)
    with pytest.raises(UserError, match="has no chat template"):
        first(config_of(many), tiny_tokenizer)


def test_hub_sets_are_streamed_and_cut_to_their_samples(tokenizer, monkeypatch):
    asked = []

    def load_dataset(path, name=None, **more):
        asked.append((path, name, more))
        return datasets.Dataset.from_list(
            [{"messages": chat(f"{path} {n}", "a")} for n in range(50)]
        ).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    texts = texts_in(first(config_of({"source": "hub", "datasets": HUB}, 4096, 1), tokenizer), tokenizer)
    for entry in HUB:
        kept = sum(split_of(chat(f"{entry['path']} {n}")) == "train" for n in range(entry["samples"]))
        assert sum(entry["path"] in text for text in texts) == kept
    common = {"revision": REVISION, "streaming": True}
    assert asked[0] == ("org/large", None, common | {"split": "train_sft"})
    assert asked[1] == ("org/small", "en", common | {"split": "train"})


def test_an_unreachable_set_is_one_clear_line(tokenizer, monkeypatch):
    def load_dataset(*args, **more):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=rf"org/large at revision {REVISION} .*no route.* network.*login") as caught:
        first(config_of({"source": "hub", "datasets": HUB}), tokenizer)
    assert "\n" not in str(caught.value)


def test_datasets_streams_a_real_set(tokenizer, tmp_path):
    rows = [{"conversations": [{"from": "human", "value": f"q {n}"}, {"from": "gpt", "value": "a"}]} for n in range(20)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    entry = {"path": str(tmp_path), "revision": REVISION, "split": "train", "samples": 12}
    batch = first(config_of({"source": "hub", "datasets": [entry]}, length=1024, rows=1), tokenizer)
    assert len(texts_in(batch, tokenizer)) == sum(split_of(chat(f"q {n}")) == "train" for n in range(12))
    with pytest.raises(UserError, match="split: none"):
        first(config_of({"source": "hub", "datasets": [entry | {"split": "none"}]}), tokenizer)
