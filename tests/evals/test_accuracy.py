"""Accuracy: lm-eval's own harness with a scripted model, resume, paired statistics; vLLM end to end at the end."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import files, stats
from swiftkv.config import RunConfig, load_config
from swiftkv.errors import UserError
from swiftkv.evals import accuracy, accuracy_summary, harness, lm_eval_tasks, paired
from swiftkv.workloads import tasks
from tests.helpers.config import make_config

ITEMS = 6


def config_of(**changes) -> RunConfig:
    return make_config({"accuracy": {"items_per_task": ITEMS, "max_new_tokens": 12}}, changes)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    """A tiny random Llama with a tokenizer of the tasks."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from swiftkv.base_model.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "base"
    tokenizer = train_tokenizer(load_config().tasks, 600, seed=0, contexts=20)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=640, max_position_embeddings=512, **shape, **ends))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def scripted(monkeypatch):
    """Answer through lm-eval without an engine: right except for chosen item ids; counts the prompts it was given."""
    from lm_eval.api.model import LM

    class Scripted(LM):
        def __init__(self):
            super().__init__()
            self.asked, self.wrong, self.kill_after = [], set(), None

        def generate_until(self, requests, disable_tqdm=False):
            if self.kill_after is not None and len(self.asked) >= self.kill_after:
                raise KeyboardInterrupt
            for request in requests:
                prompt, generation = request.args
                assert (generation["until"], generation["do_sample"]) == (["\n"], False)
                assert generation["max_gen_toks"] == 12
                self.asked.append(prompt)
            return ["" if request.doc["id"] in self.wrong else request.doc["answer"] for request in requests]

        loglikelihood = loglikelihood_rolling = None

    lm = Scripted()

    @contextmanager
    def backend(model_dir, settings):
        yield lm

    monkeypatch.setattr(harness, "vllm_backend", backend)
    return lm


def score(config, model_dir, tmp_path, arm="base"):
    accuracy.score_arm(config, arm, model_dir, tmp_path / "accuracy" / arm, tmp_path / "work")
    return files.read_jsonl(tmp_path / "accuracy" / arm / "samples.jsonl")


def test_samples_have_every_item_scored_by_lm_eval(scripted, model_dir, tmp_path):
    scripted.wrong = {f"sql-test-0-{i}" for i in range(3)}
    rows = score(config_of(), model_dir, tmp_path)
    columns = "arm task id prompt_tokens answer_tokens generated_tokens prediction target score exact_match"
    assert [list(row) for row in rows] == [columns.split()] * (4 * ITEMS)
    assert [row["score"] for row in rows if row["task"] == "sql"] == [0, 0, 0, 1, 1, 1]
    assert all(row["score"] == 1 for row in rows if row["task"] != "sql")
    assert all(row["generated_tokens"] == row["answer_tokens"] for row in rows if row["prediction"])
    assert all(row["generated_tokens"] == 0 for row in rows if not row["prediction"])
    record = files.read_json(tmp_path / "accuracy" / "base" / "lm_eval.json")
    assert record["tasks"]["sql"]["results"]["score,none"] == 0.5
    assert str(tmp_path) not in json.dumps(record), "no machine path in a result"


def test_prompts_reach_the_model_as_the_items_have_them(scripted, model_dir, tmp_path):
    config = config_of()
    score(config, model_dir, tmp_path)
    expected = [item.prompt for items in accuracy.test_items(config).values() for item in items]
    assert scripted.asked == expected


def test_a_killed_run_goes_on_with_the_next_task(scripted, model_dir, tmp_path):
    scripted.kill_after = 2 * ITEMS
    with pytest.raises(KeyboardInterrupt):
        score(config_of(), model_dir, tmp_path)
    assert not (tmp_path / "accuracy").exists(), "no final file before every task is done"
    scripted.kill_after, before = None, len(scripted.asked)
    assert len(score(config_of(), model_dir, tmp_path)) == 4 * ITEMS
    assert len(scripted.asked) - before == 2 * ITEMS
    score(config_of(), model_dir, tmp_path)
    assert len(scripted.asked) - before == 2 * ITEMS, "everything was done, nothing is asked again"


