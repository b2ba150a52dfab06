"""A student behind `vllm serve`, used through the OpenAI client: answers, streams, refusals, schemas, and its end."""

import json
import socket
from urllib.parse import urlsplit

import openai
import psutil
import pytest

from swiftkv.engines.server import free_port, server
from swiftkv.errors import UserError
from tests.helpers.vllm_helpers import prompts as random_prompts

pytestmark = pytest.mark.vllm
FLAGS = [
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "8"),
    *("--max-num-batched-tokens", "97"),
    # Without the second setting a random model writes little but white space.
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "count": {"enum": [1, 2, 3]}},
    "required": ["name", "count"],
    "additionalProperties": False,
}


def prompts(lengths) -> list[list[int]]:
    """Random prompts of ASCII characters: bytes that are no UTF-8 would come back as part of the answer's text."""
    return [[2 + token % 90 for token in prompt] for prompt in random_prompts(lengths)]


@pytest.fixture(scope="module")
def served(tiny_student, tmp_path_factory):
    log = tmp_path_factory.mktemp("logs") / "server.log"
    with server(tiny_student, log=log, kv_cache_gib=0.05, arguments=FLAGS) as running:
        yield running


def test_nothing_listens_beyond_this_machine(served):
    """Neither the API nor what its processes say to one another."""
    first = psutil.Process(served.process.pid)
    family = [first, *first.children(recursive=True)]
    found = [c.laddr for one in family for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert urlsplit(served.url).port in {address.port for address in found}
    assert {address.ip for address in found} <= {"127.0.0.1", "::1"}, found


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)


def greedy(served, prompt: list[int], tokens: int = 12, **more) -> dict:
    """Arguments of a completion request whose answer names its token ids."""
    extra = {"ignore_eos": True, "return_token_ids": True} | more.pop("extra_body", {})
    return {
        **{"model": served.model, "prompt": prompt, "temperature": 0, "max_tokens": tokens},
        **{"extra_body": extra},
        **more,
    }


def reference(tiny_student, prompt: list[int], tokens: int) -> list[int]:
    """Transformers' greedy answer."""
    from swiftkv.evals.reference import Reference

    model, made = Reference(tiny_student), []
    for _ in range(tokens):
        made.append(int(model.logits(prompt + made)[-1].argmax()))
    return made


@pytest.mark.parametrize("prompt", prompts((5, 130, 260)), ids=len)
def test_streamed_tokens_are_transformers_own(served, client, tiny_student, prompt):
    """Prompts longer than the 97 tokens of a step are prefilled in chunks."""
    parts = [chunk.choices[0] for chunk in client.completions.create(**greedy(served, prompt), stream=True)]
    assert len(parts) >= 12
    assert [token for part in parts for token in part.token_ids or []] == reference(tiny_student, prompt, 12)
    whole = client.completions.create(**greedy(served, prompt)).choices[0]
    assert whole.text == "".join(part.text for part in parts)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"extra_body": {"prompt_logprobs": 0}}, "SWIFTKV_FULL_PREFILL"),
        # The legacy way to ask, which is that of lm-eval's local-completions.
        ({"echo": True, "logprobs": 1}, "SWIFTKV_FULL_PREFILL"),
    ],
)
def test_prompt_logprobs_are_a_bad_request_and_the_server_goes_on(served, client, asked, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.completions.create(**greedy(served, [1, 2, 3], **asked))
    assert caught.value.status_code == 400
    assert client.completions.create(**greedy(served, [1, 2, 3], 2)).usage.completion_tokens == 2


def test_answers_follow_a_json_schema(served, client):
    response_format = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
    for prompt in prompts((5, 70, 130)):
        answer = client.completions.create(
            **greedy(served, prompt, 300, extra_body={"ignore_eos": False, "response_format": response_format})
        )
        thing = json.loads(answer.choices[0].text)
        assert set(thing) == {"name", "count"} and thing["name"].islower() and thing["count"] in (1, 2, 3)


def test_a_cancelled_stream_leaves_room_for_others(served, client, tiny_student):
    prompt = prompts((50,))[0]
    for _ in range(10):  # more than run at once
        with client.completions.create(**greedy(served, prompt, 900), stream=True) as stream:
            next(iter(stream))
    answer = client.completions.create(**greedy(served, prompt))
    assert answer.choices[0].token_ids == reference(tiny_student, prompt, 12)


def test_a_taken_port_is_named(tiny_student, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port {port} is taken"),
            server(tiny_student, log=tmp_path / "log", port=port),
        ):
            pass


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tiny_student, tmp_path):
    port = free_port()
    with (
        pytest.raises(UserError, match=r"ended with code 1: .*LoRA"),
        server(tiny_student, log=tmp_path / "log", port=port, arguments=["--enable-lora"]),
    ):
        pass
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in commands if f"--port {port}" in line]
