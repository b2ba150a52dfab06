"""What differs between the vLLM releases the plugin runs on (0.27 to 0.32; see docs/vllm.md), in one place."""

try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2
except ImportError:

    class LogitsProcessorV2:
        """Stands in where the V2 model runner has no custom logits processors."""


def keep_siblings(client) -> None:
    """Undo what an in-process engine client does when nothing refers to it any more: take down the distributed state
    that the other engines of the process share (from 0.31 on, by a private finalizer)."""
    if finalizer := getattr(client, "_finalizer", None):
        finalizer.detach()
