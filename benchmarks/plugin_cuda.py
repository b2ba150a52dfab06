"""The plugin on a CUDA machine: correctness with and without CUDA graphs.

    python benchmarks/plugin_cuda.py warm-up skip50 --models results/h200/work/throughput/models
    python benchmarks/plugin_cuda.py correctness --out results/h200/plugin/correctness.json --jobs 6

warm-up: compile one arm's engine and leave the code in vLLM's cache. Arms can be warmed up side by side, each in a
process of its own; a throughput run would compile them one after the other.
correctness: students of the embedded base (50% skipped, AcrossKV 1, 2, 4) in float32 and bfloat16, CUDA graphs NONE and
FULL_AND_PIECEWISE, in float32 FULL, too, against Transformers in float64 and against the same engine in full prefill.
A row says which model runner ran, whether steps were scheduled asynchronously, and which graphs vLLM made of what was
asked for: graphs of whole steps (FULL) are only ever those that decode.
Both run on a CPU, too, where there are no graphs. Speed: `swiftkv throughput`; decode steps: decode_profile.py.
"""

import dataclasses
import itertools
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from swiftkv import files
from swiftkv.base_model.fetch import local_dir
from swiftkv.bench.plan import throughput_plan
from swiftkv.cli import end_in_one_line
from swiftkv.config import RunConfig, load_config
from swiftkv.engines.arms import VLLMEngine
from swiftkv.engines.settings import BLOCK, kv_memory
from swiftkv.errors import UserError
from swiftkv.evals.gate_prompts import TEXT, prompts
from swiftkv.modeling.convert import convert
from swiftkv.provenance import Provenance

GROUPS = (1, 2, 4)
GRAPHS = {"float32": ("NONE", "FULL_AND_PIECEWISE", "FULL"), "bfloat16": ("NONE", "FULL_AND_PIECEWISE")}
CUT, TOKENS, CHUNK = 4, 24, 96

cli = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)
Config = Annotated[Path, typer.Option(help="Its shape and variants are compiled; its tasks fill the prompts.")]
Out = Annotated[Path, typer.Option(help="Result (JSON).")]


def on_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def answers(student: Path, asked: list, dtype: str, graphs: str, full_prefill: bool = False) -> tuple[list, dict]:
    """Greedy answers with raw logits, prompts prefilled in chunks; how the engine ran."""
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import RAW_LOGITS, generate

    settings = {"enforce_eager": graphs == "NONE", "max_num_batched_tokens": CHUNK, "max_num_seqs": len(asked)}
    if graphs != "NONE":
        settings["compilation_config"] = {"cudagraph_mode": graphs}
    settings |= RAW_LOGITS
    with engine(student, dtype=dtype, max_model_len=512, full_prefill=full_prefill, **settings) as opened:
        config = opened.llm_engine.vllm_config
        how = {
            "runner": 2 if config.use_v2_model_runner else 1,
            "asynchronous": bool(config.scheduler_config.async_scheduling),
            "cudagraph_mode": config.compilation_config.cudagraph_mode.name,
        }
        return generate(opened, asked, TOKENS), how


def check(student: Path, asked: list, row: dict) -> dict:
    """`row` (group, dtype, graphs) with early exit held against Transformers in float64 and against full prefill."""
    from swiftkv.evals.reference import Reference

    asked_for = row["dtype"], row["graphs"]
    (ours, how), (full, _) = (answers(student, asked, *asked_for, full_prefill=mode) for mode in (False, True))
    reference = Reference(student)
    same = sum(a == b for x, y in zip(ours, full, strict=True) for a, b in zip(x.tokens, y.tokens, strict=True))
    found = row | how | dataclasses.asdict(reference.compare(ours)) | {"equal_to_full_prefill": same}
    found["full_prefill"] = dataclasses.asdict(reference.compare(full))
    print(f"correctness: {found}", flush=True)
    return found


def exact(row: dict) -> bool:
    """Whether a float32 engine's answers are those of Transformers."""
    return row["mismatches"] == 0 and row["delta"] <= 1e-3


def found_or_error(row: dict, future: Future) -> dict:
    """What `check` found, or why it did not get so far: one engine that fails leaves the others."""
    try:
        return future.result()
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {error}"}


def check_all(config: RunConfig, out: Path, jobs: int) -> None:
    """Write a row per AcrossKV group, dtype and graph mode. Raises UserError for a wrong float32 token or logit."""
    base = local_dir(config.base.path)
    asked = [prompt.tokens for prompt in prompts(config, base) if prompt.kind == TEXT]
    modes = [(dtype, mode) for dtype, modes in GRAPHS.items() for mode in (modes if on_cuda() else modes[:1])]
    wanted = [
        {"group": group, "dtype": dtype, "graphs": mode} for (dtype, mode), group in itertools.product(modes, GROUPS)
    ]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))  # of each process
    fresh = multiprocessing.get_context("spawn")  # a process that used CUDA cannot be forked
    with Provenance("plugin-correctness", config, out=[out]) as provenance, tempfile.TemporaryDirectory() as root:
        students = {group: Path(root) / str(group) for group in GROUPS}
        for group, student in students.items():
            convert(base, student, CUT, group)
        with ProcessPoolExecutor(jobs, mp_context=fresh) as pool:
            pending = [pool.submit(check, students[row["group"]], asked, row) for row in wanted]
            rows = [found_or_error(row, future) for row, future in zip(wanted, pending, strict=True)]
        files.write_json(out, rows)
        provenance.save(out)
    wrong = [row for row in rows if "error" in row or (row["dtype"] == "float32" and not exact(row))]
    if wrong:
        raise UserError(f"{out}: {len(wrong)} engines failed or, in float32, differ, the first: {wrong[0]}")


def compile_arm(config: RunConfig, name: str, models: Path) -> None:
    """Start the engine of arm `name` with room for one request and run a few. Raises UserError for an unknown arm."""
    plan = throughput_plan(config)
    known = {arm.name: arm for arm in plan.arms if not arm.runs_on}
    if name not in known:
        raise UserError(f"warm-up: no arm {name!r}; allowed are {', '.join(known)}")
    settings = plan.settings
    held = kv_memory(settings.shape, plan.arms, 2 + settings.max_model_len // BLOCK)
    began = time.monotonic()
    engine = VLLMEngine(known[name], dataclasses.replace(settings, kv_memory_bytes=held), models / name)
    try:
        started = time.monotonic() - began
        result = engine.run(plan.latency, seed=0)
        print(f"warm-up: {name}: started in {started:.0f} s; TPOT {result.tpot_s[0] * 1e3:.2f} ms", flush=True)
    finally:
        engine.close()


@cli.command()
def correctness(
    out: Out,
    config: Config = Path("config/h200.yaml"),
    jobs: Annotated[int, typer.Option(min=1, help="Engines side by side, a process each.")] = 1,
) -> None:
    """Hold students in vLLM against Transformers."""
    check_all(load_config(config), out, jobs)


@cli.command()
def warm_up(
    arm: Annotated[str, typer.Argument(help="Which model: base, a variant of the configuration, l-equals-L.")],
    models: Annotated[Path, typer.Option(help="The throughput run's --work, /models: vLLM's cache goes by the path.")],
    config: Config = Path("config/h200.yaml"),
) -> None:
    """Compile one arm's engine and leave the code in vLLM's cache."""
    compile_arm(load_config(config), arm, models)


if __name__ == "__main__":
    end_in_one_line(cli)
