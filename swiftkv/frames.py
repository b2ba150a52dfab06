"""Which file of results/<scale>/ holds which frame, and the columns it must have: the contract between stages.

A stage writes such a file, `swiftkv.results` reads it, and nothing else needs to know where it lies.
"""

CLAIM_COLUMNS = "id statement source published measured ci_low ci_high unit hardware verdict evidence"
# frame -> (file below results/<scale>/, columns it must have). Units are in the column names: _s seconds,
# _len and tokens in tokens, ratios without a unit; `layer` is 1-based.
FRAMES: dict[str, tuple[str, str]] = {
    "lengths": (
        "lengths/lengths.csv",
        "workload kind source requests ratio_of_means median_ratio share_ratio_ge10 "
        "prompt_mean prompt_p25 prompt_p50 prompt_p75 prompt_p90 prompt_p99 "
        "output_mean output_p25 output_p50 output_p75 output_p90 output_p99",
    ),
    "lengths_quantiles": ("lengths/lengths_quantiles.csv", "workload quantity q tokens"),
    "similarity": (
        "similarity/similarity.csv",
        "layer cosine_to_previous cosine_to_final relative_change prompts tokens",
    ),
    "gates": ("verify/gates.json", "gate variant measured limit passed detail"),
    "measurements": (
        "throughput/measurements.jsonl",
        "point arm repeat input_len output_len num_requests elapsed_s total_tokens_per_s ttft_p50_s failed",
    ),
    "requests": ("throughput/requests.jsonl.gz", "point arm repeat request ttft_s tpot_s output_tokens"),
    "throughput": (
        "throughput/summary.csv",
        "point arm input_len output_len num_requests repeats total_tokens_per_s_median speedup "
        "ci_low ci_high limit share_of_limit ttft_p50_s",
    ),
    "latency_rounds": ("throughput/latency.jsonl", "arm round ttft_s tpot_s input_len output_len"),
    "latency": (
        "throughput/latency.csv",
        "arm ttft_median_s tpot_median_s tpot_ratio ci_low ci_high ttft_ratio ttft_ci_low ttft_ci_high rounds",
    ),
    "kv_capacity": (
        "throughput/kv_capacity.csv",
        "arm kv_caches kv_bytes_per_token capacity_tokens ratio_to_base formula_ratio",
    ),
    "compute": (
        "throughput/compute.csv",
        "model arm skip part gflops_per_prompt_token relative_to_base context counting",
    ),
    "accuracy": (
        "accuracy/summary.csv",
        "arm task items score base_score difference ci_low ci_high retention length_ratio exact_match "
        "length_ok p_value p_holm detectable_difference retained",
    ),
    "diagnosis_positions": ("diagnosis/positions.csv", "arm task position tokens kl agreement right"),
    "diagnosis_lengths": (
        "diagnosis/lengths.csv",
        "arm prompt_from prompt_to items prompt_tokens exact base_exact kl agreement ci_low ci_high",
    ),
    "diagnosis_difficulty": (
        "diagnosis/difficulty.csv",
        "arm task records items prompt_tokens exact base_exact kl agreement ci_low ci_high",
    ),
    "diagnosis_lost": ("diagnosis/lost.jsonl", "arm task records id prompt_tokens position said answer prompt"),
    "distill": ("models/distill.jsonl", "step variant loss kl learning_rate tokens seconds agreement"),
    "claims": ("claims.csv", CLAIM_COLUMNS),
}
# What `snakemake -- sweep` makes beyond these.
SWEEP_FRAMES: dict[str, tuple[str, str]] = {
    "predictions": ("predictions/speedups.csv", "point arm quantity predicted measured ci_low ci_high error kind"),
    "prediction_map": (
        "predictions/map.csv",
        "input_len output_len ratio num_requests arm speedup limit kind",
    ),
    "prediction_models": (
        "predictions/models.csv",
        "model gpu gpus arm skip group input_len output_len at_once tokens_per_s speedup kind",
    ),
}
# What `snakemake -- served` makes.
SERVED_FRAMES: dict[str, tuple[str, str]] = {
    "served_rounds": (
        "served/served.jsonl",
        "point kind load load_unit arm round requests duration_s prompt_tokens output_tokens requests_per_s "
        "attainment goodput_per_s ttft_p50_s tpot_p50_s itl_p50_s e2el_p50_s time_scale length_scale source",
    ),
    "served": (
        "served/summary.csv",
        "point kind load load_unit arm rounds requests requests_per_s goodput_per_s attainment ttft_p50_s tpot_p50_s "
        "e2el_p50_s ttft_p50_ratio ttft_p50_ci_low ttft_p50_ci_high",
    ),
    "saturation": (
        "served/saturation.csv",
        "point kind load_unit arm rounds slo_ttft_s slo_tpot_s wanted highest_within saturation ratio ci_low ci_high "
        "note",
    ),
    "served_claims": ("served/claims.csv", CLAIM_COLUMNS),
}
# What `snakemake -- protocol` makes.
PROTOCOL_FRAMES: dict[str, tuple[str, str]] = {
    "protocol": ("protocol/summary.csv", "arm task path coverage items cut score difference ci_low ci_high published"),
}
# Quantities under load whose ratios to the base `served` holds, as NAME_ratio, NAME_ci_low, NAME_ci_high.
LOAD_RATIOS = ("ttft_p50", "ttft_p99", "tpot_p50", "itl_p99", "e2el_p50", "e2el_p99", "total_tokens_per")
ALL_FRAMES = FRAMES | SWEEP_FRAMES | SERVED_FRAMES | PROTOCOL_FRAMES
COUNTS = "models/parameters.csv"  # in published evidence alone
MAY_BE_EMPTY = {"distill", "diagnosis_lost"}  # no distillation step, no curve; a student may lose nothing
SAMPLES = "arm task id prompt_tokens answer_tokens generated_tokens prediction target score exact_match"

# What `publish` keeps of a run, and `verify-results` accounts for: globs below its directory.
KEPT = (
    "config.yaml claims.csv* claims.md* lengths/* similarity/* verify/* throughput/* accuracy/summary.csv* "
    "accuracy/*/* predictions/* diagnosis/* models/distill.jsonl* models/base/config.json tables/* figures/*.png "
    "figures/*.json benchmarks/*.tsv benchmarks/*.json* plugin/* served/*.json* served/*.csv served/*.md served/*.tex "
    "served/*.png protocol/*.* protocol/*/*"
).split()
