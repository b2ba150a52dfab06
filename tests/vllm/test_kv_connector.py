"""A student whose KV is stored outside the engine and read back: the answers are those without (vLLM's example
connector, which keeps it on disk)."""

import pytest

from tests.helpers.vllm_helpers import RAW, SETTINGS, prompts

pytestmark = pytest.mark.vllm


def answers(directory, **settings):
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import generate

    with engine(directory, **SETTINGS | RAW | settings) as opened:
        return generate(opened, prompts((64, 129, 200)), 8)


def test_kv_that_was_written_elsewhere_gives_the_same_answers(tiny_student, tmp_path):
    from vllm.config import KVTransferConfig

    from swiftkv.evals.reference import Reference

    extra = {"shared_storage_path": str(tmp_path)}
    stored = KVTransferConfig(kv_connector="ExampleConnector", kv_role="kv_both", kv_connector_extra_config=extra)
    written, read = (answers(tiny_student, kv_transfer_config=stored) for _ in range(2))
    assert list(tmp_path.rglob("*.safetensors")), "nothing was stored"
    assert sum(answer.cached for answer in read) > sum(answer.cached for answer in written), "nothing was read"
    for made in (written, read):
        difference = Reference(tiny_student).compare(made)
        assert difference.mismatches == 0 and difference.delta < 1e-3