def test_other_settings_items_or_weights_are_not_resumed(scripted, model_dir, tmp_path):
    score(config_of(), model_dir, tmp_path)
    rows = score(config_of(seed=1), model_dir, tmp_path)
    assert len(scripted.asked) == 8 * ITEMS
    assert {row["id"].split("-")[2] for row in rows} == {"1"}
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes() + b"\0")
    score(config_of(seed=1), other, tmp_path)
    assert len(scripted.asked) == 12 * ITEMS


def test_a_damaged_part_is_named(scripted, model_dir, tmp_path):
    score(config_of(), model_dir, tmp_path)
    (part,) = (tmp_path / "work" / "base").glob("rag-*.json")
    part.write_text("{")
    with pytest.raises(UserError, match=r"rag-\w+\.json: not valid JSON"):
        score(config_of(), model_dir, tmp_path)


def test_a_task_without_test_rows(model_dir, tmp_path, monkeypatch):
    made = tasks.items
    monkeypatch.setattr(tasks, "items", lambda task, *rest: [] if task == "rag" else made(task, *rest))
    with pytest.raises(UserError, match="task 'rag': no test rows"):
        score(config_of(), model_dir, tmp_path)


def test_prompts_that_do_not_fit(model_dir, tmp_path):
    with pytest.raises(UserError, match=r"task '\w+': a prompt of \d+ tokens .* exceed max_position_embeddings 512"):
        score(config_of(accuracy={"max_new_tokens": 500}), model_dir, tmp_path)


def test_missing_model(tmp_path, model_dir):
    with pytest.raises(UserError, match="gone: no such model directory"):
        score(config_of(), tmp_path / "gone", tmp_path)
    shutil.copytree(model_dir, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match=r"empty: holds no \*\.safetensors"):
        score(config_of(), tmp_path / "empty", tmp_path)


def test_truncated_weights_are_named_before_an_engine_starts(tmp_path, model_dir):
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"broken/model\.safetensors"):
        score(config_of(), broken, tmp_path)


def sample_of(item: tasks.Item, **changes) -> dict:
    return {
        "doc": lm_eval_tasks.doc_of(item),
        "arguments": [[item.prompt, {}]],
        "filtered_resps": ["x"],
        **changes,
    }


def test_missing_and_altered_predictions():
    items = tasks.items("rag", "test", 3, 0, load_config().tasks["rag"])
    whole = [sample_of(item) for item in items]
    assert lm_eval_tasks.in_order("rag", items, whole[::-1]) == whole
    with pytest.raises(UserError, match="task 'rag': 1 predictions are missing, the first for rag-test-0-2"):
        lm_eval_tasks.in_order("rag", items, whole[:2])
    with pytest.raises(UserError, match="1 predictions are missing, the first for rag-test-0-0"):
        lm_eval_tasks.in_order("rag", items, [sample_of(items[0], filtered_resps=[]), *whole[1:]])
    with pytest.raises(UserError, match="the prompt of rag-test-0-1 reached the model altered"):
        lm_eval_tasks.in_order("rag", items, [whole[0], sample_of(items[1], arguments=[["cut", {}]]), whole[2]])


@pytest.mark.parametrize("task", tasks.TASKS)
def test_an_item_survives_the_data_file(task):
    for item in tasks.items(task, "test", 5, 0, load_config().tasks[task]):
        doc = json.loads(json.dumps(lm_eval_tasks.doc_of(item)))
        assert lm_eval_tasks.item_of(doc) == item
        assert lm_eval_tasks.process_results(doc, [item.answer]) == {"score": 1.0, "exact_match": 1.0}


# ---- summary


def write_arm(folder: Path, arm: str, scores: dict[str, list[float]], tokens: int = 10, **settings) -> Path:
    rows = [
        {"arm": arm, "task": task, "id": f"{task}-{i}", "score": s, "exact_match": float(s == 1)}
        | {"generated_tokens": tokens, "prediction": "", "target": ""}
        for task, values in scores.items()
        for i, s in enumerate(values)
    ]
    files.write_jsonl(folder / arm / "samples.jsonl", rows)
    files.write_json(folder / arm / "lm_eval.json", {"settings": {"max_gen_toks": 12, **settings}})
    return folder / arm


