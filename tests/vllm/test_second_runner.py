"""Tests of engines again, with vLLM's second model runner in place of the first."""

import os
import subprocess
import sys

import pytest
from packaging.version import Version

from swiftkv.config import ROOT

pytestmark = pytest.mark.vllm
CHOSEN = [
    "test_random_traffic.py::test_random_traffic_is_answered_as_by_transformers[5]",
    "test_vllm_plugin.py::test_chunked_mixed_and_cached_batches_match_transformers[4-4]",
    "test_vllm_plugin.py::test_only_needed_tokens_run_late_layers_and_prompt_logprobs_are_refused",
    "test_vllm_plugin.py::test_full_prefill_mode_runs_every_layer_and_scores_prompts[setting]",
    "test_engine_features.py::test_preempted_requests_are_recomputed",
    "test_early_exit_engines.py::test_all_late_layers_have_our_builder_and_the_engine_no_logits_processor[2]",
    "test_early_exit_engines.py::test_an_engine_ends_on_prompt_logprobs_that_no_front_end_refused",
    "test_second_runner.py::test_this_is_the_second_runner",
]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by the test below")
def test_this_is_the_second_runner(tiny_student):
    from swiftkv.engines.engine import engine
    from tests.helpers.vllm_helpers import SETTINGS

    with engine(tiny_student, **SETTINGS) as opened:
        (classes,) = opened.collective_rpc(lambda worker: type(worker.model_runner).__mro__)
    assert "vllm.v1.worker.gpu.model_runner" in {one.__module__ for one in classes}


def test_students_answer_and_refuse_the_same_under_the_second_runner():
    import vllm
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or Version(vllm.__version__) < Version("0.32"):
        pytest.skip("vLLM does not look for the stand-in for Triton's CPU backend")
    tests = [f"tests/vllm/{name}" for name in CHOSEN]
    command = [sys.executable, "-m", "tests.helpers.second_runner", "-q", "-p", "no:cacheprovider", "-n", "0", *tests]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert "skipped" not in ran.stdout.splitlines()[-1]
