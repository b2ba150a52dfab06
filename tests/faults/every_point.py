"""`make test-faults`: every light stage, killed at 20 random moments by each signal, on disks of 20 sizes, twice at
once, and with a clock set back; after each the same command ends with the same results."""

import signal

import pytest

from tests.helpers.faults import SIGNALS, STAGES, Trial, can_mount

TIMES = 20


@pytest.fixture(scope="module", params=STAGES)
def trial(request, tmp_path_factory):
    return Trial(request.param, tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
@pytest.mark.parametrize("seed", range(TIMES))
def test_killed_at_a_random_moment(trial, number, seed):
    trial.killed(number, seed)


@pytest.mark.parametrize("part", range(TIMES))
def test_a_full_disk(trial, part, tmp_path):
    trial.full((part + 0.5) / TIMES, can_mount(tmp_path))


@pytest.mark.parametrize("number", range(5))
def test_two_at_once(trial, number):
    trial.two_at_once()


def test_a_clock_set_back(trial):
    trial.clock_set_back()
