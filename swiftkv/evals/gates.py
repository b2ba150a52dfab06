"""Gates before numbers: each student must answer in vLLM as it does in Transformers, and save what it should.

Raw logits of vLLM (float32, greedy, the top 20 of every generated token) are compared with one Transformers forward
pass in float64 over prompt + answer, in which every token runs every layer. No limit is chosen for a backend: a student
may be `verify.error_multiple` times as far off as its base is in the same setting on the same kind of prompts, and more
by as much as Transformers itself, in float32, loses more of the student than of the base. The base is held to that
loss, which is the largest of several passes that round differently (docs/method.md says why). A student that is further
off has read other tokens than the base: the base's error on those counts, too.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from swiftkv import costmodel, files
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.errors import UserError
from swiftkv.evals.gate_engines import Observation, Questions, Session, Setting, observers
from swiftkv.evals.gate_errors import Errors, Key, Truth, difference, farthest, largest
from swiftkv.evals.gate_file import Gate, identity
from swiftkv.evals.gate_prompts import KINDS, TEXT, prompts
from swiftkv.evals.reference import ULP, Answer, Deviation
from swiftkv.modeling.checkpoint import check_checkpoint, read_shape
from swiftkv.provenance import Provenance

BLOCK = 128  # tokens; a multiple of every KV cache block size vLLM uses
SPARE_BLOCKS = 8
WHOLE = "l=L"  # the student that skips nothing
LOGITS, CHUNKED, CACHED, PROMPT = (
    "logits", "logits-chunked-prefill", "logits-prefix-caching", "full-prefill-prompt-logits",
)  # fmt: skip
Observer = Callable[[Session], Callable[[], Observation]]
SUFFIX = {kind: "" if kind == TEXT else f"-{kind}" for kind in KINDS}


@dataclass
class BaseFound:
    """The errors of the base, by gate and kind of prompts; its answers and KV capacity."""

    errors: dict[Key, Errors] = field(default_factory=dict)
    answers: Sequence[Answer] = ()
    capacity: int = 0


@dataclass(frozen=True)
class Compared:
    """What a model's logits in vLLM are held to their limit by, for one gate and kind of prompts: the error that counts
    is the largest of a logit, or by how much a greedy token is behind the reference's."""

    gate: str
    kind: str
    measured: float
    errors: Errors
    detail: str

    def judged(self, variant: str, limit: float, limit_from: str) -> Gate:
        return Gate(self.gate + SUFFIX[self.kind], variant, self.measured, limit, limit_from, self.detail)


