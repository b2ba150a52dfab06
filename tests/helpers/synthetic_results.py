"""Made-up result trees in the shape of results/<scale>/, built while a test runs. Never a measurement.

The provenance says so ("SYNTHETIC TEST DATA"), and with it every footer and table made from it.
"""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from swiftkv import files

LAYERS = 8
TASKS = ["code", "sql", "summarise", "rag"]
DIVERGENCE = {"documents": 6, "max_tokens": 512, "answer_tokens": 64}  # of a configuration whose figures show it
HARDWARE = {"cpu": "SYNTHETIC TEST DATA, no machine", "cores": 0, "gpus": []}


def save(path: Path, rows: list[dict]) -> None:
    """Write rows as CSV, JSON Lines or gates JSON, with a provenance file that names them synthetic."""
    if path.suffix == ".csv":
        files.write_text(path, pd.DataFrame(rows).to_csv(index=False))
    elif path.suffix == ".json":
        files.write_json(path, {"passed": all(row["passed"] for row in rows), "gates": rows})
    else:
        files.write_jsonl(path, rows)
    files.write_json(f"{path}.provenance.json", {"hardware": HARDWARE, "git": {"sha": "0" * 40, "dirty": False}})


def lengths() -> tuple[list[dict], list[dict]]:
    """Log-normal lengths for three traces and the four tasks."""
    shapes = {
        "azure2023_code": (2048, 28),
        "azure2023_conv": (1155, 211),
        "mooncake_conversation": (12035, 343),
    }
    shapes |= dict.fromkeys(TASKS, (100, 10))
    rows, quantiles, generator = [], [], np.random.default_rng(0)
    for workload, (prompt, output) in shapes.items():
        spread = 0.9 if workload not in TASKS else 0.15
        draws = {
            "prompt": prompt * np.exp(generator.normal(-(spread**2) / 2, spread, 4000)),
            "output": output * np.exp(generator.normal(-(spread**2) / 2, spread, 4000)),
        }
        draws["ratio"] = draws["prompt"] / draws["output"]
        trace = workload not in TASKS
        row = {"workload": workload, "kind": "trace" if trace else "task", "requests": 4000}
        row["source"] = "committed quantiles" if trace else "generated"
        for what in ("prompt", "output"):
            row[f"{what}_mean"] = draws[what].mean()
            row |= {f"{what}_p{q}": np.percentile(draws[what], q) for q in (25, 50, 75, 90, 99)}
        row["ratio_of_means"] = row["prompt_mean"] / row["output_mean"]
        row |= {"median_ratio": np.median(draws["ratio"]), "share_ratio_ge10": (draws["ratio"] >= 10).mean()}
        rows.append(row)
        for quantity, values in draws.items():
            for q in np.linspace(0.01, 0.99, 99):
                one = {
                    "workload": workload,
                    "quantity": quantity,
                    "q": round(q, 2),
                    "tokens": np.quantile(values, q),
                }
                quantiles.append(one)
    return rows, quantiles


def throughput(config) -> tuple[list[dict], list[dict], list[dict], list[dict]]:
    """Summary, measurements, KV capacity and compute rows with speed-ups near 94% of a rough limit."""
    summary, measurements, capacity, compute = [], [], [], []
    for point in config.raw["throughput"]["points"]:
        prompt_share = point["input_len"] / (point["input_len"] + point["output_len"])
        for arm, skip, _ in timed(config):
            limit = 1 / (1 - 0.95 * skip * prompt_share)
            speedup = 1 + 0.94 * (limit - 1)
            shared = {"point": point["name"], "arm": arm, **{k: v for k, v in point.items() if k != "name"}}
            summary.append(
                {**shared, "repeats": 3, "total_tokens_per_s_median": 900 * speedup, "speedup": speedup}
                | {"ci_low": speedup * (1 if arm == "base" else 0.98)}
                | {"ci_high": speedup * (1 if arm == "base" else 1.02), "interval": "t"}
                | {
                    "limit": limit,
                    "share_of_limit": speedup / limit,
                    "ttft_p50_s": 2 / speedup,
                    "unit": "tokens/s",
                }
            )
            for repeat in range(3):
                rate = 900 * speedup * (1 + 0.01 * (repeat - 1))
                tokens = {"prompt_tokens": 1, "output_tokens": 1, "position": 0, "failed": 0}
                times = {"elapsed_s": 9 / speedup, "total_tokens_per_s": rate, "ttft_p50_s": 2 / speedup}
                measurements.append({**shared, "repeat": repeat, **tokens, **times})
    for arm, skip, group in arms(config):
        caches = LAYERS * (1 - skip) + LAYERS * skip / group
        ratio = LAYERS / caches
        capacity.append(
            {"arm": arm, "kv_caches": int(caches), "kv_bytes_per_token": 2048 * caches / LAYERS}
            | {"capacity_tokens": int(60000 * ratio), "ratio_to_base": ratio, "formula_ratio": ratio}
        )
        for model in ("benchmark", "Llama-3.1-70B"):
            for part, share in {
                "vocab": 0.02,
                "kv": 0.01,
                "qo": 0.07,
                "mlp": 0.4,
                "attention": 0.5,
                "total": 1,
            }.items():
                relative = 1 if part in ("vocab", "kv") else 1 - skip * (0.98 if part == "total" else 1)
                one = {"model": model, "arm": arm, "skip": skip, "part": part, "context": 131072, "counting": "paper"}
                compute.append({**one, "gflops_per_prompt_token": 302 * share * relative, "relative_to_base": relative})
    return summary, measurements, capacity, compute


