"""`make test-faults`: every light stage, killed at 20 random moments by each signal, on disks of 20 sizes, twice at
once, and with a clock set back; stages on vLLM's engines at fewer; after each the same command ends with the same
results."""

import signal

import pytest

from tests.helpers.faults import SIGNALS, Trial, can_mount
from tests.helpers.stages import ENGINES, LIGHT, RESUMED

TIMES, TIMES_OF_ENGINES = 20, 3


@pytest.fixture(scope="module", params=LIGHT | RESUMED)
def trial(request, tmp_path_factory):
    return Trial(request.param, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module", params=ENGINES)
def trial_of_engines(request, tmp_path_factory):
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


@pytest.mark.vllm
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
@pytest.mark.parametrize("seed", range(TIMES_OF_ENGINES))
def test_engines_killed_at_a_random_moment(trial_of_engines, number, seed):
    trial_of_engines.killed(number, seed)


@pytest.mark.vllm
def test_engines_twice_at_once(trial_of_engines):
    trial_of_engines.two_at_once()


@pytest.mark.vllm
def test_engines_and_a_clock_set_back(trial_of_engines):
    trial_of_engines.clock_set_back()
