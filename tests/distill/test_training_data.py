"""Rows made for a base: shares, seeds, what is left out and said, answers that are kept, what distillation reads."""

import json

import pytest

from swiftkv import files
from swiftkv.config import load_config, validate
from swiftkv.config.data import Data
from swiftkv.distill import loop, training_data
from swiftkv.distill.answers import PROMPT_SAMPLING, Answerer
from swiftkv.distill.loop import Options
from swiftkv.errors import UserError
from swiftkv.workloads import overlap
from swiftkv.workloads.mixture import code, text_of, texts
from swiftkv.workloads.sources import stream_of
from swiftkv.workloads.tokens import load_tokenizer
from tests.helpers.chat_templates import PLAIN, chat, with_template
from tests.helpers.config import make_config
from tests.helpers.models import save_tiny_base

PLANTED = "every good evaluation set holds this sentence of more than eight words here"
TASKS = {"rag": {"records": 3, "values": 1}, "code": {"records": 2, "values": 1}}
MIX = [{"kind": "text", "share": 3, "corpora": ["peps"]}, {"kind": "tasks", "share": 1}, {"kind": "code", "rows": 2}]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_tokenizer):
    directory = tmp_path_factory.mktemp("models") / "base"
    tokenizer = with_template(tiny_tokenizer, PLAIN)
    save_tiny_base(directory, tokenizer, vocab_size=len(tokenizer))
    return directory


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    """One evaluation set, one corpus, a library of one file, and a base that answers with what it was asked."""
    for number in range(9):
        body = "".join(f"    y = x + {line}\n" for line in range(5))
        (tmp_path / f"lib{number}.py").write_text(f"def f{number}(x):\n{body}    return y\n")
    held = [f"text {n} " + "of many words " * 4 for n in range(60)]
    monkeypatch.setattr(texts, "corpus", lambda name, mirror, user: iter([*held, held[0], PLANTED + "."]))
    monkeypatch.setattr(code, "standard_library", lambda: iter(sorted(tmp_path.glob("lib*.py"))))
    monkeypatch.setattr(overlap, "checked", lambda mirror: overlap.Overlap([("planted", [PLANTED])]))
    monkeypatch.delenv("SWIFTKV_MIRROR", raising=False)


def config_of(mix=MIX, **more):
    data = {"source": "self", "tokens": 2000, "mix": mix, **more}
    distill = make_config().raw["distill"] | {"data": data, "loss_on": "all"}
    return make_config(instead={"distill": distill, "tasks": TASKS})


def make(config, base, folder) -> tuple[list[dict], dict]:
    """The rows that are written, and the record beside them."""
    training_data.run(config, base, folder / "data", folder / "work", None)
    path = folder / "data" / "train.jsonl.xz"
    return files.read_jsonl(path), files.read_json(f"{path}.provenance.json")["training_data"]


def test_every_kind_has_its_share_in_one_random_order(base, tmp_path):
    rows, record = make(config_of(), base, tmp_path)
    parts = {part["kind"]: part for part in record["parts"]}
    assert parts["text"]["wanted"] == {"tokens": 1500} and parts["code"]["rows"] == 2
    for kind, tokens in (("text", 1500), ("tasks", 500)):
        assert 0.8 * tokens <= parts[kind]["tokens"] <= tokens
    kinds = [row["kind"] for row in rows]
    assert {kind: kinds.count(kind) for kind in parts} == {kind: part["rows"] for kind, part in parts.items()}
    assert kinds != sorted(kinds) and kinds[: parts["text"]["rows"]] != ["text"] * parts["text"]["rows"]


def test_the_same_seed_gives_the_same_file_and_another_seed_others(base, tmp_path):
    first, again = (make(config_of(), base, tmp_path / name)[0] for name in ("a", "b"))
    config = config_of()
    config.raw["seed"] = 7
    assert first == again != make(config, base, tmp_path / "c")[0]
    a, b = ((tmp_path / name / "data" / "train.jsonl.xz").read_bytes() for name in ("a", "b"))
    assert a == b


