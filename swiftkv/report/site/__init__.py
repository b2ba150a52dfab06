"""One page to look at: verdicts with their evidence, figures with their values, machines side by side, a calculator.

    swiftkv.report.site.run(Path("results/cpu"))             a run: results/cpu/index.html
    swiftkv.report.site.run(Path("results/reference"))       all published runs

The page is one file that asks for nothing from outside; its template lies in workflow/report/site. Vega draws, as the
package vl-convert bundles it.
"""

import json
import os
from functools import cache
from pathlib import Path

import altair
import jinja2
import vl_convert
from markupsafe import Markup

from swiftkv import files
from swiftkv.config import ROOT
from swiftkv.provenance import Provenance
from swiftkv.registry import ALL_FRAMES, FILES
from swiftkv.report.claims.report import ORDER
from swiftkv.report.site import calculator, charts, machines, verdicts
from swiftkv.report.site.runs import SHOWN, Run, find

PARTS = ROOT / "workflow" / "report" / "site"
SHAPE_FIELDS = {  # of the calculator
    "hidden_size": "hidden size",
    "intermediate_size": "MLP size",
    "num_hidden_layers": "layers",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "KV heads",
    "head_dim": "head size",
    "vocab_size": "vocabulary",
}


def embedded(value) -> Markup:
    """JSON that may stand in a script element of HTML."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def vega_lite() -> str:
    """The version of Vega-Lite for which Altair writes, as vl-convert takes it: `6.1`."""
    return ".".join(altair.VEGALITE_VERSION.removeprefix("v").split(".")[:2])


@cache
def vega() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    return Markup(vl_convert.javascript_bundle(vl_version=vega_lite()).replace("</script", "<\\/script"))


def render(runs: list[Run], page: Path) -> str:
    """The whole page of `runs`, whose links are as seen from the directory `page`."""
    figures, missing = {}, {}
    for run in runs:
        figures[run.name], missing[run.name] = charts.of_run(run)
    compared = machines.compared(runs) if len(runs) > 1 else {}
    claims = verdicts.claims(runs, page)
    tallies = {run.name: verdicts.tally(run) for run in runs}
    judged = [run for run in runs if tallies[run.name]]
    drawn = {f"run-{n}-{one.id}": one.spec for n, run in enumerate(runs) for one in figures[run.name]}
    drawn |= {f"student-{one.id}": one.spec for one in compared.values()}
    shapes = calculator.shapes(runs)
    data = {"charts": drawn, "shapes": shapes, "shape_fields": list(SHAPE_FIELDS)}
    data |= {"reached": calculator.reached(runs), "forecasts": calculator.forecasts(runs)}
    found = {finding.verdict for claim in claims for finding in claim.findings}
    places = {run.name: os.path.relpath(run.results.directory, page) for run in runs if len(runs) > 1}
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    ).get_template("page.html.j2")  # fmt: skip
    return template.render(
        title=f"SwiftKV, measured again: {runs[0].name}" if len(runs) == 1 else "SwiftKV, measured again",
        runs=runs,
        judged=judged,
        machines=sorted({run.machine for run in judged} - {run.name for run in judged}),
        claims=claims,
        areas=sorted({claim.area for claim in claims}),
        verdicts=[name for name in ORDER if name in found],
        figures=figures,
        missing=missing,
        compared=compared,
        tallies=tallies,
        places={run.name: places.get(run.name) for run in runs},
        shapes=shapes,
        shape_fields=SHAPE_FIELDS,
        data=embedded(data),
        vega=vega(),
        **{name: Markup((PARTS / file).read_text("utf-8")) for name, file in TEXTS.items()},
    )


TEXTS = {"css": "page.css", "js": "page.js", "costmodel": "costmodel.js"}


def run(directory: Path, out: Path | None = None, config: Path | None = None) -> None:
    """Write the page of `directory`, a run or a directory of runs, to `out` [directory/index.html] with its provenance.

    Raises NothingToJudge if there is no run, and UserError for a damaged configuration, or if something else lies at
    `out`.
    """
    out = out or directory / FILES["site"].path
    runs = find(directory, config)
    inputs = [run.results.directory / ALL_FRAMES[name].path for run in runs for name in SHOWN]
    with Provenance("site", runs[0].config if len(runs) == 1 else None, inputs=inputs, out=[out]) as provenance:
        files.write_text(out, render(runs, out.parent))
        provenance.save(out)
    print(f"{out}: {len(runs)} run{'s' if len(runs) > 1 else ''}")
