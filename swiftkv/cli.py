"""The `swiftkv` command: one sub-command per pipeline stage, each of which also runs by hand.

Errors a user can mend are printed as one line on standard error and end with exit code 2.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from swiftkv.errors import UserError

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
Out = Annotated[Path, typer.Option(help="Where the result goes.")]
Work = Annotated[Path, typer.Option(help="Where unfinished work is kept, to be resumed.")]
Base = Annotated[Path, typer.Option(help="Directory of the base model.")]
CONFIG = Path("config/config.yaml")


def load(path: Path):
    from swiftkv.config import load_config

    return load_config(path)


@cli.command()
def train_base(
    out: Out = Path("results/cpu/base-trained"),
    work: Work = Path("results/cpu/work/base"),
    config: Config = CONFIG,
) -> None:
    """Train the embedded base model (half an hour on two idle cores; resumable)."""
    from swiftkv import pretrain

    pretrain.run(load(config), out, work)


@cli.command()
def fetch_base(out: Out, config: Config = CONFIG, work: Work = Path("results/cpu/work/base")) -> None:
    """Put the base model of the configuration into --out: embedded, local, hub, or trained here."""
    from swiftkv import base, pretrain

    loaded = load(config)
    if loaded["base"]["source"] == "train":
        pretrain.run(loaded, out, work)
    else:
        base.resolve_base(loaded, out)


@cli.command()
def convert(base: Base, out: Out, variant: Annotated[str, typer.Option()], config: Config = CONFIG) -> None:
    """Turn a base model into an undistilled SwiftKV student of the named variant."""
    from swiftkv import convert as converter

    chosen = load(config).variant(variant)
    layers = converter.num_hidden_layers(base)
    converter.convert(base, out, chosen.num_key_value_layers(layers), chosen.key_value_group_size)


@cli.command()
def distill(
    base: Annotated[Path | None, typer.Option(help="Directory of the base model [results/SCALE/models/base].")] = None,
    out: Annotated[Path | None, typer.Option(help="Gets a directory per student [results/SCALE/models].")] = None,
    work: Annotated[Path | None, typer.Option(help="Where checkpoints are kept [results/SCALE/work/distill].")] = None,
    config: Config = CONFIG,
    processes: Annotated[int, typer.Option(min=1, help="Processes; as many as GPUs where there are any.")] = 1,
    micro_batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens at once per process [all].")] = None,
    recompute: Annotated[bool, typer.Option(help="Run late layers again in the backward pass: less memory.")] = False,
    float32: Annotated[bool, typer.Option(help="Full precision even where bfloat16 is faster.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print memory and time, load nothing.")] = False,
    gpu_memory: Annotated[float | None, typer.Option(help="With --plan: GiB of a GPU [this machine's].")] = None,
    tflops: Annotated[float | None, typer.Option(help="With --plan: peak TFLOP/s of a GPU [this machine's].")] = None,
    answer_share: Annotated[float, typer.Option(min=0, max=1, help="With --plan: share of answer tokens.")] = 1.0,
) -> None:
    """Distil every student of the configuration in one run with one teacher pass."""
    loaded = load(config)
    base = base or loaded.model_dir("base")
    if plan:
        from swiftkv.distill import plan as planner

        planner.show(loaded, base, processes, gpu_memory, tflops, micro_batch_tokens, recompute, answer_share)
        return
    from swiftkv.distill import loop

    options = loop.Options(micro_batch_tokens, recompute, float32)
    work = work or loaded.results / "work" / "distill"
    loop.start(loaded, base, out or loaded.results / "models", work, options, processes)


@cli.command()
def advise(
    base: Base,
    out: Annotated[Path, typer.Option(help="Table of cuts and groups (CSV).")],
    work: Work,
    config: Config = CONFIG,
    budget: Annotated[float, typer.Option(min=0, max=1, help="Share of the base's answers that may change.")] = 0.02,
    probes: Annotated[int, typer.Option(min=1, help="Held-out batches to probe on.")] = 8,
    steps: Annotated[int, typer.Option(min=0, help="Steps of short distillation; 0 probes as converted.")] = 40,
) -> None:
    """Which cut and AcrossKV group a base model can take, from cheap probes, beside what each may gain."""
    from swiftkv.distill import advise as advisor

    advisor.run(load(config), base, out, work, budget, probes, steps)


@cli.command()
def ablate(
    base: Base,
    out: Out,
    work: Work,
    config: Config = Path("config/ablations.yaml"),
    float32: Annotated[bool, typer.Option(help="Full precision even where bfloat16 is faster.")] = False,
) -> None:
    """What the choices of the distillation recipe are worth: arms of the configuration, over seeds, as a table."""
    from swiftkv.distill import ablate as stage
    from swiftkv.distill.loop import Options

    stage.run(load(config), base, out, work, Options(float32=float32))


@cli.command()
def similarity(base: Base, out: Out, config: Config = CONFIG) -> None:
    """Measure how much each layer's input differs from the previous layer's."""
    from swiftkv import similarity as stage

    stage.run(load(config), base, out)


@cli.command()
def lengths(
    base: Base,
    out: Out,
    config: Config = CONFIG,
    mirror: Annotated[Path | None, typer.Option(envvar="SWIFTKV_MIRROR", help="Local copy of the traces.")] = None,
) -> None:
    """Prompt and output lengths of real traces and of the four tasks."""
    from swiftkv.workloads import traces

    traces.run(load(config), base, out, mirror)


@cli.command()
def verify(
    base: Base, models: Annotated[Path, typer.Option(help="Holds one directory per variant.")], out: Out,
    config: Config = CONFIG,
) -> None:  # fmt: skip
    """Gates before numbers: equivalence with Transformers, KV capacity, early exit, refusals."""
    from swiftkv import verify as stage

    loaded = load(config)
    stage.run(loaded, base, {v.name: models / v.name for v in loaded.variants}, out)


@cli.command()
def throughput(out: Out, work: Work, config: Config = CONFIG) -> None:
    """Throughput, latency and KV capacity of every arm, interleaved, on dummy weights."""
    from swiftkv import throughput as stage

    stage.run(load(config), out, work)


@cli.command()
def accuracy(
    arm: Annotated[str, typer.Option(help="base, a variant, or VARIANT-undistilled.")],
    model: Annotated[Path, typer.Option(help="Directory of the arm's model.")],
    out: Out,
    work: Work,
    config: Config = CONFIG,
) -> None:
    """Score one model on the four tasks with lm-eval through vLLM."""
    from swiftkv import accuracy as stage

    stage.score_arm(load(config), arm, model, out, work)


@cli.command()
def accuracy_summary(
    arms: Annotated[Path, typer.Option(help="Holds one directory of scores per arm.")],
    out: Out,
    config: Config = CONFIG,
) -> None:
    """Compare every arm with the base, item by item."""
    from swiftkv import accuracy as stage

    loaded = load(config)
    stage.summarise(loaded, {arm: arms / arm for arm in loaded.accuracy_arms}, out)


@cli.command()
def protocol(
    arm: Annotated[str, typer.Option(help="base, a variant, or VARIANT-undistilled.")],
    model: Annotated[Path, typer.Option(help="Directory of the arm's model.")],
    out: Out,
    work: Work,
    config: Config = CONFIG,
    tasks: Annotated[str | None, typer.Option(help="Some of the tasks, separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First items per part of a task, for a trial.")] = None,
    mirror: Annotated[Path | None, typer.Option(envvar="SWIFTKV_MIRROR", help="Local copy of the sets.")] = None,
) -> None:
    """Score one model on the paper's seven tasks, IFEval and MMLU-Pro."""
    from swiftkv import protocol as stage

    names = [name.strip() for name in tasks.split(",")] if tasks else None
    stage.score_arm(load(config), arm, model, out, work, mirror, names, limit)


