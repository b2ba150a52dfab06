"""Hand on the trained tensors of a student alone (`swiftkv export --trained-only`): 17 MB of SmolLM2-135M's 270.

trained.safetensors                     q, k, v and norm under the published names, in bfloat16; metadata say of what
README.md                               what it is, how far it was trained, how it is used
trained.safetensors.provenance.json     of the export, with that of the student
"""

from pathlib import Path

import torch

from swiftkv import files, outputs
from swiftkv.config import TRAINED, RunConfig
from swiftkv.errors import UserError
from swiftkv.modeling import trained
from swiftkv.modeling.checkpoint import Tensors, check_checkpoint, load_tensors
from swiftkv.provenance import Provenance
from swiftkv.release.evidence import Evidence
from swiftkv.release.export import STAGE, check_options, public
from swiftkv.release.model_card import named

CARD = """\
# Trained tensors of a SwiftKV student

The q, k and v projections and the norm of the late layers ({size:.0f} MB), to go over a student of this base:

- base: {base}
- base's tensors, sha256: `{base_sha256}`
- layers that prompt tokens run: {cut} of {layers}; layers per KV cache above them: {group}
- trained on {tokens:,} tokens in all; last KL to the base {kl:.3g} (T = {temperature:g}), most likely token the
  base's at {agreement:.1%} of the trained positions

They fit no other base. In a configuration, `start: DIRECTORY` lets the distillation go on from them;
with `distill: {{steps: 0}}` it is this student. `trained.safetensors` carries the whole record in its metadata.
"""


def record_of(evidence: Evidence) -> dict:
    """How the student was trained, what it started from included. Raises UserError if that is not recorded."""
    curve, run = evidence.distillation
    start = run.get("started_from", {}).get(evidence.variant.name)
    if curve.empty and not start:
        raise UserError(
            f"{evidence.directory}: there is no record of a training of {evidence.variant.name} beside it, so there "
            "are no trained tensors to hand on"
        )
    if curve.empty:
        return start
    recipe = evidence.variant.recipe(evidence.config.distill).model_dump(mode="json", exclude_unset=True)
    recipe["data"] = named(recipe["data"])
    last = curve.iloc[-1]
    return {
        "tokens": int(last.tokens) + (start or {}).get("tokens", 0),
        "steps": int(last.step),
        "kl": float(last.kl),
        "agreement": float(last.agreement),
        "recipe": recipe,
        "base": evidence.base,
        "git": run.get("git"),
        "versions": run.get("versions"),
        "data_sha256": public(run)["data_sha256"],
        **({"training_rows": run["training_rows"]} if "training_rows" in run else {}),
        **({"earlier": start} if start else {}),
    }


def tensors_of(evidence: Evidence) -> Tensors:
    """The tensors that were trained. Raises UserError if these are all weights of the layers."""
    if evidence.variant.recipe(evidence.config.distill).train != "qkv":
        raise UserError(f"variant {evidence.variant.name}: all its layers were trained; export the whole student")
    tensors = load_tensors(evidence.directory)
    return {name: tensor for name, tensor in tensors.items() if "_swiftkv." in name}


def run(config: RunConfig, variant: str, out: Path, model: Path | None = None, dtype: str | None = None) -> None:
    """Write the trained tensors of `variant` to `out`, in `dtype` (bfloat16 if left out).

    Raises UserError for a damaged student, one whose base or training is not recorded, or that is another variant.
    """
    check_options(out, None, dtype)
    evidence = Evidence(config, config.variant(variant), model or config.model_dir(variant))
    check_checkpoint(evidence.directory)
    evidence.check_variant()
    record, tensors = record_of(evidence), tensors_of(evidence)
    if evidence.base_dir is None:
        raise UserError(f"{evidence.directory}: its base is not where it was, so what the tensors fit cannot be said")
    shape, group = evidence.shape, evidence.variant.key_value_group_size
    cut, base = shape["num_key_value_layers"], trained.content_sha256(evidence.base_dir)
    tensors = {name: tensor.to(getattr(torch, dtype or "bfloat16")) for name, tensor in tensors.items()}
    with (
        outputs.directory(out, [STAGE], [evidence.directory]) as directory,
        Provenance(STAGE, config, model_sha256=evidence.weights) as provenance,
    ):
        provenance.record = public(provenance.record) | {"student": public(evidence.record)}
        path = directory / TRAINED
        trained.write(path, tensors, trained.about(base, cut, group), record)
        card = CARD.format(
            size=path.stat().st_size / 1e6,
            base=" ".join(str(value) for key, value in evidence.base.items() if key in ("path", "file", "revision")),
            base_sha256=base,
            cut=cut,
            layers=shape["num_hidden_layers"],
            group=group,
            tokens=record["tokens"],
            kl=record["kl"],
            agreement=record["agreement"],
            temperature=record["recipe"]["temperature"],
        )
        files.write_text(directory / "README.md", card)
        provenance.save(path)
    print(f"export: {out}: {len(tensors)} trained tensors of {variant}, {record['tokens']:,} tokens", flush=True)
