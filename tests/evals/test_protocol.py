"""The paper's protocol: lm-eval's own tasks on local data, end to end by Transformers on tiny models."""

import functools
import os
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from swiftkv import files
from swiftkv.config import RunConfig, load_config
from swiftkv.errors import UserError
from swiftkv.evals import harness, paper_tasks, protocol, protocol_summary
from swiftkv.evals.paper_tasks import mirror as mirrored
from tests.helpers.config import make_config
from tests.helpers.models import save_tiny_base

SUBJECTS = ("anatomy", "virology")
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
MIRROR = os.environ.get("SWIFTKV_MIRROR")
OFFLINE = tuple(mirrored.SETS)


def config_of(**section) -> RunConfig:
    section = {"generation": "transformers", "max_new_tokens": 3, **section}
    return make_config({"protocol": section})


def save_arrow(folder: Path) -> None:
    """MMLU's archive with two subjects of a few words."""
    import datasets

    rows = [{"question": f"Which is {n}?", "choices": list("wxyz"), "answer": n % 4, "subject": "s"} for n in range(6)]
    for subject in SUBJECTS:
        for split in ("test", "dev"):
            datasets.Dataset.from_list(rows).save_to_disk(folder / "mmlu_no_train" / subject / split)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    """A mirror of the published shapes with a dozen made-up rows per set."""
    root = tmp_path_factory.mktemp("mirror")
    evals, numbers = root / "evals", range(12)
    words = ["one answer", "two answers", "three answers", "four answers"]
    padded = {"query": "Question: p?", "choices": ["a", "b", "a", "c"], "gold": 0}
    arc = [{"query": f"Question: what is {n}?", "choices": words, "gold": n % 4} for n in numbers]
    files.write_jsonl(evals / "arc_challenge.jsonl", [padded, *arc])
    options = [[f"Story {n}: Ann thanked Bo as Ann", f"Story {n}: Ann thanked Bo as Bo"] for n in numbers]
    rows = [{"context_options": pair, "continuation": "helped.", "gold": n % 2} for n, pair in enumerate(options)]
    files.write_jsonl(evals / "winogrande.jsonl", rows)
    docs = [{"ind": n, "query": f"Cooking: cook {n} stirs  twice.", "choices": words, "gold": n % 4} for n in numbers]
    files.write_jsonl(evals / "hellaswag_1000_rc_5shot.jsonl.gz", [{"doc": doc} for doc in docs for _ in range(8)])
    truth = [{"question": f"What is {n}?", "mc2_targets": {f"It is {n}.": 1, "No.": 0}} for n in numbers]
    files.write_json(evals / "truthfulqa_mc.json", truth)
    files.write_jsonl(
        evals / "gsm8k_test.jsonl", [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in numbers]
    )
    save_arrow(root / "arrow")
    with tarfile.open(evals / "mmlu_hails_arrow.tar.xz", "w:xz") as archive:
        archive.add(root / "arrow" / "mmlu_no_train", "hails/mmlu_no_train")
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_tokenizer) -> dict[str, Path]:
    """The tiny base with a chat template and room for 8,192 tokens, and its student at 50%."""
    import copy

    from swiftkv.modeling.convert import convert

    root, tokenizer = tmp_path_factory.mktemp("chat"), copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    save_tiny_base(root / "base", tokenizer, max_position_embeddings=8192)
    convert(root / "base", root / "skip50", 4, 1)
    return {arm: root / arm for arm in ("base", "skip50")}


def two_subjects(original, task):
    """A few parts of the tasks that have 57: each is a data set to load."""
    many = task.name in ("mmlu", "mmlu_cot")
    return {name: path for name, path in original(task).items() if not many or name.endswith(SUBJECTS)}


@pytest.fixture(scope="module", autouse=True)
def few_subjects():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_tasks, "parts_of", functools.partial(two_subjects, paper_tasks.parts_of))
        yield


