"""Hand a student over (`swiftkv export`): a folder that the Hugging Face hub, vLLM and Transformers take as it is.

config.json, *.safetensors      published tensor names; the very files that were scored, unless the dtype changes or
                                the dead tensors of the late layers are added
tokenizer, generation config, licence files of the base
README.md                       the model card, made from result files
config.json.provenance.json     of the export, with that of the student
"""

import shutil
from pathlib import Path

import huggingface_hub
import torch
from transformers import AutoModelForCausalLM

from swiftkv import outputs
from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import INDEX, Tensors, check_checkpoint, load_tensors, weight_files
from swiftkv.modeling.convert import copy_companions, dead_tensors, save_model, write_config
from swiftkv.provenance import Provenance
from swiftkv.release import model_card
from swiftkv.release.evidence import Evidence
from swiftkv.release.licence import licence_files
from swiftkv.workloads.tokens import load_tokenizer

STAGE = "export"
DTYPES = ("float32", "bfloat16")
PROBE = "SELECT name FROM users WHERE id = 7; def add(a, b): return a + b"


def check_options(out: Path, push: str | None, dtype: str | None) -> None:
    """Raise UserError for a dtype or repository name that is not allowed, or an --out that is something else."""
    if dtype not in (None, *DTYPES):
        raise UserError(f"--dtype {dtype}: allowed are {' and '.join(DTYPES)}")
    if push is not None:
        try:
            huggingface_hub.utils.validate_repo_id(push)
        except ValueError as error:
            raise UserError(f"--push {push}: {error}") from None
        if "/" not in push:
            raise UserError(f"--push {push}: the name must be ORG/NAME")
    outputs.check_dir(out, [STAGE])


def dead_of(evidence: Evidence) -> Tensors:
    """The base's dead tensors of the late layers. Raises UserError if the base is not there any more."""
    if evidence.base_dir is None:
        raise UserError(f"--keep-dead: the base that {evidence.directory} was made from is not where it was")
    shape = evidence.shape
    cut, group = shape["num_key_value_layers"], shape.get("key_value_group_size", 1)
    return dead_tensors(load_tensors(evidence.base_dir), shape["num_hidden_layers"], cut, group)


def write_model(evidence: Evidence, directory: Path, dtype: str, keep_dead: bool = False) -> None:
    """Config and weights: the student's own files, or cast to `dtype` or with the base's dead tensors; tokenizer,
    generation config and licences."""
    source = evidence.directory
    if dtype == evidence.dtype and not keep_dead:
        write_config(directory, evidence.shape)
        for path in [source / INDEX, *weight_files(source)]:
            if path.is_file():
                shutil.copyfile(path, directory / path.name)
    else:
        raw = {key: value for key, value in evidence.shape.items() if key != "torch_dtype"}
        tensors = load_tensors(source) | (dead_of(evidence) if keep_dead else {})
        tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
        save_model(directory, raw | {"dtype": dtype}, tensors)
    copy_companions(source, directory)
    for path in licence_files(evidence):
        shutil.copyfile(path, directory / path.name)


def logits(directory: Path, ids: torch.Tensor, dtype: torch.dtype | str) -> torch.Tensor:
    """Logits [1, S, vocabulary] of a model directory for token ids [1, S]."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True).eval()
    with torch.no_grad():
        return model(ids).logits


def check_logits(source: Path, exported: Path, dtype: str) -> None:
    """The gate: loaded as a reader would, the export gives the source's logits. Raises UserError if it does not."""
    ids = load_tokenizer(exported)(PROBE, return_tensors="pt")["input_ids"]
    # The source is cast by Transformers here, the export was cast by us: the two must agree bit by bit.
    expected, actual = logits(source, ids, getattr(torch, dtype)), logits(exported, ids, "auto")
    if actual.dtype != expected.dtype or not torch.equal(actual, expected):
        raise UserError(
            f"{source}: the exported model gives other logits in {dtype} (largest difference "
            f"{(actual.float() - expected.float()).abs().max().item():.3g}); nothing was written"
        )


def public(record: dict) -> dict:
    """A provenance record without the command and directories of a machine."""
    named = {"/".join(Path(path).parts[-2:]): digest for path, digest in record.get("data_sha256", {}).items()}
    return {key: value for key, value in record.items() if key != "command"} | {"data_sha256": named}


def write_folder(
    evidence: Evidence, out: Path, name: str, repository: str, dtype: str, keep_dead: bool = False
) -> Provenance:
    """Write the folder atomically, through the gate. Returns its provenance."""
    used = [evidence.results.path(frame) for frame in ("accuracy", "throughput", "latency", "kv_capacity")]
    with (
        Provenance(STAGE, evidence.config, inputs=used, model_sha256=evidence.weights) as provenance,
        outputs.directory(out, [STAGE], [evidence.directory]) as directory,
    ):
        provenance.record = public(provenance.record) | {"student": public(evidence.record)}
        card = model_card.card(evidence, name, repository, dtype, keep_dead)
        write_model(evidence, directory, dtype, keep_dead)
        check_checkpoint(directory)
        check_logits(evidence.directory, directory, dtype)
        card.save(directory / "README.md")
        provenance.save(directory / "config.json")
    return provenance


def push_folder(folder: Path, repository: str, private: bool, message: str) -> None:
    """Upload the folder with the user's own token, which is never printed. Raises UserError if that cannot be done."""
    complete = f"the folder {folder} is complete"
    if (token := huggingface_hub.get_token()) is None:
        raise UserError(f"--push {repository}: no token; run `hf auth login` or set HF_TOKEN ({complete})")
    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        exposed = private and not hub.repo_info(repository).private  # an existing repository stays what it is
        if not exposed:
            hub.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=message, delete_patterns=["*.safetensors*"]
            )
    except Exception as error:  # of any client below it, whose traceback might show the request's headers
        reason = " ".join(str(error).split()).replace(token, "<token>")
        raise UserError(f"--push {repository}: {type(error).__name__}: {reason} ({complete})") from None
    if exposed:
        raise UserError(f"--push {repository}: exists and is public; say --public to upload there ({complete})")


def run(
    config: RunConfig,
    variant: str,
    out: Path,
    model: Path | None = None,
    push: str | None = None,
    private: bool = True,
    dtype: str | None = None,
    keep_dead: bool = False,
) -> None:
    """Write the student of `variant` (from `model`, or where the pipeline keeps it) to `out`, and upload it if asked.

    With `keep_dead` the late layers have the base's q, k and v beside their own, which no computation reads.

    Raises UserError for a damaged student, results of another model, logits that differ, or a failed upload.
    """
    check_options(out, push, dtype)
    evidence = Evidence(config, config.variant(variant), model or config.model_dir(variant))
    check_checkpoint(evidence.directory)
    evidence.check_variant()
    name = push.split("/")[1] if push else out.resolve().name
    repository = push or f"path/to/{name}"
    provenance = write_folder(evidence, out, name, repository, dtype or evidence.dtype, keep_dead)
    print(f"export: {out}: written; same logits as {evidence.directory}", flush=True)
    if push:
        push_folder(out, push, private, f"swiftkv export of {variant}, git {provenance.record['git']['sha']}")
        print(f"export: uploaded to {push}", flush=True)
