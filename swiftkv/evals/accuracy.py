"""Accuracy: lm-eval on the tasks, generation through vLLM (greedy, or drawn with several seeds), every arm alike.

Scores depend on the backend and the batch settings (lm-evaluation-harness issues 3150, 2851, 2583), so all
arms use one backend and one set of settings, which are written beside the scores and checked by `summarise`.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from swiftkv import files, outputs
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.evals import harness, lm_eval_tasks
from swiftkv.evals.lm_eval_tasks import SeededSampling
from swiftkv.provenance import Provenance
from swiftkv.workloads import real, tasks
from swiftkv.workloads.tasks import Item
from swiftkv.workloads.tokens import bos_text, count_tokens, load_tokenizer

MAX_NUM_BATCHED_TOKENS = 8192


@dataclass(frozen=True)
class AccuracyJob:
    """A task, answered greedily or drawn with a seed, and the file that holds its rows once it is done."""

    task: str
    items: list[Item]
    max_new_tokens: int
    sampling: SeededSampling | None
    part: Path

    @property
    def label(self) -> str:
        """Its name in lm_eval.json."""
        return f"{self.task}, seed {self.sampling.seed}" if self.sampling else self.task


def test_items(config: RunConfig, tokenizer=None) -> dict[str, list[Item]]:
    """The held-out items of every task. Raises UserError if a task has none.

    The tokenizer decides how the prompts of real tasks are written, and whether prompts begin with a BOS; without real
    tasks it may be left out, for generated items without one.
    """
    asked, items = config.accuracy, {}
    start = bos_text(tokenizer) if tokenizer else ""
    for task, settings in config.scored_tasks.items():
        items[task] = tasks.items(task, "test", asked.items_per_task, config.seed, settings)
        if not items[task]:
            raise UserError(f"task {task!r}: no test rows")
        items[task] = [dataclasses.replace(item, prompt=start + item.prompt) for item in items[task]]
    for task, settings in real_tasks(config).items():
        chat = settings.get("chat_template", asked.chat_template)
        items[task] = real.items(task, settings, config.seed, tokenizer, chat)
    return items


def real_tasks(config: RunConfig) -> dict[str, dict]:
    """Settings of the tasks on real data that the configuration asks for."""
    return config.raw["accuracy"].get("real", {})


def limits(config: RunConfig) -> dict[str, int]:
    """The most tokens that are generated per item of each task."""
    generated = dict.fromkeys(config.scored_tasks, config.accuracy.max_new_tokens)
    return generated | {task: real.max_new_tokens(task, settings) for task, settings in real_tasks(config).items()}


def samplings(config: RunConfig) -> list[SeededSampling | None]:
    """How every item is answered: once, greedily, or once per seed where the configuration asks for sampling."""
    asked = config.accuracy.sampling
    if asked is None:
        return [None]
    return [SeededSampling(asked.temperature, asked.top_p, config.seed + n) for n in range(asked.seeds)]


def settings_of(config: RunConfig, model_dir: Path, items: dict[str, list[Item]], tokenizer) -> dict:
    """Generation settings, equal for all arms. Raises UserError if a prompt does not fit into the model."""
    model = files.read_json(model_dir / "config.json")
    new = limits(config)
    longest = {task: max(count_tokens(tokenizer, [item.prompt for item in its])) for task, its in items.items()}
    task = max(longest, key=lambda task: longest[task] + new[task])
    limit = model.get("max_position_embeddings")
    if limit and longest[task] + new[task] > limit:
        raise UserError(
            f"task {task!r}: a prompt of {longest[task]} tokens and max_new_tokens {new[task]} exceed "
            f"max_position_embeddings {limit} of {model_dir}"
        )
    return {
        "dtype": config.accuracy.dtype or harness.dtype_of(model),
        "max_model_len": longest[task] + new[task],
        "max_gen_toks": config.accuracy.max_new_tokens,
        **harness.vllm_settings(config, MAX_NUM_BATCHED_TOKENS),
    }


def rows_of(arm: str, items: list[Item], samples: list[dict], sampling: SeededSampling | None, tokenizer) -> list[dict]:
    """One row per item: token counts in the model's tokenizer (no EOS), prediction, target and scores; with the seed,
    where the answer was drawn."""
    drawn = {"sample_seed": sampling.seed} if sampling else {}
    texts = [sample["filtered_resps"][0] for sample in samples]
    rows = []
    for item, sample, text, prompt, answer, generated in zip(
        items,
        samples,
        texts,
        count_tokens(tokenizer, [item.prompt for item in items]),
        count_tokens(tokenizer, [item.answer for item in items]),
        count_tokens(tokenizer, texts),
        strict=True,
    ):
        details = {name: sample[name] for name in lm_eval_tasks.metrics_of(item.task) if name != "score"}
        rows.append(
            {
                "arm": arm,
                "task": item.task,
                "id": item.id,
                "prompt_tokens": prompt,
                "answer_tokens": answer,
                "generated_tokens": generated,
                "prediction": text,
                "target": item.answer,
                "score": sample["score"],
                **details,
                **drawn,
            }
        )
    return rows


def finish(arm: str, model_dir: Path, jobs: list[AccuracyJob], settings: dict, tokenizer) -> None:
    """Evaluate the jobs whose part is missing, one at a time; no engine starts if none is."""
    who = f"accuracy {arm}"
    if not (todo := harness.to_do(who, jobs)):
        return
    with harness.vllm_backend(model_dir, settings) as lm:
        for job in todo:
            samples, record = lm_eval_tasks.evaluate(
                lm, job.task, job.items, job.max_new_tokens, job.part.parent / "lm_eval", job.sampling
            )
            rows = rows_of(arm, job.items, samples, job.sampling, tokenizer)
            files.write_json(job.part, {"record": record, "rows": rows})
            harness.told(who, job.label, rows)


def jobs_of(
    config: RunConfig, arm: str, items: dict[str, list[Item]], hashes: dict, settings: dict, work: Path
) -> list[AccuracyJob]:
    """Every task with every sampling; what decides a result names its part."""
    jobs, new = [], limits(config)
    for task, its in items.items():
        for sampling in samplings(config):
            key = harness.score_key(
                arm, hashes, settings, new[task], [dataclasses.asdict(item) for item in its], sampling
            )
            jobs.append(AccuracyJob(task, its, new[task], sampling, work / arm / f"{task}-{key}.json"))
    return jobs


def score_arm(config: RunConfig, arm: str, model_dir: Path, out_dir: Path, work: Path) -> None:
    """Score one arm and write `out_dir`/samples.jsonl and lm_eval.json; finished tasks are kept in `work`.

    Raises UserError for a missing model, a task without test rows, prompts too long, missing predictions.
    """
    tokenizer = load_tokenizer(model_dir)
    items, hashes = test_items(config, tokenizer), harness.model_hashes(model_dir)
    settings = settings_of(config, model_dir, items, tokenizer)
    section = config.raw["accuracy"]
    asked = {key: section[key] for key in ("real", "chat_template", "sampling") if key in section}
    jobs = jobs_of(config, arm, items, hashes, settings, work)
    written = [out_dir / "lm_eval.json", out_dir / "samples.jsonl"]
    with (
        outputs.alone(work / arm),
        Provenance("accuracy", config, out=written, arm=arm, model_sha256=hashes, settings=settings) as provenance,
    ):
        finish(arm, model_dir, jobs, settings, tokenizer)
        parts = {job.label: files.read_json(job.part) for job in jobs}
        records = {label: part["record"] for label, part in parts.items()}
        files.write_json(out_dir / "lm_eval.json", {"arm": arm, "settings": settings | asked, "tasks": records})
        provenance.save(out_dir / "samples.jsonl")
        files.write_jsonl(out_dir / "samples.jsonl", [row for part in parts.values() for row in part["rows"]])