@pytest.fixture(scope="module")
def scored(models, mirror, tmp_path_factory) -> Path:
    """Directory with arms/ARM as scored, and again/base from a second run that shares nothing with the first."""
    root = tmp_path_factory.mktemp("protocol")
    for arm, out, work in (("base", "arms", "one"), ("skip50", "arms", "one"), ("base", "again", "two")):
        protocol.score_arm(config_of(), arm, models[arm], root / out / arm, root / work, mirror, limit=2)
    return root


def test_every_offline_task_has_its_items(scored):
    found = files.read_json(scored / "arms" / "skip50" / "protocol.json")["tasks"]
    assert list(found) == list(paper_tasks.paper_tasks())
    assert {task for task in found if found[task]["items"]} == set(OFFLINE)
    assert all(found[task]["coverage"] == "not available offline" for task in ("ifeval", "mmlu_pro"))
    assert found["hellaswag"]["coverage"].startswith("1,000 of 10,042 questions; shots from the same set; first 2")
    for task in OFFLINE:
        rows = files.read_jsonl(scored / "arms" / "skip50" / f"{task}.jsonl.gz")
        parts = len(SUBJECTS) if task.startswith("mmlu") else 1
        assert len({row["id"] for row in rows}) == len(rows) == found[task]["items"] == 2 * parts
        assert (found[task]["path"], found[task]["cut"]) == ("transformers", 0)
        assert all(row["response"] and 0 <= row["score"] <= 1 for row in rows)
    record = files.read_json(scored / "arms" / "skip50" / "protocol.json.provenance.json")
    assert record["sources"]["gsm8k_cot"]["sha256"] and record["model_sha256"]


def test_two_runs_are_identical(scored):
    for task in OFFLINE:
        one, two = (scored / run / "base" / f"{task}.jsonl.gz" for run in ("arms", "again"))
        assert one.read_bytes() == two.read_bytes()
    one, two = (files.read_json(scored / run / "base" / "protocol.json") for run in ("arms", "again"))
    assert one == two


def test_the_student_answers_otherwise_than_the_base(scored):
    """Else nothing above shows that the student's own weights are what is scored."""
    one, two = (files.read_jsonl(scored / "arms" / arm / "hellaswag.jsonl.gz") for arm in ("base", "skip50"))
    assert [row["prompt_hash"] for row in one] == [row["prompt_hash"] for row in two]
    assert [row["response"] for row in one] != [row["response"] for row in two]


def test_finished_tasks_are_not_run_again(scored, models, mirror, monkeypatch):
    monkeypatch.setattr(harness, "backend", lambda *rest: pytest.fail("a model was loaded"))
    out = scored / "resumed"
    protocol.score_arm(config_of(), "base", models["base"], out, scored / "one", mirror, ["winogrande"], limit=2)
    assert (out / "winogrande.jsonl.gz").read_bytes() == (scored / "arms/base/winogrande.jsonl.gz").read_bytes()


def test_summary_of_the_tiny_models(scored):
    protocol_summary.summarise(config_of(), scored / "arms", scored / "summary.csv")
    table = pd.read_csv(scored / "summary.csv").set_index(["arm", "task"])
    assert list(table.columns) == protocol_summary.COLUMNS[2:]
    assert (table.loc["base"].difference.dropna() == 0).all()
    seven = table.loc["skip50"].loc[list(OFFLINE)]
    assert table.score["skip50", "mean"] == pytest.approx(seven.score.mean(), abs=1e-5)
    assert table.coverage["skip50", "ifeval"] == "not available offline" and table.loc["skip50"].published.isna().all()


def instances(folder: Path, task: str, limit: int, **chat) -> list:
    """lm-eval's requests of a task."""
    (loaded, *_) = paper_tasks.load(folder, paper_tasks.paper_tasks()[task])
    loaded.set_fewshot_seed(1234)
    loaded.build_all_requests(limit=limit, **chat)
    return loaded.instances


