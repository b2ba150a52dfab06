"""Served load and trace replay (`swiftkv serve-load`): latency and goodput of every arm against the base, under load.

Protocol: a vLLM server per arm on this machine with the same flags and KV memory, random weights, end-of-sequence
ignored; load and clock are those of `vllm bench serve`. In each round every load is put on all arms in turn, each time
with the same requests at the same times; ratios are taken within a round. See docs/serving.md.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from swiftkv import files, registry
from swiftkv.bench.rounds import SOURCES, Rounds, fingerprint
from swiftkv.bench.served import client, metrics, summary
from swiftkv.bench.served.loads import Load, plan
from swiftkv.bench.served.servers import Servers, chosen_arms, serve_arm, settings_of
from swiftkv.bench.throughput import write_csv
from swiftkv.provenance import Provenance

FILES = registry.names("served")
OWN_SOURCES = [*SOURCES, *(Path(__file__).with_name(f"{name}.py") for name in ("client", "loads", "replay", "servers"))]


def run(
    config,
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
    metrics.check_section(config)
    loads, work = plan(config, mirror), Path(work)
    settings, names = settings_of(config, loads), [arm.name for arm in chosen_arms(config)]
    rounds = Rounds(work, fingerprint(config, OWN_SOURCES, engine=asdict(settings)), names)
    written = [Path(out_dir) / name for name in FILES]
    with (
        Provenance("served", config, out=written, weights="dummy", engine=asdict(settings)) as record,
        Servers(config, settings, work, port, factory) as servers,
    ):
        measure(config, loads, rounds, servers)
        record.record["measured"] = rounds.span()
        measured = [row for load in loads for number in numbers(config) for row in rounds.read(load.key, number)]
        write_results(config, Path(out_dir), record, measured)


def numbers(config) -> range:
    """The rounds of the configuration."""
    return range(config.served.rounds)


def measure(config, loads: list[Load], rounds: Rounds, servers: Servers) -> None:
    """Measure every round that is not there yet: first the loads without prefix caching, then the traces, with it."""
    for prefix_caching in (False, True):
        for number in numbers(config):
            for load in loads:
                if (load.replay is not None) == prefix_caching and not rounds.attempts(load.key, number):
                    measure_round(config, load, number, rounds, servers)


def measure_round(config, load: Load, number: int, rounds: Rounds, servers: Servers) -> None:
    """Put one load on every arm, each time with the same requests."""
    limits = config.served.slo

    def measure_arm(arm: str) -> dict:
        what = f"{load.name}, arm {arm}, round {number}"
        row = measure_one(config, load, arm, number, servers, what)
        said = metrics.row(row, limits)
        ttft = f"TTFT p50 {said['ttft_p50_s']:.3g} s, within the SLO {said['attainment']:.0%}"
        print(f"served {what}: {said['requests_per_s']:.3g} requests/s, {ttft}", flush=True)
        return row

    rounds.measure(load.key, number, measure_arm)


def measure_one(config, load: Load, arm: str, number: int, servers: Servers, what: str) -> dict:
    """One measurement as it is kept: what the client saw of every request, and what the load was."""
    server, folder = servers.get(arm, load.replay is not None), servers.folder
    arguments = load.arguments(f"{load.name}/{number}", folder / "traces")
    timeout_s = config.served.timeouts.measurement_s
    before = client.prefix_cache(server)
    seen = client.run(server, arguments, config.seed + number, timeout_s, folder / "logs" / "client.log", what)
    looked_up, found = (now - then for now, then in zip(client.prefix_cache(server), before, strict=True))
    return metrics.kept(load, arm, number, seen, what) | {"cache_queries": looked_up, "cache_hits": found}


def write_results(config, out_dir: Path, record: Provenance, measured: list[dict]) -> None:
    """Write every result file, then the provenance of each."""
    rows = [metrics.row(one, config.served.slo) for one in measured]
    files.write_jsonl(out_dir / "served.jsonl", rows)
    files.write_jsonl(out_dir / "requests.jsonl.gz", [request for one in measured for request in metrics.requests(one)])
    write_csv(out_dir / "summary.csv", summary.summarise(config, rows))
    write_csv(out_dir / "saturation.csv", summary.saturation(config, rows))
    for name in FILES:
        record.save(out_dir / name)