def test_repetitions_and_overlaps_are_left_out_and_told(base, tmp_path):
    rows, record = make(config_of([{"kind": "text", "rows": 1000, "corpora": ["peps"]}]), base, tmp_path)
    (part,) = record["parts"]
    assert part["dropped"] == {"repetitions": 1, "overlapping planted": 1} and part["rows"] == len(rows) == 60
    card = (tmp_path / "data" / "README.md").read_text()
    assert "- 1 text: overlapping planted" in card and "- 1 text: repetitions" in card
    assert "| text | 60 |" in card and "peps: python/peps@" in card and str(tmp_path) not in card


def test_the_distillation_reads_what_was_made(base, tmp_path):
    config = config_of()
    rows, record = make(config, base, tmp_path)
    stream = stream_of(config, load_tokenizer(base), made=tmp_path / "data" / "train.jsonl.xz")
    next(stream(0))
    read = stream.record
    assert read["kept"]["chats"] + read["kept"]["texts"] + read["dropped"].get("of the other split", 0) == len(rows)
    # All tokens of the record but those of the held-out rows and of what is cut off.
    assert read["tokens"] + read["changed"].get("tokens cut off", 0) <= sum(part["tokens"] for part in record["parts"])
    assert read["tokens"] > 0.7 * sum(part["tokens"] for part in record["parts"])


def test_students_are_distilled_on_it_and_their_record_says_so(base, tmp_path):
    config = config_of()
    config.raw["variants"] = [{"name": "half", "skip": 0.5}]
    config.raw["distill"] |= {"steps": 1, "sequence_length": 128, "batch_tokens": 256}
    rows, _ = make(config, base, tmp_path)
    options = Options(data=tmp_path / "data" / "train.jsonl.xz")
    loop.run(config, base, tmp_path / "models", tmp_path / "work", options)
    record = files.read_json(tmp_path / "models" / "distill.jsonl.provenance.json")
    read = record["training_rows"]
    assert (read["source"], read["split"]) == ("self", "train")
    assert sum(read["kept"].values()) + sum(read["dropped"].values()) == len(rows)
    assert files.sha256(options.data) in record["data_sha256"].values()
    with pytest.raises(UserError, match=r"train\.jsonl\.xz: no such file"):
        loop.run(config, base, tmp_path / "models", tmp_path / "work")


def write(path, rows) -> str:
    files.write_jsonl(path, rows)
    return str(path)


def test_a_users_file_of_which_nothing_is_left_is_one_line(base, tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"messages": chat("say it", PLANTED)}] * 2)
    with pytest.raises(UserError, match="nothing is left of kind file; dropped: 1 overlapping planted, 1 repetitions"):
        make(config_of([{"kind": "file", "rows": 5, "files": [path]}]), base, tmp_path)
    assert not (tmp_path / "data").exists()


def echo(self, prompts, sampling, key):
    """A base that writes prompts of its own by number, and answers with the end of what it was asked."""
    self.asked = getattr(self, "asked", 0) + len(prompts)
    if sampling is PROMPT_SAMPLING:
        return [{"text": f" own prompt {key} {n}", "ended": n % 2 == 0} for n in range(len(prompts))]
    decoded = [self.tokenizer.decode(ids[-40:], skip_special_tokens=True).strip() for ids in prompts]
    return [{"text": "" if "silent" in text else f"to {text}", "ended": True} for text in decoded]


def test_the_base_answers_what_has_no_answer(base, tmp_path, monkeypatch):
    monkeypatch.setattr(Answerer, "ask", echo)
    prompts = [{"prompt": "first"}, {"prompt": "silent"}, {"prompt": "l" + "ong " * 400}, {"messages": chat("q", "a")}]
    mix = [{"kind": "file", "rows": 9, "files": [write(tmp_path / "a.jsonl", prompts)]}, {"kind": "own", "rows": 40}]
    rows, record = make(config_of(mix), base, tmp_path)
    given = sorted(text_of(row) for row in rows if row["kind"] == "file")
    assert given == ["first\nto " + given[0].split("to ", 1)[1], "q\na"]
    own = [row["messages"] for row in rows if row["kind"] == "own"]
    assert len(own) == 40 and all(asked["content"].startswith("own prompt prompts-") for asked, _ in own)
    file, mine = (part["dropped"] for part in record["parts"])
    assert file == {"prompts longer than 320 tokens": 1, "empty answers": 1}
    assert mine["prompts that were too short or did not end"] > 0
    assert record["answered_by_the_base"]["temperature"] == 0.7


