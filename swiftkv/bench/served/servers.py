"""One vLLM server per arm, alive side by side and asked in turn: same flags, same KV memory, random weights.

On a CPU a server of vLLM is three processes (front end, engine core, worker): 2.4 GiB beside weights and KV cache.
An idle worker spins for a second after its last step and sleeps from then on, hence SETTLE_S.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from swiftkv.bench.served import client
from swiftkv.bench.served.plan import ServedPlan
from swiftkv.engines.arms import word_tokenizer, write_model
from swiftkv.engines.counting import TokenCounts
from swiftkv.engines.engine import BESIDE_OTHERS, GIB
from swiftkv.engines.server import Server, count_tokens, server
from swiftkv.engines.settings import Arm, EngineSettings

SETTLE_S = 1.5
CACHE_BLOCK = 32  # tokens; vLLM's 128 on a CPU would find nothing of a trace's blocks once they are scaled down


def server_arguments(settings: EngineSettings) -> list[str]:
    """Arguments of `vllm serve` that all arms share."""
    from vllm.platforms import current_platform

    caching = [f"--block-size={CACHE_BLOCK}", "--enable-prefix-caching"]
    return [
        f"--dtype={settings.shape['dtype']}",
        "--load-format=dummy",
        f"--max-model-len={settings.max_model_len}",
        f"--max-num-seqs={settings.max_num_seqs}",
        f"--seed={settings.seed}",
        f"--tensor-parallel-size={settings.tensor_parallel_size}",
        f"--max-num-batched-tokens={settings.max_num_batched_tokens}",
        *(caching if settings.prefix_caching else ["--no-enable-prefix-caching"]),
        "--uvicorn-log-level=warning",
        "--enforce-eager" if current_platform.is_cpu() else f"--gpu-memory-utilization={BESIDE_OTHERS}",
    ]


@contextmanager
def serve_arm(arm: Arm, settings: EngineSettings, folder: Path, port: int | None, timeout_s: float) -> Iterator[Server]:
    """A server of one arm's model, which is written to `folder` with a tokenizer."""
    model_dir = write_model(arm, settings, folder / "models" / arm.name)
    word_tokenizer(settings.shape["vocab_size"]).save_pretrained(model_dir)
    with server(
        model_dir,
        log=folder / "logs" / f"server-{arm.name}.log",
        port=port,
        kv_cache_gib=settings.kv_memory_bytes / settings.tensor_parallel_size / GIB,
        arguments=server_arguments(settings),
        timeout_s=timeout_s,
        countable=True,
    ) as running:
        yield running


class Servers:
    """The servers of all arms, with or without prefix caching; asking for the other kind ends those that run.

    Use as a context manager. A rerun that finds everything measured starts none.
    """

    def __init__(self, plan: ServedPlan, folder: Path, port: int | None, factory: Callable = serve_arm):
        self.arms, self.timeouts, self.settings = plan.arms, plan.timeouts, plan.settings
        self.folder, self.port, self.factory = folder, port, factory
        self.running: dict[str, Server] = {}
        self.counts: dict[str, TokenCounts] = {}  # of the warm-up
        self.stack = ExitStack()

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    def get(self, arm: str, prefix_caching: bool) -> Server:
        """The arm's server, idle and settled. Raises UserError if it does not start or has ended."""
        if not self.running or prefix_caching != self.settings.prefix_caching:
            self.start(prefix_caching)
        self.running[arm].check_alive()
        time.sleep(SETTLE_S)
        return self.running[arm]

    def start(self, prefix_caching: bool) -> None:
        """End what runs, start a server per arm, one after the other, and warm each up."""
        self.stack.close()
        self.running, self.settings = {}, replace(self.settings, prefix_caching=prefix_caching)
        for number, arm in enumerate(self.arms):
            print(f"served: starting server {arm.name}", flush=True)
            port = None if self.port is None else self.port + number
            self.running[arm.name] = self.stack.enter_context(
                self.factory(arm, self.settings, self.folder, port, self.timeouts.start_s)
            )
        for arm in self.arms:
            warm_up = partial(self.warm_up, arm.name)
            self.counts[arm.name] = count_tokens(self.running[arm.name], warm_up)

    def counted(self, arm: str, prefix_caching: bool) -> TokenCounts:
        """What the warm-up of the arm's server ran."""
        self.get(arm, prefix_caching)
        return self.counts[arm]

    def warm_up(self, arm: str) -> None:
        """As many requests at once as run at once; nothing of them is kept."""
        batch, log = self.settings.warm_up, self.folder / "logs" / "client.log"
        arguments = [
            "--dataset-name=random",
            f"--random-input-len={batch.input_len}",
            f"--random-output-len={batch.output_len}",
            f"--num-prompts={batch.num_requests}",
        ]
        client.run(self.running[arm], arguments, 0, self.timeouts.start_s, log, f"warm-up of {arm}")
