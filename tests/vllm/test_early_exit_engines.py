"""What an engine with early exit holds and lets in: builders, discarded chunks, refusals, drafts."""

import pytest

from swiftkv.errors import UserError
from tests.helpers.vllm_helpers import RAW, SETTINGS, prompts

pytestmark = pytest.mark.vllm
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


def open_engine(directory, **settings):
    from swiftkv.engines.engine import engine

    return engine(directory, **SETTINGS | RAW | settings)


@pytest.fixture(scope="module")
def students(tiny_base, tmp_path_factory):
    """Directories of undistilled students of the tiny base, cut 4 of 8, by AcrossKV group."""
    from swiftkv.modeling.convert import convert

    root = tmp_path_factory.mktemp("groups")
    for group in (1, 2, 4):
        convert(tiny_base, root / str(group), 4, group)
    return {group: root / str(group) for group in (1, 2, 4)}


def backends(worker) -> list[tuple[str, list[int]]]:
    """Name of the metadata builder and numbers of the layers of every attention group, in the worker's process."""
    groups = [group for of_cache in worker.model_runner.attn_groups for group in of_cache]
    layers = [sorted(int(name.split(".")[2]) for name in group.layer_names) for group in groups]
    builders = [type(group.get_metadata_builder(0)).__name__ for group in groups]
    return sorted(zip(builders, layers, strict=True), key=lambda pair: pair[1])


def processors(worker) -> list:
    return list(worker.model_runner.vllm_config.model_config.logits_processors or ())


@pytest.mark.parametrize("group", [1, 2, 4])
def test_all_late_layers_have_our_builder_and_the_engine_no_logits_processor(students, group):
    from swiftkv.evals.reference import count_layer_tokens, request
    from swiftkv.vllm.guards import GUARD

    with open_engine(students[group], max_num_batched_tokens=61) as engine:
        assert engine.llm_engine.vllm_config.model_config.logits_processors == [GUARD]
        assert engine.collective_rpc(processors) == [[]]
        assert not engine.llm_engine.vllm_config.cache_config.kv_sharing_fast_prefill
        (early, below), (late, above) = engine.collective_rpc(backends)[0]
        counted = count_layer_tokens(engine)
        request(engine, prompts((1000,)), 1)
        counts = counted()
    assert (below, above) == ([0, 1, 2, 3], [4, 5, 6, 7])
    assert late == "EarlyExitBuilder" != early
    # 17 chunks, of which the last one is answered.
    assert counts == {"early": 1000, "late": 1}


def test_random_samples_beside_discarded_chunks_are_those_of_full_prefill(tiny_student):
    """What is sampled from a chunk that ends inside its prompt is thrown away, whatever the sampler."""
    from vllm import SamplingParams

    asked = [{"prompt_token_ids": prompt} for prompt in prompts((5, 300, 64))]
    wanted = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, min_p=0.1, top_k=5, presence_penalty=0.5)
    found = []
    for full_prefill in (False, True):
        with open_engine(tiny_student, max_num_batched_tokens=61, full_prefill=full_prefill) as engine:
            outputs = engine.generate(asked, wanted, use_tqdm=False)
            found.append([list(output.outputs[0].token_ids) for output in outputs])
    assert found[0] == found[1]


@pytest.mark.parametrize("parameter", ["prompt_logprobs", "prompt_logprob_token_ids"])
def test_an_engine_ends_on_prompt_logprobs_that_no_front_end_refused(tiny_student, parameter):
    """As of a front end that is not vLLM's own in Python."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    if not hasattr(SamplingParams(), parameter):
        pytest.skip("this release of vLLM does not know it")
    with open_engine(tiny_student) as engine:
        core = engine.llm_engine
        made = core.input_processor.process_inputs(
            "1", {"prompt_token_ids": [1, 2, 3]}, SamplingParams(max_tokens=2), core.get_supported_tasks()
        )
        setattr(made.sampling_params, parameter, 0 if parameter == "prompt_logprobs" else [[1], [2]])
        core.engine_core.add_request(made)
        with pytest.raises(VLLMValidationError, match=f"{parameter}.*full-prefill mode"):
            core.engine_core.get_output()


def test_ngram_drafts_leave_the_answers_as_they_are(tiny_student):
    """In a process of its own: in vLLM 0.32's CPU backend a second engine with drafts answers wrongly, base models,
    too."""
    from swiftkv.evals.reference import Reference, generate

    asked = [prompt * 3 for prompt in prompts((30, 50))] + prompts()
    settings = {"speculative_config": NGRAM, "max_num_batched_tokens": 97, "disable_log_stats": False}
    with open_engine(tiny_student, in_process=False, **settings) as engine:
        answers = generate(engine, asked, 24)
        accepted = next(m.value for m in engine.get_metrics() if m.name == "vllm:spec_decode_num_accepted_tokens")
    found = Reference(tiny_student).compare(answers)
    assert found.mismatches == 0 and found.delta < 1e-3
    assert accepted > 0


@pytest.mark.parametrize(
    ("where", "value", "feature"),
    [
        ("speculative_config.method", "eagle3", "speculative decoding by 'eagle3'"),
        ("speculative_config.method", "mtp", "speculative decoding by 'mtp'"),
        ("parallel_config.use_ubatching", True, "micro-batching"),
        ("parallel_config.worker_cls", "mine.Worker", "a worker class"),
        ("compilation_config.pass_config.enable_sp", True, "sequence parallelism"),
    ],
)
def test_what_early_exit_cannot_do_is_named(where, value, feature):
    from types import SimpleNamespace

    from swiftkv.vllm.guards import unsupported_early_exit

    parallel = {"use_ubatching": False, "worker_cls": "auto", "tensor_parallel_size": 2}
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(**parallel),
        speculative_config=SimpleNamespace(method="ngram"),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace()),
    )
    assert unsupported_early_exit(config) is None
    *path, name = where.split(".")
    place = config
    for part in path:
        place = getattr(place, part)
    setattr(place, name, value)
    assert unsupported_early_exit(config).startswith(feature)


def test_breakable_graphs_are_refused_wherever_vllm_switches_them_on(monkeypatch):
    import vllm.envs

    from swiftkv.vllm.guards import breakable_graphs

    assert not breakable_graphs()
    monkeypatch.setattr(vllm.envs, "VLLM_USE_BREAKABLE_CUDAGRAPH", True, raising=False)
    assert breakable_graphs()


def test_a_draft_model_is_refused_by_name(tiny_base, tiny_student):
    drafts = {"model": str(tiny_base), "num_speculative_tokens": 2}
    refused = pytest.raises(UserError, match="speculative decoding by 'draft_model'")
    with refused, open_engine(tiny_student, speculative_config=drafts):
        pass


def test_a_kv_skip_list_that_splits_a_group_is_refused(students):
    refused = pytest.raises(UserError, match="kv_cache_dtype_skip_layers")
    with refused, open_engine(students[2], kv_cache_dtype_skip_layers=["5"]):
        pass