def test_prompts_on_local_data(mirror, tmp_path):
    paper_tasks.write_tasks(tmp_path, paper_tasks.chosen(["winogrande", "hellaswag", "gsm8k_cot"]), mirror)
    first, second = (request.args for request in instances(tmp_path, "winogrande", 1))
    assert first[0].endswith("\n\nStory 0: Ann thanked Bo as Ann") and second[0].endswith("as Bo")
    assert first[1] == second[1] == " helped." and first[0].count("Story") == 6 and first[0].count("Story 0:") == 1
    context, ending = instances(tmp_path, "hellaswag", 1)[2].args
    assert context.count("Cooking") == 11 and context.endswith("cook 0 stirs  twice.") and ending == " three answers"

    def chat_template(messages, add_generation_prompt=True):
        return "|".join(message["role"] for message in messages)

    chat = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": chat_template}
    turns = instances(tmp_path, "gsm8k_cot", 1, **chat)[0].args[0].split("|")
    assert turns == ["user", "assistant"] * 8 + ["user"]


def test_the_table_fits_the_installed_lm_eval():
    from lm_eval.tasks._yaml_loader import load_yaml

    for task in paper_tasks.paper_tasks().values():
        for path in paper_tasks.parts_of(task).values():
            definition = load_yaml(path, resolve_func=False)
            assert task.metric in [entry["metric"] for entry in definition["metric_list"]]
            filters = [entry["name"] for entry in definition.get("filter_list", [{"name": "none"}])]
            assert task.filter in filters
            generated = definition["output_type"] == "generate_until"
            assert generated == (task.kind == "generation") == (task.max_gen_toks is not None)
            assert not generated or definition["generation_kwargs"]["do_sample"] is False


def test_a_chat_task_needs_a_template(tiny_base, mirror, tmp_path):
    with pytest.raises(
        UserError, match=r"tiny-base: the tokenizer has no chat_template, which the tasks arc_challenge"
    ):
        protocol.score_arm(config_of(), "base", tiny_base, tmp_path / "out", tmp_path, mirror, ["arc_challenge"])
    assert not (tmp_path / "out").exists()


