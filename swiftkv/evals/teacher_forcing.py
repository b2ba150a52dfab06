"""Models side by side in Transformers, all of them given the same tokens: how far a model's next-token distributions
are from the base's.

Weights that a model has in common with the base are held once. Logits exist for a chunk of positions and one model at a
time; the base's are made once per document for all models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from swiftkv.config import BASE_ARM
from swiftkv.costmodel.memory import chunk_elements
from swiftkv.distill import attention
from swiftkv.distill.attention import Spans
from swiftkv.distill.data import Documents, select
from swiftkv.distill.teacher import fill, load_frozen
from swiftkv.modeling.decoder import SharedKV

FULL, ANSWERS = "full", "answers"
MODES = {FULL: "all", ANSWERS: "answers"}  # and the tokens that are predicted, as `select` calls them
SPARE = 1.5  # times its weights, what a group of models takes with what it computes


@dataclass(frozen=True)
class Choices:
    """What a model makes of N positions: log-probabilities [N, vocabulary] and greedy choices [N]."""

    log_p: torch.Tensor
    choice: torch.Tensor


@torch.inference_mode()
def choices(model, states: torch.Tensor) -> Choices:
    """From final hidden states [N, D], on any device."""
    log_p = model.lm_head(states.to(model.device)).float().log_softmax(-1)
    return Choices(log_p, log_p.argmax(-1))


def divergence(mine: Choices, base: Choices) -> torch.Tensor:
    """KL(base || model) [N] in nats at temperature 1."""
    kl = F.kl_div(mine.log_p, base.log_p, log_target=True, reduction="none").sum(-1)
    return kl.clamp(min=0)  # rounding may leave less than zero


@dataclass(frozen=True)
class Means:
    """A model on a document, means over `tokens` predicted tokens: negative log-likelihoods and KL(base || model) in
    nats, share of positions with the base's most likely token."""

    tokens: int
    nll: float
    base_nll: float
    kl: float
    agreement: float


def load_side_by_side(base_dir: Path, models: Mapping[str, Path], dtype: torch.dtype) -> dict[str, PreTrainedModel]:
    """The base as BASE_ARM, and `models`, for inference in `dtype`: on a GPU that has room for all of them, else on the
    CPU. The directories must have passed `check_checkpoint`."""
    base = load_frozen(base_dir, dtype, attention.NAME)
    loaded = {BASE_ARM: base} | {arm: load_beside(path, base, dtype) for arm, path in models.items()}
    weights = {id(p): p.numel() * p.element_size() for model in loaded.values() for p in model.parameters()}
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > SPARE * sum(weights.values()):
        for model in loaded.values():
            model.to("cuda")
    return loaded


def load_beside(directory: Path, base: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a directory; parameters that equal the base's of the same name are the base's own."""
    model = load_frozen(directory, dtype, attention.NAME)
    own, theirs = dict(model.named_parameters()), dict(base.named_parameters())
    same = {n: theirs[n] for n, tensor in own.items() if n in theirs and torch.equal(tensor, theirs[n])}
    fill(model, own | same)
    return model


def documents(ids: list[int], answer_tokens: int) -> Documents:
    """One document whose last `answer_tokens` tokens are the answer; it must have more."""
    place = torch.arange(len(ids))
    return Documents(torch.tensor(ids), place, place >= len(ids) - answer_tokens, (0, len(ids)))


def cut_of(model: PreTrainedModel) -> int:
    """The layers that every token runs: l of a student, all of a base model."""
    return getattr(model.config, "num_key_value_layers", model.config.num_hidden_layers)


def run_every_layer(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every token of ids [T] through every layer: x_l, and the final hidden states, after the last norm; [1, T, D]
    each."""
    stack, kept = model.model, []
    reader = [*stack.layers, stack.norm][cut_of(model)]
    handle = reader.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    try:
        final = stack(input_ids=ids[None].to(model.device), use_cache=False).last_hidden_state
    finally:
        handle.remove()
    return kept[0], final


def run_late_layers(model: PreTrainedModel, x_l: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Only the tokens at `index` [N] go on from x_l [1, T, D], as behind a prompt whose tokens leave at the cut: of
    those the late layers have K and V alone. Final hidden states, after the last norm [N, D]."""
    stack, at = model.model, index.to(x_l.device)
    late, hidden = stack.layers[cut_of(model) :], x_l[:, at]
    if len(late):
        places = torch.arange(x_l.shape[1], device=x_l.device)
        rope = stack.rotary_emb(x_l, places[None])
        shared = SharedKV(stack.norm_swiftkv, rope)
        shared.cut(x_l)
        spans = Spans(index, (0, x_l.shape[1]), x_l.device)
        of_queries = tuple(part[:, at] for part in rope)
        for layer in late:
            hidden = layer(hidden, position_embeddings=of_queries, shared_kv=shared, spans=spans)
    return stack.norm(hidden)[0]


@torch.inference_mode()
def final_states(model: PreTrainedModel, document: Documents) -> dict[str, torch.Tensor]:
    """By mode the final hidden states [N, D] at the N positions of `positions`."""
    index = positions(document)
    x_l, final = run_every_layer(model, document.ids)
    return {FULL: final[0, index[FULL].to(final.device)], ANSWERS: run_late_layers(model, x_l, index[ANSWERS])}


def positions(document: Documents) -> dict[str, torch.Tensor]:
    """By mode the positions [N] whose logits predict the next token: all but the last one, and of those the last ones,
    which predict the answer."""
    return {mode: select(document, loss_on, every_position=False).index for mode, loss_on in MODES.items()}


def chunks(count: int, first: int, rows: int) -> list[slice]:
    """`count` positions in slices of at most `rows`, none of which reaches across position `first`."""
    return [slice(*edges) for edges in pairwise(sorted({*range(0, first, rows), *range(first, count, rows), count}))]


def sums(mine: Choices, base: Choices, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of `targets` [N], the base's, KL and count of equal choices, summed in float64: [4]."""
    nll, base_nll = (-side.log_p.gather(-1, targets[:, None])[:, 0] for side in (mine, base))
    return torch.stack([nll, base_nll, divergence(mine, base), (mine.choice == base.choice).float()]).double().sum(1)


@torch.inference_mode()
def compare(models: Mapping[str, PreTrainedModel], document: Documents) -> dict[str, dict[str, Means]]:
    """Means by model and mode on one document; the base is among the models as BASE_ARM."""
    base = models[BASE_ARM]
    states = {arm: final_states(model, document) for arm, model in models.items()}
    count, first = len(document.ids) - 1, int(positions(document)[ANSWERS][0])
    targets, rows = document.ids[1:].to(base.device), chunk_elements(base.device.type) // base.config.vocab_size
    totals = {arm: {mode: torch.zeros(4, dtype=torch.float64, device=base.device) for mode in MODES} for arm in models}
    for chunk in chunks(count, first, max(1, rows)):
        theirs = choices(base, states[BASE_ARM][FULL][chunk])
        parts = {FULL: chunk}
        if chunk.start >= first:  # no chunk begins before the answer and ends in it
            parts[ANSWERS] = slice(chunk.start - first, chunk.stop - first)
        for arm, model in models.items():
            for mode, part in parts.items():
                mine = theirs if model is base else choices(model, states[arm][mode][part])
                totals[arm][mode] += sums(mine, theirs, targets[chunk])
    tokens = {FULL: count, ANSWERS: count - first}
    return {
        arm: {mode: Means(tokens[mode], *(total / tokens[mode]).tolist()) for mode, total in by_mode.items()}
        for arm, by_mode in totals.items()
    }
