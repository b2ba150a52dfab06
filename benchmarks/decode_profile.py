"""Where decode steps spend their time: kernels, idle GPU, launches; and the matrix products of one step alone.

    python benchmarks/decode_profile.py --out results/h200/plugin/profile.json [--config config/h200.yaml]

steps: decode-only steps of the base and of 50%, at concurrency 1 and 32. Per step: wall time, time in kernels, time in
which the GPU ran none, launches, graph launches, and every kernel by name. What a student has more of than the base
is the cause of a slower step. What happens once per request shows in TPOT at two output lengths, and in the times
between the copies of sampled tokens to the host.
products: each projection of the base and each arm's K/V product on 1, 2, 8 and 32 rows, replayed as a CUDA graph, with
weights from memory, not from the L2 cache.

Runs on a CPU, too, where there are no graphs and no kernels to count. Speed: `swiftkv throughput`.
"""

import itertools
import math
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

from swiftkv import files
from swiftkv.bench.plan import throughput_plan
from swiftkv.cli import end_in_one_line
from swiftkv.config import BASE_ARM, RunConfig, load_config
from swiftkv.costmodel import head_dim, kv_caches
from swiftkv.engines.arms import VLLMEngine
from swiftkv.engines.settings import Arm, Batch, benchmark_arms
from swiftkv.errors import UserError
from swiftkv.planning.calibration import DTYPES, projections, timed
from swiftkv.provenance import Provenance

INPUT, OUTPUT, CONCURRENCY = 64, 64, (1, 32)
LENGTHS = (OUTPUT, 4 * OUTPUT)  # TPOT is measured at
ROWS = (1, 2, 8, 32)
BEYOND_CACHE, REPLAYS = 512 << 20, 20  # bytes of weights between two uses of one; a GPU's L2 cache has 50 MB
CPU_SECONDS = 0.1  # per product
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")


def ran_on_gpu(events: list) -> list:
    """The kernels and copies among a profiler's events."""
    cuda = torch.profiler.DeviceType.CUDA
    return [event for event in events if event.device_type == cuda and not event.is_user_annotation]


def busy_us(events: list) -> float:
    """Microseconds in which at least one of `events` ran."""
    total, until = 0.0, -math.inf
    for start, end in sorted((event.time_range.start, event.time_range.end) for event in events):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def by_kernel(events: list, steps: int) -> list[dict]:
    """Launches and microseconds per step of every kernel, the longest first."""
    times = defaultdict(list)
    for event in events:
        times[event.name].append(event.time_range.end - event.time_range.start)
    rows = [{"kernel": name, "per_step": len(t) / steps, "us_per_step": sum(t) / steps} for name, t in times.items()]
    return sorted(rows, key=lambda row: -row["us_per_step"])