def summary(folder: Path, **arms: Path) -> pd.DataFrame:
    accuracy_summary.summarise(config_of(), arms, folder / "summary.csv")
    return pd.read_csv(folder / "summary.csv").set_index(["arm", "task"])


def test_summary_figures(tmp_path):
    base = write_arm(tmp_path, "base", {"sql": [1, 1, 1, 1], "rag": [1, 0.5]})
    arm = write_arm(tmp_path, "skip50", {"sql": [1, 1, 1, 0], "rag": [0.5, 0.5]}, tokens=12)
    found = summary(tmp_path, base=base, skip50=arm)
    columns = "items differing score base_score difference ci_low ci_high retention length_ratio exact_match length_ok "
    assert list(found.columns) == (columns + "p_value p_holm detectable_difference retained").split()
    sql, mean = found.loc[("skip50", "sql")], found.loc[("skip50", "mean")]
    assert (sql["items"], sql["score"], sql["difference"], sql["retention"]) == (4, 0.75, -0.25, 0.75)
    assert (mean["items"], mean["score"], mean["base_score"]) == (6, 0.625, 0.875)
    assert (sql["differing"], mean["differing"]) == (1, 2)
    assert mean["difference"] == -0.25
    assert mean["retention"] == pytest.approx(0.625 / 0.875, abs=1e-6)
    assert mean["exact_match"] == 0.375
    assert mean["length_ratio"] == 1.2
    assert sql["ci_low"] <= -0.25 <= sql["ci_high"]
    itself = found.loc["base"]
    assert (itself[["difference", "ci_low", "ci_high"]] == 0).all().all()
    assert (itself["retention"] == 1).all()
    assert itself[list(accuracy_summary.TESTS)].isna().all().all() and itself["length_ok"].all()


def test_a_task_below_the_floor_is_shown_and_does_not_count(tmp_path):
    scores = {"sql": [1, 1, 0, 0], "rag": [1, 1, 1, 0], "code": [0.1, 0, 0, 0]}
    arms = {"base": write_arm(tmp_path, "base", scores)}
    arms["skip50"] = write_arm(tmp_path, "skip50", {"sql": [1, 0, 0, 0], "rag": [1, 1, 0, 0], "code": [1, 1, 1, 1]})
    means = {}
    for floor in (0, 0.1, 0.9):
        accuracy_summary.summarise(config_of(accuracy={"floor": floor}), arms, tmp_path / "summary.csv")
        found = pd.read_csv(tmp_path / "summary.csv").set_index(["arm", "task"]).loc["skip50"]
        assert list(found.index) == ["sql", "rag", "code", "mean"]
        means[floor] = found.loc["mean", ["items", "base_score", "score", "differing"]].tolist()
    assert means[0] == [12, pytest.approx(0.425, abs=1e-6), pytest.approx(1.75 / 3, abs=1e-6), 6]
    assert means[0.1] == [8, 0.625, 0.375, 2]
    assert means[0.9] == means[0], (
        "where no task is above the floor, all count, and the claim sees how weak the base is"
    )


def test_summary_tests(tmp_path):
    """sql: 8 items lost, 1 won, by hand; rag: partial credit; code: nothing differs, of 200 and of 20 items."""
    right, wrong = [1] * 20, [0] * 8 + [1] * 12
    base = write_arm(tmp_path, "base", {"sql": [*right[:19], 0], "rag": [1, 0.5] * 10, "code": [1] * 200})
    arm = write_arm(tmp_path, "skip50", {"sql": wrong, "rag": [0.5, 0.5] * 10, "code": [1] * 200}, tokens=8)
    found = summary(tmp_path, base=base, skip50=arm).loc["skip50"]
    assert found.p_value["sql"] == pytest.approx(20 / 512) and found.p_holm["sql"] == pytest.approx(40 / 512)
    assert found.p_value["code"] == 1 and np.isnan(found.p_holm["mean"])
    assert 0.0005 < found.p_value["rag"] < 0.006, "10 differences of one sign: 2 / 1024"
    assert found.retained.to_dict() == {"sql": "lost", "rag": "lost", "code": "yes", "mean": "lost"}
    assert found.detectable_difference["code"] == pytest.approx(stats.minimum_detectable_loss(200), rel=1e-5)
    assert found.detectable_difference["rag"] > 0.2
    assert not found.length_ok.any(), "8 tokens for 10"
    few = {arm: write_arm(tmp_path / "few", arm, {"code": right}) for arm in ("base", "skip50")}
    found = summary(tmp_path / "few", **few).loc["skip50"]
    assert found.retained["code"] == "not shown", "20 items without a difference leave room for a loss of 16 points"
    assert found.length_ok.all()


