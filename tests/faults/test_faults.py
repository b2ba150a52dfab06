"""A sample of `make test-faults`: kills, a full disk, two runs at once, a clock set back."""

import signal

import pytest

from tests.helpers.faults import SIGNALS, Trial, can_mount

SAMPLE = ("convert", "distill-checkpoints", "tables", "throughput-fakes")


@pytest.fixture(scope="module", params=SAMPLE)
def trial(request, tmp_path_factory):
    return Trial(request.param, tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_killed_at_a_random_moment(trial, number):
    trial.killed(number, 0)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_full_disk(trial, share, tmp_path):
    trial.full(share, can_mount(tmp_path))


def test_two_at_once(trial):
    trial.two_at_once()


def test_a_clock_set_back(trial):
    trial.clock_set_back()
