"""Base checkpoint -> SwiftKV student in the published format."""

import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict

from swiftkv import outputs
from swiftkv.config import check_cut
from swiftkv.layers import Layers
from swiftkv.modeling import FAMILIES
from swiftkv.modeling.checkpoint import (
    BASE_TYPES,
    Tensors,
    check_checkpoint,
    load_tensors,
    read_config,
    weight_files,
)
from swiftkv.provenance import Provenance

# Whose work a stage that writes students may replace.
REPLACED = {"convert": ["convert"], "distill": ["convert", "distill"]}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# What a student takes over from its base besides weights and config.json.
COPIED = (
    "generation_config.json",
    "*token*.json",
    "*.model",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "LICENSE*",
)


def group_mean(tensors: Tensors, names: list[str]) -> torch.Tensor:
    """Mean of equal-shaped tensors, computed in float32, in the dtype of the first."""
    if len(names) == 1:
        # A copy: of two names that share memory, `save_torch_state_dict` writes only one.
        return tensors[names[0]].clone()
    return torch.stack([tensors[name].float() for name in names]).mean(0).to(tensors[names[0]].dtype)


def initial_tensors(base: Tensors, layers: int, cut: int, group: int, init: str = "group-mean") -> Tensors:
    """The SwiftKV tensors of an undistilled student, by published name.

    q is the same layer's q_proj, k and v are the mean over the group's layers, norm_swiftkv is the input norm
    of layer `cut` (0-based; ones if cut = layers, where nothing reads it). Source: train.py in
    https://github.com/snowflakedb/ArcticTraining/tree/main/projects/swiftkv. Two other choices of k and v, for
    comparison: those of the group's "first-layer", and for all groups those of layer `cut` ("cut-layer").
    """
    members = {
        "group-mean": lambda layer: range(layer, layer + group),
        "first-layer": lambda layer: [layer],
        "cut-layer": lambda layer: [cut],
    }[init]
    # layers[l] (0-based) reads x_l in the base, so its input norm is the one that fits z.
    norms = "model.layers.{}.input_layernorm.weight"
    norm = base[norms.format(cut)].clone() if cut < layers else torch.ones_like(base[norms.format(0)])
    made = {"model.norm_swiftkv.weight": norm}
    leaders = Layers(layers, cut, group).leaders
    for layer in range(cut, layers):
        for name in ("q", "k", "v") if layer in leaders else ("q",):
            for kind in ("weight", "bias"):
                origin = members(layer) if name != "q" else [layer]
                sources = [f"model.layers.{member}.self_attn.{name}_proj.{kind}" for member in origin]
                # Families without biases on q, k, v have none here.
                if sources[0] in base:
                    target = f"model.layers.{layer}.self_attn.{name}_proj_swiftkv.{kind}"
                    made[target] = group_mean(base, sources)
    return made


def dead_tensors(base: Tensors, layers: int, cut: int, group: int) -> Tensors:
    """The base tensors that are dead at inference: the late layers' q, k and v projections, and the key norms (Qwen3)
    of layers that do not lead a group. Published checkpoints carry them."""
    late, leaders = range(cut, layers), Layers(layers, cut, group).leaders
    dead = tuple(f"model.layers.{j}.self_attn.{n}_proj." for j in late for n in "qkv")
    dead += tuple(f"model.layers.{j}.self_attn.k_norm." for j in late if j not in leaders)
    return {name: tensor for name, tensor in base.items() if name.startswith(dead)}


def frozen_tensors(base: Tensors, layers: int, cut: int, group: int) -> Tensors:
    """The base tensors a student keeps: all but the `dead_tensors`."""
    dead = dead_tensors(base, layers, cut, group)
    return {name: tensor for name, tensor in base.items() if name not in dead}


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, generation config and licence files."""
    for pattern in COPIED:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, target / path.name)


def with_older_names(raw: dict) -> dict:
    """config.json with the rotary embedding under `rope_theta` and `rope_scaling`, too.

    Transformers before 5, and vLLM on it, read these names alone, and without them compute with a theta of 10,000.
    """
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})  # in the order of Transformers 5
    theta = rope.pop("rope_theta", raw.get("rope_theta"))
    older = {} if theta is None else {"rope_theta": theta}
    if rope.get("rope_type", "default") != "default":
        older["rope_scaling"] = rope
    return raw | older


def write_config(directory: Path, raw: dict) -> None:
    """Write config.json for readers of all ages (see `with_older_names`)."""
    (directory / "config.json").write_text(json.dumps(with_older_names(raw), indent=2) + "\n", encoding="utf-8")


def save_model(directory: Path, raw: dict, tensors: Tensors) -> None:
    """Write config.json and the weights (sharded if large) into an existing directory."""
    write_config(directory, raw)
    save_torch_state_dict(tensors, directory, metadata={"format": "pt"})
    # safetensors makes files that only their owner can read (0600).
    for path in weight_files(directory):
        path.chmod(0o644)


def has_own_head(raw: dict, base: Tensors) -> bool:
    """Whether a checkpoint holds a head of its own although its config.json ties it to the embeddings.

    Transformers and vLLM (from 0.32 on) compare the two tensors and take the head; older vLLM takes the embeddings.
    """
    return bool(raw.get("tie_word_embeddings")) and HEAD in base and not torch.equal(base[HEAD], base[EMBEDDING])


def write_student(base_dir: Path, out_dir: Path, cut: int, group: int, trained: Tensors | None = None) -> None:
    """Write a student directory atomically, with provenance; `base_dir` must have passed `check_checkpoint`.

    `trained` (published names) replaces initial or frozen tensors, in the base's dtype. Raises UserError if `out_dir`
    may not be replaced: a conversion does not replace a distilled student.
    """
    raw, base = read_config(base_dir, BASE_TYPES), load_tensors(base_dir)
    layers = raw["num_hidden_layers"]
    tensors = frozen_tensors(base, layers, cut, group) | initial_tensors(base, layers, cut, group)
    tensors |= {name: tensor.to(tensors[name].dtype) for name, tensor in (trained or {}).items()}
    model = FAMILIES[raw["model_type"]]
    raw |= {"model_type": model.config_class.model_type, "architectures": [model.__name__], "swiftkv": True}
    raw |= {"num_key_value_layers": cut, "key_value_group_size": group}
    if has_own_head(raw, base):
        raw["tie_word_embeddings"] = False  # say what is so: every reader then takes the head
    stage = "convert" if trained is None else "distill"
    with (
        outputs.directory(out_dir, REPLACED[stage], [base_dir]) as directory,
        Provenance(stage, inputs=weight_files(base_dir), cut=cut, group=group) as provenance,
    ):
        save_model(directory, raw, tensors)
        copy_companions(base_dir, directory)
        check_checkpoint(directory)  # before the directory takes its place: what is there is whole
        provenance.save(directory / "config.json")


def convert(base_dir: str | Path, out_dir: str | Path, cut: int, group: int) -> None:
    """Convert a base model directory into an undistilled student: cut `cut` (1..L), AcrossKV group `group`.

    Raises UserError for a damaged or unsupported base, a cut outside 1..L or a group that does not divide.
    """
    base_dir, out_dir = Path(base_dir), Path(out_dir)
    outputs.check_dir(out_dir, REPLACED["convert"], [base_dir])
    read_config(base_dir, BASE_TYPES)
    layers = check_checkpoint(base_dir).num_hidden_layers
    check_cut(cut, layers, group, where=str(out_dir))
    write_student(base_dir, out_dir, cut, group)
