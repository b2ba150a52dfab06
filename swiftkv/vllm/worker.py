"""vLLM's worker around a model that exits early: what the model cannot learn from vLLM's own calls.

It tells the model which requests of a step are not answered, has no trace of the refusal of prompt log-probs (`guards`)
in the engine, and fails if a request for them comes past it.
"""

from copy import copy

from vllm.platforms import current_platform

from swiftkv.vllm.guards import check_request, others_than_guard

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
elif current_platform.is_xpu():
    from vllm.v1.worker.xpu_worker import XPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker


def without_guard(vllm_config):
    """`vllm_config` as the engine is to see it: without the guard among its logits processors.

    As it was where removing it would change the model runner, which the front end has already chosen: before vLLM 0.31
    the second one takes no custom logits processors.
    """
    changed = copy(vllm_config)
    changed.model_config = copy(vllm_config.model_config)
    changed.model_config.logits_processors = others_than_guard(changed.model_config) or None
    return changed if changed.use_v2_model_runner == vllm_config.use_v2_model_runner else vllm_config


class EarlyExitWorker(Worker):
    """The platform's worker."""

    def __init__(self, vllm_config, *args, **kwargs):
        super().__init__(without_guard(vllm_config), *args, **kwargs)

    def load_model(self, *args, **kwargs) -> None:
        super().load_model(*args, **kwargs)
        # The first model runner marks in this buffer, anew for each step, which requests end inside their prompt. The
        # second one tells the model's state (`model_state`).
        mask = getattr(self.model_runner, "discard_request_mask", None)
        if mask is not None:
            self.model_runner.get_model().model.step.unanswered = mask.np

    def execute_model(self, scheduler_output, *args, **kwargs):
        """Run a step. Raises VLLMValidationError, which ends the engine, for a request that no front end refused."""
        for request in scheduler_output.scheduled_new_reqs:
            if request.sampling_params is not None:
                check_request(request.sampling_params)
        return super().execute_model(scheduler_output, *args, **kwargs)
