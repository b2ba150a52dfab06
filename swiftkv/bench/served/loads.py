"""What servers are asked: the points of the configuration's `served` section, a Load for each value of their loads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftkv import files
from swiftkv.bench.served import replay
from swiftkv.bench.served.replay import Replay
from swiftkv.config.measuring import ServedPoint
from swiftkv.errors import UserError
from swiftkv.workloads import traffic
from swiftkv.workloads.downloads import mirror_of

UNITS = {"rate": "requests/s", "concurrency": "clients", "trace": "x the trace's rate"}


@dataclass(frozen=True)
class Load:
    """One measurement of every arm in every round. Lengths in tokens, one per request.

    `kind` rate: requests arrive whether or not earlier ones are done (open loop); concurrency: each of `value` clients
    sends its next request when the last is answered (closed loop); trace: at the times of a trace.
    """

    point: str
    kind: str
    value: float
    prompt: Sequence[int]
    output: Sequence[int]
    burstiness: float = 1.0
    replay: Replay | None = None

    @property
    def name(self) -> str:
        return f"{self.point}-{self.value:g}"

    @property
    def longest(self) -> int:
        """Tokens of the longest request."""
        return max(prompt + output for prompt, output in zip(self.prompt, self.output, strict=True))

    @property
    def key(self) -> str:
        """Name of its kept measurements: another workload of the same name does not find them."""
        replayed = [self.replay.arrival_s.tolist(), self.replay.blocks] if self.replay else []
        workload = [self.kind, self.burstiness, list(self.prompt), list(self.output), replayed]
        return f"{self.name}-{files.digest(workload)}"

    def arguments(self, label: str, folder: Path) -> list[str]:
        """What vLLM's benchmark client is told; a trace's requests are written to `folder`."""
        fixed = ["--num-prompts", str(len(self.prompt))]
        if self.replay is not None:
            path = folder / f"{self.name}.jsonl"
            replay.write(self.replay, path, label)
            block = ["--timed-trace-chunk-hash-size", str(self.replay.block_tokens)]
            return [*fixed, "--dataset-name", "timed_trace", "--dataset-path", str(path), *block]
        lengths = ["--random-input-len", str(self.prompt[0]), "--random-output-len", str(self.output[0])]
        rate = ["--request-rate", str(self.value), "--burstiness", str(self.burstiness)]
        clients = ["--max-concurrency", str(int(self.value))]
        return [*fixed, "--dataset-name", "random", *lengths, *(rate if self.kind == "rate" else clients)]


def open_loop(point: ServedPoint, value: float) -> Load:
    """`value` requests per second, for as long as the point says."""
    count = max(1, round(value * point.duration_s))
    prompt, output = [point.input_len] * count, [point.output_len] * count
    return Load(point.name, point.kind, value, prompt, output, burstiness=point.burstiness)


def closed_loop(point: ServedPoint, value: float) -> Load:
    """`value` clients that each send as many requests as the point says. Raises UserError for parts of a client."""
    if value != int(value):
        raise UserError(f"served.points: {point.name}: {value:g} clients; allowed are whole numbers from 1")
    count = int(value) * point.requests_per_client
    return Load(point.name, point.kind, value, [point.input_len] * count, [point.output_len] * count)


def traced(point: ServedPoint, value: float, trace: traffic.Traffic, seed: int) -> Load:
    """`value` times the trace's requests per second: a sample of its conversations, that much faster or slower."""
    made = replay.make(trace, value / point.sample, point, seed)
    return Load(point.name, point.kind, value, made.prompt.tolist(), made.output.tolist(), replay=made)


def loads_of(points: Sequence[ServedPoint], mirror: Path | None, seed: int) -> list[Load]:
    """Every load of every point, in their order. Traces come from `mirror` or SWIFTKV_MIRROR, else from their committed
    quantiles. Raises UserError for a trace that cannot be read or an impossible load."""
    loads = []
    for point in points:
        if point.kind == "trace":
            trace = traffic.read(point.trace, mirror_of(mirror), seed)
            loads += [traced(point, value, trace, seed) for value in point.loads]
        else:
            build = open_loop if point.kind == "rate" else closed_loop
            loads += [build(point, value) for value in point.loads]
    return loads