@cli.command()
def protocol_summary(
    arms: Annotated[Path, typer.Option(help="Holds one directory of scores per arm.")],
    out: Out,
    config: Config = CONFIG,
) -> None:
    """Compare every arm with the base on the paper's protocol, item by item, and with the published values."""
    from swiftkv import protocol_summary as stage

    stage.summarise(load(config), arms, out)


@cli.command()
def diagnose(
    base: Base, models: Annotated[Path, typer.Option(help="Holds one directory per variant.")], out: Out,
    config: Config = CONFIG,
) -> None:  # fmt: skip
    """Where students part from the base: by answer position, prompt length, difficulty, and in long contexts."""
    from swiftkv import diagnose as stage

    loaded = load(config)
    stage.run(loaded, base, {v.name: models / v.name for v in loaded.variants}, out)


@cli.command()
def claims(out: Out, config: Config = CONFIG) -> None:
    """Compute the verdict on every published claim (--out DIR gets claims.csv and claims.md)."""
    from swiftkv import claims as stage

    stage.run(load(config), out / "claims.csv", out / "claims.md")


@cli.command()
def figures(out: Out, config: Config = CONFIG) -> None:
    """Draw every figure as PNG and SVG."""
    from swiftkv import plots

    plots.draw_all(load(config), out)


@cli.command()
def tables(out: Out, config: Config = CONFIG) -> None:
    """Write every table as CSV, Markdown and LaTeX."""
    from swiftkv import tables as stage

    stage.write_all(load(config), out)


@cli.command()
def notebook(name: str, out: Out, config: Config = CONFIG) -> None:
    """Execute a notebook on the results of the configuration's scale."""
    from swiftkv import notebooks

    notebooks.execute(name, load(config).scale, out)


@cli.command()
def compare(
    a: Annotated[Path, typer.Argument(help="results/SCALE or results/reference/MACHINE/RUN.")],
    b: Annotated[Path, typer.Argument(help="Another such directory.")],
    tolerance: Annotated[float, typer.Option(min=0, help="Relative, of times, rates and training curves.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Table of the differences (CSV).")] = None,
) -> None:
    """What differs between two results, beyond tolerance: exit code 0 if nothing does, else 1."""
    from swiftkv import compare_results

    if not compare_results.run(a, b, tolerance, out):
        raise typer.Exit(1)