def draw(folder: Path, seeds: dict[int, float]) -> None:
    """Have an arm's answers drawn with seeds; each turns the given share of the first answers wrong."""
    rows = files.read_jsonl(folder / "samples.jsonl")
    drawn = [
        {**row, "sample_seed": seed, "score": 0.0 if n < wrong * len(rows) else row["score"]}
        for seed, wrong in seeds.items()
        for n, row in enumerate(rows)
    ]
    files.write_jsonl(folder / "samples.jsonl", drawn)


def test_items_stay_the_unit_where_answers_are_drawn(tmp_path):
    arms = {arm: write_arm(tmp_path, arm, {"sql": [1] * 40}) for arm in ("base", "skip50")}
    draw(arms["base"], {0: 0, 1: 0})
    draw(arms["skip50"], {0: 0.5, 1: 0.25})
    found = summary(tmp_path, **arms).loc[("skip50", "sql")]
    assert (found["items"], found["score"], found["difference"], found["seeds"]) == (40, 0.625, -0.375, 2)
    assert found["seed_sd"] == pytest.approx(0.25 / 2**0.5, rel=1e-5), "0.5 and 0.75"
    per_item = [-1.0] * 10 + [-0.5] * 10 + [0.0] * 20
    expected = stats.paired_difference_ci(per_item, [0] * 40, config_of().seed, paired.RESAMPLES)
    assert [found["difference"], found["ci_low"], found["ci_high"]] == pytest.approx(expected, rel=1e-5)
    assert found["p_value"] < 0.01
    rows = files.read_jsonl(arms["skip50"] / "samples.jsonl")
    files.write_jsonl(arms["skip50"] / "samples.jsonl", rows[:-1])
    with pytest.raises(UserError, match=r"item sql-39 lacks some of the seeds \[0, 1\]"):
        summary(tmp_path, **arms)


def test_few_differences_are_not_shown_to_be_within_the_margin():
    differences = np.array([-1.0] * 3 + [0.0] * 197)
    assert accuracy_summary.judge(differences, 200, (-0.04, -0.005), 0.02)["retained"] == "not shown"
    assert accuracy_summary.judge(differences, 200, (-0.04, -0.005), 0.05)["retained"] == "yes"
    assert accuracy_summary.judge(differences, 200, (-0.04, -0.025), 0.02)["retained"] == "lost"


def test_items_are_paired_by_id_not_by_position(tmp_path):
    base = write_arm(tmp_path, "base", {"sql": [1, 0, 1, 0]})
    arm = write_arm(tmp_path, "skip50", {"sql": [1, 0, 1, 0]})
    rows = files.read_jsonl(arm / "samples.jsonl")
    files.write_jsonl(arm / "samples.jsonl", rows[::-1])
    assert summary(tmp_path, base=base, skip50=arm).loc[("skip50", "sql"), "ci_high"] == 0


def test_a_base_that_scores_nothing_has_no_retention(tmp_path):
    arms = {arm: write_arm(tmp_path, arm, {"sql": [0, 0]}, tokens=0) for arm in ("base", "skip50")}
    found = summary(tmp_path, **arms)
    assert found["retention"].isna().all()
    assert found["length_ratio"].isna().all()


