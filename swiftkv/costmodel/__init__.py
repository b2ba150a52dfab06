"""FLOPs and bytes of a Llama-shaped model with and without SwiftKV, and the speed-ups they allow.

A shape is a mapping with the field names of a Llama `config.json`: hidden_size, intermediate_size,
num_hidden_layers, num_attention_heads, num_key_value_heads, vocab_size and, optionally, head_dim.
`cut` is num_key_value_layers (l), `group` is key_value_group_size (n); the base model is cut = L, group = 1.

What is counted: every matrix product, two FLOPs per multiply-add, attention over the positions a token really
sees (causal). Embedding look-up, norms, RoPE, activations and sampling are left out; they are below 1%.
What SwiftKV leaves out (paper, section 3.2): a prompt token whose logits nobody needs runs layers 1..l and the
K, V projections of the later groups, and no Q, O, MLP, attention or vocabulary projection beyond that.
"""

from collections.abc import Mapping
from pathlib import Path

from swiftkv import files
from swiftkv.config import BASE_ARM, check_cut
from swiftkv.errors import UserError
from swiftkv.layers import Layers

PARTS = ("vocab", "kv", "qo", "mlp", "attention")
SHAPE_KEYS = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads".split()
SHAPE_KEYS += ["vocab_size"]

# Published shapes: config.json of meta-llama/Llama-3.1-8B-Instruct, -70B-Instruct and -405B-Instruct.
LLAMA_8B = dict(zip(SHAPE_KEYS, (4096, 14336, 32, 32, 8, 128256), strict=True))
LLAMA_70B = dict(zip(SHAPE_KEYS, (8192, 28672, 80, 64, 8, 128256), strict=True))
LLAMA_405B = dict(zip(SHAPE_KEYS, (16384, 53248, 126, 128, 8, 128256), strict=True))
PUBLISHED_SHAPES = {"Llama-3.1-8B": LLAMA_8B, "Llama-3.1-70B": LLAMA_70B, "Llama-3.1-405B": LLAMA_405B}
PAPER_CONTEXT = 128 * 1024


def _check(shape: Mapping, cut: int, group: int) -> None:
    missing = [key for key in SHAPE_KEYS if key not in shape]
    if missing:
        raise UserError(f"model shape: {', '.join(missing)} is missing; needed are {', '.join(SHAPE_KEYS)}")
    check_cut(cut, shape["num_hidden_layers"], group, where="costmodel")


def head_dim(shape: Mapping) -> int:
    """Width of one attention head: the config's own, else hidden_size / num_attention_heads."""
    return shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]


def layer_flops(shape: Mapping) -> dict[str, int]:
    """FLOPs of one layer for one token: kv, qo, mlp; `attention` is per position that is attended to."""
    hidden, queries = shape["hidden_size"], shape["num_attention_heads"] * head_dim(shape)
    return {
        "kv": 2 * 2 * hidden * shape["num_key_value_heads"] * head_dim(shape),  # two FLOPs, two matrices
        "qo": 2 * 2 * hidden * queries,
        "mlp": 2 * 3 * hidden * shape["intermediate_size"],  # gate, up and down
        "attention": 2 * 2 * queries,  # q with every k, the weights with every v
    }


def kv_caches(shape: Mapping, cut: int, group: int = 1) -> int:
    """Layers that own a KV cache, l + (L - l) / n (paper, section 3.3). Raises UserError for an impossible cut."""
    _check(shape, cut, group)
    return Layers(shape["num_hidden_layers"], cut, group).caches


def kv_capacity_ratio(shape: Mapping, cut: int, group: int = 1) -> float:
    """Tokens that fit into the same KV memory, relative to the base: L / (l + (L - l) / n)."""
    return shape["num_hidden_layers"] / kv_caches(shape, cut, group)


def kv_bytes_per_token(shape: Mapping, cut: int, group: int = 1, dtype_bytes: int = 2) -> int:
    """Bytes of K and V that one token occupies in the cache."""
    return kv_caches(shape, cut, group) * 2 * shape["num_key_value_heads"] * head_dim(shape) * dtype_bytes


def positions(start: int, count: int) -> int:
    """Positions that `count` tokens attend to together, the first of them after `start` others (causal)."""
    return count * start + count * (count + 1) // 2


