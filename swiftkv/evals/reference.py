"""A model in vLLM held against the same weights in Transformers."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOP = 20  # raw logits compared per generated token: the largest ones
ULP = 2.0**-24  # largest relative error of rounding to float32
RAW_LOGITS = {"logprobs_mode": "raw_logits", "max_logprobs": TOP}  # of an engine that `generate` is given


@dataclass(frozen=True)
class Answer:
    """A prompt, the tokens generated from it and, per token, vLLM's largest raw logits by token id."""

    prompt: list[int]
    tokens: list[int]
    logits: list[dict[int, float]]
    cached: int


@dataclass(frozen=True)
class Deviation:
    """vLLM against Transformers over `tokens` generated tokens: the largest |delta logit|; greedy tokens that are not
    the reference's, and by how much its own is ahead of vLLM's in the worst of them; the reference's largest logit."""

    delta: float
    mismatches: int
    tokens: int
    margin: float = 0.0
    scale: float = 0.0

    @property
    def error(self) -> float:
        """Of logits or of the order of two, the larger."""
        return max(self.delta, self.margin)


class Reference:
    """A model in Transformers, every token through every layer.

    float64, so that rounding of the reference does not count as an error of vLLM (norms stay float32 there). With
    `moved`, a seed, every weight is moved by about half a unit in the last place of float32: the same model to anyone
    who computes in float32, rounded otherwise.
    """

    def __init__(self, directory: Path, dtype: str = "float64", moved: int | None = None):
        import torch
        from transformers.utils.logging import disable_progress_bar

        from swiftkv.modeling.checkpoint import load_whole

        disable_progress_bar()
        self.torch = torch
        self.model = load_whole(directory, getattr(torch, dtype), times=3)  # an engine wants its place beside it
        if moved is not None:
            self.move_weights(moved)
        self.states: dict[tuple, object] = {}  # final hidden states by the tokens that were run
        self.known: dict[tuple, object] = {}  # engines that agree are compared on the same tokens

    def move_weights(self, seed: int) -> None:
        """Multiply every weight by 1 + ULP * a standard normal number, drawn on the CPU, the same on every device."""
        drawn = self.torch.Generator().manual_seed(seed)
        with self.torch.no_grad():
            for weight in self.model.parameters():
                noise = self.torch.randn(weight.shape, generator=drawn, dtype=weight.dtype)
                weight.mul_(noise.mul_(ULP).add_(1).to(weight.device))

    def run(self, sequences: Iterable[Sequence[int]]) -> None:
        """Run token sequences, those that begin another one of them within that: no token looks ahead."""
        for tokens in sorted(map(tuple, sequences), key=len, reverse=True):
            self.hidden(tokens)

    def hidden(self, tokens: tuple[int, ...]):
        """Token ids [T] -> final hidden states [T, D], from a sequence that begins with them where one was run."""
        for known, states in self.states.items():
            if known[: len(tokens)] == tokens:
                return states[: len(tokens)]
        with self.torch.inference_mode():
            ids = self.torch.tensor([tokens], device=self.model.device)
            self.states[tokens] = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        return self.states[tokens]

    def logits(self, tokens: Sequence[int], last: int = 0):
        """Token ids [T] -> logits [T, vocabulary] on the CPU, of the `last` positions only if given."""
        with self.torch.inference_mode():
            return self.model.lm_head(self.hidden(tuple(tokens))[-last:]).cpu()

    def rows(self, answer: Answer):
        """Logits [tokens, vocabulary] of the positions that an answer's tokens were chosen at."""
        key = (*answer.prompt, None, *answer.tokens)
        if key not in self.known:
            self.known[key] = self.logits(read_by(answer), len(answer.tokens))
        return self.known[key]

    def compare(self, answers: Iterable[Answer]) -> Deviation:
        """How far vLLM's largest logits and greedy tokens are from the reference's."""
        delta, mismatches, count, margin, scale = 0.0, 0, 0, 0.0, 0.0
        for answer in answers:
            rows = self.rows(answer)
            for row, top in zip(rows, answer.logits, strict=True):
                theirs = self.torch.tensor(list(top.values()), dtype=row.dtype)
                delta = max(delta, (row[list(top)] - theirs).abs().max().item())
            behind = rows.max(-1).values - rows.gather(1, self.torch.tensor(answer.tokens)[:, None])[:, 0]
            margin, scale = max(margin, behind.max().item()), max(scale, rows.abs().max().item())
            mismatches += (rows.argmax(-1) != self.torch.tensor(answer.tokens)).sum().item()
            count += len(answer.tokens)
        return Deviation(delta, mismatches, count, margin, scale)

    def rounding(self, exact: "Reference", answers: Iterable[Answer]) -> float:
        """Largest |delta logit| to `exact` over vLLM's largest logits: of the same model in fewer digits."""
        found = 0.0
        for answer in answers:
            for ours, theirs, top in zip(self.rows(answer), exact.rows(answer), answer.logits, strict=True):
                found = max(found, (ours[list(top)].to(theirs.dtype) - theirs[list(top)]).abs().max().item())
        return found

    def prompt_logits(self, prompt: Sequence[int]) -> list[float]:
        """The raw logit of every prompt token after the first, as the token before it predicts it."""
        key = tuple(prompt)
        if key not in self.known:
            self.known[key] = self.logits(prompt)[:-1].gather(1, self.torch.tensor(prompt[1:])[:, None])[:, 0].tolist()
        return self.known[key]

    def prompt_delta(self, prompt: Sequence[int], scores: Sequence[dict | None]) -> float:
        """Largest |delta| of the logits of prompt tokens; `scores` as vLLM returns raw prompt logits."""
        return largest_delta(self.prompt_logits(prompt), own_logits(prompt, scores))


