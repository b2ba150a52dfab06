"""How each table is set in LaTeX: short heads, columns that are broken, parts, what its words mean.

A table that is not listed is set as it is.
"""

from swiftkv.report.latex import Layout

LAYOUTS = {
    "tab-throughput": Layout(
        keys=2,
        heads={
            "prompt:output": "prompt:\noutput",
            "compute limit": "limit",
            "share of limit": "% of\nlimit",
            "TTFT p50 (s)": "TTFT\np50 (s)",
        },
        notes="Limit: FLOPs of the base divided by the student's, which no speed-up passes that only saves compute.",
    ),
    "tab-accuracy": Layout(
        heads={
            "difference of the mean [95% CI]": "difference\nof the mean",
            "% of base": "% of\nbase",
            "tasks that lose (Holm, 5%)": "tasks\nthat lose",
            "answer length": "length",
            "too short in": "too short\nin",
        },
        widths={"model": 64, "tasks that lose (Holm, 5%)": 60, "too short in": 44},
        notes="Tasks that lose: worse than the base at 5% after Holm's correction. Length: generated tokens of all "
        "answers divided by the base's. Too short: less than 90% of the base's tokens.",
    ),
    "tab-compute": Layout(
        keys=3,
        heads={"kv": "K, V", "qo": "Q, O", "mlp": "MLP", "% of base": "% of\nbase"},
        notes="Context: tokens of the prompt. Vocab: logits; where counting is exact, of the last prompt token only.",
    ),
    "tab-kv": Layout(
        heads={
            "KV caches": "KV\ncaches",
            "bytes per token": "bytes\nper token",
            "capacity (tokens)": "capacity\n(tokens)",
            "capacity/base": "capacity\n/base",
        },
        wide=False,
        notes="Formula: capacity/base as the shape of the model gives it.",
    ),
    "tab-latency": Layout(),
    "tab-lengths": Layout(
        heads={
            "lengths from": "lengths\nfrom",
            "prompt mean (p50, p99)": "prompt tokens",
            "output mean (p50, p99)": "output tokens",
            "ratio of means": "ratio of\nmeans",
            "median ratio": "median\nratio",
            "requests at 10:1 or more": "10:1 or\nmore (%)",
        },
        notes="10:1 or more: share of requests with at least ten prompt tokens per output token.",
    ),
    "tab-divergence": Layout(
        keys=2,
        named=2,
        heads={
            "base": "perplexity\nof the base",
            "NLL difference": "NLL\ndifference",
            "detectable": "detectable\ndifference",
        },
        panels=(
            ("perplexity", "base", "KL [95% CI]", "KL, answers", "NLL difference", "detectable"),
            ("same top token", "same top token, answers", "documents (cut)", "tokens"),
        ),
        notes="Detectable: the smallest NLL difference that texts of this number and spread would show with a power of "
        "80%. Cut: documents that were longer than what was read of them.",
    ),
    "tab-gain-loss": Layout(
        heads={
            "prompts alone [95% CI]": "throughput,\nprompts alone",
            "10:1 [95% CI]": "throughput,\n10:1",
            "score, points [95% CI]": "score,\npoints",
            "same top token": "same top\ntoken (%)",
        },
        panels=(
            ("prompts alone [95% CI]", "10:1 [95% CI]", "TTFT/base", "TPOT/base", "KV tokens/base"),
            ("score, points [95% CI]", "KL [95% CI]", "same top token", "perplexity/base"),
        ),
    ),
    "tab-claims": Layout(widths={"statement": 142, "unit": 46}),
    "tab-served": Layout(
        keys=2,
        heads={
            "within SLO": "within\nSLO",
            "goodput (req/s)": "goodput\n(req/s)",
            "TTFT p50 (s)": "TTFT\np50 (s)",
            "TTFT p99 (s)": "TTFT\np99 (s)",
            "TPOT p50 (s)": "TPOT\np50 (s)",
        },
        notes="Goodput: requests within the SLO per second.",
    ),
    "tab-saturation": Layout(
        keys=1,
        heads={
            "highest load within the SLO": "highest load\nwithin",
            "saturation load": "saturation\nload",
            "relative to base [95% CI]": "relative\nto base",
        },
        widths={"note": 150},
    ),
    "tab-protocol": Layout(
        keys=2,
        named=3,
        heads={
            "arc_challenge": "ARC-C",
            "winogrande": "Wino-\nGrande",
            "hellaswag": "Hella-\nSwag",
            "truthfulqa_mc2": "Truthful-\nQA",
            "mmlu": "MMLU",
            "mmlu_cot": "MMLU\nCoT",
            "gsm8k_cot": "GSM8K\nCoT",
        },
        widths={"source": 40, "model": 76, "variant": 84},
        panels=(
            ("arc_challenge", "winogrande", "hellaswag", "truthfulqa_mc2", "mmlu", "mmlu_cot", "gsm8k_cot"),
            ("mean", "difference [95% CI]"),
        ),
        notes="ARC-C: ARC-Challenge. CoT: chain of thought.",
    ),
}


def of(table: str) -> Layout:
    """The layout of a table."""
    return LAYOUTS.get(table, Layout())
