"""The page of runs: self-contained, complete, honest about what is missing; its calculator is the cost model's."""

import json
import re
import shutil
import subprocess

import altair
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import costmodel
from swiftkv.config import load_config
from swiftkv.errors import NothingToJudge, UserError
from swiftkv.files import ROOT, read_json
from swiftkv.report import claims, site
from swiftkv.report.plots.style import arm_colours
from swiftkv.report.site import calculator, verdicts
from swiftkv.report.site.runs import find
from tests.helpers.config import make_config
from tests.helpers.synthetic_results import DIVERGENCE, build

CONFIG = make_config({"divergence": DIVERGENCE})
NODE = shutil.which("node")
COUNT = """
const model = require(process.argv[1]);
const count = (one) => [
  model.problem(...one), model.workloadFlops(...one), model.speedupLimit(...one),
  model.kvCapacityRatio(...one.slice(0, 3)), model.kvBytesPerToken(...one.slice(0, 3)),
];
console.log(JSON.stringify(JSON.parse(require("fs").readFileSync(0)).map(count)));
"""
DIVIDING = 12  # layers of drawn shapes are multiples of it, so that groups of 1 to 4 divide


def make_run(root, config=CONFIG):
    """A synthetic run below `root` with verdicts and its configuration."""
    scale = build(root, config)
    claims.run(config, scale / "claims.csv", scale / "claims.md", root=root)
    shutil.copyfile(ROOT / "config" / "config.yaml", scale / "config.yaml")
    return scale


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Two machines; the second has neither accuracy nor verdicts, and a damaged table of latencies."""
    root = tmp_path_factory.mktemp("site") / "reference"
    make_run(root / "first")
    second = make_run(root / "second")
    shutil.rmtree(second / "accuracy")
    for name in ("claims.csv", "claims.md"):
        (second / name).unlink()
    (second / "throughput" / "latency.csv").write_text("arm,what\nbase,1\n")
    site.run(root)
    return root


@pytest.fixture(scope="module")
def page(reference) -> str:
    return (reference / "index.html").read_text("utf-8")


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_is_one_file_of_moderate_size(page):
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page) and "@import" not in page
    assert len(page.encode()) < 5 << 20
    assert page.count("<script") == page.count("</script>") == 3


def test_links_lead_to_files_that_are_there(page, reference):
    links = [link for link in re.findall(r'href="([^"#]+)"', page) if not link.startswith("data:")]
    assert len(links) > 5 and all((reference / link).exists() for link in links)
    assert "first/cpu/throughput/summary.csv" in links and str(reference) not in page


def test_every_verdict_is_there_with_its_area(page):
    judged = read_json_claims()
    for name in judged:
        assert f"<code>{name}</code>" in page
    assert page.count('class="finding"') == len(judged), "one run was judged"
    assert {"throughput", "latency", "accuracy", "memory"} <= set(re.findall(r'data-area="([^"]*)"', page))


def read_json_claims() -> list[str]:
    return [claim["id"] for claim in claims.read_claims()]


def test_every_claim_of_the_project_has_an_area():
    assert "other" not in {verdicts.area(claim["metric"]) for claim in claims.read_claims()}


def test_figures_hold_what_was_measured_in_the_colours_of_all_figures(page, reference):
    charts = data_of(page)["charts"]
    names = {"speed-up", "latency", "kv-capacity", "accuracy", "divergence"}
    assert {name.removeprefix("run-0-") for name in charts if name.startswith("run-0-")} == names
    for spec in charts.values():
        assert vl_convert.vegalite_to_vega(spec, vl_version=site.vega_lite())["marks"]
    [scale] = [
        layer["encoding"]["color"]["scale"]
        for layer in charts["run-0-speed-up"]["layer"]
        if "color" in layer["encoding"]
    ]
    assert dict(zip(scale["domain"], scale["range"], strict=True))["skip 50%"] == arm_colours(CONFIG)["skip50"]
    run = find(reference)[0]
    [row] = run.results.throughput.query("arm == 'skip50' and point == 'prompt-only'").itertuples()
    [drawn] = [
        one
        for one in charts["run-0-speed-up"]["data"]["values"]
        if one["series"] == "skip 50%" and one["group"].startswith("prompt-only")
    ]
    assert (drawn["value"], drawn["low"], drawn["high"], drawn["limit"]) == (
        row.speedup,
        row.ci_low,
        row.ci_high,
        row.limit,
    )
    assert f"<td>{row.speedup:.2f}</td><td>{row.ci_low:.2f} to {row.ci_high:.2f}</td>" in page


def test_what_a_run_lacks_is_said(page):
    said = re.findall(r"This run has no results on: ([^<]*)\.</p>", page)
    assert said[0] == "load, predictions"
    assert "latency (results/cpu/throughput/latency.csv: column" in said[1] and "accuracy" in said[1]


def test_runs_are_compared_by_what_students_skip(page):
    charts = data_of(page)["charts"]
    compared = [spec for name, spec in charts.items() if name.startswith("student-")]
    assert len(compared) == len(CONFIG.variants)
    assert {row["series"] for row in compared[0]["data"]["values"]} == {"first/cpu", "second/cpu"}


def test_a_run_alone_has_its_page_and_the_same_bytes_every_time(reference):
    run = reference / "first" / "cpu"
    site.run(run)
    first = (run / "index.html").read_bytes()
    assert read_json(run / "index.html.provenance.json")["stage"] == "site"
    assert b'id="machines"' not in first and b"measured again: cpu" in first
    site.run(run)
    assert (run / "index.html").read_bytes() == first


def test_markup_in_results_stays_text(reference, tmp_path):
    run = shutil.copytree(reference / "first" / "cpu", tmp_path / "cpu")
    text = (run / "claims.csv").read_text().replace("Enterprise workloads", "<script>alert(1)</script>", 1)
    (run / "claims.csv").write_text(text)
    site.run(run)
    assert "&lt;script&gt;alert(1)" in (run / "index.html").read_text("utf-8")


def test_nothing_to_show_and_foreign_pages_are_refused(reference, tmp_path):
    with pytest.raises(NothingToJudge, match="holds no results, neither itself nor"):
        site.run(tmp_path)
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match=r"index\.html: exists, and no provenance record"):
        site.run(reference, tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text() == "mine"


@pytest.mark.parametrize("directory", ["results/reference", "results/reference/h200/h200-pack"])
def test_committed_runs_have_a_page(directory, tmp_path):
    page = site.render(find(ROOT / directory), tmp_path)
    assert "prefill-speedup" in page and "skip 50%" in page


def test_the_version_of_vega_is_the_one_that_altair_writes_for():
    assert altair.VEGALITE_VERSION.startswith(f"{site.vega_lite()}.")
    assert "vegaEmbed" in site.vega() and "</script" not in site.vega()


@st.composite
def workloads(draw):
    """A shape, a cut and a group that divides what lies above it, prompt and output tokens."""
    heads, group = draw(st.sampled_from([1, 2, 8])), draw(st.integers(1, 4))
    layers = DIVIDING * draw(st.integers(1, 8))
    cut = layers - DIVIDING * draw(st.integers(0, layers // DIVIDING - 1))
    shape = {
        "hidden_size": 64 * draw(st.integers(1, 128)),
        "intermediate_size": draw(st.integers(1, 30000)),
        "num_hidden_layers": layers,
        "num_attention_heads": 4 * heads,
        "num_key_value_heads": heads,
        "vocab_size": draw(st.integers(1, 200000)),
    }
    if draw(st.booleans()):
        shape["head_dim"] = draw(st.integers(1, 256))
    else:
        shape["hidden_size"] *= 4 * heads
    return shape, cut, group, draw(st.integers(1, 200000)), draw(st.integers(1, 5000))


@pytest.mark.skipif(NODE is None, reason="the calculator runs in JavaScript, and node is not installed")
@settings(max_examples=5, deadline=None)
@given(st.lists(workloads(), min_size=100, max_size=150))
def test_the_calculator_counts_as_the_cost_model_does(drawn):
    command = [NODE, "-e", COUNT, site.PARTS / "costmodel.js"]
    done = subprocess.run(command, input=json.dumps(drawn), capture_output=True, text=True, check=True)
    for one, (problem, *counted) in zip(drawn, json.loads(done.stdout), strict=True):
        shape, cut, group, *_ = one
        assert problem == ""
        wanted = [
            costmodel.workload_flops(*one)["total"],
            costmodel.workload_speedup_limit(*one),
            costmodel.kv_capacity_ratio(shape, cut, group),
            costmodel.kv_bytes_per_token(shape, cut, group),
        ]
        assert counted == pytest.approx(wanted, rel=1e-12)


@pytest.mark.skipif(NODE is None, reason="the calculator runs in JavaScript, and node is not installed")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cut": 0}, "every number"),
        ({"cut": 33}, "at most 31"),
        ({"group": 3}, "3 does not divide the 16"),
        ({"input": 0.5}, "whole"),
    ],
)
def test_the_calculator_refuses_what_the_cost_model_refuses(changed, said):
    asked = {"cut": 16, "group": 1, "input": 10, "output": 1} | changed
    script = "console.log(require(process.argv[1]).problem(...JSON.parse(process.argv[2])))"
    arguments = json.dumps([costmodel.LLAMA_8B, *asked.values()])
    command = [NODE, "-e", script, site.PARTS / "costmodel.js", arguments]
    assert said in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_calculator_knows_published_models_and_those_of_the_runs(reference):
    shapes = calculator.shapes(find(reference))
    assert list(shapes) == ["Llama-3.1-8B", "Llama-3.1-70B", "benchmark model of first/cpu"]
    assert set(site.SHAPE_FIELDS) == {*costmodel.SHAPE_KEYS, "head_dim"}
    assert (
        shapes["benchmark model of first/cpu"]["hidden_size"]
        == load_config(ROOT / "config/config.yaml").shape["hidden_size"]
    )
