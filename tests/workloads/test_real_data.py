"""Where the real tasks' files come from, their way through lm-eval, and the published files themselves."""

import os
import urllib.error
from contextlib import contextmanager

import pytest

from swiftkv import files
from swiftkv.config import RunConfig, load_config, validate
from swiftkv.errors import UserError
from swiftkv.evals import accuracy, harness
from swiftkv.workloads import downloads, sqlite_sandbox
from swiftkv.workloads.real import SETS, defog, nq_open, published, qmsum
from tests.helpers.config import make_config
from tests.helpers.real_rows import HAND_MADE, MEETING, items, make_mirror, right

needs_mirror = pytest.mark.skipif(
    not os.environ.get(downloads.MIRROR_VARIABLE), reason=f"needs the published files ({downloads.MIRROR_VARIABLE})"
)


@pytest.fixture
def hand_made(tmp_path, monkeypatch):
    return make_mirror(tmp_path, monkeypatch)


def test_a_file_that_is_missing_damaged_or_another(hand_made):
    path = hand_made / "evals" / nq_open.FILE
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"nq-open-oracle\.jsonl\.gz: .* its sha256 is \w+, the pinned version has"):
        published.read(nq_open.FILE)
    path.unlink()
    with pytest.raises(UserError, match=r"nq-open-oracle\.jsonl\.gz: cannot be read .*in evals/ of .*SWIFTKV_MIRROR"):
        published.read(nq_open.FILE)
    (hand_made / "evals" / "ddl.tar.xz").write_bytes(b"none")
    with pytest.raises(UserError, match=r"ddl\.tar\.xz: cannot be read"):
        published.read("defog_data/shop/shop.sql")


def test_neither_mirror_nor_network(monkeypatch):
    def fail(url):
        raise urllib.error.URLError("no network")

    monkeypatch.delenv(downloads.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(downloads, "download", fail)
    with pytest.raises(UserError, match=r"no network.* defog_data_schemas_ddl\.tar\.xz in evals/ of .*SWIFTKV_MIRROR"):
        published.read("defog_data/atis/atis.sql")


def test_the_network_is_held_to_the_same_sha256(hand_made, monkeypatch):
    monkeypatch.delenv(downloads.MIRROR_VARIABLE)
    monkeypatch.setattr(downloads, "download", lambda url: HAND_MADE[qmsum.FILE])
    assert published.rows(qmsum.FILE) == [MEETING]
    with pytest.raises(UserError, match="sha256"):
        published.read(nq_open.FILE)


# ---- through lm-eval


def config_of(**changes) -> RunConfig:
    small = {"items_per_task": 1, "real": {name: {"items": 1} for name in SETS}}
    return make_config({"accuracy": small | changes})


def test_every_set_has_its_own_limits_and_details(hand_made, tiny_base, tmp_path, monkeypatch):
    from lm_eval.api.model import LM

    asked = {}

    class Scripted(LM):
        def generate_until(self, requests, disable_tqdm=False):
            for request in requests:
                asked[request.doc["task"]] = request.args[1]
            return [request.doc["answer"].rstrip(";") for request in requests]

        loglikelihood = loglikelihood_rolling = None

    @contextmanager
    def backend(model_dir, settings):
        assert "real" not in settings, "settings go to the engine"
        yield Scripted()

    monkeypatch.setattr(harness, "vllm_backend", backend)
    config = config_of(real={name: {"items": 1} for name in SETS} | {"qmsum": {"items": 1, "max_new_tokens": 7}})
    accuracy.score_arm(config, "base", tiny_base, tmp_path / "out", tmp_path / "work")
    rows = {row["task"]: row for row in files.read_jsonl(tmp_path / "out" / "samples.jsonl")}
    assert list(rows) == [*config.tasks, *SETS]
    assert asked["code"]["until"] == ["\n"] and asked["code"]["max_gen_toks"] == 40
    for name, task in SETS.items():
        assert asked[name]["until"] == list(task.stop)
        assert asked[name]["max_gen_toks"] == (7 if name == "qmsum" else task.max_new_tokens)
        assert rows[name]["score"] == 1.0
        assert set(task.metrics) <= set(rows[name])
    record = files.read_json(tmp_path / "out" / "lm_eval.json")
    assert record["settings"]["real"] == config.raw["accuracy"]["real"]
    assert record["tasks"]["qmsum"]["results"]["rouge1,none"] == 1.0


def test_the_configuration_names_the_sets():
    validate(config_of(chat_template=True).raw, "mine.yaml")
    with pytest.raises(UserError, match=r"accuracy\.real: unknown key 'squad'; allowed are defog, humaneval"):
        validate(config_of(real={"squad": {"items": 1}}).raw, "mine.yaml")
    with pytest.raises(UserError, match=r"accuracy\.real\.qmsum: items is missing"):
        validate(config_of(real={"qmsum": {}}).raw, "mine.yaml")
    with pytest.raises(UserError, match=r"accuracy\.real\.qmsum\.transcript: .*whole.*relevant"):
        validate(config_of(real={"qmsum": {"items": 1, "transcript": "half"}}).raw, "mine.yaml")


def test_without_the_key_there_are_the_generated_tasks_alone():
    config = load_config()
    assert list(accuracy.test_items(config)) == list(accuracy.limits(config)) == list(config.tasks)


# ---- the published files

COUNTS = {"humaneval_infilling": 1033, "humaneval": 164, "defog": 210, "qmsum": 281, "nq_open": 2655}


@needs_mirror
@pytest.mark.parametrize("name", SETS)
def test_every_published_answer_is_right(name, tiny_tokenizer):
    made = items(name, tiny_tokenizer, COUNTS[name])
    assert len({item.id for item in made}) == COUNTS[name]
    with pytest.raises(UserError, match=f"the set has {COUNTS[name]}"):
        items(name, tiny_tokenizer, COUNTS[name] + 1)
    for item in made[:250]:
        assert SETS[name].score(item, right(item))["score"] == 1.0, item.id


@needs_mirror
def test_every_published_statement_runs_and_nearly_all_return_more_than_nulls():
    telling = []
    for example in defog.examples({}):
        (*found,) = sqlite_sandbox.run(example.meta["script"], [*map(defog.stop_clock, example.meta["gold"])])
        assert all(found), example.id
        telling.append(any(value not in (None, 0) for row in found[0] for value in row))
    assert sum(telling) >= 209


@needs_mirror
def test_relevant_turns_of_every_specific_query(tiny_tokenizer):
    made = items("qmsum", tiny_tokenizer, 244, transcript="relevant")
    assert all("specific" in item.id and ": " in item.prompt for item in made)
