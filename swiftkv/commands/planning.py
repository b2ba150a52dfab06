"""Commands that predict."""

from pathlib import Path
from typing import Annotated

import typer

from swiftkv.commands import CONFIG, Config, Mirror, base_of, cli, instead, load


@cli.command()
def predict(
    results: Annotated[Path, typer.Option(help="Finished run: a directory that holds throughput/.")],
    out: Annotated[Path, typer.Option(help="Gets speedups.csv, speedups.md, map.csv and models.csv.")],
    config: Config = CONFIG,
    gpu: Annotated[Path | None, typer.Option(help="A file of calibrate [fit the machine to the base].")] = None,
) -> None:
    """Hold predicted speed-ups against measured ones, and predict the ratios and lengths between."""
    from swiftkv.planning import roofline, sweep

    sweep.run(load(config), results, out, roofline.calibrated(gpu) if gpu else None)


@cli.command()
def predict_served(
    results: Annotated[Path, typer.Option(help="Finished served run: a directory that holds served/.")],
    fit: Annotated[Path, typer.Option(help="Run of the same benchmark model on the same machine; holds throughput/.")],
    out: Annotated[Path, typer.Option(help="Gets served.csv.")],
    config: Config = Path("config/served.yaml"),
) -> None:
    """Hold the engine simulator against measured replays: latency and attainment under load."""
    from swiftkv.audit.verify_results import config_of_run
    from swiftkv.planning import served

    fitted = config_of_run(fit, None) or load(CONFIG)
    served.run(load(config), results, fit, fitted, out)


@cli.command()
def memory_plan(
    config: Config = CONFIG,
    base: Annotated[Path | None, typer.Option(help="Directory of the base model [results/SCALE/models/base].")] = None,
    gpu_memory: Annotated[float, typer.Option(min=1, help="GiB of a GPU.")] = 80,
) -> None:
    """What every stage needs of a GPU's memory, before anything is loaded: exit code 0 if all fit, else 1."""
    from swiftkv.planning import memory_plan as stage

    loaded = load(config)
    if not stage.show(loaded, base_of(loaded, base), gpu_memory):
        raise typer.Exit(1)


@cli.command()
def preflight(
    config: Config = CONFIG,
    base: Annotated[Path | None, typer.Option(help="Directory of the base model [results/SCALE/models/base].")] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=0.1, help="GiB of a GPU [this machine's].")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="How many GPUs [this machine's].")] = None,
    tflops: Annotated[float | None, typer.Option(min=0.001, help="Peak TFLOP/s of a GPU [this machine's].")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="US dollars per hour of a GPU, or of the machine.")] = None,
    mirror: Mirror = None,
) -> None:
    """Access, disk, memory, GPUs, driver, hours and cost of a whole run: exit code 0 if nothing is missing, else 1."""
    from swiftkv.planning import preflight as stage

    loaded = load(config)
    if not stage.run(loaded, base_of(loaded, base), gpu_memory, gpus, tflops, price, mirror):
        raise typer.Exit(1)


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
    mirror: Mirror = None,
    scale: Annotated[float, typer.Option(min=1e-6, max=1e9, help="Times the trace's rate.")] = 1000,
    hours: Annotated[float, typer.Option(min=1e-3, max=8784, help="Time that is simulated.")] = 24,
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
    from swiftkv.planning import capacity, roofline

    if check is not None:
        instead(show_check, config, check, gpu)
    chosen = roofline.machine("H100" if gpu is None else gpu, efficiency, bandwidth_efficiency, overhead)
    scenario = capacity.Scenario(
        scale=scale,
        hours=hours,
        slo_ttft=slo_ttft,
        slo_tpot=slo_tpot,
        attainment=attainment,
        price=price,
        gpus=gpus_per_replica,
        step_tokens=step_tokens,
        sequences=sequences,
    )
    capacity.run(load(config), model, chosen, trace, scenario, out, mirror)


def show_check(config: Path, results: Path, gpu: str | None) -> None:
    """Print predictions beside what `results` measured, by the machine that `gpu` names or one fitted to the base."""
    from swiftkv.planning import checked, roofline

    machine, loaded = roofline.calibrated(gpu) if gpu else None, load(config)
    print(checked.check_report(*checked.check(loaded, results, machine)))
    print("\n".join(checked.compare_guesses(loaded, results, machine)))
