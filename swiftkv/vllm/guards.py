"""What a SwiftKV engine switches on by itself, and what it refuses, with one clear line each.

Skipped prompt tokens have no logits, so a request for prompt log-probabilities must never reach the engine. It is
refused where requests enter: vLLM's public hook for checking one is `validate_params` of a logits processor, called in
the front-end process offline and when served alike (https://docs.vllm.ai/en/latest/features/custom_logitsprocs/). The
engine itself has no such processor: `EarlyExitWorker` takes it out, and ends the engine if a front end that does not
check lets such a request through.
"""

import os

import vllm.envs
from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.v1.sample.logits_processor import LogitsProcessor

from swiftkv.errors import UserError

try:  # newer releases: the V2 model runner's own kind of logits processors
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2
except ImportError:

    class LogitsProcessorV2:
        """Stands in where the V2 model runner has no custom logits processors."""


FULL_PREFILL_ENV = "SWIFTKV_FULL_PREFILL"
FULL_PREFILL_KEY = "swiftkv_full_prefill"
GUARD = f"{__name__}:PromptLogprobsGuard"
WORKER = "swiftkv.vllm.worker.EarlyExitWorker"
BREAKABLE = "breakable CUDA graphs (VLLM_USE_BREAKABLE_CUDAGRAPH)"
SPECULATIVE = ("ngram",)  # methods whose drafts come from tokens alone
NO_PROMPT_LOGPROBS = (
    "{parameter}: this SwiftKV engine prefills with early exit, so prompt tokens have no logits. "
    f'Start it in full-prefill mode ({FULL_PREFILL_ENV}=1, or hf_overrides {{{{"{FULL_PREFILL_KEY}": true}}}}) '
    "to get prompt log-probabilities."
)


def wants_full_prefill(hf_config) -> bool:
    """Whether every token is to run every layer: by environment variable or by `hf_overrides`."""
    by_environment = os.environ.get(FULL_PREFILL_ENV, "0").lower() not in ("", "0", "false")
    return by_environment or bool(getattr(hf_config, FULL_PREFILL_KEY, False))


def exits_early(vllm_config) -> bool:
    """Whether prompt tokens skip the late layers, as the guard decided when the configuration was completed."""
    return vllm_config.parallel_config.worker_cls == WORKER


def unsupported(vllm_config) -> str | None:
    """The first feature asked for that cannot work with SwiftKV, or None."""
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    kv_heads = model.hf_config.num_key_value_heads
    asked_for = {
        # One process holds both halves of the decoder, and hands x_l from one to the other.
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "decode context parallelism": parallel.decode_context_parallel_size > 1,
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        "LoRA": vllm_config.lora_config is not None,
        # vLLM would repeat a head on several ranks; the fused K and V of the late groups are cut without repeats.
        f"tensor parallelism over more ranks than the {kv_heads} key-value heads": (
            parallel.tensor_parallel_size > kv_heads
        ),
        "a KV-cache skip list that splits an AcrossKV group (kv_cache_dtype_skip_layers)": splits_a_group(vllm_config),
    }
    return next((feature for feature, asked in asked_for.items() if asked), None)


def unsupported_early_exit(vllm_config) -> str | None:
    """The first feature asked for that works in full-prefill mode only, or None."""
    parallel, speculative = vllm_config.parallel_config, vllm_config.speculative_config
    method, passes = speculative.method if speculative else None, vllm_config.compilation_config.pass_config
    platform = current_platform.is_cpu() or current_platform.is_cuda_alike() or current_platform.is_xpu()
    asked_for = {
        # A micro-batch has its own metadata and its own part of the batch.
        "micro-batching (DBO)": parallel.use_ubatching,
        # Its ranks cut the tokens of a step, of which the late layers run fewer. Newer releases have it no more.
        "sequence parallelism": (
            bool(getattr(passes, "enable_sp", False) or getattr(passes, "fuse_gemm_comms", False))
            and parallel.tensor_parallel_size > 1
        ),
        # Drafts made from hidden states (EAGLE, MTP) need those of every token.
        f"speculative decoding by {method!r} (only by {', '.join(SPECULATIVE)})": (
            speculative is not None and method not in SPECULATIVE
        ),
        BREAKABLE: breakable_graphs(),
        "a worker class of your own (worker_cls)": parallel.worker_cls not in ("auto", WORKER),
        f"the platform {current_platform.device_name}": not platform,
    }
    return next((feature for feature, asked in asked_for.items() if asked), None)


