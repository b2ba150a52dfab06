"""Parameters and memory of a distillation, from the model's shape: nothing is loaded.

Memory is what one process (one GPU) holds at the largest moment, the backward pass of the largest student, with
bfloat16 activations and attention that keeps no scores (`distill.attention`). A shape is that of `costmodel`; biases
and tied embeddings are counted where it names them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from swiftkv.config import SwiftKVVariant
from swiftkv.config.training import Distill
from swiftkv.costmodel import head_dim, layer_flops
from swiftkv.errors import UserError
from swiftkv.layers import Layers

HALF, FULL = 2, 4  # bytes of bfloat16 and float32
TRAINED_BYTES = 16  # float32 parameter, its gradient and AdamW's two moments
# Logits that the loss has at once: on a CPU 16 MiB in float32, which caches hold; on a GPU enough to keep it busy
# (1,365 tokens of 49,152 words, 441 of 151,936).
CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}
LOGIT_BYTES = 16  # per logit of a chunk at the loss's largest moment (benchmarks/loss_memory.py)
# What students of one batch share of the teacher's side, at most; beyond it every student makes it anew.
SHARED_BYTES = {"cpu": 2**30, "cuda": 4 * 2**30}


def chunk_elements(device_type: str) -> int:
    """Logits that the loss has at once on a device."""
    return CHUNK_ELEMENTS["cuda" if device_type == "cuda" else "cpu"]


@dataclass(frozen=True)
class StudentPlan:
    """A student in numbers: `parameters` are trained, for `steps` steps; shares of a batch's positions that carry its
    loss and that run its late layers."""

    name: str
    cut: int
    group: int
    late: int
    parameters: int
    steps: int
    loss_share: float
    run_share: float


def student_plan(shape: Mapping, variant: SwiftKVVariant, distill: Distill, answer_share: float) -> StudentPlan:
    """A variant's numbers. Raises UserError if the cut does not fit or other weights than q, k, v are trained."""
    recipe, layers = variant.recipe(distill), shape["num_hidden_layers"]
    if recipe.train != "qkv":
        raise UserError(f"plan: variant {variant.name}: train is {recipe.train!r}; only 'qkv' can be estimated")
    cut, group = variant.num_key_value_layers(layers), variant.key_value_group_size
    share = answer_share if recipe.loss_on == "answers" else 1.0
    run = 1.0 if recipe.hidden_loss else share
    number = trained_parameters(shape, cut, group)
    return StudentPlan(variant.name, cut, group, layers - cut, number, recipe.steps, share, run)


def widths(shape: Mapping) -> tuple[int, int]:
    """Outputs of the q projection and of the k projection."""
    return shape["num_attention_heads"] * head_dim(shape), shape["num_key_value_heads"] * head_dim(shape)


def biases(shape: Mapping, width: int) -> int:
    """Biases of q, k, v projections with `width` outputs: Qwen2 has them, others where `attention_bias` says so."""
    return width if shape.get("attention_bias", shape.get("model_type") == "qwen2") else 0


def layer_parameters(shape: Mapping) -> int:
    """Parameters of a decoder layer of the base, but for per-head norms (Qwen3)."""
    layer, (query, key) = layer_flops(shape), widths(shape)
    # A product costs two FLOPs per weight, and attention has none.
    matrices = (layer["kv"] + layer["qo"] + layer["mlp"]) // 2
    return matrices + biases(shape, query + 2 * key) + 2 * shape["hidden_size"]


def replicated_parameters(shape: Mapping) -> int:
    """Embeddings, head and last norm, which every process holds whole."""
    tables = 1 if shape.get("tie_word_embeddings") else 2
    return shape["hidden_size"] * (tables * shape["vocab_size"] + 1)


def base_parameters(shape: Mapping) -> int:
    """Parameters of the base model."""
    return shape["num_hidden_layers"] * layer_parameters(shape) + replicated_parameters(shape)


def trained_parameters(shape: Mapping, cut: int, group: int) -> int:
    """q of every late layer, k and v of every group, and norm_swiftkv; 0 at cut = L, where nothing is trained."""
    layers, (query, key), hidden = Layers(shape["num_hidden_layers"], cut, group), widths(shape), shape["hidden_size"]
    q, kv = query * hidden + biases(shape, query), 2 * (key * hidden + biases(shape, key))
    return len(layers.late) * q + len(layers.leaders) * kv + hidden if layers.late else 0