def workload_flops(
    shape: Mapping, cut: int, group: int, input_len: int, output_len: int, cached: int = 0
) -> dict[str, int]:
    """FLOPs of one request by part, and their `total`; output_len = 1 is prefill alone.

    The last prompt token yields the first output token, so output_len - 1 further tokens run through the model.
    Those and the last prompt token run every layer. The first `cached` prompt tokens lie in a prefix cache and do not
    run. Raises UserError for lengths below 1, a prompt that is cached whole or an impossible cut.
    """
    caches = kv_caches(shape, cut, group)
    if input_len < 1 or output_len < 1:
        raise UserError(f"workload: input_len {input_len} and output_len {output_len} must both be at least 1")
    if not 0 <= cached < input_len:
        raise UserError(f"workload: {cached} cached prompt tokens; allowed are 0 to {input_len - 1}")
    layer, late = layer_flops(shape), shape["num_hidden_layers"] - cut
    # Early layers see every token that is not cached; late ones the last prompt token and the generated ones, which
    # together are as many as the output.
    tokens = input_len - cached + output_len - 1
    early_seen, late_seen = positions(cached, tokens), positions(input_len - 1, output_len)
    flops = {
        "vocab": 2 * shape["hidden_size"] * shape["vocab_size"] * output_len,  # prompt tokens need no logits
        "kv": layer["kv"] * tokens * caches,
        "qo": layer["qo"] * (tokens * cut + output_len * late),
        "mlp": layer["mlp"] * (tokens * cut + output_len * late),
        "attention": layer["attention"] * (early_seen * cut + late_seen * late),
    }
    return flops | {"total": sum(flops.values())}


def workload_speedup_limit(
    shape: Mapping, cut: int, group: int, input_len: int, output_len: int, cached: int = 0
) -> float:
    """How many times faster a request could run at the base's FLOP rate: base FLOPs / SwiftKV FLOPs."""
    base = workload_flops(shape, shape["num_hidden_layers"], 1, input_len, output_len, cached)
    return base["total"] / workload_flops(shape, cut, group, input_len, output_len, cached)["total"]


def paper_prefill_gflops(shape: Mapping, cut: int, group: int, context: int = PAPER_CONTEXT) -> dict[str, float]:
    """GFLOPs per prompt token as Table 1 of arXiv 2410.03960v3 counts them, by part and in total.

    Inferred from its Llama-3.1-70B rows (vocab 4.3, K,V 2.7, Q,O 21, MLP 113, attention 160; totals 302, 228, 154):
    every prompt token pays for the vocabulary, twice (embedding and output); attention sees context / 2
    positions on average; matrix parts are in 10^9, attention in 2^30 (160.0 exactly at 131,072 tokens).
    """
    caches, layer = kv_caches(shape, cut, group), layer_flops(shape)
    gflops = {
        "vocab": 2 * 2 * shape["hidden_size"] * shape["vocab_size"] / 1e9,
        "kv": layer["kv"] * caches / 1e9,
        "qo": layer["qo"] * cut / 1e9,
        "mlp": layer["mlp"] * cut / 1e9,
        "attention": layer["attention"] * context / 2 * cut / 2**30,
    }
    return gflops | {"total": sum(gflops.values())}


def exact_prefill_gflops(shape: Mapping, cut: int, group: int, context: int) -> dict[str, float]:
    """GFLOPs per prompt token, by part and in total, averaged over a prompt of `context` tokens."""
    return {part: flops / context / 1e9 for part, flops in workload_flops(shape, cut, group, context, 1).items()}


def compute_rows(config) -> list[dict]:
    """Rows of compute.csv: prefill compute by part, of every arm, for the benchmark model and published shapes.

    `counting` is "exact" (this module's, at the prompt lengths named in `context`) or "paper" (Table 1's).
    Variants that do not fit a published model's layers are left out there.
    """
    lengths = sorted({point.input_len for point in config.throughput.points})
    models = [("benchmark", config.shape, lengths, "exact")]
    models += [("Llama-3.1-8B", LLAMA_8B, [2000, PAPER_CONTEXT], "exact")]
    models += [("Llama-3.1-70B", LLAMA_70B, [PAPER_CONTEXT], "paper")]
    rows = []
    for model, shape, contexts, counting in models:
        for context in contexts:
            rows += _model_rows(config.variants, model, shape, context, counting)
    return rows


def _model_rows(variants, model: str, shape: Mapping, context: int, counting: str) -> list[dict]:
    count = paper_prefill_gflops if counting == "paper" else exact_prefill_gflops
    layers, rows = shape["num_hidden_layers"], []
    base = count(shape, layers, 1, context)
    for arm, skip, cut, group in [(BASE_ARM, 0.0, layers, 1), *fitting(variants, layers, model)]:
        for part, gflops in count(shape, cut, group, context).items():
            row = {"model": model, "arm": arm, "skip": skip, "part": part, "gflops_per_prompt_token": gflops,
                   "relative_to_base": gflops / base[part], "context": context, "counting": counting}  # fmt: skip
            rows.append(row)
    return rows


def fitting(variants, layers: int, model: str) -> list[tuple[str, float, int, int]]:
    """Name, skip, cut and group of the variants that fit `layers` layers. Raises UserError for one that does not if
    `model` is "benchmark"."""
    fits = []
    for variant in variants:
        try:
            cut = variant.num_key_value_layers(layers)
        except UserError:
            if model == "benchmark":
                raise
            continue
        fits.append((variant.name, variant.skip, cut, variant.key_value_group_size))
    return fits


def write_compute(config, path: str | Path) -> None:
    """Write compute.csv (see `compute_rows`), atomically."""
    import pandas as pd

    files.write_text(path, pd.DataFrame(compute_rows(config)).to_csv(index=False))
