"""The decode profile reads a profiler's events right, and knows the shapes of the products."""

from types import SimpleNamespace

import decode_profile
import pytest
import torch

from swiftkv.config import ROOT, load_config

CPU, CUDA = torch.profiler.DeviceType.CPU, torch.profiler.DeviceType.CUDA


def event(name: str, start: float, end: float, device=CUDA, annotation: bool = False) -> SimpleNamespace:
    span = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, device_type=device, time_range=span, is_user_annotation=annotation)


EVENTS = [
    event("step", 0, 1000, annotation=True),
    event("cudaGraphLaunch", 0, 5, CPU),
    event("cudaLaunchKernel", 6, 7, CPU),
    event("aten::mm", 0, 400, CPU),
    event("gemm", 10, 110),
    event("gemm", 110, 210),
    event("copy", 100, 130),  # on another stream
    event("attention", 260, 300),
]


def test_busy_and_idle_time_per_step():
    seen = decode_profile.summary(EVENTS, 2)
    assert seen["busy_us"] == (200 + 40) / 2
    assert seen["idle_us"] == 50 / 2
    assert (seen["launches"], seen["graph_launches"]) == (1.0, 0.5)


def test_kernels_by_name_the_longest_first():
    rows = decode_profile.summary(EVENTS, 2)["kernels"]
    assert [row["kernel"] for row in rows] == ["gemm", "attention", "copy"]
    assert rows[0] == {"kernel": "gemm", "per_step": 1.0, "us_per_step": 100.0}


def test_times_between_copies_to_the_host():
    copies = [event("Memcpy DtoH (Device -> Pinned)", at, at + 2) for at in (0, 100, 210, 330)]
    assert decode_profile.between_copies_us([*copies, event("Memcpy HtoD", 50, 51)]) == [100, 110, 120]


def test_no_gpu_no_kernels():
    assert decode_profile.summary([event("aten::mm", 0, 9, CPU)], 1) == {
        **{"busy_us": 0.0, "idle_us": 0.0, "launches": 0.0, "graph_launches": 0.0, "kernels": []},
        "between_copies_us": [],
    }


def test_products_of_the_8b_shape():
    found = decode_profile.widths(load_config(ROOT / "config" / "h200-short.yaml"))
    assert found["qkv"] == (4096, 6144) and found["gate_up"] == (4096, 28672)
    late = {name: shape[1] for name, shape in found.items() if name.startswith("late")}
    assert [*late.values()] == [16384, 32768, 40960, 8192]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_takes_time(rows):
    assert decode_profile.product_seconds(rows, 16, 8, torch.float32) > 0