def query_bytes(shape: Mapping) -> int:
    """Kept for the backward pass of a late layer per position that runs it: both norms' inputs and factors in float32,
    the input of q, q, attention's output and log-sum, three MLP activations. Frozen products keep no input."""
    (query, _), norms = widths(shape), 2 * FULL * (shape["hidden_size"] + 1)
    states = shape["hidden_size"] + 2 * query + 3 * shape["intermediate_size"]
    return norms + HALF * states + FULL * shape["num_attention_heads"]


def late_bytes(shape: Mapping, student: StudentPlan, tokens: int, checkpoint: bool) -> int:
    """A student's late half, of `tokens`: per layer what its backward pass needs, or its input alone and one layer
    whole if checkpointed; K and V of every group; the input of their projections, before and after the norm's weight.
    """
    run, (_, key), hidden = math.ceil(tokens * student.run_share), widths(shape), shape["hidden_size"]
    gathered = 2 * HALF * key * tokens if run < tokens else 0  # keys of answers that skip what lies between them
    layer = run * query_bytes(shape) + gathered
    layers = student.late * run * HALF * hidden + layer if checkpoint else student.late * layer
    return layers + tokens * 2 * HALF * (key * student.late // student.group + hidden)


def loss_bytes(shape: Mapping, student: StudentPlan, tokens: int) -> int:
    """A chunk of logits, and final states at the loss positions: gathered, in float32, normed, and their gradient."""
    at_loss, words = math.ceil(tokens * student.loss_share), shape["vocab_size"]
    chunk = min(max(chunk_elements("cuda"), words), at_loss * words)
    return LOGIT_BYTES * chunk + at_loss * shape["hidden_size"] * (3 * HALF + FULL)


def shared_bytes(shape: Mapping, students: list[StudentPlan], tokens: int) -> int:
    """The teacher's log-probabilities that several students share."""
    if len(students) < 2:
        return 0
    at_loss = math.ceil(tokens * max(student.loss_share for student in students))
    return min(SHARED_BYTES["cuda"], FULL * at_loss * shape["vocab_size"])


def kept_bytes(shape: Mapping, students: list[StudentPlan], tokens: int) -> int:
    """The teacher's x_l of every cut, last layer's input and final states."""
    # One copy of x_l serves all students of a cut; hence a set.
    states = len({student.cut for student in students} | {shape["num_hidden_layers"] - 1}) + 1
    return HALF * states * tokens * shape["hidden_size"]


def gathered_bytes(shape: Mapping, students: list[StudentPlan], processes: int) -> int:
    """Autocast's copies of the largest student's trained weights; with FSDP also two layers, one of them fetched
    ahead, and a layer's trained weights and gradients in float32."""
    casts = HALF * max(student.parameters for student in students)
    if processes == 1:
        return casts
    query, key = widths(shape)
    return casts + 2 * HALF * layer_parameters(shape) + 2 * FULL * (query + 2 * key) * shape["hidden_size"]


def memory(
    shape: Mapping, students: list[StudentPlan], processes: int, tokens: int, checkpoint: bool
) -> dict[str, int]:
    """Bytes of one process by part, for a micro-batch of `tokens`; late halves of the `students` (all of which train)
    run one after the other."""
    layers = math.ceil(shape["num_hidden_layers"] * layer_parameters(shape) / processes)
    trained = math.ceil(sum(student.parameters for student in students) / processes)
    return {
        "base model": HALF * (layers + replicated_parameters(shape)),
        "students, gradients, AdamW": TRAINED_BYTES * trained,
        "weights gathered or cast": gathered_bytes(shape, students, processes),
        "kept of the teacher's pass": kept_bytes(shape, students, tokens),
        "late half, for its backward": max(late_bytes(shape, s, tokens, checkpoint) for s in students),
        "one layer at work": HALF * (3 * shape["intermediate_size"] + 4 * shape["hidden_size"]) * tokens,
        "loss, one chunk": max(loss_bytes(shape, s, tokens) for s in students),
        "loss, shared by students": shared_bytes(shape, students, tokens),
    }


def largest_rows(most: int, budget: float, need: Callable[[int], int]) -> int:
    """The largest number of rows up to `most` for which `need` bytes fit the budget; 0 if one does not."""
    return next((rows for rows in range(most, 0, -1) if need(rows) <= budget), 0)
