"""The paper's protocol compared: arms against the base, item by item, and with the published values."""

from pathlib import Path

import pandas as pd
import pytest

from swiftkv import files
from swiftkv.config import RunConfig, load_config
from swiftkv.errors import UserError
from swiftkv.evals import protocol_summary
from swiftkv.evals.paper_tasks import paper_tasks
from swiftkv.report import protocol_report
from tests.helpers.config import make_config

ALIKE = {name: [1, 1, 1, 0] for name, task in paper_tasks().items() if task.seven}


def write_arm(folder: Path, arm: str, scores: dict[str, list[float]], **changes) -> None:
    entry = {"path": "transformers", "coverage": "whole set", "cut": 0, "settings": {}, "source": {}, **changes}
    for task, values in scores.items():
        rows = [{"id": f"{task}-{n}", "score": value} for n, value in enumerate(values)]
        files.write_jsonl(folder / arm / f"{task}.jsonl.gz", rows)
    tasks = {task: {**entry, "items": len(values)} for task, values in scores.items()}
    files.write_json(folder / arm / "protocol.json", {"tasks": tasks})


def llama(*changes: dict) -> RunConfig:
    base = {"base": {"source": "hub", "path": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0" * 40}}
    return make_config(base, *changes)


def summary(config: RunConfig, folder: Path) -> pd.DataFrame:
    protocol_summary.summarise(config, folder, folder / "summary.csv")
    return pd.read_csv(folder / "summary.csv").set_index(["arm", "task"])


def test_summary_beside_the_published_values(tmp_path):
    write_arm(tmp_path, "base", ALIKE)
    write_arm(tmp_path, "skip50", {**ALIKE, "mmlu": [1, 0, 0, 0]})
    found = summary(llama(), tmp_path).loc["skip50"]
    assert (found.score["mmlu"], found.difference["mmlu"]) == (0.25, -0.5)
    assert found.difference["mean"] == pytest.approx(-0.5 / 7, abs=1e-5)
    assert found.ci_low["mmlu"] <= -0.5 <= found.ci_high["mmlu"]
    assert found.published["mmlu"] == 0.673 and found.published_id["mmlu"] == "hf-8b-skip50-mmlu-5shot"
    assert found.published_difference["mean"] == pytest.approx(0.7270 - 0.7371)
    assert found.published.notna().all()
    assert summary(load_config(), tmp_path).published.isna().all(), "another base model"


def test_a_part_of_a_set_is_not_set_beside_a_published_value(tmp_path):
    for arm in ("base", "skip50"):
        write_arm(tmp_path, arm, {"mmlu": [1, 0]}, coverage="whole set; first 2 of each part only")
    found = summary(llama(), tmp_path)
    assert found.published.isna().all() and "mean" not in found.loc["skip50"].index, "one of seven"


@pytest.mark.parametrize(
    ("key", "value"), [("path", "vllm-full-prefill"), ("items_sha256", "x"), ("settings", {"a": 1})]
)
def test_arms_are_not_compared_across_paths_items_or_settings(tmp_path, key, value):
    write_arm(tmp_path, "base", {"mmlu": [1, 0]})
    write_arm(tmp_path, "skip50", {"mmlu": [1, 0]}, **{key: value})
    with pytest.raises(UserError, match=f"arm 'skip50' and the base differ in {key} of task 'mmlu'"):
        summary(load_config(), tmp_path)


def test_an_arm_without_its_base_or_a_task(tmp_path):
    with pytest.raises(UserError, match="score arm 'base' first"):
        summary(load_config(), tmp_path)
    write_arm(tmp_path, "base", {"mmlu": [1], "mmlu_cot": [1]})
    write_arm(tmp_path, "skip50", {"mmlu": [1]})
    with pytest.raises(UserError, match="arm 'skip50' lacks task 'mmlu_cot'"):
        summary(load_config(), tmp_path)


def test_table_has_every_published_row_below_those_of_the_run(tmp_path):
    folder = tmp_path / "cpu" / "protocol"
    write_arm(folder, "base", ALIKE)
    write_arm(folder, "skip50", {**ALIKE, "mmlu": [1, 0, 0, 0]}, coverage="whole set; first 4 of each part only")
    write_arm(folder, "base", ALIKE, coverage="whole set; first 4 of each part only")
    config = llama({"scale": "cpu"})
    summary(config, folder)
    protocol_report.run(config, folder, tmp_path)
    numbers = pd.read_csv(folder / "tab-protocol.csv")
    own, printed = numbers[numbers.source == "this run"], numbers[numbers.source == "published"]
    assert own.mmlu.tolist() == [75, 25] and own.difference.iloc[1] == pytest.approx(-50 / 7, abs=1e-3)
    assert len(printed) == 11 and list(printed.model.unique()) == [
        f"Llama-3.1-{size}-Instruct{kind}" for size, kind in (("8B", ""), ("70B", ""), ("405B", "-FP8"))
    ]
    half = printed[(printed.model == "Llama-3.1-8B-Instruct") & (printed.method == "SwiftKV")].set_index("skip_percent")
    assert half.difference[50] == pytest.approx(-1.01) and half.gsm8k_cot[50] == 79.45
    text = (folder / "tab-protocol.md").read_text()
    assert "| this run (parts of the sets) | Llama-3.1-8B-Instruct | 50% | 75.00 |" in text
    assert "| published | Llama-3.1-70B-Instruct | 50%, AcrossKV 4-way |" in text


def test_table_without_a_protocol_run(tmp_path):
    (tmp_path / "cpu").mkdir()
    with pytest.raises(UserError, match=r"protocol/summary\.csv: no such result"):
        protocol_report.run(load_config(), tmp_path / "out", tmp_path)
