"""The second model runner's state of a model that exits early: it tells which requests of a step are not answered."""

from vllm.v1.worker.gpu.model_states.default import DefaultModelState


def unanswered(batch):
    """Whether the step ends inside a request's prompt [requests]; None for a step without prompts, or a dummy run."""
    if not batch.has_prefill:
        return None
    return batch.num_computed_prefill_tokens_np + batch.num_scheduled_tokens < batch.prefill_len_np


class EarlyExitModelState(DefaultModelState):
    def prepare_attn(self, input_batch, *args, **kwargs):
        """Attention metadata of a step, built by the late layers' builders from what `Step` holds."""
        self.model.model.step.unanswered = unanswered(input_batch)
        return super().prepare_attn(input_batch, *args, **kwargs)
