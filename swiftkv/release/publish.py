"""Publish a finished run (`swiftkv publish`): committed evidence, the README's tables, the base model's card.

    results/reference/<machine>/<scale>/   result files with their provenance, tables, figures; no models
    results/reference/README.md            every claim with what each run found
    README.md, docs/method.md              what stands between their markers
    workflow/resources/base/README.md      the card of the embedded base model

All numbers in these texts come from result files; a test holds the committed texts against the committed evidence.
"""

import re
import shutil
from pathlib import Path

import pandas as pd

from swiftkv import files
from swiftkv.audit import manifest
from swiftkv.config import BASE_ARM, ROOT, RunConfig
from swiftkv.config.fields import NAMES
from swiftkv.config.measuring import CONTROLS
from swiftkv.config.words import PATTERNS
from swiftkv.errors import UserError
from swiftkv.files import REFERENCE
from swiftkv.markup import pipe_table, with_interval
from swiftkv.registry import COUNTS, KEPT
from swiftkv.release.ledger import page
from swiftkv.report.claims.report import tally
from swiftkv.results import Results

STAGES = {  # benchmark files of a stage -> what it leaves behind
    "base": "models/base",
    "distill": "models",
    "verify": "verify",
    "throughput": "throughput",
    "accuracy": "accuracy",
    "diagnose": "diagnosis",
}
MIB = 1 << 20
METHOD = ROOT / "docs" / "method.md"


def place(machine: str, scale: str) -> Path:
    """Where the evidence of a run goes. Raises UserError for a name that leaves results/reference, and for a directory
    there that is no published run of this scale."""
    if not re.fullmatch(NAMES, machine) or (REFERENCE / machine).is_file():
        raise UserError(f"--machine {machine}: allowed is a name such as h100-sxm: {PATTERNS[NAMES]}")
    target = REFERENCE / machine / scale
    records = map(files.read_json, files.finished(target, "**/*.provenance.json"))
    if target.exists() and any(target.iterdir()) and not any(record.get("scale") == scale for record in records):
        raise UserError(f"{target}: exists and is no published run of scale {scale}; it is not replaced")
    return target


def copy_evidence(results: Results, target: Path) -> None:
    """Copy the KEPT files of a run, and parameter counts in place of its models, if it has any, for `target`.

    Raises UserError if there is nothing but a configuration, or a file names a directory of this machine.
    """
    source = results.directory
    evidence = sorted({path for pattern in KEPT for path in files.finished(source, pattern)})
    if not any(path.parent != source for path in evidence):
        raise UserError(f"{source}: holds no results that could be published")
    with files.atomic_dir(target, replace=True) as directory:
        for path in evidence:
            if str(ROOT).encode() in path.read_bytes():
                raise UserError(f"{path}: names a directory of this machine ({ROOT}); it cannot be published")
            copy = directory / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        if (source / "models").is_dir():
            files.write_text(directory / COUNTS, results.parameters.to_csv(index=False))
        manifest.write(directory)


def between(text: str, name: str, block: str) -> str:
    """`text` with what stands between the markers of `name` replaced. Raises UserError if it has no such markers."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in text or end not in text:
        raise UserError(f"markers {start} and {end} are missing in the text to be renewed")
    head, rest = text.split(start, 1)
    return f"{head}{start}\n{block.strip()}\n{end}{rest.split(end, 1)[1]}"


def result_row(results: Results, arm: str) -> list[str]:
    """One line of the README's table: speed, latency and KV memory of an arm."""
    speed = results.throughput.query("arm == @arm").set_index("point")
    latency = results.latency.set_index("arm").loc[arm]
    ratios = [speed.loc["prompt-only"], speed.loc["ratio-10to1"]]
    shown = [with_interval(row.speedup, row.ci_low, row.ci_high) for row in ratios]
    tpot = with_interval(latency.tpot_ratio, latency.ci_low, latency.ci_high, ".3f")
    capacity = results.kv_capacity.set_index("arm").ratio_to_base[arm]
    return [f"`{arm}`", *shown, f"{ratios[0].share_of_limit:.0%}", tpot, f"{capacity:.3f}"]


def results_block(results: Results, where: str) -> str:
    """The README's results: one row per student, the machine, the verdicts in one line."""
    header = [
        "student",
        "prompts alone",
        "10:1",
        "of the limit (prompts)",
        "time per output token",
        "tokens in the KV cache",
    ]
    arms = [arm for arm in results.throughput.arm.unique() if arm not in (*CONTROLS, BASE_ARM)]
    table = pipe_table(header, [result_row(results, arm) for arm in arms])
    origin = results.origin("throughput")
    return (
        f"Relative to the base model, at scale `{results.scale}` on {origin.hardware} (95% intervals; git "
        f"{origin.git}):\n\n"
        f"{table}\n\n"
        f"Verdicts on {len(results.claims)} claims: {tally(results.claims)}: "
        f"[every claim with its evidence]({where}/claims.md), [figures and tables]({where})."
    )


def size(path: Path) -> int:
    """Bytes below a path."""
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())


