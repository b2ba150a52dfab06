"""Figure and tables of served load, from results/<scale>/served."""

from pathlib import Path

import pandas as pd

from swiftkv.provenance import Provenance
from swiftkv.registry import SERVED_FRAMES
from swiftkv.report import exhibits, plots, tables
from swiftkv.report.tables import Table, formatted, with_ci
from swiftkv.results import Results, load


def served(results: Results) -> Table:
    frame = results.frame("served")
    text = pd.DataFrame(
        {
            "workload": frame.point,
            "load": [f"{row.load:g} {row.load_unit}" for row in frame.itertuples()],
            "model": frame.arm,
            "requests": formatted(frame.requests, "{:.0f}"),
            "within SLO": formatted(100 * frame.attainment, "{:.0f}%"),
            "goodput (req/s)": formatted(frame.goodput_per_s, "{:.2f}"),
            "TTFT p50 (s)": formatted(frame.ttft_p50_s, "{:.3g}"),
            "TTFT p99 (s)": formatted(frame.ttft_p99_s, "{:.3g}"),
            "TPOT p50 (s)": formatted(frame.tpot_p50_s, "{:.3g}"),
            "TTFT/base [95% CI]": with_ci(frame, "ttft_p50_ratio", "ttft_p50_ci_low", "ttft_p50_ci_high"),
            "E2EL/base [95% CI]": with_ci(frame, "e2el_p50_ratio", "e2el_p50_ci_low", "e2el_p50_ci_high"),
        }
    )
    return Table("Servers under load: latency and goodput, and medians relative to the base model", frame, text)


def saturation(results: Results) -> Table:
    frame = results.frame("saturation")
    text = pd.DataFrame(
        {
            "workload": frame.point,
            "model": frame.arm,
            "load": frame.load_unit,
            "highest load within the SLO": formatted(frame.highest_within, "{:g}"),
            "saturation load": formatted(frame.saturation, "{:.2f}"),
            "relative to base [95% CI]": with_ci(frame, "ratio", "ci_low", "ci_high").where(frame.ratio.notna(), ""),
            "note": formatted(frame.note, "{}"),
        }
    )
    slo = frame.iloc[0]
    limits = f"TTFT at most {slo.slo_ttft_s:g} s and TPOT at most {slo.slo_tpot_s:g} s"
    caption = f"Load up to which {slo.wanted:.0%} of the requests keep the SLO ({limits})"
    return Table(caption, frame, text)


def write_tables(results: Results, out_dir: Path) -> None:
    """Write tab-served and tab-saturation in their three formats."""
    for name in exhibits.SERVED_TABLES:
        tables.write_one(results, name, out_dir)


def run(config, out_dir: Path, root: str | Path = "results") -> None:
    """Write the figures and tables of served load. Raises UserError naming the result that is missing."""
    results = load(config.scale, root)
    inputs = [results.path(name) for name in SERVED_FRAMES]
    written = [
        *plots.files_of(exhibits.SERVED_FIGURES, out_dir),
        *tables.files_of(exhibits.SERVED_TABLES, out_dir),
    ]
    with Provenance("serve-report", config, inputs=inputs, out=written) as provenance:
        for name in exhibits.SERVED_FIGURES:
            plots.draw(config, name, out_dir, root)
        write_tables(results, out_dir)
        provenance.save(out_dir / "fig-served")
