"""What the base writes for its own training data through vLLM: answers, and prompts.

A batch is kept in the work directory under a hash of all that decides it, so that a killed run goes on where it was.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.config.data import Answers
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import read_config, weight_files
from swiftkv.workloads.chat import ChatTemplate

AT_ONCE = 64  # requests of the engine, at most
STEP_TOKENS = 4096  # of the scheduler
# Prompts are sampled as the model has them: https://arxiv.org/abs/2406.08464 does so, too.
PROMPT_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 256}
LEAST_PROMPT = 10  # characters
MARK = "MARK"  # stands for a turn's content while the text round it is looked for


def sampling_of(answers: Answers | None) -> dict:
    """vLLM's sampling parameters of answers."""
    given = answers or Answers()
    return {
        "temperature": 0.7 if given.temperature is None else given.temperature,
        "top_p": 0.95 if given.top_p is None else given.top_p,
        "max_tokens": given.max_new_tokens or 512,
    }


class Answerer:
    """The base as an engine, which starts when it is first asked for something that is not kept yet; close it."""

    def __init__(self, config: RunConfig, base_dir: Path, work: Path, tokenizer):
        self.config, self.base_dir, self.work, self.tokenizer = config, base_dir, work, tokenizer
        self.sampling, self.written = sampling_of(config.distill.data.answers), 0
        self.engine = self.template = None
        self.model = ""  # a hash of the weights, once it is needed

    def open(self) -> None:
        """Read the template and the weights. Raises UserError for a tokenizer without a template."""
        if self.template is None:
            self.template = ChatTemplate(self.tokenizer)
            self.model = files.digest([files.sha256(path) for path in weight_files(self.base_dir)])

    def close(self) -> None:
        """End the engine."""
        if self.engine is not None:
            from swiftkv.engines.engine import close_engine

            close_engine(self.engine)
            self.engine = None

    @property
    def room(self) -> int:
        """The longest prompt in tokens: a row's, as far as the model leaves room for an answer."""
        longest = read_config(self.base_dir).get("max_position_embeddings") or self.config.distill.sequence_length
        return min(self.config.distill.sequence_length, longest - self.most)

    @property
    def most(self) -> int:
        """The most tokens that are asked for."""
        return max(self.sampling["max_tokens"], PROMPT_SAMPLING["max_tokens"])

    def start(self):
        """The engine. Raises UserError if vLLM cannot be started with the base."""
        if self.engine is not None:
            return self.engine
        from swiftkv.engines import engine

        engine.prepare_environment(in_process=True, ranks=self.config.tensor_parallel_size)
        vllm = engine.load_vllm()
        on_cpu = vllm.platforms.current_platform.is_cpu()
        ranks = self.config.tensor_parallel_size
        weights = sum(path.stat().st_size for path in weight_files(self.base_dir))
        self.engine = engine.make_engine(
            self.base_dir,
            dtype="float32" if on_cpu else "auto",
            max_model_len=self.room + self.most,
            max_num_seqs=AT_ONCE,
            max_num_batched_tokens=STEP_TOKENS,
            kv_cache_gib=engine.scoring_kv_gib_here(weights, ranks, on_cpu),
            enable_prefix_caching=True,
            **({"tensor_parallel_size": ranks} if ranks > 1 else {}),
        )
        return self.engine

    def stops(self) -> list[int]:
        """The tokens that end a turn: EOS, and the special token that the template writes after an answer."""
        chat = [{"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}]
        after = self.template.text(chat).rpartition(MARK)[2]
        ends = [token for token in self.template.special if token and after.startswith(token)]
        found = {self.tokenizer.convert_tokens_to_ids(token) for token in ends} | {self.tokenizer.eos_token_id}
        return sorted(found - {None})

    def generate(self, prompts: list[list[int]], sampling: dict, key: str) -> list[dict]:
        """`text` and whether it `ended` by itself, for each prompt; from the work directory if made before."""
        path = self.work / f"{files.digest([self.model, sampling, self.config.seed, key, prompts])}.jsonl"
        if not path.is_file():
            files.write_jsonl(path, self.ask(prompts, sampling, key))
        rows = files.read_jsonl(path)
        self.written += len(rows)
        return rows

    def ask(self, prompts: list[list[int]], sampling: dict, key: str) -> list[dict]:
        """`generate`, by the engine. Every request has a seed of its own."""
        engine = self.start()
        from vllm import SamplingParams

        stops, seeds = self.stops(), [files.digest([key, self.config.seed, n], 8) for n in range(len(prompts))]
        settings = [SamplingParams(**sampling, stop_token_ids=stops, seed=int(seed, 16)) for seed in seeds]
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)
        done = [output.outputs[0] for output in outputs]
        return [{"text": one.text, "ended": one.finish_reason == "stop"} for one in done]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts in which the template has written every special token."""
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def answered(self, rows: list[dict], dropped: Counter) -> list[dict]:
        """The rows, each with the answer of the base to its last turn; what cannot be answered is counted.

        An answer that has reached the limit is kept: a student is to follow the base from token to token, wherever the
        text ends.
        """
        if not rows:
            return []
        self.open()
        prompts = self.encode([self.template.text(row["messages"], add_generation_prompt=True) for row in rows])
        fitting = [(row, ids) for row, ids in zip(rows, prompts, strict=True) if len(ids) <= self.room]
        if longer := len(rows) - len(fitting):
            dropped[f"prompts longer than {self.room} tokens"] += longer
        if not fitting:
            return []
        made = self.generate([ids for _, ids in fitting], self.sampling, "answers")
        found = []
        for (row, _), answer in zip(fitting, made, strict=True):
            if text := answer["text"].strip():
                found.append({**row, "messages": [*row["messages"], {"role": "assistant", "content": text}]})
            else:
                dropped["empty answers"] += 1
        return found

    def prompts(self, at_once: int, dropped: Counter) -> Iterator[dict]:
        """Prompts that the base writes when a user's turn is opened, `at_once` together and without end.

        Raises UserError if the template does not show where a user's turn begins.
        """
        self.open()
        opening, mark, _ = self.template.text([{"role": "user", "content": MARK}]).partition(MARK)
        if not mark:
            raise UserError("distill.data.mix: own: the chat template does not write a user's turn as it is")
        (ids,) = self.encode([opening])
        for number in count():
            for made in self.generate([ids] * at_once, PROMPT_SAMPLING, f"prompts-{number}"):
                text = made["text"].strip()
                if made["ended"] and len(text) >= LEAST_PROMPT:
                    yield {"messages": [{"role": "user", "content": text}]}
                else:
                    dropped["prompts that were too short or did not end"] += 1
