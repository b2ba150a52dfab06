"""Every result file below results/<scale>/: what it holds, who makes it, and what is done with it.

A fact about a result file is said here once. A stage takes the names of its files from here, the rules their outputs,
`results` what it reads, `compare` the keys and tolerances, `publish` and `verify-results` what counts as evidence, the
tables their sources. Only how a file is made anew lies elsewhere (`audit.recompute`), since that needs the stages.
Files stand in the order of the pipeline, and verdicts last: that is the order in which differences are told.

A new file of a stage is an entry here and the line of the stage that writes it.
"""

from dataclasses import KW_ONLY, dataclass
from enum import Enum
from pathlib import PurePosixPath


class Keep(Enum):
    """What `publish` keeps of a run as evidence."""

    FOLDER = "whatever lies in the file's folder, which is its stage's alone"
    FILE = "the file and its provenance record; more lies beside it than evidence"
    NO = "nothing"


class Agreement(Enum):
    """How closely two runs of one configuration agree in numbers that are neither times nor ratios (see `compare`)."""

    EXACT = "but for rounding: counts, scores, formulae"
    COMPUTED = "but for the order of additions"
    LOOSE = "as times do: over the steps of a training the order of additions grows"


@dataclass(frozen=True)
class Ratio:
    """The columns of a ratio to the base, without a unit, and of its 95% interval."""

    value: str
    low: str
    high: str


@dataclass(frozen=True)
class ResultFile:
    """One result file, or one per arm where its path holds `{arm}`.

    Units are in the names of columns: _s seconds, _len and tokens in tokens, ratios without a unit; `layer` is 1-based.
    """

    name: str  # of the frame, where it is one
    path: str  # below results/<scale>/
    _: KW_ONLY
    stage: str  # that writes it, as its provenance record says
    columns: tuple[str, ...] = ()  # that it must have; none: no table
    target: str | None = "all"  # of Snakemake, that makes it; None: a command that no target runs
    keys: tuple[str, ...] = ()  # columns that name a row; none: not compared
    ratios: tuple[Ratio, ...] = ()  # agree if their intervals overlap, on any machine
    agreement: Agreement = Agreement.COMPUTED
    ignored: tuple[str, ...] = ()  # not compared: follow from other columns, are words, or tell how a job went
    may_be_empty: bool = False
    recorded: bool = True  # whether a provenance record lies beside it
    keep: Keep = Keep.FOLDER
    tables: tuple[str, ...] = ()  # that show it; the origin in a caption is that of the first file that a table shows

    @property
    def file(self) -> str:
        """Its name without the folder."""
        return PurePosixPath(self.path).name

    @property
    def pattern(self) -> str:
        """A glob of the file, of all arms where each has its own."""
        return self.path.format(arm="*")

    @property
    def evidence(self) -> str | None:
        """A glob of what `publish` keeps on its account."""
        if self.keep is Keep.FOLDER:
            return str(PurePosixPath(self.pattern).with_name("*"))
        return f"{self.pattern}*" if self.keep is Keep.FILE else None

    @property
    def is_frame(self) -> bool:
        """Whether it is one table that a run makes, which `Results.frame` reads."""
        return bool(self.columns) and self.path == self.pattern and self.stage != PUBLISH


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PUBLISH = "publish"  # the stage that makes evidence of a run
# Quantities under load whose ratios to the base `served` holds, as NAME_ratio, NAME_ci_low, NAME_ci_high.
LOAD_RATIOS = ("ttft_p50", "ttft_p99", "tpot_p50", "itl_p99", "e2el_p50", "e2el_p99", "total_tokens_per")
VERDICTS = words("id statement source published measured ci_low ci_high unit hardware verdict evidence")
INTERVAL = words("ci_low ci_high")