@cli.command()
def verify_results(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="results/SCALE or results/reference/MACHINE/RUN.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Its configuration [DIR/config.yaml].")] = None,
) -> None:
    """Recompute hashes, summaries, tables and verdicts from what lies below: exit code 0 if all agrees, else 1."""
    from swiftkv import verify_results as stage

    if not stage.run(directory, config):
        raise typer.Exit(1)


@cli.command()
def publish(
    machine: Annotated[str, typer.Option(help="Name of the directory below results/reference.")],
    config: Config = CONFIG,
) -> None:
    """Keep a finished run as committed evidence, and write the README's tables and the base's card from it."""
    from swiftkv import publish as stage

    stage.run(load(config), machine)


@cli.command()
def export(
    variant: Annotated[str, typer.Option(help="Name of the student in the configuration.")],
    out: Annotated[Path, typer.Option(help="New folder, or an earlier export to replace.")],
    config: Config = CONFIG,
    model: Annotated[Path | None, typer.Option(help="Its directory, if not where the pipeline keeps it.")] = None,
    push: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Upload to the Hugging Face hub too.")] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Of a new repository.")] = True,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; as the student is, if left out.")] = None,
) -> None:
    """Write a student as a hub-ready folder with a model card, and upload it with your own token if asked."""
    from swiftkv import export as stage

    stage.run(load(config), variant, out, model, push, private, dtype)


@cli.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="Result (JSON).")],
    config: Config = CONFIG,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 [throughput.model's].")] = None,
) -> None:
    """Measure this machine's FLOP/s, memory bandwidth and KV-cache writes (about a minute)."""
    from swiftkv import calibration

    calibration.run(load(config), out, dtype)


@cli.command()
def plan(
    out: Annotated[Path, typer.Option(help="Gets plan.csv and plan.md.")] = Path("results/plan"),
    config: Config = CONFIG,
    model: Annotated[str, typer.Option(help="Llama-3.1-8B, Llama-3.1-70B, or a model's directory.")] = "Llama-3.1-8B",
    gpu: Annotated[
        str | None, typer.Option(help="Name in the data-sheet table, or a file of calibrate [H100].")
    ] = None,
    trace: Annotated[str, typer.Option(help="Known trace, or CSV: arrival_s, prompt_tokens, output_tokens.")] = (
        "azure2023_conv"
    ),
    mirror: Annotated[Path | None, typer.Option(envvar="SWIFTKV_MIRROR", help="Local copy of the traces.")] = None,
    scale: Annotated[float, typer.Option(min=1e-6, help="Times the trace's rate.")] = 1000,
    hours: Annotated[float, typer.Option(min=1e-3, help="Time that is simulated.")] = 24,
    slo_ttft: Annotated[float, typer.Option(min=0, help="Seconds to the first token.")] = 2.0,
    slo_tpot: Annotated[float, typer.Option(min=0, help="Seconds per further token.")] = 0.1,
    attainment: Annotated[float, typer.Option(min=0.01, max=1, help="Share of requests within both limits.")] = 0.99,
    price: Annotated[float | None, typer.Option(min=0, help="US dollars per GPU hour.")] = None,
    gpus_per_replica: Annotated[int, typer.Option(min=1, help="GPUs that share the model's matrices.")] = 1,
    efficiency: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the data sheet's FLOP/s.")] = 0.4,
    bandwidth_efficiency: Annotated[float, typer.Option(min=0.01, max=1, help="Share of its bytes/s.")] = 0.8,
    overhead: Annotated[float, typer.Option(min=0, help="Seconds of a step beyond its roofline.")] = 0.002,
    step_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a step (max_num_batched_tokens).")] = 2048,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences at once (max_num_seqs).")] = 256,
    check: Annotated[Path | None, typer.Option(help="Only hold predictions against DIR/throughput.")] = None,
) -> None:
    """Predict the GPUs and cost of serving a trace within latency limits, with and without SwiftKV."""
    from swiftkv import capacity, predict, roofline

    if check is not None:
        machine = roofline.calibrated(gpu) if gpu else None
        print(predict.check_report(*predict.check(load(config), check, machine)))
        return
    chosen = roofline.machine(gpu or "H100", efficiency, bandwidth_efficiency, overhead)
    limits = (slo_ttft, slo_tpot, attainment, price, gpus_per_replica, step_tokens, sequences)
    capacity.run(load(config), model, chosen, trace, capacity.Options(scale, hours, *limits), out, mirror)


def end_in_one_line(command: Callable[[], None]) -> None:
    """Run a command; a UserError becomes one line on standard error and exit code 2."""
    try:
        command()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(f"swiftkv: error: {error}", file=sys.stderr)
        sys.exit(2)


def app() -> None:
    """Entry point."""
    end_in_one_line(cli)


if __name__ == "__main__":
    app()
