"""Gates before numbers: each student must answer in vLLM as it does in Transformers, and save what it should.

Raw logits of vLLM (float32, greedy, the top 20 of every generated token) are compared with one Transformers forward
pass in float64 over prompt + answer, in which every token runs every layer.
"""

import itertools
import math
import tempfile
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from random import Random

from swiftkv import costmodel, files
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.errors import UserError
from swiftkv.evals.reference import (
    RAW_LOGITS,
    TOP,
    Deviation,
    Reference,
    capacity,
    count_layer_tokens,
    generate,
    largest_delta,
    request,
)
from swiftkv.modeling.checkpoint import check_checkpoint, read_shape
from swiftkv.provenance import Provenance
from swiftkv.workloads import tasks
from swiftkv.workloads.stream import segments
from swiftkv.workloads.tokens import load_tokenizer

BLOCK = 128  # tokens; a multiple of every KV cache block size vLLM uses
SPARE_BLOCKS = 8


@dataclass(frozen=True)
class Gate:
    """One check. `measured` must not exceed `limit` (or must equal it, see `detail`)."""

    gate: str
    variant: str
    measured: float
    limit: float
    passed: bool
    detail: str


class Checks:
    """The gates of one configuration: prompts, settings, and the base's results that students are held against."""

    def __init__(self, config: RunConfig, base_dir: Path, models: dict[str, Path]):
        settings, self.base_dir, self.models = config.verify, Path(base_dir), models
        self.chunk, self.tolerance = settings.max_num_batched_tokens, settings.tolerance
        self.tokens, self.ranks = settings.generate, config.tensor_parallel_size
        self.base = read_shape(self.base_dir)
        self.prompts, self.questions = prompts(config, self.base_dir)
        longest = max(len(p) + len(q) for p, q in zip(self.prompts, self.questions, strict=True))
        self.max_len = longest + 2 * self.tokens

    def kv_caches(self, shape: dict) -> int:
        """KV caches of a model: L, or l + (L - l) / n."""
        cut = shape.get("num_key_value_layers") or shape["num_hidden_layers"]
        return costmodel.kv_caches(shape, cut, shape.get("key_value_group_size", 1))

    def kv_bytes(self) -> int:
        """KV cache memory that every model divides into whole blocks, so that capacities compare exactly."""
        shapes = [self.base, *(read_shape(directory) for directory in self.models.values())]
        whole = math.lcm(*map(self.kv_caches, shapes))
        per_block = 2 * self.base["num_key_value_heads"] * costmodel.head_dim(self.base) * 4 * BLOCK
        needed = sum(math.ceil(self.max_len / BLOCK) for _ in self.prompts) + SPARE_BLOCKS
        return per_block * whole * math.ceil(needed * self.kv_caches(self.base) / whole)

    def engine(self, directory: Path, **settings):
        """An engine with raw logits; by default every prompt fits into one step."""
        from swiftkv.engines.engine import engine

        whole = {"max_num_batched_tokens": max(self.max_len, sum(map(len, self.prompts)) + len(self.prompts))}
        fixed = RAW_LOGITS | {
            "kv_cache_gib": self.kv_bytes() / self.ranks / (1 << 30),
            "tensor_parallel_size": self.ranks,
        }
        return engine(
            directory, max_model_len=self.max_len, max_num_seqs=len(self.prompts), **fixed, **whole | settings
        )

    def logits_gate(self, gate: str, variant: str, deviation: Deviation, detail: str = "") -> Gate:
        """Passed if no logit is off by more than the tolerance and no greedy token differs."""
        passed = deviation.delta <= self.tolerance and deviation.mismatches == 0
        detail = f"{deviation.tokens} generated tokens, {deviation.mismatches} argmax mismatches{detail}"
        return Gate(gate, variant, deviation.delta, self.tolerance, passed, detail)

    def base_gates(self) -> list[Gate]:
        """The base in vLLM against Transformers, and a student with l = L against the base."""
        from swiftkv.modeling.convert import convert

        layers = self.base["num_hidden_layers"]
        with tempfile.TemporaryDirectory() as directory:
            whole = Path(directory) / "whole"
            convert(self.base_dir, whole, layers, 1)
            with self.engine(self.base_dir) as engine:
                base, self.base_capacity = generate(engine, self.prompts, self.tokens), capacity(engine)
            with self.engine(whole) as engine:
                same = generate(engine, self.prompts, self.tokens)
        differing = sum(
            a != b for x, y in zip(base, same, strict=True) for a, b in zip(x.logits, y.logits, strict=True)
        )
        deviation = Reference(self.base_dir).compare(base)
        detail = f"tokens of {len(base) * self.tokens} whose top {TOP} logits differ from the base's"
        return [
            self.logits_gate("logits", BASE_ARM, deviation),
            Gate("l-equals-L", BASE_ARM, differing, 0, differing == 0, detail),
        ]

    def student_gates(self, variant: str) -> list[Gate]:
        """All gates of one student."""
        directory = self.models[variant]
        reference = Reference(directory)
        with self.engine(directory) as engine:
            gates = [
                self.early_exit_gate(variant, engine),
                self.logits_gate("logits", variant, reference.compare(generate(engine, self.prompts, self.tokens))),
                self.refusal_gate(variant, engine),
                self.capacity_gate(variant, engine),
            ]
        settings = {"max_num_batched_tokens": self.chunk, "enable_prefix_caching": True}
        with self.engine(directory, **settings) as engine:
            gates += self.chunked_gates(variant, engine, reference)
        with self.engine(directory, full_prefill=True) as engine:
            gates.append(self.full_prefill_gate(variant, engine, reference))
        return gates

    def early_exit_gate(self, variant: str, engine) -> Gate:
        """Prefill runs the late layers for as many tokens as logits are needed: one per prompt."""
        counted = count_layer_tokens(engine)
        request(engine, self.prompts, 1)
        counts = counted()
        passed = counts["late"] == len(self.prompts) and counts["early"] == sum(map(len, self.prompts))
        detail = f"late-layer tokens of {counts['early']} prompt tokens; equal to the logits needed"
        return Gate("early-exit", variant, counts["late"], len(self.prompts), passed, detail)

    def chunked_gates(self, variant: str, engine, reference: Reference) -> list[Gate]:
        """Chunked prefill on an empty prefix cache; then longer prompts that find the first ones' tokens in it."""
        first = generate(engine, self.prompts, self.tokens)
        longer = [a.prompt + a.tokens + question for a, question in zip(first, self.questions, strict=True)]
        second = generate(engine, longer, self.tokens)
        cold, hits = sum(a.cached for a in first), sum(a.cached for a in second)
        detail = f", chunks of {self.chunk} tokens, {{}} tokens from the prefix cache"
        chunked = self.logits_gate("logits-chunked-prefill", variant, reference.compare(first), detail.format(cold))
        cached = self.logits_gate("logits-prefix-caching", variant, reference.compare(second), detail.format(hits))
        reused = Gate("prefix-cache-hits", variant, hits, 1, hits >= 1, "tokens found in the prefix cache; at least 1")
        return [chunked, cached, reused]

    def refusal_gate(self, variant: str, engine) -> Gate:
        """A request for prompt log-probabilities is refused, and the engine goes on."""
        from vllm.exceptions import VLLMValidationError

        refused = 0
        for wanted in (0, 1):
            try:
                request(engine, self.prompts[:1], 1, prompt_logprobs=wanted)
            except VLLMValidationError:
                refused += 1
        alive = len(request(engine, self.prompts[:1], 1)) == 1
        detail = "requests with prompt_logprobs refused; the engine answers afterwards"
        return Gate("prompt-logprobs-refused", variant, refused, 2, refused == 2 and alive, detail)

    def capacity_gate(self, variant: str, engine) -> Gate:
        """The KV cache holds exactly L / (l + (L - l) / n) times the base's tokens, in the same memory."""
        tokens = capacity(engine)
        expected = Fraction(self.base["num_hidden_layers"], self.kv_caches(read_shape(self.models[variant])))
        measured = Fraction(tokens, self.base_capacity)
        detail = f"{tokens} tokens in the memory that holds {self.base_capacity} of the base; equal to {expected}"
        return Gate("kv-capacity", variant, float(measured), float(expected), measured == expected, detail)

    def full_prefill_gate(self, variant: str, engine, reference: Reference) -> Gate:
        """Full-prefill mode returns the prompt's own logits, within the tolerance or twice the rounding error that
        Transformers itself has in float32: names drawn at random are where a model amplifies rounding most."""
        outputs = request(engine, self.prompts, 1, prompt_logprobs=0)
        delta = max(reference.prompt_delta(o.prompt_token_ids, o.prompt_logprobs) for o in outputs)
        single = Reference(self.models[variant], "float32")
        own = max(largest_delta(reference.prompt_logits(p), single.prompt_logits(p)) for p in self.prompts)
        limit = max(self.tolerance, 2 * own)
        detail = (
            f"raw logits of {sum(map(len, self.prompts))} prompt tokens; Transformers in float32 is off by {own:.2g}"
        )
        return Gate("full-prefill-prompt-logits", variant, delta, limit, delta <= limit, detail)


