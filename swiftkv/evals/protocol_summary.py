"""The paper's protocol, every arm against the base, item by item, beside the published values where they compare."""

from pathlib import Path

import pandas as pd

from swiftkv import files, results
from swiftkv.config import BASE_ARM, UNDISTILLED, RunConfig
from swiftkv.errors import UserError
from swiftkv.evals.paired import MEAN, RESAMPLES, compare_items, compare_means
from swiftkv.evals.paper_tasks import WHOLE, paper_tasks
from swiftkv.provenance import Provenance

MEAN_METRIC = "avg_7task"
SAME = ("path", "coverage", "settings", "source", "items_sha256")  # what must not differ between an arm and the base
COLUMNS = (
    "arm task path coverage items cut differing score base_score difference ci_low ci_high "
    "published published_base published_difference published_id"
).split()


def read_arm(folder: Path) -> dict[str, dict]:
    """What protocol.json says of each task, with `rows`, a frame by item id, where there are items."""
    tasks = files.read_json(folder / "protocol.json")["tasks"]
    for task, entry in tasks.items():
        if entry["items"]:
            entry["rows"] = pd.DataFrame(files.read_jsonl(folder / f"{task}.jsonl.gz")).set_index("id")
    return tasks


def check_same(arm: str, task: str, mine: dict | None, base: dict) -> None:
    """Raise UserError unless arm and base answered the same prompts by the same path under the same settings."""
    if mine is None:
        raise UserError(f"protocol: arm {arm!r} lacks task {task!r}, which the base has; score it")
    for key in SAME:
        if mine.get(key) != base.get(key):
            raise UserError(
                f"protocol: arm {arm!r} and the base differ in {key} of task {task!r} "
                f"({mine.get(key)} and {base.get(key)}); score one of them again"
            )


def method_of(config: RunConfig, arm: str) -> tuple[str, float, float]:
    """How published.csv names an arm: method, percent of layers skipped, layers that share a cache."""
    if arm == BASE_ARM:
        return "baseline", 0.0, 1.0
    variant = config.variant(arm.removesuffix(UNDISTILLED))
    kind = " no distillation" if arm.endswith(UNDISTILLED) else ""
    kind += "+AcrossKV" if variant.key_value_group_size > 1 else ""
    return f"SwiftKV{kind}", 100 * variant.skip, float(variant.key_value_group_size)


def model_name(config: RunConfig) -> str:
    """The base model as published.csv would name it: the last part of its path or hub name."""
    return Path(config.base.path or "embedded base").name


def published_of(config: RunConfig, arm: str) -> dict[str, tuple[str, float]]:
    """(id, score from 0 to 1) by metric, of the same base model, cut and group; FP8 values if there are no others."""
    method, skip, ways = method_of(config, arm)
    table = results.published()
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in ("skip_percent", "acrosskv_ways", "value")}
    same = table["model"] == model_name(config)
    same &= (numbers["skip_percent"] == skip) & (numbers["acrosskv_ways"].fillna(1) == ways)
    by_metric = {}
    for label in (f"{method} FP8", method):
        for row in table[same & (table["method"] == label)].itertuples():
            by_metric[row.metric] = (row.Index, numbers["value"][row.Index] / (100 if row.unit == "%" else 1))
    return by_metric


def published_columns(metric: str | None, comparable: bool, arm: dict, base: dict) -> dict:
    """The published cells of one row, empty where no published value compares."""
    if not comparable or metric not in arm:
        return {}
    name, value = arm[metric]
    cells = {"published": value, "published_id": name}
    if metric in base:
        cells |= {"published_base": base[metric][1], "published_difference": value - base[metric][1]}
    return cells


def arm_rows(config: RunConfig, arm: str, mine: dict, base: dict) -> list[dict]:
    """Rows of one arm: each task of the base, then the plain mean of the paper's seven if it has them all."""
    known, arm_published, base_published = paper_tasks(), published_of(config, arm), published_of(config, BASE_ARM)
    rows, seven = [], []
    for task, reference in base.items():
        entry = mine.get(task)
        check_same(arm, task, entry, reference)
        row = {"arm": arm, "task": task, "coverage": entry["coverage"], "items": entry["items"]}
        if entry["items"]:
            score, base_score = (side["rows"].loc[reference["rows"].index, "score"] for side in (entry, reference))
            row |= {"path": entry["path"], "cut": entry["cut"]} | compare_items(score, base_score, config.seed)
            comparable = entry["coverage"] == WHOLE and not entry["cut"]
            row |= published_columns(known[task].published, comparable, arm_published, base_published)
            if known[task].seven:
                seven.append((row, (score - base_score).to_numpy(), comparable))
        rows.append(row)
    if len(seven) == sum(task.seven for task in known.values()):
        rows.append(mean_row(config, arm, seven, arm_published, base_published))
    return rows


def mean_row(config: RunConfig, arm: str, seven: list[tuple], arm_published: dict, base_published: dict) -> dict:
    """The plain mean of the seven tasks, with an interval stratified by task."""
    rows, differences, comparable = zip(*seven, strict=True)
    return {
        "arm": arm,
        "task": MEAN,
        "path": "as the seven above",
        "coverage": WHOLE if all(row["coverage"] == WHOLE for row in rows) else "as the seven above",
        "items": sum(row["items"] for row in rows),
        "cut": sum(row["cut"] for row in rows),
        **compare_means(rows, list(differences), config.seed),
        **published_columns(MEAN_METRIC, all(comparable), arm_published, base_published),
    }


def summarise(config: RunConfig, arms: Path, out: Path) -> None:
    """Write the table of every scored arm of the configuration below `arms`: difference to the base per task with a 95%
    paired bootstrap interval, and published values of the same model where the whole set was answered.

    Raises UserError if the base is not scored, or an arm differs from it in items, prompts, path or settings.
    """
    paths = {arm: arms / arm / "protocol.json" for arm in config.accuracy_arms}
    scored = {arm: path for arm, path in paths.items() if path.is_file()}
    if BASE_ARM not in scored:
        raise UserError(f"{paths[BASE_ARM]}: no such file; score arm {BASE_ARM!r} first")
    with Provenance("protocol-summary", config, inputs=scored.values(), resamples=RESAMPLES, out=[out]) as provenance:
        read = {arm: read_arm(path.parent) for arm, path in scored.items()}
        rows = [row for arm, entry in read.items() for row in arm_rows(config, arm, entry, read[BASE_ARM])]
        provenance.save(out)
        files.write_text(out, pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, float_format="%.6g"))
