"""Does what is installed here work: imports, the plugin, the GPU, and a short generation (`swiftkv self-check`)."""

import importlib
import importlib.metadata
import tempfile
from pathlib import Path

from swiftkv.base_model.fetch import local_dir
from swiftkv.config import RunConfig
from swiftkv.errors import UserError

MODULES = (
    "torch transformers accelerate safetensors datasets lm_eval jsonschema pandas pyarrow scipy seaborn statsmodels "
    "numba rouge_score vllm vllm.benchmarks.throughput swiftkv.engines.engine swiftkv.vllm.llama swiftkv.vllm.qwen "
    "swiftkv.base_model.pretrain swiftkv.distill.loop swiftkv.bench.throughput swiftkv.evals.accuracy "
    "swiftkv.evals.diagnose swiftkv.report.plots"
).split()
PROMPT, TOKENS = "def", 10


def imports() -> dict[str, str]:
    """Why each module of MODULES that cannot be imported cannot."""
    failed = {}
    for name in MODULES:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


def plugin() -> str:
    """The plugin as vLLM finds it. Raises UserError if no entry point names it or an architecture is not known."""
    from swiftkv.engines.engine import load_vllm
    from swiftkv.modeling import FAMILIES

    named = {point.value for point in importlib.metadata.entry_points(group="vllm.general_plugins")}
    if "swiftkv.vllm.plugin:register" not in named:
        raise UserError(f"self-check: no entry point names the plugin; there are {sorted(named)}")
    architectures = {family.__name__ for family in FAMILIES.values()}
    missing = architectures - load_vllm().ModelRegistry.get_supported_archs()
    if missing:
        raise UserError(f"self-check: vLLM {importlib.metadata.version('vllm')} does not know {sorted(missing)}")
    return ", ".join(sorted(architectures))


def device() -> str:
    """The first GPU, or that there is none."""
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    return f"{torch.cuda.get_device_name(0)}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"


def generation(config: RunConfig) -> str:
    """Ten greedy tokens of the first variant of the embedded base in vLLM, held against Transformers.

    Raises UserError if they differ. Says so where vLLM has no platform (a CUDA build without a GPU).
    """
    from vllm.platforms import current_platform

    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import RAW_LOGITS, Reference, generate
    from swiftkv.modeling.checkpoint import num_hidden_layers
    from swiftkv.modeling.convert import convert
    from swiftkv.workloads.tokens import load_tokenizer

    if not (current_platform.is_cuda() or current_platform.is_cpu()):
        return "skipped, this vLLM finds no platform to run on"
    base, variant = local_dir(config.base.path), config.variants[0]
    prompt = load_tokenizer(base)(PROMPT)["input_ids"]
    with tempfile.TemporaryDirectory() as directory:
        student = Path(directory) / variant.name
        convert(base, student, variant.num_key_value_layers(num_hidden_layers(base)), variant.key_value_group_size)
        limits = {"max_model_len": 64, "max_num_seqs": 1, "max_num_batched_tokens": 64, "kv_cache_gib": 0.05}
        with engine(student, **limits, **RAW_LOGITS) as opened:
            answers = generate(opened, [prompt], TOKENS)
        deviation = Reference(student).compare(answers)
    if deviation.mismatches:
        raise UserError(f"self-check: {deviation.mismatches} of {TOKENS} tokens differ from Transformers")
    return f"{TOKENS} tokens as in Transformers, largest difference of a logit {deviation.delta:.1e}"


def run(config: RunConfig) -> None:
    """Print one line per check. Raises UserError if something does not work, naming it."""
    from swiftkv.engines.engine import prepare_environment

    prepare_environment(in_process=True)
    failed = imports()
    for name in MODULES:
        print(f"self-check: import {name}: {failed.get(name, 'ok')}", flush=True)
    if failed:
        raise UserError(f"self-check: {len(failed)} of {len(MODULES)} modules cannot be imported: {', '.join(failed)}")
    for name, check in (("plugin", plugin), ("device", device), ("generation", lambda: generation(config))):
        print(f"self-check: {name}: {check()}", flush=True)