class Checks:
    """The gates of one configuration: prompts, settings, and the base's results that students are held against."""

    def __init__(self, config: RunConfig, base_dir: Path, models: dict[str, Path]):
        self.settings, self.base_dir, self.models = config.verify, Path(base_dir), models
        self.base, self.base_found = read_shape(self.base_dir), BaseFound()
        asked = tuple(prompts(config, self.base_dir))
        tokens, ranks = self.settings.generate, config.tensor_parallel_size
        blocks = sum(math.ceil((len(p.tokens) + len(p.question) + 2 * tokens) / BLOCK) for p in asked)
        kv_bytes = self.kv_bytes(blocks + SPARE_BLOCKS)
        self.asked = Questions(asked, tokens, self.settings.max_num_batched_tokens, kv_bytes, ranks)

    def kv_caches(self, shape: dict) -> int:
        """KV caches of a model: L, or l + (L - l) / n."""
        cut = shape.get("num_key_value_layers") or shape["num_hidden_layers"]
        return costmodel.kv_caches(shape, cut, shape.get("key_value_group_size", 1))

    def kv_bytes(self, blocks: int) -> int:
        """Memory of so many blocks of the base, or a few more, that every model divides into whole blocks, so that
        capacities compare exactly."""
        shapes = [self.base, *(read_shape(directory) for directory in self.models.values())]
        whole = math.lcm(*map(self.kv_caches, shapes))
        per_block = 2 * self.base["num_key_value_heads"] * costmodel.head_dim(self.base) * 4 * BLOCK
        return per_block * whole * math.ceil(blocks * self.kv_caches(self.base) / whole)

    def of_kind(self, kind: str, found: Sequence) -> list:
        """Of what was found for each prompt that of the prompts of one kind."""
        return [one for prompt, one in zip(self.asked.prompts, found, strict=True) if prompt.kind == kind]

    def limit(self, gate: str, kind: str, found: Errors, on_its_tokens: Errors | None = None) -> tuple[float, str]:
        """The limit of a student with such errors, and how it came about: by the base's, by what Transformers in
        float32 loses of either, and never by the student's own error in vLLM. `on_its_tokens`: the base's errors on
        the tokens of the student."""
        base, multiple = self.base_found.errors[gate, kind], self.settings.error_multiple
        where = "in this setting"
        if on_its_tokens is not None and on_its_tokens.vllm > base.vllm:
            base, where = on_its_tokens, "on the same tokens"
        how = f"{multiple:g} times the base's {base.vllm:.3g} {where}"
        if base.own > base.vllm:  # the base is nearer than float32 itself: luck, which no student needs
            how = f"{multiple:g} times what Transformers in float32 loses of the base here, {base.own:.3g}"
        more = found.own / base.own if found.own > base.own > 0 else 1.0
        if more > 1:
            how += f", times {more:.3g}, by which it loses more of the student, {found.own:.3g} against {base.own:.3g}"
        return self.or_floor(multiple * max(base.vllm, base.own) * more, how, found.scale)

    def base_limit(self, found: Errors) -> tuple[float, str]:
        """The limit of the base, and how it came about."""
        multiple = self.settings.base_multiple
        how = f"{multiple:g} times what Transformers in float32 loses on these tokens, {found.own:.3g}"
        return self.or_floor(multiple * found.own, how, found.scale)

    def or_floor(self, limit: float, how: str, scale: float) -> tuple[float, str]:
        """`limit`, or the rounding that no limit may be below."""
        floor = self.settings.floor_ulps * ULP * scale
        if limit >= floor:
            return limit, how
        return floor, f"{self.settings.floor_ulps:g} float32 roundings of the largest logit, {scale:.3g}"

    def compared(self, truth: Truth, observations: dict[Setting, Observation]) -> Iterator[Compared]:
        """A model's logits against Transformers, for every gate of logits and kind of prompts."""
        answers = self.by_kind(written(observations))
        prompts = self.by_kind({PROMPT: self.asked.tokens})
        own = truth.lost(answers, prompts)
        yield from (self.of_answers(truth, key, given, own[key]) for key, given in answers.items())
        # The base has the logits of its prompts in any engine, a student in full-prefill mode.
        said = observations.get(Setting.FULL, observations[Setting.PLAIN]).prompt_logits
        for (gate, kind), asked in prompts.items():
            right = [truth.exact.prompt_logits(prompt) for prompt in asked]
            errors = Errors(farthest(right, self.of_kind(kind, said)), own[gate, kind], largest(right))
            detail = f"raw logits of {sum(map(len, asked))} prompt tokens"
            yield Compared(gate, kind, errors.vllm, errors, detail)

    def by_kind(self, found: Mapping[str, Sequence]) -> dict[Key, list]:
        """What was found for each prompt, by gate, apart for every kind of prompts."""
        return {(gate, kind): self.of_kind(kind, each) for gate, each in found.items() for kind in KINDS}

    def of_answers(self, truth: Truth, key: Key, given: Sequence[Answer], own: float) -> Compared:
        """The logits of generated tokens, of one kind of prompts."""
        found = truth.exact.compare(given)
        cached = sum(answer.cached for answer in given)
        return Compared(*key, found.error, Errors(found.delta, own, found.scale), in_words(found, cached))

    def base_gates(self, observations: dict[Setting, Observation]) -> list[Gate]:
        """The base in vLLM against Transformers, in every setting in which a student is."""
        plain, gates = observations[Setting.PLAIN], []
        self.base_found.answers, self.base_found.capacity = plain.answers, plain.capacity
        for one in self.compared(Truth(self.base_dir), observations):
            self.base_found.errors[one.gate, one.kind] = one.errors
            gates.append(one.judged(BASE_ARM, *self.base_limit(one.errors)))
        return gates

    def whole_gates(self, plain: Observation) -> list[Gate]:
        """A student with l = L against the base: compiled apart, so equal up to the rounding of either."""
        gates = []
        for kind in KINDS:
            ours, theirs = self.of_kind(kind, self.base_found.answers), self.of_kind(kind, plain.answers)
            found = difference(list(zip(ours, theirs, strict=True)))
            limit, how = self.limit(LOGITS, kind, Errors(found.delta, 0.0, found.scale))
            detail = f"{found.tokens} generated tokens, {found.mismatches} answers that part from the base's"
            gates.append(Gate("l-equals-L" + SUFFIX[kind], BASE_ARM, found.error, limit, how, detail))
        return gates

    def gates_of_logits(self, variant: str, observations: dict[Setting, Observation], observer: Observer) -> list[Gate]:
        """A student's logits against its limits; where one is passed, the base reads the student's answers, too."""
        found = list(self.compared(Truth(self.models[variant]), observations))
        gates = [one.judged(variant, *self.limit(one.gate, one.kind, one.errors)) for one in found]
        over = {one.gate for one, gate in zip(found, gates, strict=True) if not gate.passed}
        given = {gate: answers for gate, answers in written(observations).items() if gate in over}
        also = self.read(given, observer) if given else {}
        return [
            gate
            if gate.passed
            else one.judged(variant, *self.limit(one.gate, one.kind, one.errors, also.get((one.gate, one.kind))))
            for one, gate in zip(found, gates, strict=True)
        ]

    def read(self, given: Mapping[str, Sequence[Answer]], observer: Observer) -> dict[Key, Errors]:
        """The errors of the base where a student chose the tokens of the answers `given` by gate, by kind of prompts
        as well."""
        said = {}
        for gate, answers in given.items():
            setting = Setting.PLAIN if gate == LOGITS else Setting.CHUNKED
            session = Session(BASE_ARM, self.base_dir, setting, student=False, answers=tuple(answers))
            said[gate] = observer(session)().answers
        read, truth = self.by_kind(said), Truth(self.base_dir)
        own = truth.lost(read, {})
        return {key: self.of_answers(truth, key, each, own[key]).errors for key, each in read.items()}

    def student_gates(self, variant: str, observations: dict[Setting, Observation], observer: Observer) -> list[Gate]:
        """All gates of one student."""
        plain, chunked = observations[Setting.PLAIN], observations[Setting.CHUNKED]
        hits = sum(answer.cached for answer in chunked.again)
        refused = "requests with prompt_logprobs refused by an engine that answers afterwards"
        return [
            self.early_exit_gate(variant, plain),
            *self.gates_of_logits(variant, observations, observer),
            Gate("prefix-cache-hits", variant, hits, 1, "by definition", "tokens found in the prefix cache"),
            Gate("prompt-logprobs-refused", variant, plain.refused, 2, "by definition", refused),
            self.capacity_gate(variant, plain),
        ]

    def early_exit_gate(self, variant: str, plain: Observation) -> Gate:
        """Prefill runs the late layers for as many tokens as logits are needed: one per prompt."""
        tokens, count = plain.counts["early"], len(self.asked.prompts)
        detail = f"late-layer tokens of {tokens} prompt tokens in {plain.counts['steps']} steps"
        measured = plain.counts["late"] if tokens == sum(map(len, self.asked.tokens)) else tokens
        return Gate("early-exit", variant, measured, count, "logits needed: one per prompt", detail)

    def capacity_gate(self, variant: str, plain: Observation) -> Gate:
        """The KV cache holds exactly L / (l + (L - l) / n) times the base's tokens, in the same memory."""
        expected = Fraction(self.base["num_hidden_layers"], self.kv_caches(read_shape(self.models[variant])))
        measured = Fraction(plain.capacity, self.base_found.capacity)
        detail = f"{plain.capacity} tokens in the memory that holds {self.base_found.capacity} of the base"
        return Gate("kv-capacity", variant, float(measured), float(expected), f"the formula: {expected}", detail)