def stage_row(run: Path, stage: str, left: str) -> list[str]:
    """Time, peak memory and disk of a stage, from Snakemake's benchmark files; accuracy has one per arm."""
    benchmarks = files.finished(run, f"benchmarks/{stage}*.tsv")
    if not benchmarks:
        raise UserError(f"{run}/benchmarks: no record of stage {stage}; run the whole pipeline first")
    frame = pd.concat(pd.read_csv(path, sep="\t") for path in benchmarks)
    memory = f"{frame.max_rss.max() / 1024:.1f} GiB"
    return [stage, f"{frame.s.sum() / 60:.1f} min", memory, f"{size(run / left) / MIB:.0f} MiB"]


def stages_block(run: Path, hardware: str) -> str:
    """The cost of each stage on the machine of the run."""
    rows = [stage_row(run, stage, left) for stage, left in STAGES.items()]
    table = pipe_table(["stage", "time (sum of jobs)", "peak memory of a job", "disk"], rows)
    return f"{table}\n\nOn {hardware}. All other stages take seconds."


def card(base: Path, samples: pd.DataFrame) -> str:
    """The model card of the embedded base, from its training record and its held-out samples."""
    record = files.read_json(base / "training.json")
    provenance = files.read_json(base / "training.json.provenance.json")
    hardware, recipe = provenance["hardware"], record["recipe"]
    rows = []
    for task, group in samples.groupby("task", sort=False):
        tokens = group.prompt_tokens.mean() / group.answer_tokens.mean()
        rows.append([task, f"{len(group)}", f"{group.score.mean():.1%}", f"{tokens:.1f}"])
    rows.append(["mean", f"{len(samples)}", f"{samples.groupby('task').score.mean().mean():.1%}", ""])
    return CARD.format(
        parameters=record["parameters"] / 1e6,
        layers=recipe["num_hidden_layers"],
        hidden=recipe["hidden_size"],
        tokens=record["tokens"] / 1e6,
        minutes=record["seconds"] / 60,
        machine=f"{hardware['cores']} cores of {hardware['cpu']}",
        seed=record["seed"],
        data=record["data"]["sha256"],
        sha=provenance["git"]["sha"],
        table=pipe_table(["task", "held-out items", "score", "prompt:answer tokens"], rows),
    )


CARD = """# The embedded base model

A Llama of {parameters:.2f} million parameters ({layers} layers, hidden size {hidden}, own tokenizer), trained by this
project on four synthetic tasks in the shape of enterprise prompts: code completion, text-to-SQL, summarisation and RAG
(`swiftkv/workloads/tasks`). It exists so that SwiftKV can be distilled, served and judged end to end on a machine
without GPU or model hub. It knows nothing beyond these tasks; use it for nothing else. Licence: Apache-2.0.

Every name (function, table, column, service, entity) of the test split is absent from training. Held-out scores, greedy
generation by vLLM:

{table}

What these scores are, and are not:

- "Held out" means new names. The generators, their templates and the words that names are made of are the same in
  training and test, so a score says that the model copies and looks up in its context, and nothing about language.
- The tasks are saturated: at nearly 100% no student can be seen to lose what a real model would. Claims about
  accuracy are therefore `not comparable` on this base; the scale `smollm2` judges them on a pretrained model.
- It was retrained so that rewiring costs something. Trained on answers alone, the first base lost nothing at 50%
  without any distillation: its late layers had nothing to do on prompt tokens. In the last stage of the recipe the
  loss on prompt tokens therefore weighs three times that on answers (`prompt_weight: 3.0`); tried on that first base,
  undistilled students at 50% fell from 97.0 to 83.0% and distilled ones came back to 96.8%. That there is a gap to
  recover is a choice of this project.
- In the needle test, which it was not trained on, it answers all items in contexts of up to 256 tokens (its training
  rows), a quarter at 384 and 512, and none at 2,048.

Training: {tokens:.1f} million tokens, {minutes:.0f} minutes on {machine}, seed {seed}, data hash `{data}`, code
at commit `{sha}`. `training.json` is the record, `training.jsonl` the loss curve. To train it again:

```bash
swiftkv train-base --config config/config.yaml --out my/base --work my/base-work   # resumable
```
"""


def texts(config: RunConfig, machine: str) -> dict[Path, str]:
    """The generated texts as the committed evidence of `machine` has them: README, ledger and card."""
    where = f"results/reference/{machine}/{config.scale}"
    results = Results(config.scale, ROOT / where)
    readme = between((ROOT / "README.md").read_text("utf-8"), "results", results_block(results, where))
    pages = {ROOT / "README.md": readme, REFERENCE / "README.md": page(REFERENCE)}
    base, samples = ROOT / config.base.path, results.samples
    return pages | {base / "README.md": card(base, samples[samples.arm == BASE_ARM])}


def run(config: RunConfig, machine: str) -> None:
    """Copy the evidence of a finished run to results/reference/`machine`, and write the texts made from it.

    Of the whole pipeline on the embedded base all texts, of other runs with verdicts the ledger, of others none.

    Raises UserError if a result is missing or names a directory of this machine, or `machine` is no name.
    """
    results, target = Results(config.scale, config.results), place(machine, config.scale)
    copy_evidence(results, target)
    if not results.has("accuracy") or config.base.source != "embedded":
        if results.has("claims") or results.has("served_claims"):
            files.write_text(REFERENCE / "README.md", page(REFERENCE))
        return
    for path, text in texts(config, machine).items():
        files.write_text(path, text)
    stages = stages_block(config.results, results.origin("throughput").hardware)
    files.write_text(METHOD, between(METHOD.read_text("utf-8"), "stages", stages))
