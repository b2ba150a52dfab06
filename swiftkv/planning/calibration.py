"""What this machine can do, measured: FLOP/s of a model's matrix products, memory bandwidth, KV-cache writes.

`torch.utils.benchmark` times every operation repeatedly; medians count, the interquartile range is kept beside them.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

from swiftkv import files
from swiftkv.costmodel import head_dim
from swiftkv.errors import UserError
from swiftkv.planning.distillation import GIB, memory_here
from swiftkv.provenance import Provenance, hardware, hardware_label

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENS = (1, 16, 64, 256, 1024, 2048)
SECONDS = 0.8  # per operation: at least half of it, at most twice, until the quartiles are within 10% of the median
STREAM_BYTES = 2**28  # far beyond any cache
CACHED_TOKENS, WRITTEN_TOKENS = 2**16, 512


def projections(shape: Mapping) -> dict[str, tuple[int, int]]:
    """Input and output width of each matrix product of a layer, fused as engines fuse them."""
    hidden, wide, size = shape["hidden_size"], shape["intermediate_size"], head_dim(shape)
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    return {
        "qkv": (hidden, (heads + 2 * kv_heads) * size),
        "o": (heads * size, hidden),
        "gate_up": (hidden, 2 * wide),
        "down": (wide, hidden),
    }


def timed(statement: str, seconds: float = SECONDS, **tensors) -> dict:
    """Median seconds of a statement, their interquartile range, and the number of timed blocks."""
    timer = Timer(statement, globals=tensors, num_threads=torch.get_num_threads())
    measured = timer.adaptive_autorange(min_run_time=seconds / 2, max_run_time=2 * seconds)
    return {"seconds": measured.median, "iqr": measured.iqr, "repeats": len(measured.times)}


def matmul(shape: Mapping, dtype: str, device: torch.device, seconds: float = SECONDS) -> list[dict]:
    """A row per projection and token count: FLOP/s of [tokens, in] x [in, out], weights laid out as in a Linear."""
    rows = []
    for name, (width, out) in projections(shape).items():
        weight = torch.randn(out, width, device=device).to(DTYPES[dtype])
        for tokens in TOKENS:
            states = torch.randn(tokens, width, device=device).to(DTYPES[dtype])
            time = timed("linear(x, w)", seconds, linear=torch.nn.functional.linear, x=states, w=weight)
            row = {"dtype": dtype, "projection": name, "in": width, "out": out, "tokens": tokens, **time,
                   "flops": 2 * tokens * width * out / time["seconds"]}  # fmt: skip
            rows.append(row)
    return rows


def model_flops(rows: list[dict]) -> list[dict]:
    """FLOP/s of a whole layer's products per token count: their FLOPs over their seconds."""
    rates = []
    for tokens in TOKENS:
        same = [row for row in rows if row["tokens"] == tokens]
        work = sum(row["flops"] * row["seconds"] for row in same)
        rates.append({"tokens": tokens, "flops": work / sum(row["seconds"] for row in same)})
    return rates


def bandwidths(shape: Mapping, dtype: str, device: torch.device, size: int = STREAM_BYTES,
               seconds: float = SECONDS) -> dict:  # fmt: skip
    """Bytes/s of reading a large tensor, of copying it (read and written), and of scattering K and V of some tokens to
    random places of a cache (written)."""
    stream = torch.ones(size // 4, device=device)
    read = timed("x.sum()", seconds, x=stream)
    copy = timed("y.copy_(x)", seconds, x=stream, y=torch.empty_like(stream))
    width = 2 * shape["num_key_value_heads"] * head_dim(shape)
    cache = torch.zeros(CACHED_TOKENS, width, dtype=DTYPES[dtype], device=device)
    places = torch.randperm(CACHED_TOKENS, device=device)[:WRITTEN_TOKENS]
    new = torch.ones(WRITTEN_TOKENS, width, dtype=DTYPES[dtype], device=device)
    write = timed("cache.index_copy_(0, places, new)", seconds, cache=cache, places=places, new=new)
    return {
        "read_bandwidth": size / read["seconds"],
        "copy_bandwidth": 2 * size / copy["seconds"],
        "kv_write_bandwidth": new.nbytes / write["seconds"],
        "bandwidth_timings": {"read": read, "copy": copy, "kv_write": write},
    }


def run(config, out: Path, dtype: str | None = None, seconds: float = SECONDS) -> dict:
    """Measure the first GPU, or the CPU where there is none, with the shapes of `throughput.model`; write the result
    as JSON with its provenance to `out`. Raises UserError for an unknown dtype."""
    shape = config.shape
    dtype = dtype or shape["dtype"]
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype!r}: allowed are {', '.join(DTYPES)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Provenance("calibrate", config, out=[out]) as provenance, torch.inference_mode():
        rows = matmul(shape, dtype, device, seconds)
        record = {
            "device": hardware_label(hardware()),
            "threads": torch.get_num_threads(),
            "dtype": dtype,
            "memory_bytes": memory_here(device) * GIB,
            "model_flops": model_flops(rows),
            **bandwidths(shape, dtype, device, seconds=seconds),
            "matmul": rows,
        }
        files.write_json(out, record)
        provenance.save(out)
    fastest = max(row["flops"] for row in record["model_flops"])
    print(f"calibrate: {record['device']}, {dtype}: {fastest:.3g} FLOP/s, {record['read_bandwidth']:.3g} bytes/s read")
    return record