def written(observations: Mapping[Setting, Observation]) -> dict[str, Sequence[Answer]]:
    """The answers that a model wrote, by the gate that looks at them."""
    plain, chunked = observations[Setting.PLAIN], observations[Setting.CHUNKED]
    return {LOGITS: plain.answers, CHUNKED: chunked.answers, CACHED: chunked.again}


def in_words(found: Deviation, cached: int) -> str:
    """What a row says beside its number."""
    text = f"{found.tokens} generated tokens; largest difference of a logit {found.delta:.3g}"
    text += f"; {found.mismatches} other tokens, at most {found.margin:.3g} behind the reference's"
    return f"{text}; {cached} tokens from the prefix cache" if cached else text


def measure(checks: Checks, jobs: int) -> list[Gate]:
    """Every gate, from the engines of all models, `jobs` side by side."""
    from swiftkv.modeling.convert import convert

    with tempfile.TemporaryDirectory() as directory, observers(checks.asked, jobs) as observer:
        whole = Path(directory) / "whole"
        convert(checks.base_dir, whole, checks.base["num_hidden_layers"], 1)
        without = (Setting.PLAIN, Setting.CHUNKED)  # the base has no full prefill of its own
        of_base = {each: observer(Session(BASE_ARM, checks.base_dir, each, student=False)) for each in without}
        of_whole = observer(Session(WHOLE, whole, Setting.PLAIN, student=False))
        of_students = {
            variant: {each: observer(Session(variant, path, each, student=True)) for each in Setting}
            for variant, path in checks.models.items()
        }
        gates = checks.base_gates(seen(of_base))
        gates += checks.whole_gates(of_whole())
        say(BASE_ARM, gates)
        for variant, looks in of_students.items():
            of_variant = checks.student_gates(variant, seen(looks), observer)
            say(variant, of_variant)
            gates += of_variant
    return gates


