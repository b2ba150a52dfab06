"""What the choices of the distillation recipe are worth (`swiftkv ablate`): every arm on the same students, seeds and
held-out text, as many as share their training data in one joint run.

Judged without generation (see `probe`): KL to the base, and the share of answers that come out exactly right. Early
exit at the cut, the student without its late half, is the lower bound.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from swiftkv import files, outputs
from swiftkv.config import RunConfig
from swiftkv.config.training import AblationArm
from swiftkv.distill.loop import Distillation, Options
from swiftkv.distill.probe import probe
from swiftkv.errors import UserError
from swiftkv.markup import pipe_table, with_interval
from swiftkv.modeling.checkpoint import BASE_TYPES, check_checkpoint, read_config, weight_files
from swiftkv.provenance import Provenance
from swiftkv.registry import names
from swiftkv.results import PUBLISHED
from swiftkv.stats import LEVEL
from swiftkv.workloads.sources import stream_of
from swiftkv.workloads.stream import Batch
from swiftkv.workloads.tokens import load_tokenizer

EXIT = "early-exit"
MEASURES = ("kl", "answers_right")
HEADER = ["arm", "tokens (M)", "KL to the base", "answers right (%)", "against the first (points)", "published"]


def own(arm: AblationArm) -> dict:
    """What is written of an arm, as a configuration takes it."""
    return arm.model_dump(exclude_unset=True)


def arms_by_data(config: RunConfig) -> list[list[AblationArm]]:
    """The arms in groups that train on the same tasks."""
    groups: dict[str, list[AblationArm]] = {}
    for arm in config.ablations.arms:
        groups.setdefault(json.dumps(own(arm).get("tasks"), sort_keys=True), []).append(arm)
    return list(groups.values())


def group_config(config: RunConfig, arms: list[AblationArm], seed: int) -> RunConfig:
    """The configuration of a joint run: every variant once for each of the arms."""
    variants = [
        variant | {"name": f"{variant['name']}.{arm.name}", "distill": own(arm).get("distill", {})}
        for variant in config.raw["variants"]
        for arm in arms
    ]
    tasks = own(arms[0]).get("tasks", config.tasks)
    return RunConfig(config.raw | {"seed": seed, "tasks": tasks, "variants": variants}, config.path)


def train(config: RunConfig, base_dir: Path, work: Path, texts: list[Batch], options: Options) -> list[dict]:
    """Distil every variant of `config` and judge it: a row per student, and one per cut for early exit."""
    tokenizer = load_tokenizer(base_dir)
    run = Distillation(config, base_dir, work, options=options)
    run.resume()
    run.train(stream_of(config, tokenizer))
    cuts = sorted({student.cut for student in run.students})
    tallies, left = probe(run.teacher, run.students, texts, tuple(cuts))
    trained = {trainee.name: trainee for trainee in run.trainees}
    rows = []
    for student, tally in zip(run.students, tallies, strict=True):
        variant, _, arm = student.name.partition(".")
        dropped = trained[student.name].dropped
        rows.append(
            {"variant": variant, "arm": arm, "tokens": trained[student.name].tokens, "dropped": dropped} | tally.row()
        )
        exit_row = {"variant": variant, "arm": EXIT, "tokens": 0, "dropped": None}
        rows.append(exit_row | left[cuts.index(student.cut)].row())
    return rows


def measure(config: RunConfig, base_dir: Path, work: Path, options: Options) -> pd.DataFrame:
    """A row per variant, arm and seed. Raises UserError for a task that does not exist."""
    section, tokenizer = config.ablations, load_tokenizer(base_dir)
    texts = list(itertools.islice(stream_of(config, tokenizer, "test")(0), section.probes))
    rows = []
    for seed in section.seeds:
        for number, arms in enumerate(arms_by_data(config)):
            print(f"ablate: seed {seed}, {', '.join(arm.name for arm in arms)}", flush=True)
            found = train(group_config(config, arms, seed), base_dir, work / f"seed{seed}-{number}", texts, options)
            rows += [{"seed": seed} | row for row in found]
    return pd.DataFrame(rows).drop_duplicates(["variant", "arm", "seed"])


def interval(values) -> tuple[float, float, float]:
    """Mean and its 95% t interval over seeds; (value, nan, nan) for one, a point where all agree."""
    values = np.asarray(values, dtype=float)
    mean, spread = values.mean(), values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    reach = stats.t.ppf((1 + LEVEL) / 2, max(1, len(values) - 1)) * spread
    return mean, mean - reach, mean + reach


def published(config: RunConfig) -> dict[str, float]:
    """Published mean accuracy by arm. Raises UserError for an id that config/published.csv does not have."""
    table = pd.read_csv(PUBLISHED).set_index("id")["value"]
    wanted = {arm.name: arm.published for arm in config.ablations.arms if arm.published is not None}
    if missing := [id for id in wanted.values() if id not in table.index]:
        raise UserError(f"ablations.arms: published: {missing[0]!r} is not an id of {PUBLISHED.name}")
    return {arm: float(table[id]) for arm, id in wanted.items()}


def summarise(config: RunConfig, frame: pd.DataFrame) -> pd.DataFrame:
    """A row per variant and arm: means over the seeds, differences to the first arm seed by seed, 95% intervals."""
    known, recipe = published(config), config.ablations.arms[0].name
    rows = []
    for (variant, arm), group in frame.groupby(["variant", "arm"], sort=False):
        reference = frame[(frame.variant == variant) & (frame.arm == recipe)].set_index("seed")
        mine = group.set_index("seed")
        row = {"variant": variant, "arm": arm, "tokens": int(mine.tokens.mean()), "seeds": len(mine)}
        for name in MEASURES:
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), interval(mine[name]), strict=True))
        change = (mine.answers_right - reference.answers_right).dropna()
        row |= dict(zip(("difference", "difference_low", "difference_high"), interval(change), strict=True))
        row["published_difference"] = (known[arm] - known[recipe]) / 100 if {arm, recipe} <= known.keys() else None
        rows.append(row | {"dropped": int(mine.dropped.notna().sum())})
    return pd.DataFrame(rows)


def markdown(summary: pd.DataFrame) -> str:
    """The summary as one table per variant."""
    lines = []
    for variant, group in summary.groupby("variant", sort=False):
        lines += [f"**{variant}**, {group.seeds.max()} seeds, means with 95% intervals", ""]
        lines += [pipe_table(HEADER, [cells(row) for row in group.itertuples()]), ""]
    return "\n".join(lines)


def cells(row) -> list[str]:
    """One line of the summary."""
    right = (row.answers_right, row.answers_right_low, row.answers_right_high)
    change = (row.difference, row.difference_low, row.difference_high)
    return [
        row.arm,
        f"{row.tokens / 1e6:.2f}",
        with_interval(row.kl, row.kl_low, row.kl_high, ".4f"),
        with_interval(*(100 * value for value in right), ".1f"),
        with_interval(*(100 * value for value in change), "+.1f"),
        "" if pd.isna(row.published_difference) else f"{100 * row.published_difference:+.2f}",
    ]


def run(config: RunConfig, base_dir: Path, out: Path, work: Path, options: Options | None = None) -> None:
    """Write `out`/ablations.csv (a row per arm and seed), summary.csv and summary.md. Raises UserError if the
    configuration has no `ablations`."""
    if config.ablations is None:
        raise UserError(f"{config.path}: has no `ablations`; config/ablations.yaml has")
    published(config)
    base_dir, out, work = Path(base_dir), Path(out), Path(work)
    read_config(base_dir, BASE_TYPES)
    check_checkpoint(base_dir)
    written = [out / name for name in names("ablate")]
    with (
        outputs.alone(work),
        Provenance("ablate", config, inputs=weight_files(base_dir), out=written) as provenance,
    ):
        frame = measure(config, base_dir, work, options or Options())
        summary = summarise(config, frame)
        files.write_text(out / "ablations.csv", frame.to_csv(index=False))
        files.write_text(out / "summary.md", markdown(summary))
        provenance.save(out / "summary.csv")
        files.write_text(out / "summary.csv", summary.round(6).to_csv(index=False))
    print((out / "summary.md").read_text())
