"""Served load and trace replay (`swiftkv serve-load`): latency and goodput of every arm against the base, under load.

Protocol: a vLLM server per arm on this machine with the same flags and KV memory, random weights, end-of-sequence
ignored; load and clock are those of `vllm bench serve`. In each round every load is put on all arms in turn, each time
with the same requests at the same times; ratios are taken within a round. See docs/serving.md.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from swiftkv import files, outputs, registry
from swiftkv.bench import late_tokens
from swiftkv.bench.rounds import SOURCES, Rounds, fingerprint
from swiftkv.bench.served import client, metrics, summary
from swiftkv.bench.served.loads import Load
from swiftkv.bench.served.plan import ServedPlan, served_plan
from swiftkv.bench.served.servers import Servers, serve_arm
from swiftkv.bench.throughput import write_csv
from swiftkv.config import RunConfig
from swiftkv.provenance import Provenance

FILES = registry.names("served")
OWN_SOURCES = [*SOURCES, *(Path(__file__).with_name(f"{name}.py") for name in ("client", "loads", "replay", "servers"))]


def run(
    config: RunConfig,
    out_dir: Path,
    work: Path,
    mirror: Path | None = None,
    port: int | None = None,
    factory: Callable = serve_arm,
) -> None:
    """Measure every load on every arm; write FILES, each with its provenance, to `out_dir`.

    Measurements are kept in `work` and reused by a rerun with the same servers, loads, versions and machine (see
    `rounds`); limits of the SLO may change. Servers listen on `port` and the following ones, by default on free ones;
    `factory(arm, settings, folder, port, timeout_s)` starts one. Raises UserError as its parts do.
    """
    plan, out_dir, work = served_plan(config, mirror), Path(out_dir), Path(work)
    engine = asdict(plan.settings)
    key = fingerprint(plan.variants, plan.seed, OWN_SOURCES, engine=engine)
    rounds = Rounds(work, key, [arm.name for arm in plan.arms], plan.seed)
    with (
        outputs.alone(work),
        Provenance("served", config, out=[out_dir / name for name in FILES], weights="dummy", engine=engine) as record,
        Servers(plan, work, port, factory) as servers,
    ):
        counted = measure(plan, rounds, servers)
        record.record["measured"] = rounds.span()
        measured = [row for load in plan.loads for n in range(plan.rounds) for row in rounds.read(load.key, n)]
        write_results(plan, out_dir, measured)
        write_csv(out_dir / "late_tokens.csv", counted)
        for name in FILES:
            record.save(out_dir / name)


def measure(plan: ServedPlan, rounds: Rounds, servers: Servers) -> list[dict]:
    """Measure every round that is not there yet: first the loads without prefix caching, then the traces, with it.
    Rows of late_tokens.csv: of the warm-up of the servers of either kind."""
    counted = []
    for prefix_caching in (False, True):
        loads = [load for load in plan.loads if (load.replay is not None) == prefix_caching]
        if loads:
            counted += count(plan, loads, prefix_caching, rounds, servers)
        for number in range(plan.rounds):
            for load in loads:
                if not rounds.has(load.key, number):
                    measure_round(plan, load, number, rounds, servers)
    return counted


def count(plan: ServedPlan, loads: list[Load], prefix_caching: bool, rounds: Rounds, servers: Servers) -> list[dict]:
    """Late-layer tokens of the servers that these loads are put on."""
    name = late_tokens.name_of("prefix-caching" if prefix_caching else "plain")
    shown = " ".join(load.name for load in loads)
    every = late_tokens.whole(plan.arms, plan.settings.shape["num_hidden_layers"])
    return late_tokens.rows(rounds, name, shown, every, partial(servers.counted, prefix_caching=prefix_caching))


def measure_round(plan: ServedPlan, load: Load, number: int, rounds: Rounds, servers: Servers) -> None:
    """Put one load on every arm, each time with the same requests."""

    def measure_arm(arm: str) -> dict:
        what = f"{load.name}, arm {arm}, round {number}"
        measured = measure_one(plan, load, arm, number, servers, what)
        row = metrics.row(measured, plan.slo)
        ttft = f"TTFT p50 {row['ttft_p50_s']:.3g} s, within the SLO {row['attainment']:.0%}"
        print(f"served {what}: {row['requests_per_s']:.3g} requests/s, {ttft}", flush=True)
        return measured

    rounds.measure(load.key, number, measure_arm)


def measure_one(plan: ServedPlan, load: Load, arm: str, number: int, servers: Servers, what: str) -> dict:
    """One measurement as it is kept: what the client saw of every request, and what the load was."""
    server, folder = servers.get(arm, load.replay is not None), servers.folder
    arguments = load.arguments(f"{load.name}/{number}", folder / "traces")
    seed, timeout_s, log = plan.request_seed(number), plan.timeouts.measurement_s, folder / "logs" / "client.log"
    before = client.prefix_cache(server)
    result = client.run(server, arguments, seed, timeout_s, log, what)
    after = client.prefix_cache(server)
    counters = {"cache_queries": after.queries - before.queries, "cache_hits": after.hits - before.hits}
    return metrics.measurement(load, arm, number, result, what) | counters


def write_results(plan: ServedPlan, out_dir: Path, measured: list[dict]) -> None:
    """Write what was measured and its summaries."""
    arms, rows = [arm.name for arm in plan.arms], [metrics.row(one, plan.slo) for one in measured]
    files.write_jsonl(out_dir / "served.jsonl", rows)
    files.write_jsonl(out_dir / "requests.jsonl.gz", [request for one in measured for request in metrics.requests(one)])
    write_csv(out_dir / "summary.csv", summary.summarise(rows, arms, plan.seed))
    write_csv(out_dir / "saturation.csv", summary.saturation(rows, arms, plan.slo, plan.seed))