def breakable_graphs() -> bool:
    """Whether vLLM makes one graph of a step's whole forward pass, which would fix the tokens that run the late layers.

    It may switch them on itself (VLLM_BATCH_INVARIANT), after the engine's configuration was checked.
    """
    return bool(getattr(vllm.envs, "VLLM_USE_BREAKABLE_CUDAGRAPH", False))


def splits_a_group(vllm_config) -> bool:
    """Whether some layers of an AcrossKV group, but not all, are to keep K and V in the model's own dtype.

    They share one cache, which has one dtype.
    """
    skipped, config = vllm_config.cache_config.kv_cache_dtype_skip_layers, vllm_config.model_config.hf_config
    layers = config.layers_of()
    late = range(config.num_key_value_layers, config.num_hidden_layers)
    return any((str(layer) in skipped) != (str(layers.leader(layer)) in skipped) for layer in late)


class SwiftKVEngineGuard(VerifyAndUpdateConfig):
    """Called by vLLM while it completes the engine's configuration (`MODELS_CONFIG_MAP`)."""

    @staticmethod
    def verify_and_update_config(vllm_config) -> None:
        """Switch early exit on unless full prefill is wanted. Raises UserError for an unsupported feature."""
        model = vllm_config.model_config
        if feature := unsupported(vllm_config):
            raise UserError(f"{model.model}: SwiftKV models do not support {feature}")
        # vLLM's own early exit, which takes the last layers that share a cache, is not this one.
        vllm_config.cache_config.kv_sharing_fast_prefill = False
        late = model.hf_config.num_hidden_layers - model.hf_config.num_key_value_layers
        # A pooling model reads hidden states at every position, where early exit leaves NaN.
        if not late or model.runner_type == "pooling" or wants_full_prefill(model.hf_config):
            return
        if feature := unsupported_early_exit(vllm_config):
            full = f"{FULL_PREFILL_ENV}=1 runs every token in every layer"
            raise UserError(f"{model.model}: SwiftKV models do not support {feature} with early exit; {full}")
        vllm_config.parallel_config.worker_cls = WORKER
        refuse_prompt_logprobs(model)


def others_than_guard(model_config) -> list:
    """The engine's logits processors but for the guard."""
    return [processor for processor in model_config.logits_processors or () if processor != GUARD]


def refuse_prompt_logprobs(model_config) -> None:
    """Add the guard to the logits processors by which the front end checks requests."""
    # Once, however often vLLM completes this configuration.
    model_config.logits_processors = [*others_than_guard(model_config), GUARD]


def check_request(sampling_params) -> None:
    """Raise VLLMValidationError (HTTP 400 when served) for a request that asks for log-probabilities of its prompt.

    `prompt_logprobs=0` asks too: it means the log-probability of the prompt tokens themselves.
    """
    for parameter in ("prompt_logprobs", "prompt_logprob_token_ids"):  # the second one from vLLM 0.31 on
        if getattr(sampling_params, parameter, None) is not None:
            raise VLLMValidationError(NO_PROMPT_LOGPROBS.format(parameter=parameter), parameter=parameter)


class PromptLogprobsGuard(LogitsProcessor, LogitsProcessorV2):
    """Refuses prompt log-probabilities and leaves logits alone, where a model runner has it at all (`worker`)."""

    def __init__(self, *config):
        pass

    @classmethod
    def validate_params(cls, sampling_params) -> None:
        check_request(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update) -> None:
        pass

    def add_request(self, req_idx, sampling_params) -> bool:
        return False

    def apply(self, logits, *context):
        return logits