def requests_of(row: dict) -> list[dict]:
    """The requests of one measurement, all alike."""
    one = {key: row[key] for key in ("point", "arm", "repeat")} | {"ttft_s": row["ttft_p50_s"]}
    one |= {"tpot_s": 0.02 if row["output_len"] > 1 else None, "output_tokens": row["output_len"]}
    return [one | {"request": number} for number in range(row["num_requests"])]


def late_tokens(config) -> list[dict]:
    """Counts of a warm-up of 90 tokens in 4 steps, 8 of which need logits."""
    points = " ".join(point["name"] for point in config.raw["throughput"]["points"])
    late = [(arm, 8 if skip else 90) for arm, skip, _ in timed(config) if arm != "base-again"]
    return [
        {"points": points, "arm": arm, "steps": 4, "tokens": 90, "late_tokens": number, "expected_late_tokens": number}
        for arm, number in late
    ]


def arms(config) -> list[tuple[str, float, int]]:
    """(arm, skip, group) of the base and every variant."""
    return [("base", 0.0, 1), *((v.name, v.skip, v.key_value_group_size) for v in config.variants)]


def timed(config) -> list[tuple[str, float, int]]:
    """`arms` and the controls of the throughput stage."""
    return [*arms(config), *((name, 0.0, 1) for name in config.throughput.controls)]


def latency(config) -> tuple[list[dict], list[dict]]:
    """Summary and rounds at concurrency 1."""
    summary, rounds = [], []
    for arm, skip, _ in timed(config):
        ttft, tpot = 1 - 0.85 * skip, 1 + 0.01 * skip
        wide = 0 if arm == "base" else 0.02
        summary.append(
            {
                "arm": arm,
                "ttft_median_s": 0.08 * ttft,
                "tpot_median_s": 0.02 * tpot,
                "rounds": 5,
                "tpot_ratio": tpot,
            }
            | {"ci_low": tpot - wide / 2, "ci_high": tpot + wide / 2, "ttft_ratio": ttft}
            | {"ttft_ci_low": ttft - wide, "ttft_ci_high": ttft + wide, "interval": "t"}
        )
        for number in range(5):
            times = {"ttft_s": 0.08 * ttft * (1 + number / 200), "tpot_s": 0.02 * tpot * (1 - number / 300)}
            rounds.append({"arm": arm, "round": number, "position": 0, **times, "input_len": 64, "output_len": 64})
    return summary, rounds


def score_of(arm: str, skip: float, group: int) -> float:
    return (
        0.12 if arm.endswith("-undistilled") else 0.94 - 0.02 * skip - 0.12 * max(0, skip - 0.5) - 0.008 * (group - 1)
    )