def test_answers_are_kept_for_a_run_that_goes_on(base, tmp_path, monkeypatch):
    monkeypatch.setattr(Answerer, "ask", echo)
    config = config_of([{"kind": "own", "rows": 40}])
    first, _ = make(config, base, tmp_path)
    monkeypatch.setattr(Answerer, "ask", lambda *_: pytest.fail("asked again"))
    assert make(config, base, tmp_path)[0] == first


def test_an_answer_that_recites_an_evaluation_set_is_left_out(base, tmp_path, monkeypatch):
    monkeypatch.setattr(Answerer, "ask", lambda self, prompts, *_: [{"text": PLANTED, "ended": True} for _ in prompts])
    path = write(tmp_path / "a.jsonl", [{"prompt": "first"}])
    with pytest.raises(UserError, match="nothing is left of kind file; dropped: 1 overlapping planted"):
        make(config_of([{"kind": "file", "rows": 1, "files": [path]}]), base, tmp_path)


def test_another_source_and_a_foreign_file_are_refused(base, tmp_path):
    with pytest.raises(UserError, match=r"distill\.data\.source is tasks; training-data makes the rows of source self"):
        training_data.run(make_config(), base, tmp_path / "data", tmp_path / "work", None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md: exists, and no provenance record"):
        make(config_of(), base, tmp_path)
    assert (tmp_path / "data" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mix": [{"kind": "sql", "share": 0}]}, r"distill\.data\.mix: the shares sum to 0"),
        ({"mix": [{"kind": "poems", "share": 1}]}, r"distill\.data\.mix\.0\.kind: \"poems\" is not allowed"),
        ({"mix": [{"kind": "sql", "share": 1, "fim": 0.5}]}, r"distill\.data\.mix\.0: 'fim' is no key of kind sql"),
        ({"mix": [{"kind": "text", "share": 1}]}, r"distill\.data\.mix\.0: corpora is missing"),
        ({"mix": [{"kind": "sql"}]}, r"distill\.data\.mix\.0: share or rows is missing"),
        ({"mix": [{"kind": "sql", "share": 1, "rows": 1}]}, r"mix\.0: share and rows exclude each other"),
        ({"mix": [{"kind": "sql", "share": 1}], "tokens": None}, r"distill\.data\.tokens: null"),
        ({}, r"distill\.data: mix is missing"),
    ],
)
def test_a_mix_that_cannot_be_is_one_line(change, reason):
    raw = load_config().raw
    raw["distill"]["data"] = {"source": "self", "tokens": 10, **change}
    with pytest.raises(UserError, match=reason) as caught:
        validate(raw, "f.yaml")
    assert "\n" not in str(caught.value)


def test_shares_need_tokens_and_shares_of_nothing_take_nothing():
    with pytest.raises(ValueError, match="tokens is missing"):
        Data.model_validate({"source": "self", "mix": [{"kind": "sql", "share": 1}]})
    mix = [{"kind": "sql", "share": 0}, {"kind": "tasks", "share": 2}, {"kind": "own", "rows": 3}]
    parts = training_data.parts_of(Data.model_validate({"source": "self", "tokens": 10, "mix": mix}))
    assert [(part.entry.kind, part.wanted) for part in parts] == [("tasks", 10), ("own", 3)]


def test_a_row_is_plain_json(base, tmp_path):
    rows, _ = make(config_of(), base, tmp_path)
    assert all({"kind"} < row.keys() <= {"kind", "text", "messages"} for row in rows)
    assert json.loads(json.dumps(rows)) == rows
