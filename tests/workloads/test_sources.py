"""Sources of training data: splits apart, what is dropped is counted, any batch comes again, clear errors."""

import json
from pathlib import Path

import datasets
import pytest
import torch

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.config.data import Dataset
from swiftkv.distill.data import documents, select
from swiftkv.errors import UserError
from swiftkv.workloads import stream
from swiftkv.workloads.documents import split_of
from swiftkv.workloads.rows import hub_rows
from swiftkv.workloads.sources import stream_of
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


def write_rows(path, rows) -> dict:
    """A file of rows, as the configuration's `data`."""
    files.write_jsonl(path, rows)
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
        (json.dumps({"messages": chat("q")}), "nothing is left for the train split; dropped: 1 with fewer"),
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


def test_hub_sets_are_streamed_and_sampled_by_the_seed(tokenizer, monkeypatch):
    asked = []

    def load_dataset(path, name=None, **more):
        asked.append((path, name, more))
        return datasets.Dataset.from_list(
            [{"messages": chat(f"{path} {n}", "a")} for n in range(50)]
        ).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    texts = texts_in(first(config_of({"source": "hub", "datasets": HUB}, 4096, 1), tokenizer), tokenizer)
    for entry in HUB:
        name = f"<|end|>\n\n{entry['path']} "
        taken = [int(text.split(name)[1].split("<")[0]) for text in texts if name in text]
        held_out = sum(split_of(chat(f"{entry['path']} {n}")) == "test" for n in range(50))
        assert entry["samples"] - held_out <= len(set(taken)) == len(taken) <= entry["samples"]
        assert max(taken) >= entry["samples"]  # and not the first ones
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
    assert 12 - sum(split_of(chat(f"q {n}")) == "test" for n in range(20)) <= len(texts_in(batch, tokenizer)) <= 12
    with pytest.raises(UserError, match="split: none"):
        first(config_of({"source": "hub", "datasets": [entry | {"split": "none"}]}), tokenizer)


def test_samples_depend_on_the_seed_alone(tmp_path):
    datasets.Dataset.from_list([{"text": f"text {n}"} for n in range(200)]).to_parquet(tmp_path / "train.parquet")
    entry = Dataset(path=str(tmp_path), revision=REVISION, split="train", samples=20)
    drawn = [[row["text"] for _, row in hub_rows(entry, seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20


def test_a_set_that_is_smaller_than_its_samples_is_taken_whole_and_told(tmp_path, capsys):
    datasets.Dataset.from_list([{"text": f"text {n}"} for n in range(5)]).to_parquet(tmp_path / "train.parquet")
    entry = Dataset(path=str(tmp_path), revision=REVISION, split="train", samples=20)
    assert len(list(hub_rows(entry, 0))) == 5
    assert "all its 5 rows, where 20 samples are asked for" in capsys.readouterr().out


def test_text_needs_no_template_and_every_token_but_the_first_is_trained_on(tiny_tokenizer, tmp_path):
    lines = ["def f(x):\n    return x\n", "plain words"]
    config = config_of(write_rows(tmp_path / "texts.jsonl.xz", [{"text": line} for line in lines]), rows=1)
    config.raw["distill"]["loss_on"] = "all"
    batch = first(config, tiny_tokenizer)
    texts, eos = documents(batch), tiny_tokenizer.eos_token
    assert not batch.answers.any()
    assert sorted(tiny_tokenizer.decode(texts.ids).split(eos)[:-1]) == sorted(lines)
    assert int(select(texts, "all", False).loss.sum()) == len(texts.ids) - len(lines)


@pytest.mark.parametrize("own", [{}, {"loss_on": "all"}])
def test_text_is_dropped_unless_a_student_trains_on_all_tokens(own, tokenizer, tmp_path, capsys):
    rows = [{"question": "q", "answer": "a"}, {"text": "plain words"}]
    config = config_of(write_rows(tmp_path / "rows.jsonl.gz", rows))
    config.raw["variants"] = [{"name": "one", "skip": 0.5, "distill": own}]
    stream = stream_of(config, tokenizer)
    next(stream(0))
    dropped = {} if own else {"of text, which has no answers (loss_on: answers)": 1}
    assert (stream.record["kept"].get("texts", 0), stream.record["dropped"]) == (len(own), dropped)
    assert ("1 of text, which has no answers" in capsys.readouterr().out) is not bool(own)


def test_what_is_longer_than_a_row_is_truncated_split_or_dropped(tokenizer, tmp_path):
    """By default chats are truncated and texts split."""
    rows = [{"text": "a b c " * 60}, {"messages": chat("q", "a b c " * 60)}]
    counts = {}
    for rule in (None, "truncate", "split", "drop"):
        config = config_of(write_rows(tmp_path / "rows.jsonl", rows) | ({"long": rule} if rule else {}))
        config.raw["distill"]["loss_on"] = "all"
        stream = stream_of(config, tokenizer)
        if rule == "drop":
            with pytest.raises(UserError, match="1 chats longer than 64 tokens, 1 texts longer than 64 tokens"):
                next(stream(0))
        else:
            next(stream(0))
            counts[rule] = stream.record["changed"]
    assert set(counts["truncate"]) == {"chats truncated", "texts truncated", "tokens cut off"}
    assert counts["split"]["chats split"] == counts["split"]["texts split"] == 1
    assert set(counts[None]) == {"chats truncated", "tokens cut off", "texts split", "pieces of texts"}


def test_rows_made_for_the_base_are_read_and_missing_ones_say_how_they_are_made(tokenizer, tmp_path, many):
    config = config_of({"source": "self", "tokens": 1, "mix": [{"kind": "sql", "share": 1}]})
    made = Path(many["files"][0])
    mine, theirs = next(stream_of(config, tokenizer, made=made)(0)), first(config_of(many), tokenizer)
    assert torch.equal(mine.input_ids, theirs.input_ids)
    with pytest.raises(UserError, match=r"train\.jsonl\.xz: no such file; `swiftkv training-data` makes it"):
        first(config, tokenizer)
