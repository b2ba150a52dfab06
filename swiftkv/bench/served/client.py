"""vLLM's own benchmark client (`vllm bench serve`) against one server, in this process.

The command would import vLLM anew for each measurement, which takes longer than many of them.
"""

import asyncio
import contextlib
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftkv.engines.server import POLL_S, Server
from swiftkv.errors import UserError

FIXED = ("--temperature=0", "--disable-tqdm", "--save-detailed", "--ready-check-timeout-sec=0")
METRICS_S = 30  # to wait for a server's counters
DEATH_S = 5  # that a server whose requests failed has to end in


def run(server: Server, arguments: Sequence[str], seed: int, timeout_s: float, log: Path, what: str) -> dict:
    """What the client reports of one measurement, with the times of every request.

    Raises UserError, which begins with `what`, if the server ends, a request fails or all take longer than `timeout_s`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("w") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            result = asyncio.run(watched(server, parse(server, arguments, seed), timeout_s))
        if result["failed"]:
            settle(server)
            raise UserError(f"{result['failed']} of {len(result['errors'])} requests failed: {first_error(result)}")
    except UserError as error:
        raise UserError(f"served {what}: {error}") from None
    return result


def parse(server: Server, arguments: Sequence[str], seed: int):
    """The client's own argument parser on our arguments."""
    from vllm.benchmarks.serve import add_cli_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    address = ["--base-url", server.url.removesuffix("/v1"), "--model", server.model]
    return parser.parse_args([*address, *FIXED, "--seed", str(seed), *arguments])


async def watched(server: Server, arguments, timeout_s: float) -> dict:
    """The client's result. Raises UserError once the server has ended or `timeout_s` have passed."""
    from vllm.benchmarks.serve import main_async

    # A client that is stopped leaves its session open, of which aiohttp would complain.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    task, deadline = asyncio.create_task(main_async(arguments)), time.monotonic() + timeout_s
    while not task.done():
        server.check_alive()
        if time.monotonic() > deadline:
            raise UserError(f"not finished after {timeout_s:g} s (served.timeouts)")
        await asyncio.wait({task}, timeout=POLL_S)
    return task.result()


def settle(server: Server) -> None:
    """Raise UserError if the server is the reason why requests fail: it may take a moment to end."""
    deadline = time.monotonic() + DEATH_S
    while time.monotonic() < deadline:
        server.check_alive()
        time.sleep(POLL_S)


def first_error(result: dict) -> str:
    """The last line of the first request's error: the client keeps whole tracebacks."""
    error = next(text for text in result["errors"] if text)
    return error.strip().splitlines()[-1]


@dataclass(frozen=True)
class PrefixCache:
    """A server's counters: prompt tokens looked up in its prefix cache so far, and those found there."""

    queries: float
    hits: float


def prefix_cache(server: Server) -> PrefixCache:
    """The server's counters now. Raises UserError if it does not answer."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with urllib.request.urlopen(server.url.removesuffix("/v1") + "/metrics", timeout=METRICS_S) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    except OSError as error:
        server.check_alive()
        raise UserError(f"server: no metrics ({error})") from None

    def total(name: str) -> float:
        return sum(s.value for s in families[f"vllm:prefix_cache_{name}"].samples if s.name.endswith("_total"))

    return PrefixCache(total("queries"), total("hits"))
