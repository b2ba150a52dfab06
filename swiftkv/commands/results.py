"""Commands that make results of measurements, and check them."""

from pathlib import Path
from typing import Annotated

import typer

from swiftkv.commands import CONFIG, Config, Out, RunDir, cli, load, root_of


@cli.command()
def claims(out: Out, config: Config = CONFIG, results: RunDir = None) -> None:
    """Compute the verdict on every published claim (--out DIR gets claims.csv and claims.md)."""
    from swiftkv.report import claims as stage

    loaded = load(config)
    stage.run(loaded, out / "claims.csv", out / "claims.md", root_of(loaded, results))


Partial = Annotated[bool, typer.Option("--partial", help="Leave out, and say so, what has no results yet.")]


@cli.command()
def figures(
    out: Out,
    config: Config = CONFIG,
    results: RunDir = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Those of a sweep instead of the pipeline's.")] = False,
    partial: Partial = False,
) -> None:
    """Draw every figure as PNG, SVG and PDF."""
    from swiftkv.report import plots

    loaded = load(config)
    plots.draw_all(loaded, out, root_of(loaded, results), of_sweep=sweep, partial=partial)


@cli.command()
def tables(out: Out, config: Config = CONFIG, results: RunDir = None, partial: Partial = False) -> None:
    """Write every table as CSV, Markdown and LaTeX."""
    from swiftkv.report import tables as stage

    loaded = load(config)
    stage.write_all(loaded, out, root_of(loaded, results), partial)


@cli.command()
def serve_report(
    out: Annotated[Path, typer.Option(help="Gets fig-served, fig-served-latency, tab-served and tab-saturation.")],
    config: Config = Path("config/served.yaml"),
) -> None:
    """Draw latency against load, and write the tables of a finished `serve-load`."""
    from swiftkv.report import served

    served.run(load(config), out)


@cli.command()
def protocol_report(out: Annotated[Path, typer.Option(help="Gets tab-protocol.")], config: Config = CONFIG) -> None:
    """Write the paper's table of accuracy from a finished `protocol-summary`, above the published rows."""
    from swiftkv.report import protocol_report as report

    report.run(load(config), out)


@cli.command()
def label_report(archive: Annotated[Path, typer.Argument(help="report.zip of `snakemake --report`.")]) -> None:
    """Name the icons and figures of Snakemake's report for screen readers, in place."""
    from swiftkv.report import labels

    labels.run(archive)


@cli.command()
def site(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="results/SCALE, or a directory of runs.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Its configuration [DIR/config.yaml].")] = None,
    out: Annotated[Path | None, typer.Option(help="The page [DIR/index.html].")] = None,
) -> None:
    """Write one page of verdicts, figures and a calculator, to be opened in a browser."""
    from swiftkv.report import site as page

    page.run(directory, out, config)


@cli.command()
def notebook(name: str, out: Out, config: Config = CONFIG, results: RunDir = None) -> None:
    """Execute a notebook on the results of the configuration's scale."""
    from swiftkv.report import notebooks

    loaded = load(config)
    notebooks.execute(name, loaded.scale, out, root_of(loaded, results))


@cli.command()
def renew_notebooks(names: Annotated[list[str], typer.Argument(help="Which, or all.")]) -> None:
    """Run notebooks of the repository on published runs and keep their outputs in them."""
    from swiftkv.report import notebook_outputs, notebooks

    for name in notebooks.names() if names == ["all"] else names:
        notebook_outputs.renew(name)


@cli.command()
def compare(
    a: Annotated[Path, typer.Argument(help="results/SCALE or results/reference/MACHINE/RUN.")],
    b: Annotated[Path, typer.Argument(help="Another such directory.")],
    tolerance: Annotated[float, typer.Option(min=0, help="Relative, of times, rates and training curves.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Table of the differences (CSV).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print every difference, not a table's first.")] = False,
) -> None:
    """What differs between two results, verdicts first: exit code 0 if no more than two machines may, else 1."""
    from swiftkv.audit import compare_results

    if not compare_results.run(a, b, tolerance, out, everything):
        raise typer.Exit(1)


@cli.command()
def verify_results(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="results/SCALE or results/reference/MACHINE/RUN.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Its configuration [DIR/config.yaml].")] = None,
) -> None:
    """Recompute hashes, summaries, tables and verdicts from what lies below: exit code 0 if all agrees, else 1."""
    from swiftkv.audit import verify_results as stage

    if not stage.run(directory, config):
        raise typer.Exit(1)


@cli.command()
def crate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="results/SCALE or results/reference/MACHINE/RUN.")],
) -> None:
    """Describe a finished run as an RO-Crate: DIR/ro-crate-metadata.json."""
    from swiftkv.release import crate as stage

    stage.write(directory)


@cli.command()
def publish(
    machine: Annotated[str, typer.Option(help="Name of the directory below results/reference.")],
    config: Config = CONFIG,
) -> None:
    """Keep a finished run as committed evidence, and write the README's tables and the base's card from it."""
    from swiftkv.release import publish as stage

    stage.run(load(config), machine)


@cli.command()
def config_docs(
    out: Out = Path("docs/config.md"),
    schema: Annotated[Path, typer.Option(help="Where the schema for editors goes.")] = Path(
        "workflow/schemas/config.schema.json"
    ),
) -> None:
    """Write the page of every configuration key, and the schema for editors, from the models."""
    from swiftkv.report import config_docs as page

    page.write(out, schema)
