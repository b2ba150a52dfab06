"""Verdicts on the published claims: config/claims.yaml joined with results/<scale>/ by fixed rules.

    swiftkv.report.claims.run(config, "results/cpu/claims.csv", "results/cpu/claims.md")

A verdict is computed, never written by hand: `reproduced`, `partly`, `not reproduced`, `too noisy` (the A/A
control shows that the machine was), `not comparable` (this scale cannot speak to the claim), `not gated` (there is a
number, but no verify gates that were measured on the same thing) or `not measured` (a result, or its interval, is
missing; the evidence says which).
"""

from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pandas as pd
import yaml

from swiftkv.config import ROOT, RunConfig, words
from swiftkv.errors import NothingToJudge, UserError
from swiftkv.files import read_json
from swiftkv.provenance import Provenance
from swiftkv.registry import ALL_FRAMES, FRAMES
from swiftkv.report.claims import gating, report
from swiftkv.report.claims.measurement import Measurement, Unanswerable
from swiftkv.report.claims.metrics import METRICS
from swiftkv.report.claims.verdicts import ceiling, judge
from swiftkv.results import PUBLISHED, Results, published

CLAIMS = ROOT / "config" / "claims.yaml"
SCHEMA = ROOT / "workflow" / "schemas" / "claims.schema.json"
COLUMNS = list(FRAMES["claims"].columns)
READ = [*(name for name in FRAMES if name != "claims"), "protocol", "served"]
COMPUTED = "none (computed from the model's shape)"


@dataclass(frozen=True)
class ClaimContext:
    """What a claim is judged against: the configuration, its results, and the published figures."""

    config: RunConfig
    results: Results
    published: pd.DataFrame


def violation(error: jsonschema.ValidationError) -> str:
    """One line: key, value and what is allowed."""
    key = words.dotted(error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        return words.unknown(key, set(error.instance) - set(known), known)
    if error.validator == "required":
        return words.about(key, error.message.replace("is a required property", "is missing"))
    return words.not_allowed(key, error.instance, words.allowed(error.schema))


def read_claims(path: str | Path = CLAIMS) -> list[dict]:
    """The claims of `path`, validated. Raises UserError naming the file, the key and what is allowed."""
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    validator = jsonschema.Draft202012Validator(read_json(SCHEMA))
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise UserError(f"{path}: {violation(error)}")
    claims, known = document["claims"], set(published().index)
    ids = [claim["id"] for claim in claims]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: id {', '.join(repeated)} occurs more than once")
    for claim in claims:
        if isinstance(claim["published"], str) and claim["published"] not in known:
            raise UserError(f"{path}: {claim['id']}: {claim['published']!r} is no id of {PUBLISHED.name}")
    return claims


def source_of(claim: dict, context: ClaimContext) -> pd.Series:
    """Value, unit, source and place of what was published: a row of published.csv, or what the claim itself says."""
    given = claim["published"]
    return pd.Series(given) if isinstance(given, dict) else context.published.loc[given]


def measure(claim: dict, context: ClaimContext) -> Measurement:
    """The claim's metric. Raises Unanswerable with the verdict and reason where there is no number."""
    try:
        if claim.get("gated") and context.results.has("gates"):
            gating.check_gates(context.results)
        return METRICS[claim["metric"]["kind"]](claim["metric"], context)
    except UserError as error:
        raise Unanswerable("not measured", str(error)) from None


def decide(claim: dict, context: ClaimContext) -> tuple[Measurement | None, str, str]:
    """(measurement or None, verdict, reason). A scale outside the claim's list is `not comparable`."""
    comparable = claim["scales"] == "all" or context.config.scale in claim["scales"]
    reason = claim.get("incomparable", f"scale {context.config.scale} cannot speak to this claim")
    try:
        measured = measure(claim, context)
    except Unanswerable as stop:  # a scale that cannot speak to the claim need not have its results either
        return None, *((stop.verdict, stop.reason) if comparable else ("not comparable", reason))
    if not comparable:
        return measured, "not comparable", reason
    # What a published shape alone says was measured on nothing: the gates need only be the run's.
    of = measured.frame if measured.files else None
    if claim.get("gated") and (why := gating.objection(context.config, context.results, of)):
        return measured, "not gated", why
    if measured.doubt:
        return measured, *measured.doubt
    return measured, *judge(claim["rule"], float(source_of(claim, context).value), measured)


def row(claim: dict, context: ClaimContext) -> dict:
    """One row of claims.csv (COLUMNS); numbers to four significant digits, in the claim's unit. A missing file is named
    as the pipeline names it, wherever the results lie."""
    source = source_of(claim, context)
    measured, verdict, reason = decide(claim, context)
    origin = context.results.origin(measured.frame) if measured and measured.frame in ALL_FRAMES else None
    hardware = COMPUTED if claim.get("analytic") else (origin.hardware if origin else "")
    shown, ours = [], f"results/{context.config.scale}"
    if measured:
        paths = ", ".join(f"{ours}/{name}" for name in measured.files)
        shown = [f"{paths}: {measured.details}" if paths else measured.details, ceiling(float(source.value), measured)]
    return {
        "id": claim["id"],
        "statement": claim["statement"],
        "source": f"{source.source}, {source.place}",
        "published": report.rounded(source.value),
        "measured": report.rounded(measured.value) if measured else None,
        "ci_low": report.rounded(measured.low) if measured and measured.is_ci else None,
        "ci_high": report.rounded(measured.high) if measured and measured.is_ci else None,
        "unit": source.unit,
        "hardware": hardware if measured else "",
        "verdict": verdict,
        "evidence": report.sentences(
            [*shown, reason.replace(str(context.results.directory), ours), claim.get("note", "")]
        ),
    }


def run(config: RunConfig, out_csv: str | Path, out_md: str | Path, root: str | Path = "results") -> None:
    """Judge every claim on what `root/<scale>` holds and write claims.csv and claims.md with provenance.

    Raises NothingToJudge if it holds no result.
    """
    results = Results(config.scale, Path(root) / config.scale)
    if not any(map(results.has, READ)):
        raise NothingToJudge(f"{results.directory}: holds no results, so there is nothing to judge")
    context = ClaimContext(config, results, published())
    inputs = [CLAIMS, PUBLISHED, *map(results.path, READ)]
    with Provenance("claims", config, inputs=inputs, out=[out_csv, out_md]) as provenance:
        frame = pd.DataFrame([row(claim, context) for claim in read_claims()], columns=COLUMNS)
        report.write(frame, config.scale, out_csv, out_md)
        provenance.save(out_csv)
        provenance.save(out_md)
