"""Commands that measure models: gates, speed, accuracy; and one that says whether this machine can."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from swiftkv.commands import (
    CONFIG,
    Arm,
    ArmModel,
    ArmScores,
    Base,
    Config,
    Mirror,
    Out,
    Students,
    Work,
    cli,
    jobs_here,
    load,
    load_beside_others,
    load_with_engine_gpus,
    load_with_gpu,
    student_dirs,
)


@cli.command()
def lengths(base: Base, out: Out, config: Config = CONFIG, mirror: Mirror = None) -> None:
    """Prompt and output lengths of real traces and of the four tasks."""
    from swiftkv.workloads import traces

    traces.write_lengths(load(config), base, out, mirror)


@cli.command()
def verify(
    base: Base,
    models: Students,
    out: Out,
    config: Config = CONFIG,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Engines side by side [what a GPU and its cores hold; 1 on a CPU].")
    ] = None,
) -> None:
    """Gates before numbers: equivalence with Transformers, KV capacity, early exit, refusals."""
    from swiftkv.evals import gates as stage
    from swiftkv.planning import memory_plan

    taken = jobs or jobs_here(load(config), base, memory_plan.verify_jobs)
    loaded = load_beside_others(config, base, partial(memory_plan.verify, jobs=taken))  # it times nothing
    stage.run(loaded, base, student_dirs(loaded, models), out, taken)


@cli.command()
def throughput(out: Out, work: Work, config: Config = CONFIG) -> None:
    """Throughput, latency and KV capacity of every arm, interleaved, on dummy weights."""
    from swiftkv.bench import throughput as stage

    stage.run(load_with_engine_gpus(config), out, work)


@cli.command()
def serve_load(
    out: Out,
    work: Work,
    config: Config = Path("config/served.yaml"),
    mirror: Mirror = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="First server's port [free ones].")] = None,
) -> None:
    """Latency and goodput of vLLM servers under load and of replayed traces, every arm against the base."""
    from swiftkv.bench import served as stage

    stage.run(load_with_engine_gpus(config), out, work, mirror, port)


@cli.command()
def accuracy(arm: Arm, model: ArmModel, out: Out, work: Work, config: Config = CONFIG) -> None:
    """Score one model on the four tasks with lm-eval through vLLM."""
    from swiftkv.evals import accuracy as stage
    from swiftkv.planning import memory_plan

    stage.score_arm(load_beside_others(config, model, memory_plan.accuracy), arm, model, out, work)


@cli.command()
def accuracy_summary(arms: ArmScores, out: Out, config: Config = CONFIG) -> None:
    """Compare every arm with the base, item by item."""
    from swiftkv.evals import accuracy_summary as stage

    loaded = load(config)
    stage.summarise(loaded, {arm: arms / arm for arm in loaded.accuracy_arms}, out)


@cli.command()
def protocol(
    arm: Arm,
    model: ArmModel,
    out: Out,
    work: Work,
    config: Config = CONFIG,
    tasks: Annotated[str | None, typer.Option(help="Some of the tasks, separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First items per part of a task, for a trial.")] = None,
    mirror: Mirror = None,
) -> None:
    """Score one model on the paper's seven tasks, IFEval and MMLU-Pro."""
    from swiftkv.evals import protocol as stage
    from swiftkv.planning import memory_plan

    names = [name.strip() for name in tasks.split(",")] if tasks else None
    loaded = load_beside_others(config, model, memory_plan.accuracy)
    stage.score_arm(loaded, arm, model, out, work, mirror, names, limit)


@cli.command()
def protocol_summary(arms: ArmScores, out: Out, config: Config = CONFIG) -> None:
    """Compare every arm with the base on the paper's protocol, item by item, and with the published values."""
    from swiftkv.evals import protocol_summary as stage

    stage.summarise(load(config), arms, out)


@cli.command()
def diagnose(
    base: Base, models: Students, out: Out,
    config: Config = CONFIG,
) -> None:  # fmt: skip
    """Where students part from the base: by answer position, prompt length, difficulty, and in long contexts."""
    from swiftkv.evals import diagnose as stage
    from swiftkv.planning import memory_plan

    loaded = load_beside_others(config, base, memory_plan.models)
    stage.run(loaded, base, student_dirs(loaded, models), out)


@cli.command()
def divergence(base: Base, models: Students, out: Out, work: Work, config: Config = CONFIG) -> None:
    """How far every arm is from the base, teacher-forced on published texts: perplexity, KL, agreement."""
    from swiftkv.evals import divergence as stage
    from swiftkv.planning import memory_plan

    loaded = load_beside_others(config, base, memory_plan.divergence)
    stage.run(loaded, base, {arm: models / arm for arm in loaded.accuracy_arms[1:]}, out, work)


@cli.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="Result (JSON).")],
    config: Config = CONFIG,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 [throughput.model's].")] = None,
) -> None:
    """Measure this machine's FLOP/s, memory bandwidth and KV-cache writes (about a minute)."""
    from swiftkv.planning import calibration

    calibration.run(load_with_gpu(config), out, dtype)


@cli.command()
def self_check(config: Config = CONFIG) -> None:
    """Check the installation: imports, the plugin, the GPU, ten generated tokens."""
    from swiftkv.evals import selfcheck

    selfcheck.run(load(config))
