"""Token lengths of traces and tasks: sources in their order, statistics, and errors that name the culprit."""

import csv
import dataclasses
import hashlib
import os
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftkv import files
from swiftkv.config import load_config
from swiftkv.errors import UserError
from swiftkv.workloads import downloads, traces
from tests.helpers.config import make_config

CODE = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\nt0,100,10\r\nt1,300,10\r\n"
PERCENTILES = ["mean", "p25", "p50", "p75", "p90", "p99"]
COLUMNS = ["workload", "kind", "source", "requests"]
COLUMNS += [f"{quantity}_{p}" for quantity in ("prompt", "output") for p in PERCENTILES]
COLUMNS += ["ratio_of_means", "median_ratio", "share_ratio_ge10"]


def known(**bytes_of) -> dict[str, traces.Trace]:
    """The real registry with the sha256 of the given bytes in place of the published ones."""
    found = traces.known_traces()
    for name, data in bytes_of.items():
        found[name] = dataclasses.replace(found[name], sha256=hashlib.sha256(data).hexdigest())
    return found


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Make a mirror whose azure2023_code holds given bytes, which count as the published ones unless told."""

    def make(data: bytes, published: bytes | None = None, name: str = "azure2023_code") -> Path:
        registry = known(**{name: data if published is None else published})
        monkeypatch.setattr(traces, "known_traces", lambda: registry)
        path = tmp_path / "mirror" / "traces" / registry[name].file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return tmp_path / "mirror"

    return make


@pytest.fixture
def offline(monkeypatch):
    """No network: every download fails and is counted."""
    tried = []

    def fail(url):
        tried.append(url)
        raise urllib.error.URLError("no network")

    monkeypatch.delenv(downloads.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(downloads, "download", fail)
    return tried


def read(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_mirror_statistics(mirror):
    (found,) = traces.trace_lengths(["azure2023_code"], mirror(CODE))
    assert found.row["source"] == "mirror"
    assert (found.row["requests"], found.row["prompt_mean"], found.row["output_mean"]) == (2, 200, 10)
    assert (found.row["ratio_of_means"], found.row["median_ratio"], found.row["share_ratio_ge10"]) == (
        20,
        20,
        1,
    )


def test_json_lines_trace(mirror):
    data = b'{"timestamp": 0, "input_length": 50, "output_length": 10, "hash_ids": [0]}\n'
    (found,) = traces.trace_lengths(["mooncake_conversation"], mirror(data, name="mooncake_conversation"))
    assert (found.row["prompt_p50"], found.row["median_ratio"], found.row["share_ratio_ge10"]) == (50, 5, 0)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (b"t2,x,1\n", 4),
        (b"t2,5\n", 4),
        (b"t2,5,-1\n", 4),
        (b"t2,5,1.5\n", 4),
        (b"t2,5,1,9\n", 4),
        (b"\nt,,1\n", 5),
    ],
)
def test_malformed_csv_row_is_named(mirror, row, line):
    where = mirror(CODE + row)
    with pytest.raises(UserError, match=rf"AzureLLMInferenceTrace_code\.csv:{line}: malformed row"):
        traces.trace_lengths(["azure2023_code"], where)


@pytest.mark.parametrize("row", [b"{\n", b"[]\n", b'{"input_length": true, "output_length": 1}\n', b"\n"])
def test_malformed_json_row_is_named(mirror, row):
    where = mirror(b'{"input_length": 5, "output_length": 1}\n' + row, name="mooncake_conversation")
    with pytest.raises(UserError, match=r"mooncake_conversation\.jsonl:2: malformed row"):
        traces.trace_lengths(["mooncake_conversation"], where)


@pytest.mark.parametrize("data", [b"", b"TIMESTAMP,ContextTokens,GeneratedTokens\n"])
def test_empty_trace(mirror, data):
    with pytest.raises(UserError, match=r"AzureLLMInferenceTrace_code\.csv: empty trace"):
        traces.trace_lengths(["azure2023_code"], mirror(data))


def test_other_bytes_than_published(mirror):
    with pytest.raises(UserError, match=r"sha256 is .* has "):
        traces.trace_lengths(["azure2023_code"], mirror(CODE, published=CODE + b"t2,1,1\n"))


def test_missing_trace_mirror_and_name(mirror, tmp_path, monkeypatch):
    where = mirror(CODE)
    with pytest.raises(
        UserError, match=r"mooncake_conversation\.jsonl: .*No such file.* trace 'mooncake_conv.*' needs"
    ):
        traces.trace_lengths(["mooncake_conversation"], where)
    with pytest.raises(UserError, match="'sharegpt' is not known; allowed are"):
        traces.trace_lengths(["sharegpt"], where)
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere: no such mirror"):
        downloads.mirror_of(None)


def test_mirror_from_environment_yields_to_the_argument(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, str(tmp_path))
    assert downloads.mirror_of(None) == tmp_path
    assert downloads.mirror_of(tmp_path / "a") == tmp_path / "a"


def test_network_is_checked_by_sha256(monkeypatch):
    registry = known(azure2023_code=CODE)
    monkeypatch.setattr(traces, "known_traces", lambda: registry)
    monkeypatch.setattr(downloads, "download", lambda url: CODE)
    (found,) = traces.trace_lengths(["azure2023_code"], None)
    assert (found.row["source"], found.row["requests"]) == ("network", 2)
    with pytest.raises(UserError, match=r"https://.*Azure.*sha256 is"):
        monkeypatch.setattr(downloads, "download", lambda url: CODE + b"t,1,1\n")
        traces.trace_lengths(["azure2023_code"], None)


def test_committed_quantiles_without_network(offline):
    names = sorted(traces.known_traces())
    found = traces.trace_lengths(names, None)
    assert len(offline) == 1, "one failed download is enough to know that there is no network"
    assert {lengths.row["source"] for lengths in found} == {"committed quantiles"}
    for lengths in found:
        assert list(lengths.row) == COLUMNS
        assert len(lengths.quantiles) == len(traces.QUANTITIES) * len(traces.GRID)
        by_quantity = {name: [r for r in lengths.quantiles if r["quantity"] == name] for name in traces.QUANTITIES}
        for name in ("prompt", "output"):
            at = {round(r["q"], 4): r["tokens"] for r in by_quantity[name]}
            for p in traces.PERCENTILES:
                assert at[p / 100] == pytest.approx(lengths.row[f"{name}_p{p}"], abs=0.01)


def test_committed_azure_code_is_the_published_trace(offline):
    """Requests and medians as counted from the trace by other means than this project's code."""
    (found,) = traces.trace_lengths(["azure2023_code"], None)
    assert (found.row["requests"], found.row["prompt_p50"], found.row["output_p50"]) == (8819, 1469, 13)