def test_what_a_user_can_mend(models, mirror, tmp_path):
    def score(config=None, mirror=mirror, only=None):
        protocol.score_arm(config or config_of(), "base", models["base"], tmp_path, tmp_path, mirror, only)

    with pytest.raises(UserError, match="no key 'protocol'"):
        score(load_config())
    with pytest.raises(UserError, match="protocol task 'humaneval': unknown; allowed are arc_challenge, "):
        score(only=["humaneval"])
    with pytest.raises(UserError, match=r"arc_challenge\.jsonl: .*no such file\); task 'arc_challenge' needs arc"):
        score(mirror=tmp_path, only=["arc_challenge"])
    for text, told in (("", "no rows"), ('{"context_options": 3}\n', "not in the shape of the published file")):
        (tmp_path / "evals").mkdir(exist_ok=True)
        (tmp_path / "evals" / "winogrande.jsonl").write_text(text)
        with pytest.raises(UserError, match=rf"winogrande\.jsonl: {told}"):
            score(mirror=tmp_path, only=["winogrande"])
    (tmp_path / "evals" / "mmlu_hails_arrow.tar.xz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"mmlu_hails_arrow\.tar\.xz: cannot be unpacked"):
        score(mirror=tmp_path, only=["mmlu"])


def test_the_hub_is_asked_for_the_pinned_commit(tmp_path, monkeypatch):
    import datasets

    asked = {}

    def refuse(path, name=None, **kwargs):
        asked[path] = kwargs["revision"]
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    tasks = paper_tasks.chosen(["winogrande", "mmlu_cot"])
    paper_tasks.write_tasks(tmp_path, tasks, None)
    for task in tasks:
        with pytest.raises(UserError, match=rf"task '{task.name}': no data \(no route\); set SWIFTKV_MIRROR"):
            paper_tasks.load(tmp_path, task)
    assert asked == {"allenai/winogrande": tasks[0].revision, "hails/mmlu_no_train": tasks[1].revision}


@pytest.mark.parametrize(("score", "logprob"), [(float("nan"), -1.0), (1.0, float("-inf"))])
def test_scores_that_are_no_numbers_are_told(score, logprob):
    task = paper_tasks.paper_tasks()["truthfulqa_mc2"]
    sample = {"score": score, "filtered_resps": [(logprob, False)], "doc_id": 3, "part": "p"}
    with pytest.raises(UserError, match="task 'truthfulqa_mc2': item 3 of p has a score or log-likelihood"):
        paper_tasks.check_finite(task, [sample])


def test_items_that_are_cut_are_counted():
    task = paper_tasks.paper_tasks()["gsm8k_cot"]
    settings = {"path": "transformers", "max_gen_toks": 4, "backend": {"max_length": 10}}
    sample = {"part": "p", "doc_hash": "h", "resps": [["x"]], "filtered_resps": ["x"], "target": "x", "score": 1.0}
    samples = [{**sample, "doc_id": n, "arguments": [("t" * n, {})]} for n in (6, 7)]

    def tokenizer(texts, add_special_tokens):
        return {"input_ids": [list(text) for text in texts]}

    rows = protocol.rows_of("base", task, samples, tokenizer, settings)
    assert [row["cut"] for row in rows] == [False, True]
    source = {"coverage": "whole set"}
    assert protocol.summary_of(task, rows, settings, source, None)["cut"] == 1


@pytest.mark.vllm
def test_vllm_paths(models, monkeypatch):
    """Early exit unless full prefill is asked for, with arguments that vLLM knows."""
    from contextlib import contextmanager
    from dataclasses import fields

    from vllm.engine.arg_utils import EngineArgs

    seen = []

    @contextmanager
    def engine(model_dir, settings):
        seen.append((os.environ["SWIFTKV_FULL_PREFILL"], set(settings)))
        yield

    monkeypatch.setattr(harness, "vllm_backend", engine)
    config = config_of(loglikelihood="vllm-full-prefill", generation="vllm-early-exit")
    for task in ("winogrande", "gsm8k_cot"):
        settings = protocol.settings_of(config, models["base"], paper_tasks.paper_tasks()[task])
        with harness.backend(models["base"], settings["path"], settings["backend"]):
            pass
    assert [mode for mode, _ in seen] == ["1", "0"] and "SWIFTKV_FULL_PREFILL" not in os.environ
    assert all(
        keys - {"batch_size", "add_bos_token"} <= {field.name for field in fields(EngineArgs)} for _, keys in seen
    )


# ---- the published sets


@pytest.mark.skipif(not MIRROR, reason="needs the published sets (SWIFTKV_MIRROR)")
def test_the_mirror_holds_what_is_said_of_it(tmp_path):
    counts = {
        name: len(list(held.rows(Path(MIRROR, "evals", held.file))))
        for name, held in mirrored.SETS.items()
        if held.rows
    }
    assert counts == {
        "arc_challenge": 1168,
        "winogrande": 1267,
        "hellaswag": 1000,
        "truthfulqa_mc2": 817,
        "gsm8k_cot": 1319,
    }
    subjects = mirrored.subjects(Path(MIRROR, "evals", "mmlu_hails_arrow.tar.xz"), tmp_path)
    assert len([mirrored.arrow_files(subject) for subject in subjects.iterdir() if subject.name != "all"]) == 57


@pytest.mark.skipif(not MIRROR, reason="needs the published sets (SWIFTKV_MIRROR)")
def test_the_published_sets_run_offline(models, tmp_path):
    protocol.score_arm(config_of(), "skip50", models["skip50"], tmp_path / "out", tmp_path, Path(MIRROR), limit=1)
    found = files.read_json(tmp_path / "out" / "protocol.json")["tasks"]
    assert {task: found[task]["items"] for task in OFFLINE} == dict.fromkeys(OFFLINE, 1) | {"mmlu": 2, "mmlu_cot": 2}
    assert all(found[task]["cut"] == 0 for task in OFFLINE)