def between_copies_us(events: list) -> list[float]:
    """Smallest, median and largest time between the starts of copies to the host, one of which ends every step."""
    starts = sorted(event.time_range.start for event in events if "DtoH" in event.name)
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(starts))
    return [gaps[0], gaps[len(gaps) // 2], gaps[-1]] if gaps else []


def summary(events: list, steps: int) -> dict:
    """What a profiler saw, per step: times in microseconds."""
    kernels = ran_on_gpu(events)
    busy, ends = busy_us(kernels), [event.time_range.end for event in kernels]
    whole = max(ends) - min(event.time_range.start for event in kernels) if kernels else 0.0
    launched = [event.name for event in events if event.name in LAUNCHES]
    return {
        "busy_us": busy / steps,
        "idle_us": (whole - busy) / steps,
        "launches": len(launched) / steps,
        "graph_launches": launched.count("cudaGraphLaunch") / steps,
        "between_copies_us": between_copies_us(kernels),
        "kernels": by_kernel(kernels, steps),
    }


def profile_engine(engine: VLLMEngine, requests: int) -> dict:
    """Decode steps of `requests` requests: timed without the profiler, then seen by it."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    batch = Batch(INPUT, OUTPUT, requests)
    engine.run(batch, seed=0)
    lengths = [length for length in LENGTHS if INPUT + length <= engine.settings.max_model_len]
    tpot = {length: 1e6 * median(engine.run(Batch(INPUT, length, requests), seed=1).tpot_s) for length in lengths}
    with torch.profiler.profile(activities=kinds) as recorded:
        engine.run(batch, seed=1)
    return {"requests": requests, "tpot_us": tpot, **summary(recorded.events(), OUTPUT)}


def profiled_arms(config: RunConfig) -> list[Arm]:
    """The base and the student with half its layers. Raises UserError if no variant skips half."""
    layers = config.shape["num_hidden_layers"]
    base, *students = benchmark_arms(config)
    half = next((arm for arm in students if arm.cut == layers // 2), None)
    if half is None:
        there = ", ".join(arm.name for arm in students) or "none"
        raise UserError(f"profile: no variant skips half of the {layers} layers; the variants are: {there}")
    return [base, half]


def steps(config: RunConfig, directory: Path) -> list[dict]:
    """A row per arm and concurrency, engines one after the other."""
    rows, settings = [], throughput_plan(config).settings
    for arm in profiled_arms(config):
        engine = VLLMEngine(arm, settings, directory / arm.name)
        try:
            for requests in (number for number in CONCURRENCY if number <= settings.max_num_seqs):
                rows.append({"arm": arm.name, **profile_engine(engine, requests)})
                print("profile:", {key: value for key, value in rows[-1].items() if key != "kernels"}, flush=True)
        finally:
            engine.close()
    return rows


def widths(config: RunConfig) -> dict[str, tuple[int, int]]:
    """Input and output width of each projection of a layer, and of each arm's product for all late K and V."""
    shape = config.shape
    hidden, kv = shape["hidden_size"], 2 * shape["num_key_value_heads"] * head_dim(shape)
    found = projections(shape) | {"logits": (hidden, shape["vocab_size"]), "K and V of one layer": (hidden, kv)}
    for arm in benchmark_arms(config):
        if arm.name != BASE_ARM:
            found[f"late K and V, {arm.name}"] = (hidden, kv * (kv_caches(shape, arm.cut, arm.group) - arm.cut))
    return found


def replayed_seconds(x: torch.Tensor, weights: list[torch.Tensor]) -> float:
    """Seconds of x times one of `weights`, which take turns in a CUDA graph."""
    torch.nn.functional.linear(x, weights[0])  # cuBLAS makes its workspace outside the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for weight in weights:
            torch.nn.functional.linear(x, weight)
    graph.replay()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / REPLAYS / len(weights)


def product_seconds(rows: int, width: int, out: int, dtype: torch.dtype) -> float:
    """Seconds of [rows, width] times a weight of [out, width], on a GPU one that its cache does not hold."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, weight = (torch.randn(number, width, device=device, dtype=dtype) for number in (rows, out))
    if device.type == "cpu":
        return timed("linear(x, w)", CPU_SECONDS, linear=torch.nn.functional.linear, x=x, w=weight)["seconds"]
    copies = math.ceil(BEYOND_CACHE / weight.nbytes)
    return replayed_seconds(x, [weight, *(weight.clone() for _ in range(copies - 1))])


def products(config: RunConfig) -> list[dict]:
    """A row per product and number of rows: microseconds, and the rate at which its weight was read."""
    dtype = DTYPES[config.shape["dtype"]]
    found = []
    for (name, (width, out)), rows in itertools.product(widths(config).items(), ROWS):
        seconds = product_seconds(rows, width, out, dtype)
        rate = width * out * dtype.itemsize / seconds / 1e9
        found.append({"product": name, "in": width, "out": out, "rows": rows, "us": seconds * 1e6, "gb_per_s": rate})
        print(f"profile: {name}, {rows} rows: {seconds * 1e6:.1f} us, {rate:.0f} GB/s", flush=True)
    return found


def main(
    out: Annotated[Path, typer.Option(help="Result (JSON).")],
    config: Annotated[Path, typer.Option(help="Its shape and variants are profiled.")] = Path("config/h200.yaml"),
    models: Annotated[
        Path | None, typer.Option(help="The throughput run's --work, /models, whose code is in vLLM's cache.")
    ] = None,
) -> None:
    """Profile decode steps and their matrix products."""
    chosen = load_config(config)
    profiled_arms(chosen)  # before anything is timed
    with (
        Provenance("decode-profile", chosen, weights="dummy", out=[out]) as provenance,
        tempfile.TemporaryDirectory() as scratch,
    ):
        found = {"products": products(chosen)}
        files.write_json(out, found)  # engines take their time
        files.write_json(out, found | {"steps": steps(chosen, models or Path(scratch))})
        provenance.save(out)


if __name__ == "__main__":
    end_in_one_line(lambda: typer.run(main))
