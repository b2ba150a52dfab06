"""What is recorded of the machine beside a measurement, from files in the shape of Linux' own."""

import sys
from types import SimpleNamespace

import pytest

from swiftkv import devices
from swiftkv.bench import conditions

STAT = "cpu  {} 0 10 {} 0 0 0 {} 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"


def test_stolen_time_is_a_share_of_all_time(tmp_path):
    times = []
    for user, idle, steal in ((100, 1000, 50), (160, 1030, 60)):
        (tmp_path / "stat").write_text(STAT.format(user, idle, steal))
        times.append(conditions.cpu_times(tmp_path))
    assert conditions.stolen_percent(*times) == pytest.approx(10)
    assert conditions.stolen_percent(times[0], times[0]) is None
    assert conditions.stolen_percent([], []) is None


def test_the_clock_is_the_mean_of_all_cpus(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: X\ncpu MHz\t\t: 2000.0\n\ncpu MHz\t\t: 3000.5\n")
    assert conditions.cpu_mhz(tmp_path) == pytest.approx(2500.25)
    (tmp_path / "cpuinfo").write_text("model name\t: X\n")
    assert conditions.cpu_mhz(tmp_path) is None


def test_a_machine_that_tells_nothing(tmp_path):
    assert conditions.cpu_times(tmp_path) == [] and conditions.cpu_mhz(tmp_path) is None


class NVMLError(Exception):
    pass


def nvml(**changes):
    """A stand-in for pynvml with one GPU, known by index 3 and by UUID."""
    handles = {3: "gpu", "GPU-aa": "gpu"}

    def told(value):
        return lambda handle, what: {"gpu": value}[handle]

    known = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": handles.__getitem__,
        "nvmlDeviceGetHandleByUUID": handles.__getitem__,
        "nvmlDeviceGetClockInfo": told(1980),
        "nvmlDeviceGetTemperature": told(41),
    }
    return SimpleNamespace(**known | changes)


def refuses(*arguments):
    raise NVMLError


@pytest.mark.parametrize("visible", [["3", "0"], ["GPU-aa"]])
def test_the_first_visible_gpu_is_read(monkeypatch, visible):
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    monkeypatch.setattr(devices, "visible", lambda: visible)
    assert conditions.gpu_state() == {"gpu_mhz": 1980, "gpu_celsius": 41}


@pytest.mark.parametrize(
    ("module", "visible"),
    [
        (None, ["3"]),
        (nvml(), []),
        (nvml(nvmlInit=refuses), ["3"]),
        (nvml(nvmlDeviceGetClockInfo=refuses), ["GPU-aa"]),
    ],
)
def test_a_gpu_that_tells_nothing_is_left_out(monkeypatch, module, visible):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(devices, "visible", lambda: visible)
    assert conditions.gpu_state() == {}


def test_a_measurement_is_watched():
    row = conditions.watched(lambda: {"arm": "base"})
    assert row["arm"] == "base" and row["wall_s"] >= 0 and row["load_1m"] >= 0
