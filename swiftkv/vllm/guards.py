"""What a SwiftKV engine switches on by itself, and what it refuses, with one clear line each.

Early exit needs vLLM's `kv_sharing_fast_prefill`. With it, skipped prompt tokens have no logits, so a request for
prompt log-probabilities must never reach the engine: upstream's V1 runner ends the whole engine on an assertion,
and its V2 runner would answer with wrong numbers. The refusal is a logits processor without effect: its
`validate_params` is vLLM's public hook for checking a request, called in the front-end process offline and
when served alike (https://docs.vllm.ai/en/latest/features/custom_logitsprocs/).
"""

import os

from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.config import VerifyAndUpdateConfig
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
NO_PROMPT_LOGPROBS = (
    "prompt_logprobs: this SwiftKV engine prefills with early exit, so prompt tokens have no logits. "
    f'Start it in full-prefill mode ({FULL_PREFILL_ENV}=1, or hf_overrides {{"{FULL_PREFILL_KEY}": true}}) '
    "to get prompt log-probabilities."
)


def wants_full_prefill(hf_config) -> bool:
    """Whether every token is to run every layer: by environment variable or by `hf_overrides`."""
    by_environment = os.environ.get(FULL_PREFILL_ENV, "0").lower() not in ("", "0", "false")
    return by_environment or bool(getattr(hf_config, FULL_PREFILL_KEY, False))


def unsupported(vllm_config) -> str | None:
    """The first feature asked for that cannot work with SwiftKV, or None."""
    parallel = vllm_config.parallel_config
    kv_heads = vllm_config.model_config.hf_config.num_key_value_heads
    asked_for = {
        # One process holds both halves of the decoder, and hands x_l from one to the other.
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "decode context parallelism": parallel.decode_context_parallel_size > 1,
        "micro-batching (DBO)": parallel.enable_dbo,
        "LoRA": vllm_config.lora_config is not None,
        # vLLM allows no logits processor beside it, and the refusal of prompt log-probs is one.
        "speculative decoding": vllm_config.speculative_config is not None,
        # vLLM would repeat a head on several ranks; the fused K and V of the late groups are cut without repeats.
        f"tensor parallelism over more ranks than the {kv_heads} key-value heads": (
            parallel.tensor_parallel_size > kv_heads
        ),
    }
    return next((feature for feature, asked in asked_for.items() if asked), None)


class SwiftKVEngineGuard(VerifyAndUpdateConfig):
    """Called by vLLM while it completes the engine's configuration (`MODELS_CONFIG_MAP`)."""

    @staticmethod
    def verify_and_update_config(vllm_config) -> None:
        """Switch early exit on unless full prefill is wanted. Raises UserError for an unsupported feature."""
        model = vllm_config.model_config
        if feature := unsupported(vllm_config):
            raise UserError(f"{model.model}: SwiftKV models do not support {feature}")
        late = model.hf_config.num_hidden_layers - model.hf_config.num_key_value_layers
        # A pooling model reads hidden states at every position, where early exit leaves NaN.
        pooling = model.runner_type == "pooling"
        early_exit = bool(late) and not pooling and not wants_full_prefill(model.hf_config)
        vllm_config.cache_config.kv_sharing_fast_prefill = early_exit
        if early_exit:
            refuse_prompt_logprobs(model)


def refuse_prompt_logprobs(model_config) -> None:
    """Add the guard to the engine's logits processors."""
    # Once, however often vLLM completes this configuration.
    others = [name for name in model_config.logits_processors or () if name != GUARD]
    model_config.logits_processors = [*others, GUARD]


def check_request(sampling_params) -> None:
    """Raise VLLMValidationError (HTTP 400 when served) for a request that asks for prompt log-probabilities.

    `prompt_logprobs=0` asks too: it means the log-probability of the prompt tokens themselves.
    """
    if sampling_params.prompt_logprobs is not None:
        raise VLLMValidationError(NO_PROMPT_LOGPROBS, parameter="prompt_logprobs")


class PromptLogprobsGuard(LogitsProcessor, LogitsProcessorV2):
    """Refuses prompt log-probabilities and leaves logits alone, under either model runner."""

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