def prompts(config: RunConfig, base_dir: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of held-out texts, each of `verify.prompt_lengths` from every task, and of a question to ask after each.

    Text and not random ids: where a trained model has nothing to say, it amplifies float32 rounding (the embedded base
    in Transformers alone, float32 against float64: up to 2e-3 on random ids, 2e-4 on its tasks).
    """
    tokenizer, pairs = load_tokenizer(base_dir), []
    for length, task in itertools.product(config.verify.prompt_lengths, tasks.TASKS):
        random = Random(f"verify/{task}/{config.seed}/{length}")
        context = tasks.context(task, "test", random, config.tasks[task])
        whole, *turns = (tokenizer(text)["input_ids"] for text, _ in segments(context, tokenizer.eos_token))
        again = itertools.chain.from_iterable(itertools.cycle(turns))
        prompt = list(itertools.islice(itertools.chain(whole, again), length))
        pairs.append((prompt, [tokenizer.eos_token_id, *turns[0]]))
    return [prompt for prompt, _ in pairs], [question for _, question in pairs]


def run(config: RunConfig, base_dir: Path, models: dict[str, Path], out: Path) -> None:
    """Check every student and write the gates to `out` (JSON: passed, gates).

    Raises UserError for a damaged model, and, after writing, for failed gates, naming them.
    """
    for directory in (base_dir, *models.values()):
        check_checkpoint(directory)
    inputs = [path for directory in (base_dir, *models.values()) for path in Path(directory).glob("*.safetensors")]
    with Provenance("verify", config, inputs=inputs, out=[out]) as provenance:
        checks = Checks(config, base_dir, models)
        gates = checks.base_gates()
        for variant in models:
            gates += checks.student_gates(variant)
            print(f"verify: {variant}: {sum(g.passed for g in gates if g.variant == variant)} gates passed", flush=True)
        failed = [gate for gate in gates if not gate.passed]
        files.write_json(out, {"passed": not failed, "gates": [asdict(gate) for gate in gates]})
        provenance.save(out)
    if failed:
        named = "; ".join(f"{g.variant} {g.gate}: {g.measured:g}, limit {g.limit:g} ({g.detail})" for g in failed)
        raise UserError(f"{out}: {len(failed)} gates failed: {named}")
