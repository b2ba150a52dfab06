"""Where a student's answers part from the base's, teacher-forced on held-out items in Transformers: `swiftkv diagnose`.

One forward pass over prompt and answer gives the distribution at every answer token. Greedy generation gives exactly
this answer if and only if the greedy choice at each of its positions is the answer's token, so nothing is generated.

    positions.csv    KL(base || student) and top-1 agreement by position in the answer (1-based; the last one ends it)
    lengths.csv      the same and the share of exact answers by prompt length, over the four tasks
    difficulty.csv   the same by number of records per task, and for the needle in ever longer contexts
    lost.jsonl       items that the base gets right and the student wrong
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence

from swiftkv import files
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.errors import UserError
from swiftkv.evals.teacher_forcing import Choices, choices, divergence
from swiftkv.modeling.checkpoint import check_checkpoint, load_whole, weight_files
from swiftkv.provenance import Provenance
from swiftkv.registry import names
from swiftkv.stats import paired_difference_ci
from swiftkv.workloads import tasks
from swiftkv.workloads.tokens import bos_text, load_tokenizer

FILES = names("diagnose")
NEEDLE = "needle"
SHORTEST_PASSAGE = 8  # tokens, in any tokenizer: its words
BATCH_TOKENS = 8192
RESAMPLES = 1000
KEY = ["arm", "task", "records", "id"]
EXAMPLES = 3  # lost items kept per arm, task and number of records


@dataclass(frozen=True)
class Probe:
    """One item, encoded: `answer` ends with EOS."""

    item: tasks.Item
    records: int
    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


def probes_of(tokenizer, task: str, count: int, seed: int, settings: dict) -> list[Probe]:
    """Held-out items of one task and difficulty; prompt and answer are encoded apart, as in training and in serving."""
    items = tasks.items(task, "test", count, seed, settings)
    start = bos_text(tokenizer)
    prompts = tokenizer([start + item.prompt for item in items], add_special_tokens=False)["input_ids"]
    answers = tokenizer([item.answer + tokenizer.eos_token for item in items], add_special_tokens=False)["input_ids"]
    return [Probe(i, settings["records"], p, a) for i, p, a in zip(items, prompts, answers, strict=True)]


def task_probes(config: RunConfig, tokenizer) -> list[Probe]:
    """The four tasks at every difficulty: their records times each factor."""
    probes, settings = [], config.diagnosis
    for task, hardest in config.tasks.items():
        for records in sorted({max(1, round(hardest["records"] * factor)) for factor in settings.difficulty}):
            probes += probes_of(tokenizer, task, settings.items, config.seed, hardest | {"records": records})
    return probes


def needle_probes(config: RunConfig, tokenizer, limit: int) -> list[Probe]:
    """Needles in contexts as long as fit into each of `diagnosis.needle_tokens`, none above `limit` tokens."""
    settings = config.diagnosis

    def needles(records: int) -> list[Probe]:
        return probes_of(tokenizer, NEEDLE, settings.needles, config.seed, {"records": records})

    def longest(records: int) -> int:
        return max(probe.length for probe in needles(records))

    budgets = [tokens for tokens in settings.needle_tokens if tokens <= limit]
    # The most records whose longest probe is within a budget, by bisection: length grows with the records.
    fit = {bisect_right(range(1, tokens // SHORTEST_PASSAGE), tokens, key=longest) for tokens in budgets}
    return [probe for records in sorted(fit - {0}) for probe in needles(records)]


def batches(probes: list[Probe]) -> Iterator[list[Probe]]:
    """Probes of similar length, together at most BATCH_TOKENS tokens with padding (or a single probe)."""
    batch: list[Probe] = []
    for probe in sorted(probes, key=lambda probe: probe.length):
        if batch and probe.length * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(probe)
    yield batch


@torch.inference_mode()
def answer_states(model, batch: list[Probe]) -> torch.Tensor:
    """Final hidden states [N, D] at the N positions that choose a batch's answer tokens, one probe after the other."""
    rows = [torch.tensor(probe.prompt + probe.answer[:-1]) for probe in batch]
    # Padding on the right, which no token before it attends to: no mask is needed.
    states = model.model(input_ids=pad_sequence(rows, batch_first=True).to(model.device), use_cache=False)[0]
    return torch.cat([s[len(p.prompt) - 1 : p.length - 1] for s, p in zip(states, batch, strict=True)])