@pytest.mark.skipif(not os.environ.get(downloads.MIRROR_VARIABLE), reason="needs the published traces (SWIFTKV_MIRROR)")
def test_committed_quantiles_are_made_from_the_published_traces(tmp_path):
    traces.write_committed(os.environ[downloads.MIRROR_VARIABLE], tmp_path)
    for name in ("lengths.csv", "quantiles.csv"):
        assert (tmp_path / name).read_text() == (traces.RESOURCES / name).read_text()


requests = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), min_size=1, max_size=50)


@given(requests.filter(lambda pairs: any(output for _, output in pairs)))
def test_measure_laws(pairs):
    prompts, outputs = zip(*pairs, strict=True)
    found = traces.measure("w", "trace", "mirror", prompts, outputs)
    assert list(found.row) == COLUMNS
    assert found.row["requests"] == len(pairs)
    assert 0 <= found.row["share_ratio_ge10"] <= 1
    for name, values in (("prompt", prompts), ("output", outputs)):
        grid = [row["tokens"] for row in found.quantiles if row["quantity"] == name]
        assert grid == sorted(grid)
        assert (grid[0], grid[-1]) == (min(values), max(values))
        assert found.row[f"{name}_mean"] == pytest.approx(np.mean(values), abs=0.006)


def test_no_output_is_an_error():
    with pytest.raises(UserError, match="w: no requests with output"):
        traces.measure("w", "trace", "mirror", [5, 6], [0, 0])


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory) -> Path:
    from swiftkv.base_model.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("base")
    settings = load_config().tasks
    train_tokenizer(settings, 600, seed=0, contexts=20).save_pretrained(folder)
    return folder


def small_config():
    return make_config({"accuracy": {"items_per_task": 5}})


def test_run_writes_both_tables_and_where_they_came_from(tokenizer_dir, tmp_path, offline):
    traces.write_lengths(small_config(), tokenizer_dir, tmp_path / "lengths")
    rows = read(tmp_path / "lengths" / "lengths.csv")
    assert [row["workload"] for row in rows] == [
        *small_config().lengths.traces,
        *small_config().tasks,
    ]
    assert [row["source"] for row in rows[3:]] == ["generated"] * 4
    assert all(row["requests"] == "5" and float(row["ratio_of_means"]) > 1 for row in rows[3:])
    grid = read(tmp_path / "lengths" / "lengths_quantiles.csv")
    assert list(grid[0]) == ["workload", "quantity", "q", "tokens"]
    assert len(grid) == len(rows) * len(traces.QUANTITIES) * len(traces.GRID)
    record = files.read_json(tmp_path / "lengths" / "lengths.csv.provenance.json")
    assert record["traces"]["azure2023_code"]["source"] == "committed quantiles"
    assert len(record["traces"]["azure2023_code"]["sha256"]) == 64


def test_task_lengths_count_prompt_and_answer_tokens(tokenizer_dir):
    from transformers import AutoTokenizer

    from swiftkv.workloads import tasks

    config = small_config()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    items = tasks.items("sql", "test", 5, config.seed, config.tasks["sql"])
    found = {lengths.row["workload"]: lengths.row for lengths in traces.task_lengths(config, tokenizer_dir)}
    prompts = [len(tokenizer(item.prompt)["input_ids"]) for item in items]
    outputs = [len(tokenizer(item.answer + tokenizer.eos_token)["input_ids"]) for item in items]
    assert found["sql"]["prompt_mean"] == np.mean(prompts)
    assert found["sql"]["output_mean"] == np.mean(outputs)


def test_missing_base(tmp_path):
    with pytest.raises(UserError, match="nobase: no such model directory"):
        traces.task_lengths(small_config(), tmp_path / "nobase")
    with pytest.raises(UserError, match="holds no tokenizer"):
        traces.task_lengths(small_config(), tmp_path)
