"""Stands in for a vLLM server where its failures are tested: the same routes, one token per millisecond, and faults.

    python fake_vllm.py PORT '{"die_after": 5}'

Faults begin with the request after the given number: die_after (the process is killed), hang_after (no answer),
refuse_after (HTTP 500), short_after (a token too few). `error`: the server ends at once with this text.
"""

import asyncio
import json
import os
import signal
import sys

from aiohttp import web

STEP_S = 0.001


class Server:
    def __init__(self, faults: dict):
        self.faults, self.requests = faults, 0

    def due(self, fault: str) -> bool:
        return self.requests > self.faults.get(fault, float("inf"))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.requests += 1
        if self.due("die_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.due("hang_after"):
            await asyncio.sleep(3600)
        if self.due("refuse_after"):
            return web.Response(status=500)
        return await self.stream(request, asked["prompt"], asked["max_tokens"] - self.due("short_after"))

    async def stream(self, request: web.Request, prompt, tokens: int) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        length = len(prompt.split() if isinstance(prompt, str) else prompt)
        usage = {"prompt_tokens": length, "completion_tokens": tokens}
        for event in [*[{"choices": [{"text": "t1 "}]}] * tokens, {"choices": [], "usage": usage}]:
            await asyncio.sleep(STEP_S)
            await answer.write(f"data: {json.dumps(event)}\n\n".encode())
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def metrics(self, request: web.Request) -> web.Response:
        names = [f"vllm:prefix_cache_{what}" for what in ("queries", "hits")]
        return web.Response(text="".join(f"# TYPE {name} counter\n{name}_total 0.0\n" for name in names))


async def workers(request: web.Request) -> web.Response:
    """What the one worker says that was asked to stop counting."""
    stopped = (await request.json())["method"] == "stop_token_counts"
    return web.json_response({"results": [{"steps": 4, "early": 80, "late": 16, "needed": 16} if stopped else None]})


async def health(request: web.Request) -> web.Response:
    return web.Response()


def main(port: str, faults: str) -> None:
    server = Server(json.loads(faults))
    if "error" in server.faults:
        sys.exit(server.faults["error"])
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.get("/health", health), web.get("/metrics", server.metrics)])
    app.add_routes([web.post("/v1/completions", server.complete), web.post("/collective_rpc", workers)])
    web.run_app(app, host="127.0.0.1", port=int(port), print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
