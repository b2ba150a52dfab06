"""Progress of a distillation: speed and utilisation without the first step, and a peak that is measured again."""

import io

import pytest

from swiftkv.distill import progress
from swiftkv.distill.progress import Progress

ROWS = [{"variant": "half", "kl": 0.5}]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    times = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[0])
    return times


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_first_step_counts_for_nothing(clock, capsys):
    """15 s for the first of four steps, then 2 s each of 100 tokens and 10 FLOPs at a peak of 20 FLOP/s."""
    shown = Progress(4, 0, lambda: 20.0, True, io.StringIO())
    for step, now in enumerate((15.0, 17.0, 19.0, 40.0), 1):
        clock[0] = now
        shown.count(step, 100, 10.0 * step)
        if step < 4:
            shown.reported = -100.0
            shown.show(ROWS, [], False)
    first, second, third = lines(capsys)
    assert first == "distill: step 1/4, KL half 0.5000"
    assert second == "distill: step 2/4, KL half 0.5000; 50 tok/s, MFU 25.0%, 4 s left"
    assert third == "distill: step 3/4, KL half 0.5000; 50 tok/s, MFU 25.0%, 2 s left"


def test_a_peak_that_was_measured_beside_other_work_is_measured_again(clock):
    """1.09 of the first measurement; the second one finds the machine free."""
    peaks = iter([10.0, 40.0, 5.0])
    shown = Progress(9, 0, lambda: next(peaks), False)
    shown.count(1, 100, 0.1)
    clock[0] = 1.0
    shown.count(2, 100, 11.0)
    assert shown.mfu == pytest.approx(10.9 / 40)
    clock[0] = 2.0
    assert shown.mfu == pytest.approx(10.9 / 2 / 40)
    assert next(peaks) == 5.0
