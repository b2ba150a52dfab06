"""Predictions beside a finished sweep: of what was measured, of ratios and lengths between, and of published models.

The machine is calibrated, or fitted, from times of the base alone (see `predict`); no variant's time enters.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from swiftkv import costmodel, files
from swiftkv.config import BASE_ARM
from swiftkv.engines.settings import DTYPE_BYTES, benchmark_arms
from swiftkv.planning import capacity, checked, predict, roofline
from swiftkv.planning.predict import Workload
from swiftkv.planning.roofline import Machine
from swiftkv.provenance import Provenance
from swiftkv.registry import names

RATIOS = (1, 2, 5, 10, 20, 50, 100)
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
REQUESTS = (1, 8)
REPLICAS = {"Llama-3.1-8B": ("H100", 1), "Llama-3.1-70B": ("H100", 4)}  # the paper's set-ups
MODEL_LENGTHS = (2000, 4000, 8000, 16000, 32000, 64000, 128000)
MODEL_OUTPUT = 256
WAVES = 4  # requests per place in the KV cache: enough that the first and the last wave weigh little
FILES = names("predict")


def ratio_map(config, machine: Machine) -> Iterator[dict]:
    """Rows of map.csv: predicted speed-up and FLOPs limit of every variant at RATIOS x LENGTHS, REQUESTS at once."""
    shape, step = config.shape, config.throughput.max_num_batched_tokens
    dtype_bytes = DTYPE_BYTES[shape["dtype"]]
    for count in REQUESTS:
        for length in LENGTHS:
            for ratio in RATIOS:
                load = Workload(length, max(1, round(length / ratio)), count, step)
                base = predict.predict(shape, shape["num_hidden_layers"], 1, load, machine, dtype_bytes).elapsed_s
                for arm in benchmark_arms(config)[1:]:
                    elapsed = predict.predict(shape, arm.cut, arm.group, load, machine, dtype_bytes).elapsed_s
                    limit = costmodel.workload_speedup_limit(shape, arm.cut, arm.group, length, load.output_len)
                    yield {"input_len": length, "output_len": load.output_len, "ratio": ratio, "num_requests": count,
                           "arm": arm.name, "speedup": base / elapsed, "limit": limit,
                           "kind": roofline.PREDICTED}  # fmt: skip


def published_models(config) -> Iterator[dict]:
    """Rows of models.csv: REPLICAS by prompt length, at data-sheet rates times the efficiencies of `roofline`."""
    scenario = capacity.Scenario()
    for model, (gpu, count) in REPLICAS.items():
        shape, machine = costmodel.PUBLISHED_SHAPES[model], roofline.gpu(gpu).times(count)
        layers = shape["num_hidden_layers"]
        variants = [(BASE_ARM, 0.0, layers, 1), *costmodel.fitting(config.variants, layers, model)]
        for length in MODEL_LENGTHS:
            base = None  # the first of `variants`
            for name, skip, cut, group in variants:
                limits = capacity.limits(shape, cut, group, machine, scenario)
                places = min(scenario.sequences, limits.kv_tokens // (length + MODEL_OUTPUT))
                load = Workload(length, MODEL_OUTPUT, WAVES * places, scenario.step_tokens, places)
                seconds = predict.predict(shape, cut, group, load, machine).elapsed_s
                rate = load.num_requests * (length + MODEL_OUTPUT) / seconds
                base = base or rate
                yield {"model": model, "gpu": machine.name, "gpus": count, "arm": name, "skip": skip, "group": group,
                       "input_len": length, "output_len": MODEL_OUTPUT, "at_once": places, "tokens_per_s": rate,
                       "speedup": rate / base, "kind": roofline.PREDICTED}  # fmt: skip


def run(config, directory: Path, out: Path, machine: Machine | None = None) -> pd.DataFrame:
    """Predict beside `directory`/throughput, measured with `config`; write FILES with their provenance to `out`.

    Returns speedups.csv. Raises UserError as `checked.check`.
    """
    inputs = [directory / "throughput" / name for name in checked.COLUMNS]
    with Provenance(
        "predict", config, inputs=inputs, out=[out / name for name in FILES], kind=roofline.PREDICTED
    ) as record:
        table, fitted = checked.check(config, directory, machine)
        report = checked.check_report(table, fitted)
        files.write_text(out / "speedups.csv", table.to_csv(index=False))
        files.write_text(out / "speedups.md", f"# Predicted against measured\n\n```text\n{report}\n```\n")
        for name, rows in (("map.csv", ratio_map(config, fitted)), ("models.csv", published_models(config))):
            files.write_text(out / name, pd.DataFrame(rows).to_csv(index=False))
        for name in FILES:
            record.save(out / name)
    print(report)
    return table
