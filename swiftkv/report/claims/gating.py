"""Whether gates stand behind a number: they passed, by measured value and limit, and hold for what it was measured on.

Throughput is that of a benchmark model with random weights, the gates are those of the students, so their weights
cannot be the same; what binds them is the run (scale), the processor, the versions of vLLM and torch, and the sources
of plugin and engines. Scores come from the students themselves and are bound by their weights, too.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.evals import gate_file
from swiftkv.registry import ALL_FRAMES, FILES
from swiftkv.report.claims.measurement import Unanswerable
from swiftkv.results import Results

NOT_RUN = "A number counts only behind green gates, and `swiftkv verify` has not run beside it"
# By frame of what was timed the frame of the late-layer tokens of its engines.
TIMED = {"throughput": "late_tokens", "latency": "late_tokens", "served": "served_late_tokens"}
SCORED = {"accuracy": "accuracy/*/samples.jsonl", "protocol": "protocol/*/protocol.json"}


def check_gates(results: Results) -> None:
    """Raise Unanswerable if a verify gate failed: its numbers do not count."""
    failed = gate_file.failed(results.frame("gates").to_dict("records"))
    if failed:
        names = ", ".join(f"{row['gate']} ({row['variant']})" for row in failed)
        raise Unanswerable("not measured", f"verify gates failed: {names}")


def objection(config: RunConfig, results: Results, frame: str | None = None) -> str | None:
    """Why the gates of a run say nothing of a number of `frame`, or without one, of the run; None if they do. Raises
    UserError for a file that cannot be read."""
    if not results.has("gates"):
        return NOT_RUN
    document, record = files.read_json(results.path("gates")), results.provenance("gates") or {}
    identity = document.get("identity") if isinstance(document, dict) else None
    differs = unlike_run(config, identity, record)
    if frame and not differs:
        differs = unlike_number(results, identity or record, frame)
    if differs:
        return f"The gates were measured on something else: {'; '.join(differs)}"
    return uncounted(results, identity, TIMED[frame]) if frame in TIMED else None


def unlike_run(config: RunConfig, identity: Mapping | None, record: Mapping) -> list[str]:
    """What of a gates' file is not of this run: it and its record contradict one another, or its configuration."""
    if identity is None:  # of a run from before: its record says what it holds for
        return [] if record.get("scale") in (None, config.scale) else [f"scale {record['scale']}"]
    found = [f"{words}, says the record beside it" for words in gate_file.unlike(identity, record)] if record else []
    if identity.get("scale") != config.scale:
        found.append(f"scale {identity.get('scale')} instead of {config.scale}")
    elif identity.get("deciding_sha256") != gate_file.deciding_sha256(config):
        sections = ", ".join(gate_file.DECIDING[1:])
        found.append(f"another configuration of {sections}")
    return found


def unlike_number(results: Results, gates: Mapping, frame: str) -> list[str]:
    """What differs between what gates hold for and what `frame` was measured on."""
    if frame in SCORED:
        paths = files.finished(results.directory, SCORED[frame])
        records = {path.parent.name: record_beside(path) for path in paths}
        found = [words for record in records.values() for words in gate_file.unlike(gates, record)]
        return list(dict.fromkeys(found)) + unlike_weights(gates.get("models", {}), records)
    return gate_file.unlike(gates, results.provenance(frame) or {}) if frame in ALL_FRAMES else []


def record_beside(path: Path) -> dict:
    record = Path(f"{path}.provenance.json")
    return files.read_json(record) if record.is_file() else {}


def unlike_weights(models: Mapping, records: Mapping[str, Mapping]) -> list[str]:
    """Arms whose scored weights are not those that passed the gates."""
    found = []
    for arm in models.keys() & records.keys():
        scored = {
            name: sha for name, sha in records[arm].get("model_sha256", {}).items() if name.endswith(".safetensors")
        }
        if scored and scored != models[arm]["weights_sha256"]:
            found.append(f"other weights of {arm}")
    return sorted(found)


def uncounted(results: Results, identity: Mapping | None, frame: str) -> str | None:
    """Why the engines that were timed are not known to skip layers for exactly the tokens that may; None if they are,
    and of runs from before their tokens were counted."""
    if not results.has(frame):
        missing = f"The late-layer tokens of the engines that were timed have not been counted ({FILES[frame].path})"
        return missing if identity else None
    counts = results.frame(frame)
    wrong = counts[~(counts.late_tokens == counts.expected_late_tokens)]
    if wrong.empty:
        return None
    shown = "; ".join(in_words(row) for row in wrong.itertuples())
    return f"Engines that were timed ran the late layers for other tokens than those whose logits are needed: {shown}"


def in_words(row) -> str:
    late, expected = (
        "none" if pd.isna(number) else f"{number:.0f}" for number in (row.late_tokens, row.expected_late_tokens)
    )
    return f"{row.arm} {late} instead of {expected} of {row.tokens:.0f} ({row.points})"