def accuracy(config) -> tuple[list[dict], dict[str, list[dict]]]:
    """Summary rows and per-arm samples; the undistilled control is far below the others."""
    summary, samples = [], {}
    undistilled = [(f"{name}-undistilled", 0.5, 1) for name in config.accuracy.undistilled]
    for arm, skip, group in [*arms(config), *undistilled]:
        generator, rows = random.Random(arm), []
        for task in TASKS:
            score = score_of(arm, skip, group) - 0.01 * TASKS.index(task)
            summary.append(accuracy_row(arm, task, 200, score, 0.94 - 0.01 * TASKS.index(task)))
            for number in range(20):
                hit = float(generator.random() < score)
                one = {
                    "arm": arm,
                    "task": task,
                    "id": f"{task}-{number}",
                    "prompt_tokens": 100,
                    "answer_tokens": 10,
                }
                text = {"prediction": "a" if hit else "b", "target": "a", "score": hit, "exact_match": hit}
                rows.append({**one, "generated_tokens": 10, **text})
        summary.append(accuracy_row(arm, "mean", 800, score_of(arm, skip, group) - 0.015, 0.925))
        samples[arm] = rows
    return summary, samples


def accuracy_row(arm: str, task: str, items: int, score: float, base: float) -> dict:
    low, high = (0, 0) if arm == "base" else (-0.006, 0.006)
    row = {
        "arm": arm,
        "task": task,
        "items": items,
        "differing": 0 if arm == "base" else items // 10,
        "score": score,
        "base_score": base,
        "difference": score - base,
    }
    row |= {"ci_low": score - base + low, "ci_high": score - base + high, "retention": score / base}
    tests = {"p_value": 0.5, "p_holm": 1.0, "detectable_difference": 0.04, "retained": "not shown"}
    return row | {"length_ratio": 1.0, "exact_match": score, **tests, "length_ok": True}


def diagnosis(config) -> dict[str, list[dict]]:
    """Rows per file: KL falls along the answer, exact answers get rarer with records, each student lost one item."""
    found = {"positions.csv": [], "lengths.csv": [], "difficulty.csv": [], "lost.jsonl": []}
    for arm, skip, _ in arms(config):
        far = {"kl": 0.1 * skip, "agreement": 1 - 0.05 * skip, "ci_low": -0.1 * skip, "ci_high": 0.0}
        for task in TASKS:
            for position in range(1, 9):
                one = {"arm": arm, "task": task, "position": position, "tokens": 50, "right": 1 - 0.04 * skip}
                found["positions.csv"].append(one | {"kl": 0.1 * skip / position, "agreement": far["agreement"]})
        for start in (32, 64, 128):
            exact = {"exact": 1 - skip * start / 256, "base_exact": 1.0, "prompt_tokens": 1.4 * start}
            bins = {"arm": arm, "prompt_from": start, "prompt_to": 2 * start, "items": 60}
            found["lengths.csv"].append(bins | exact | far)
        for task in [*TASKS, "needle"]:
            for records in (4, 8, 16):
                exact = {"exact": 1 - skip * records / 20, "base_exact": 1.0, "prompt_tokens": 15.0 * records}
                found["difficulty.csv"].append(
                    {"arm": arm, "task": task, "records": records, "items": 30} | exact | far
                )
        if skip:
            texts = {"position": 2, "said": " b", "answer": " a .", "prompt": "# docs"}
            item = {"arm": arm, "task": "rag", "records": 4, "id": "rag-test-0-1", "prompt_tokens": 60}
            found["lost.jsonl"].append(item | texts)
    return found


def divergence(config) -> tuple[list[dict], list[dict]]:
    """Summary and documents: KL grows with what is skipped, and most in controls."""
    summary, documents = [], []
    undistilled = [(f"{name}-undistilled", 0.9, 1) for name in config.accuracy.undistilled]
    for arm, skip, group in [*arms(config), *undistilled]:
        for mode, tokens in (("full", 511), ("answers", 64)):
            for number, name in enumerate(["qmsum", "gsm8k_test", "humaneval", "nq_passages", "mean"]):
                kl, base = 0.6 * skip**2 * group * (1 + 0.1 * number), 1.5 + 0.2 * number
                wide = 0.1 if skip else 0.0
                row = {"arm": arm, "set": name, "mode": mode, "documents": 6, "cut": 3, "tokens": 6 * tokens}
                row |= {"perplexity": np.exp(base + kl), "base_perplexity": np.exp(base)}
                for value, middle in {"kl": kl, "agreement": np.exp(-kl), "nll": kl}.items():
                    row |= {"nll_difference" if value == "nll" else value: middle}
                    row |= {f"{value}_ci_low": middle * (1 - wide), f"{value}_ci_high": middle * (1 + wide)}
                summary.append(row | {"detectable_nll_difference": 0.02 if skip else None})
                for document in range(6 if name != "mean" else 0):
                    own = kl * (1 + 0.05 * document)
                    one = {"arm": arm, "set": name, "document": f"{name}/{document}", "mode": mode, "tokens": tokens}
                    one |= {
                        "read_tokens": 512,
                        "text_tokens": 500 + 12 * document + 1,
                        "nll": base + own,
                        "base_nll": base,
                    }
                    documents.append(one | {"kl": own, "agreement": np.exp(-own)})
    return summary, documents