# fmt: off
REGISTERED = (
    ResultFile("lengths", "lengths/lengths.csv", stage="lengths",
               columns=words("workload kind source requests ratio_of_means median_ratio share_ratio_ge10 "
                             "prompt_mean prompt_p25 prompt_p50 prompt_p75 prompt_p90 prompt_p99 "
                             "output_mean output_p25 output_p50 output_p75 output_p90 output_p99"),
               keys=words("workload"), agreement=Agreement.EXACT, tables=("tab-lengths",)),
    ResultFile("lengths_quantiles", "lengths/lengths_quantiles.csv", stage="lengths", recorded=False,
               columns=words("workload quantity q tokens"),
               keys=words("workload quantity q"), agreement=Agreement.EXACT),
    ResultFile("similarity", "similarity/similarity.csv", stage="similarity",
               columns=words("layer cosine_to_previous cosine_to_final relative_change prompts tokens"),
               keys=words("layer")),
    ResultFile("gates", "verify/gates.json", stage="verify",
               columns=words("gate variant measured limit passed detail"),
               keys=words("gate variant"), agreement=Agreement.EXACT,
               # Rounding errors, of the base, too, which limits follow: the verdict is compared.
               ignored=words("measured limit limit_from detail")),
    ResultFile("measurements", "throughput/measurements.jsonl", stage="throughput",
               columns=words("point arm repeat input_len output_len num_requests elapsed_s total_tokens_per_s "
                             "ttft_p50_s failed")),
    ResultFile("requests", "throughput/requests.jsonl.gz", stage="throughput",
               columns=words("point arm repeat request ttft_s tpot_s output_tokens")),
    ResultFile("throughput", "throughput/summary.csv", stage="throughput",
               columns=words("point arm input_len output_len num_requests repeats total_tokens_per_s_median speedup "
                             "ci_low ci_high limit share_of_limit ttft_p50_s"),
               keys=words("point arm"), ratios=(Ratio("speedup", *INTERVAL),),
               ignored=words("share_of_limit repeats batches shortest_s base_drift load_1m stolen_percent "
                             "repeated too_short notes"),  # the last three: of earlier releases
               tables=words("tab-throughput tab-gain-loss")),
    ResultFile("latency_rounds", "throughput/latency.jsonl", stage="throughput",
               columns=words("arm round ttft_s tpot_s input_len output_len")),
    ResultFile("latency", "throughput/latency.csv", stage="throughput",
               columns=words("arm ttft_median_s tpot_median_s tpot_ratio ci_low ci_high ttft_ratio ttft_ci_low "
                             "ttft_ci_high rounds"),
               keys=words("arm"),
               ratios=(Ratio("tpot_ratio", *INTERVAL), Ratio("ttft_ratio", "ttft_ci_low", "ttft_ci_high")),
               ignored=words("load_1m stolen_percent"),
               tables=words("tab-latency tab-gain-loss")),
    ResultFile("kv_capacity", "throughput/kv_capacity.csv", stage="throughput",
               columns=words("arm kv_caches kv_bytes_per_token capacity_tokens ratio_to_base formula_ratio"),
               keys=words("arm"), agreement=Agreement.EXACT, tables=words("tab-kv tab-gain-loss")),
    ResultFile("late_tokens", "throughput/late_tokens.csv", stage="throughput",
               columns=words("points arm steps tokens late_tokens expected_late_tokens"),
               keys=words("points arm"), agreement=Agreement.EXACT, ignored=words("steps")),
    ResultFile("compute", "throughput/compute.csv", stage="throughput",
               columns=words("model arm skip part gflops_per_prompt_token relative_to_base context counting"),
               keys=words("model arm part context counting"), agreement=Agreement.EXACT, tables=("tab-compute",)),
    ResultFile("accuracy", "accuracy/summary.csv", stage="accuracy-summary", keep=Keep.FILE,
               columns=words("arm task items differing score base_score difference ci_low ci_high retention "
                             "length_ratio exact_match length_ok p_value p_holm detectable_difference retained"),
               keys=words("arm task"), agreement=Agreement.EXACT, tables=words("tab-accuracy tab-gain-loss")),
    ResultFile("samples", "accuracy/{arm}/samples.jsonl", stage="accuracy",
               columns=words("arm task id prompt_tokens answer_tokens generated_tokens prediction target score "
                             "exact_match"),
               keys=words("arm task id sample_seed"), agreement=Agreement.EXACT, ignored=words("prediction target")),
    ResultFile("lm_eval", "accuracy/{arm}/lm_eval.json", stage="accuracy", recorded=False),
    ResultFile("diagnosis_positions", "diagnosis/positions.csv", stage="diagnose",
               columns=words("arm task position tokens kl agreement right"), keys=words("arm task position")),
    ResultFile("diagnosis_lengths", "diagnosis/lengths.csv", stage="diagnose",
               columns=words("arm prompt_from prompt_to items prompt_tokens exact base_exact kl agreement ci_low "
                             "ci_high"),
               keys=words("arm prompt_from")),
    ResultFile("diagnosis_difficulty", "diagnosis/difficulty.csv", stage="diagnose",
               columns=words("arm task records items prompt_tokens exact base_exact kl agreement ci_low ci_high"),
               keys=words("arm task records")),
    ResultFile("diagnosis_lost", "diagnosis/lost.jsonl", stage="diagnose", may_be_empty=True,  # if nothing was lost
               columns=words("arm task records id prompt_tokens position said answer prompt")),
    ResultFile("divergence_documents", "divergence/documents.jsonl", stage="divergence",
               columns=words("arm set document mode tokens read_tokens text_tokens nll base_nll kl agreement"),
               keys=words("arm set document mode")),
    ResultFile("divergence", "divergence/summary.csv", stage="divergence",
               columns=words("arm set mode documents cut tokens perplexity base_perplexity kl kl_ci_low kl_ci_high "
                             "agreement agreement_ci_low agreement_ci_high nll_difference nll_ci_low nll_ci_high "
                             "detectable_nll_difference"),
               keys=words("arm set mode"), tables=words("tab-divergence tab-gain-loss")),
    ResultFile("training_data", "data/train.jsonl.xz", stage="training-data", target=None, keep=Keep.NO),
    ResultFile("training_data_card", "data/README.md", stage="training-data", target=None, recorded=False,
               keep=Keep.FILE),
    ResultFile("distill", "models/distill.jsonl", stage="distill", may_be_empty=True,  # if no step was taken
               columns=words("step variant loss kl learning_rate tokens seconds agreement"),
               keys=words("variant step"), agreement=Agreement.LOOSE, keep=Keep.FILE),
    ResultFile("ablations", "ablations/ablations.csv", stage="ablate", target="ablations", recorded=False,
               keep=Keep.NO),
    ResultFile("ablation_summary", "ablations/summary.csv", stage="ablate", target="ablations", keep=Keep.NO),
    ResultFile("ablation_report", "ablations/summary.md", stage="ablate", target="ablations", recorded=False,
               keep=Keep.NO),
    # In place of the models, which evidence leaves out.
    ResultFile("parameters", "models/parameters.csv", stage=PUBLISH, target=None, recorded=False, keep=Keep.NO,
               columns=words("arm trained base share")),
    ResultFile("predictions", "predictions/speedups.csv", stage="predict", target="sweep",
               columns=words("point arm quantity predicted measured ci_low ci_high error kind")),
    ResultFile("prediction_report", "predictions/speedups.md", stage="predict", target="sweep"),
    ResultFile("prediction_map", "predictions/map.csv", stage="predict", target="sweep",
               columns=words("input_len output_len ratio num_requests arm speedup limit kind")),
    ResultFile("prediction_models", "predictions/models.csv", stage="predict", target="sweep",
               columns=words("model gpu gpus arm skip group input_len output_len at_once tokens_per_s speedup kind")),
    ResultFile("served_late_tokens", "served/late_tokens.csv", stage="served", target="served", keep=Keep.FILE,
               columns=words("points arm steps tokens late_tokens expected_late_tokens"),
               keys=words("points arm"), agreement=Agreement.EXACT, ignored=words("steps tokens late_tokens "
                                                                                  "expected_late_tokens")),
    ResultFile("served_rounds", "served/served.jsonl", stage="served", target="served", keep=Keep.FILE,
               columns=words("point kind load load_unit arm round requests duration_s prompt_tokens output_tokens "
                             "requests_per_s attainment goodput_per_s ttft_p50_s tpot_p50_s itl_p50_s e2el_p50_s "
                             "time_scale length_scale source")),
    ResultFile("served_requests", "served/requests.jsonl.gz", stage="served", target="served", keep=Keep.FILE),
    ResultFile("served", "served/summary.csv", stage="served", target="served", keep=Keep.FILE,
               columns=words("point kind load load_unit arm rounds requests requests_per_s goodput_per_s attainment "
                             "ttft_p50_s tpot_p50_s e2el_p50_s ttft_p50_ratio ttft_p50_ci_low ttft_p50_ci_high"),
               keys=words("point load arm"),
               ratios=tuple(Ratio(f"{name}_ratio", f"{name}_ci_low", f"{name}_ci_high") for name in LOAD_RATIOS),
               ignored=words("source attainment cache_hit_share"),  # shares of a few requests near a limit
               tables=("tab-served",)),
    ResultFile("saturation", "served/saturation.csv", stage="served", target="served", keep=Keep.FILE,
               columns=words("point kind load_unit arm rounds slo_ttft_s slo_tpot_s wanted highest_within saturation "
                             "ratio ci_low ci_high note"),
               keys=words("point arm"), ratios=(Ratio("ratio", *INTERVAL),),
               ignored=words("highest_within saturation note"), tables=("tab-saturation",)),
    ResultFile("served_predictions", "predictions/served.csv", stage="predict-served", target=None),
    ResultFile("protocol_scores", "protocol/{arm}/protocol.json", stage="protocol", target="protocol"),
    ResultFile("protocol", "protocol/summary.csv", stage="protocol-summary", target="protocol",
               columns=words("arm task path coverage items cut differing score base_score difference ci_low ci_high "
                             "published")),
    ResultFile("claims", "claims.csv", stage="claims", keep=Keep.FILE, columns=VERDICTS,
               keys=words("id"), ratios=(Ratio("measured", *INTERVAL),),
               ignored=words("statement source hardware evidence"), tables=("tab-claims",)),
    ResultFile("claims_text", "claims.md", stage="claims", keep=Keep.FILE),
    # Of published runs there is one page for all, which `swiftkv site results/reference` makes.
    ResultFile("site", "index.html", stage="site", keep=Keep.NO),
    ResultFile("served_claims", "served/claims.csv", stage="claims", target="served", keep=Keep.FILE, columns=VERDICTS),
    ResultFile("served_claims_text", "served/claims.md", stage="claims", target="served", keep=Keep.FILE),
)
# fmt: on
FILES: dict[str, ResultFile] = {file.name: file for file in REGISTERED}
ALL_FRAMES = {name: file for name, file in FILES.items() if file.is_frame}
FRAMES, SERVED_FRAMES, SWEEP_FRAMES = (
    {name: file for name, file in ALL_FRAMES.items() if file.target == target} for target in ("all", "served", "sweep")
)
COMPARED = {name: file for name, file in FILES.items() if file.keys}
COUNTS = FILES["parameters"].path
# Evidence that is no table: exhibits, texts, how long jobs took, what a machine's operator added.
OTHERS = words(
    "config.yaml models/base/config.json tables/* figures/*.png figures/*.json benchmarks/*.tsv benchmarks/*.json* "
    "plugin/* served/*.json* served/*.csv served/*.md served/*.tex served/*.png"
)
# What `publish` keeps of a run, and `verify-results` accounts for: globs below its directory.
KEPT = tuple(sorted({*OTHERS, *(file.evidence for file in REGISTERED if file.evidence)}))


def of_stage(stage: str) -> list[ResultFile]:
    """The files that a stage writes, in the order of the registry. Raises ValueError for a stage that has none."""
    if not (written := [file for file in REGISTERED if file.stage == stage]):
        raise ValueError(f"{stage}: no stage of the registry")
    return written


def names(stage: str) -> list[str]:
    """The names of these files without their folder. Raises ValueError as `of_stage`."""
    return [file.file for file in of_stage(stage)]


def shown_in(table: str) -> list[ResultFile]:
    """The files behind a table."""
    return [file for file in REGISTERED if table in file.tables]