def token_rows(arm: str, batch: list[Probe], mine: Choices, base: Choices, tokenizer) -> pd.DataFrame:
    """One row per answer token of a batch: KL(base || student), agreement of the greedy choices, right or not.

    The end is right if the choice is EOS or begins a new line, where generation stops.
    """
    rows = pd.DataFrame(
        {
            "arm": arm,
            "task": probe.item.task,
            "records": probe.records,
            "id": probe.item.id,
            "prompt_tokens": len(probe.prompt),
            "position": position,
            "token": token,
            "last": position == len(probe.answer),
        }
        for probe in batch
        for position, token in enumerate(probe.answer, 1)
    )
    rows["kl"] = divergence(mine, base).cpu().numpy()
    rows["agreement"] = (mine.choice == base.choice).float().cpu().numpy()
    rows["choice"] = mine.choice.cpu().numpy()
    new_line = np.array([text.startswith("\n") for text in tokenizer.batch_decode(mine.choice[:, None])])
    rows["right"] = (rows.choice == rows.token) | (rows["last"] & new_line)
    return rows.drop(columns=["token", "last"])


def tokens_of_arms(base_dir: Path, models: dict[str, Path], probes: list[Probe], tokenizer) -> pd.DataFrame:
    """The token rows of every arm, the base's first; its hidden states are kept, on the CPU, for all of them."""
    base, parts = load_whole(base_dir), list(batches(probes))
    states = [answer_states(base, batch).cpu() for batch in parts]
    rows = []
    for arm, directory in {BASE_ARM: base_dir, **models}.items():
        model = base if arm == BASE_ARM else load_whole(directory)
        for batch, state in zip(parts, states, strict=True):
            theirs = choices(base, state)
            mine = theirs if arm == BASE_ARM else choices(model, answer_states(model, batch))
            rows.append(token_rows(arm, batch, mine, theirs, tokenizer))
        print(f"diagnose: {arm}: {len(probes)} items", flush=True)
    tokens = pd.concat(rows, ignore_index=True)
    if not np.isfinite(tokens.kl).all():
        raise UserError(f"diagnose: the logits of {tokens.arm[~np.isfinite(tokens.kl)].iloc[0]} are not finite")
    return tokens