def distill(config) -> list[dict]:
    """Falling KL and rising agreement for every student."""
    rows = []
    for arm, skip, group in arms(config)[1:]:
        for step in range(0, 600, 20):
            kl = (0.4 + skip + 0.1 * group) * np.exp(-step / 150) + 0.01 * skip
            one = {
                "step": step,
                "variant": arm,
                "loss": 4 * kl,
                "kl": kl,
                "hidden": 0.0,
                "learning_rate": 1e-3,
            }
            rows.append({**one, "tokens": (step + 1) * 4096, "seconds": step * 0.4, "agreement": 1 - min(0.9, kl)})
    return rows


def similarity() -> list[dict]:
    """Cosines that rise with depth; row L+1 is the final output."""
    rows = []
    for layer in range(1, LAYERS + 2):
        previous = None if layer == 1 else 0.6 + 0.04 * layer
        one = {
            "layer": layer,
            "cosine_to_previous": previous,
            "cosine_to_final": (layer / (LAYERS + 1)) ** 0.5,
        }
        rows.append(
            {
                **one,
                "relative_change": None if layer == 1 else 1.2 - 0.1 * layer,
                "prompts": 64,
                "tokens": 6000,
            }
        )
    return rows


def gates(config) -> list[dict]:
    """One green gate per student."""
    one = {"gate": "logits", "measured": 1e-5, "limit": 1e-3, "passed": True, "detail": ""}
    return [{**one, "variant": variant.name} for variant in config.variants]


def models(root: Path, config) -> None:
    """Checkpoints of a few bytes with real tensor names, for parameter counts and the layer count."""
    for arm, skip, _ in arms(config):
        late = range(LAYERS - int(LAYERS * skip), LAYERS)
        tensors = {f"model.layers.{layer}.mlp.weight": np.zeros((10, 10), "float32") for layer in range(LAYERS)}
        tensors |= {
            f"model.layers.{layer}.self_attn.q_proj_swiftkv.weight": np.zeros((2, 5), "float32") for layer in late
        }
        (root / "models" / arm).mkdir(parents=True, exist_ok=True)
        save_file(tensors, root / "models" / arm / "model.safetensors")
        (root / "models" / arm / "config.json").write_text(json.dumps({"num_hidden_layers": LAYERS}))


def build(root: Path, config) -> Path:
    """A complete synthetic results/<scale> under `root`; returns the scale's directory."""
    scale = root / config.scale
    summary, measurements, capacity, compute = throughput(config)
    requests = [request for row in measurements for request in requests_of(row)]
    for name, rows in {
        "summary.csv": summary, "measurements.jsonl": measurements, "requests.jsonl.gz": requests,
    }.items():  # fmt: skip
        save(scale / "throughput" / name, rows)
    late = late_tokens(config)
    for name, rows in {"kv_capacity.csv": capacity, "compute.csv": compute, "late_tokens.csv": late}.items():
        save(scale / "throughput" / name, rows)
    for name, rows in zip(("lengths.csv", "lengths_quantiles.csv"), lengths(), strict=True):
        save(scale / "lengths" / name, rows)
    for name, rows in zip(("latency.csv", "latency.jsonl"), latency(config), strict=True):
        save(scale / "throughput" / name, rows)
    scores, samples = accuracy(config)
    save(scale / "accuracy" / "summary.csv", scores)
    for arm, rows in samples.items():
        save(scale / "accuracy" / arm / "samples.jsonl", rows)
    for name, rows in diagnosis(config).items():
        save(scale / "diagnosis" / name, rows)
    for name, rows in zip(("summary.csv", "documents.jsonl"), divergence(config), strict=True):
        save(scale / "divergence" / name, rows)
    save(scale / "models" / "distill.jsonl", distill(config))
    save(scale / "similarity" / "similarity.csv", similarity())
    save(scale / "verify" / "gates.json", gates(config))
    models(scale, config)
    return scale