def seen(looks: dict[Setting, Callable[[], Observation]]) -> dict[Setting, Observation]:
    """The observations of a model, waited for."""
    return {setting: look() for setting, look in looks.items()}


def say(variant: str, gates: Sequence[Gate]) -> None:
    print(f"verify: {variant}: {sum(gate.passed for gate in gates)} of {len(gates)} gates passed", flush=True)


def run(config: RunConfig, base_dir: Path, models: dict[str, Path], out: Path, jobs: int = 1) -> None:
    """Check every student, with `jobs` engines side by side, and write the gates to `out` (JSON: passed, identity,
    gates).

    Raises UserError for a damaged model, and, after writing, for failed gates, naming them.
    """
    directories = {BASE_ARM: Path(base_dir), **models}
    for directory in directories.values():
        check_checkpoint(directory)
    inputs = [path for directory in directories.values() for path in Path(directory).glob("*.safetensors")]
    with Provenance("verify", config, inputs=inputs, out=[out]) as provenance:
        held = {name: (read_shape(directory), directory) for name, directory in directories.items()}
        holds_for = identity(config, provenance.record, held)
        gates = measure(Checks(config, base_dir, models), jobs)
        failed = [gate for gate in gates if not gate.passed]
        rows = [gate.row() for gate in gates]
        files.write_json(out, {"passed": not failed, "identity": holds_for, "gates": rows})
        provenance.save(out)
    if failed:
        named = "; ".join(f"{g.variant} {g.gate}: {g.measured:g}, limit {g.limit:g} ({g.detail})" for g in failed)
        raise UserError(f"{out}: {len(failed)} gates failed: {named}")