def read_by(answer: Answer) -> list[int]:
    """The tokens that a model has read when it has chosen the last one of an answer."""
    return [*answer.prompt, *answer.tokens[:-1]]


def own_logits(prompt: Sequence[int], scores: Sequence[dict | None]) -> list[float]:
    """The logits of the prompt's own tokens after the first, out of vLLM's raw prompt logits."""
    return [score[token].logprob for token, score in zip(prompt[1:], scores[1:], strict=True)]


def largest_delta(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest absolute difference of two lists; 0 if they are empty."""
    return max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def generate(engine, prompts: Sequence[Sequence[int]], tokens: int, **sampling) -> list[Answer]:
    """Greedy answers of `tokens` tokens each, from one batch."""
    return [answer_of(output) for output in request(engine, prompts, tokens, logprobs=TOP, **sampling)]


def answer_of(output) -> Answer:
    """vLLM's request output, asked for with raw logits, as an Answer."""
    return Answer(
        prompt=list(output.prompt_token_ids),
        tokens=list(output.outputs[0].token_ids),
        logits=[{token: entry.logprob for token, entry in top.items()} for top in output.outputs[0].logprobs],
        cached=output.num_cached_tokens or 0,
    )


def read_answer(answer: Answer, output) -> Answer:
    """An answer with the raw logits of a model that was given what `read_by` says and chose one token more."""
    rows = [*output.prompt_logprobs[len(answer.prompt) :], output.outputs[0].logprobs[0]]
    logits = [{token: entry.logprob for token, entry in row.items()} for row in rows]
    return Answer(answer.prompt, answer.tokens, logits, cached=0)


def request(engine, prompts: Sequence[Sequence[int]], tokens: int, **sampling) -> list:
    """vLLM's request outputs for greedy answers of exactly `tokens` tokens."""
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, **sampling)
    return engine.generate([{"prompt_token_ids": list(p)} for p in prompts], greedy, use_tqdm=False)


def count_layer_tokens(engine) -> Callable[[], Counter]:
    """Start counting the tokens that run the early and the late layers; the returned function gives the counts, of one
    tensor-parallel rank, for all count the same."""
    engine.apply_model(_start_counting)
    return lambda: engine.apply_model(_counts)[0]


def _start_counting(model) -> None:
    """Runs in every rank's process, so it has a name that can be sent there."""
    model.model.token_counts = Counter()


def _counts(model) -> Counter:
    return model.model.token_counts


def capacity(engine) -> int:
    """Tokens the KV cache holds: blocks times tokens per block, as the scheduler was given them."""
    cache = engine.llm_engine.vllm_config.cache_config
    return cache.num_gpu_blocks * cache.block_size