def items_of(tokens: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and item: exact (every choice right), the base's exact, mean KL and agreement over the answer."""
    grouped = tokens.groupby(KEY, sort=False)
    items = grouped.agg(prompt_tokens=("prompt_tokens", "first"), exact=("right", "all"), kl=("kl", "mean"),
                        agreement=("agreement", "mean")).reset_index()  # fmt: skip
    base = items[items.arm == BASE_ARM].set_index(KEY[1:]).exact.rename("base_exact")
    return items.join(base, on=KEY[1:]).astype({"exact": float, "base_exact": float})


def summary(items: pd.DataFrame, by: list[str], seed: int) -> pd.DataFrame:
    """Means per group, and the 95% paired interval of the difference in exact answers to the base."""
    rows = []
    for key, group in items.groupby(by, sort=False):
        means = group[["prompt_tokens", "exact", "base_exact", "kl", "agreement"]].mean()
        _, low, high = paired_difference_ci(group.exact, group.base_exact, seed, RESAMPLES)
        rows.append(dict(zip(by, key, strict=True)) | {"items": len(group), **means, "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def length_bins(prompt_tokens: pd.Series) -> pd.DataFrame:
    """The bin of each prompt, doubling in length: columns prompt_from (included) and prompt_to (excluded)."""
    start = 2 ** np.floor(np.log2(prompt_tokens)).astype(int)
    return pd.DataFrame({"prompt_from": start, "prompt_to": 2 * start})


def lost(tokens: pd.DataFrame, items: pd.DataFrame, probes: list[Probe], tokenizer) -> list[dict]:
    """Items that the base gets right and a student wrong, with its greedy choices up to the first wrong one."""
    chosen = items[(items.base_exact == 1) & (items.exact == 0)].groupby(KEY[:3], sort=False).head(EXAMPLES)
    texts = {(p.item.task, p.records, p.item.id): p.item for p in probes}
    grouped, rows = tokens.groupby(KEY), []
    for row in chosen.itertuples(index=False):
        answer = grouped.get_group((row.arm, row.task, row.records, row.id))
        wrong = int(answer[~answer.right].position.min())
        item = texts[row.task, row.records, row.id]
        greedy = tokenizer.decode(answer.choice.iloc[:wrong].tolist())
        rows.append(
            {
                "arm": row.arm,
                "task": row.task,
                "records": row.records,
                "id": row.id,
                "prompt_tokens": row.prompt_tokens,
                "position": wrong,
                "said": greedy,
                "answer": item.answer,
                "prompt": item.prompt,
            }
        )
    return rows


def check(base_dir: Path, models: dict[str, Path]) -> int:
    """The most tokens that every model takes. Raises UserError for a damaged model directory."""
    return min(check_checkpoint(directory).max_position_embeddings for directory in (base_dir, *models.values()))


def all_probes(config: RunConfig, tokenizer, limit: int) -> list[Probe]:
    """Every probe of the configuration. Raises UserError if one of the four tasks does not fit into `limit` tokens."""
    probes = task_probes(config, tokenizer)
    longest = max(probes, key=lambda probe: probe.length)
    if longest.length > limit:
        raise UserError(
            f"diagnosis.difficulty: {longest.item.task} with {longest.records} records has {longest.length} tokens; "
            f"the models take {limit}"
        )
    return probes + needle_probes(config, tokenizer, limit)


def frames_of(tokens: pd.DataFrame, items: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    """The tables by name."""
    four = items[items.task != NEEDLE]
    positions = tokens[tokens.task != NEEDLE].groupby(["arm", "task", "position"], sort=False)
    means = {name: (name, "mean") for name in ("kl", "agreement", "right")}
    binned = four.join(length_bins(four.prompt_tokens))
    return {
        "positions": positions.agg(tokens=("kl", "size"), **means).reset_index(),
        "lengths": summary(binned, ["arm", "prompt_from", "prompt_to"], seed),
        "difficulty": summary(items, ["arm", "task", "records"], seed),
    }


def run(config: RunConfig, base_dir: Path, models: dict[str, Path], out_dir: Path) -> None:
    """Write the files named above into `out_dir`.

    Raises UserError for a configuration without `diagnosis`, a damaged model, an item that does not fit, or an arm
    whose logits are not finite.
    """
    if config.diagnosis is None:
        raise UserError(f"{config.path}: key 'diagnosis' is missing; config/config.yaml has one to copy")
    base_dir, tokenizer = Path(base_dir), load_tokenizer(base_dir)
    limit = check(base_dir, models)
    inputs = [path for directory in (base_dir, *models.values()) for path in weight_files(Path(directory))]
    with Provenance("diagnose", config, inputs=inputs, out=[out_dir / name for name in FILES]) as provenance:
        probes = all_probes(config, tokenizer, limit)
        tokens = tokens_of_arms(base_dir, models, probes, tokenizer)
        items = items_of(tokens)
        for name, frame in frames_of(tokens, items, config.seed).items():
            files.write_text(out_dir / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
            provenance.save(out_dir / f"{name}.csv")
        files.write_jsonl(out_dir / "lost.jsonl", lost(tokens, items, probes, tokenizer))
        provenance.save(out_dir / "lost.jsonl")