def test_arms_must_match(tmp_path):
    base = write_arm(tmp_path, "base", {"sql": [1, 1], "rag": [1]})
    with pytest.raises(UserError, match=r"'few' has items .*'sql': 1"):
        summary(tmp_path, base=base, few=write_arm(tmp_path, "few", {"sql": [1], "rag": [1]}))
    other = write_arm(tmp_path, "other", {"sql": [1, 1], "rag": [1]})
    rows = files.read_jsonl(other / "samples.jsonl")
    files.write_jsonl(other / "samples.jsonl", [rows[0], {**rows[1], "id": "sql-9"}, rows[2]])
    with pytest.raises(UserError, match="'other' and the base differ in 2 items, first sql-1"):
        summary(tmp_path, base=base, other=other)
    files.write_jsonl(other / "samples.jsonl", [{**rows[0], "target": "else"}, *rows[1:]])
    with pytest.raises(UserError, match="'other' and the base differ in the answer of sql-0"):
        summary(tmp_path, base=base, other=other)
    files.write_jsonl(other / "samples.jsonl", [rows[0], rows[0], rows[2]])
    with pytest.raises(UserError, match="item sql-0 twice"):
        summary(tmp_path, base=base, other=other)
    with pytest.raises(UserError, match=r"'b' was scored under other settings.*max_gen_toks"):
        summary(tmp_path, base=base, b=write_arm(tmp_path, "b", {"sql": [1, 1], "rag": [1]}, max_gen_toks=3))
    with pytest.raises(UserError, match="lack 'base'"):
        summary(tmp_path, other=other)
    with pytest.raises(UserError, match=r"samples\.jsonl: no such file"):
        (other / "samples.jsonl").unlink()
        summary(tmp_path, base=base, other=other)


differences = st.lists(
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=30), min_size=1, max_size=4
)


@settings(max_examples=25, deadline=None)
@given(differences, st.integers(0, 5))
def test_interval_laws(values, seed):
    arrays = [np.array(task) for task in values]
    low, high = paired.mean_difference_ci(arrays, seed)
    assert (low, high) == paired.mean_difference_ci(arrays, seed), "same seed, same interval"
    least, most = np.mean([a.min() for a in arrays]), np.mean([a.max() for a in arrays])
    assert least - 1e-9 <= low <= high <= most + 1e-9


def test_interval_has_the_width_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0.1, 0.3, 400) for _ in range(4)]
    low, high = paired.mean_difference_ci(arrays, 0)
    error = np.sqrt(sum(a.var() / len(a) for a in arrays)) / 4
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


# ---- the real backend


def greedy(model_dir: Path, prompt: str, new: int) -> str:
    """What Transformers generates greedily, cut at the first line break or EOS."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return tokenizer.decode(made[0, ids.shape[1] :]).split("\n")[0].split(tokenizer.eos_token)[0]


@pytest.mark.vllm
def test_end_to_end_through_vllm(model_dir, tmp_path):
    from swiftkv.modeling.convert import convert

    config = config_of(accuracy={"items_per_task": 3})
    first = score(config, model_dir, tmp_path)
    sampled = shutil.copytree(model_dir, tmp_path / "sampled")
    defaults = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.3}
    files.write_json(sampled / "generation_config.json", files.read_json(sampled / "generation_config.json") | defaults)
    assert first == score(config, sampled, tmp_path / "again"), "two runs, whatever the model's defaults of sampling"
    items = {item.id: item for its in accuracy.test_items(config).values() for item in its}
    for row in first[::3]:
        assert row["prediction"] == greedy(model_dir, items[row["id"]].prompt, 12)
    assert any(row["generated_tokens"] for row in first)
    convert(model_dir, tmp_path / "student", 1, 1)
    student = score(config, tmp_path / "student", tmp_path, arm="skip50")
    assert [row["id"] for row in student] == [row["id"] for row in first]
    arms = {arm: tmp_path / "accuracy" / arm for arm in ("base", "skip50")}
    assert summary(tmp_path, **arms).loc[("skip50", "mean"), "items"] == 12
    sampling = {"temperature": 2.0, "top_p": 0.9, "seeds": 2}
    config = config_of(accuracy={"items_per_task": 3, "sampling": sampling})
    drawn = score(config, model_dir, tmp_path)
    assert [row["id"] for row in drawn if row["sample_seed"] == 0] == [row["id"] for row in first]
    one, two = ([row["prediction"] for row in drawn if row["sample_seed"] == seed] for seed in (0, 1))
    assert one != two, "two seeds"
    parts = (tmp_path / "work" / "base").glob("rag-*.json")
    next(path for path in parts if '"sample_seed": 1' in path.read_text()).unlink()
    assert drawn == score(config, model_dir, tmp_path), "a part that is made again is the same"
