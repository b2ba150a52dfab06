"""lm-eval's log-likelihoods: vLLM in full-prefill mode scores a student as Transformers does; early exit refuses."""

import pytest

from swiftkv.config import load_config

pytestmark = pytest.mark.vllm
TOLERANCE = 1e-3  # of a continuation's summed log-probability, float32 on both sides
SETTINGS = {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 8, "max_num_batched_tokens": 256}


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """(context, continuation): the right answer and that of another item, for a few items of every task."""
    from swiftkv.workloads import tasks

    made = []
    for task, settings in load_config().tasks.items():
        items = tasks.items(task, "test", 4, 0, settings)
        for item, other in zip(items, items[1:] + items[:1], strict=True):
            made += [(item.prompt[-400:], item.answer), (item.prompt[-400:], other.answer)]
    return made


def score(lm, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    """(sum of log-probabilities, whether the continuation is the greedy one) per pair, as lm-eval asks for them."""
    from lm_eval.api.instance import Instance

    return lm.loglikelihood([Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)])


@pytest.fixture(scope="module")
def by_transformers(tiny_student, pairs):
    from lm_eval.models.huggingface import HFLM

    import swiftkv.modeling  # noqa: F401 - registers the SwiftKV classes

    return score(HFLM(pretrained=str(tiny_student), dtype="float32", device="cpu", batch_size=8), pairs)


def test_full_prefill_scores_as_transformers(tiny_student, pairs, by_transformers, monkeypatch):
    from swiftkv.evals.harness import vllm_backend

    monkeypatch.setenv("SWIFTKV_FULL_PREFILL", "1")
    with vllm_backend(tiny_student, SETTINGS | {"enforce_eager": True}) as lm:
        by_vllm = score(lm, pairs)
    assert max(abs(ours[0] - theirs[0]) for ours, theirs in zip(by_vllm, by_transformers, strict=True)) < TOLERANCE
    assert [greedy for _, greedy in by_vllm] == [greedy for _, greedy in by_transformers]
    better = [first[0] > second[0] for first, second in zip(by_vllm[::2], by_vllm[1::2], strict=True)]
    assert better == [a[0] > b[0] for a, b in zip(by_transformers[::2], by_transformers[1::2], strict=True)]


def test_early_exit_refuses_to_score(tiny_student, pairs):
    from vllm.exceptions import VLLMValidationError

    from swiftkv.evals.harness import vllm_backend

    with (
        vllm_backend(tiny_student, SETTINGS | {"enforce_eager": True}) as lm,
        pytest.raises(VLLMValidationError, match="full-prefill"),
    ):
        score(lm, pairs)
