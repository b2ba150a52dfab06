"""How much each layer of the base model still changes the hidden state (paper, figure 2).

SwiftKV makes the late layers' K and V from the input of one earlier layer; the more alike the layers' inputs
are, the less is lost. Measured on test prompts of the four tasks, over every prompt token.
"""

from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from swiftkv import files
from swiftkv.config import RunConfig
from swiftkv.modeling.checkpoint import check_checkpoint, load_whole, weight_files
from swiftkv.provenance import Provenance
from swiftkv.workloads import tasks
from swiftkv.workloads.tokens import bos_text, load_tokenizer


def prompts(config: RunConfig) -> list[str]:
    """`similarity.prompts` test prompts, the tasks in equal shares (rounded up)."""
    names = list(config.tasks)
    each = -(-config.similarity.prompts // len(names))
    return [item.prompt for name in names for item in tasks.items(name, "test", each, config.seed, config.tasks[name])]


@torch.no_grad()
def residual_stream(model, input_ids: torch.Tensor) -> torch.Tensor:
    """Input of every layer and output of the last, before the final norm: [L + 1, T, D] float32 for ids [1, T]."""
    final = []
    # hidden_states[-1] of Transformers is after the final norm; the norm's own input is what the layers made.
    handle = model.model.norm.register_forward_pre_hook(lambda _, args: final.append(args[0]))
    try:
        states = model.model(input_ids=input_ids, use_cache=False, output_hidden_states=True).hidden_states
    finally:
        handle.remove()
    return torch.cat([*states[:-1], final[0]]).float()


def sums(states: torch.Tensor) -> torch.Tensor:
    """From [L + 1, T, D] the sums over tokens [3, L + 1]: cosine to the previous layer's input, cosine to the
    final output, and relative change |x_j - x_(j-1)| / |x_(j-1)|; the first layer has no previous one (NaN)."""
    before, after = states[:-1], states[1:]
    none = torch.full((1,), torch.nan)
    previous = F.cosine_similarity(before, after, dim=-1).sum(1).cpu()
    change = ((after - before).norm(dim=-1) / before.norm(dim=-1)).sum(1).cpu()
    last = F.cosine_similarity(states, states[-1:], dim=-1).sum(1).cpu()
    return torch.stack([torch.cat([none, previous]), last, torch.cat([none, change])]).double()


def measure(model, tokenizer, texts: list[str]) -> pd.DataFrame:
    """One row per layer input 1..L + 1, where L + 1 is the final output; means over all tokens of `texts`."""
    total, tokens, start = 0, 0, bos_text(tokenizer)
    for text in texts:
        ids = tokenizer(start + text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
        total, tokens = total + sums(residual_stream(model, ids)), tokens + ids.shape[1]
    names = ("cosine_to_previous", "cosine_to_final", "relative_change")
    frame = pd.DataFrame(dict(zip(names, (total / tokens).tolist(), strict=True)))
    frame.insert(0, "layer", range(1, len(frame) + 1))
    return frame.assign(prompts=len(texts), tokens=tokens)


def run(config: RunConfig, base_dir: Path, out: Path) -> None:
    """Write similarity.csv for the base model: layer (1-based, whose input is meant), cosine_to_previous,
    cosine_to_final, relative_change, prompts, tokens. Raises UserError for a damaged model directory."""
    base_dir = Path(base_dir)
    check_checkpoint(base_dir)
    tokenizer = load_tokenizer(base_dir)
    with Provenance("similarity", config, inputs=weight_files(base_dir), out=[out]) as provenance:
        frame = measure(load_whole(base_dir), tokenizer, prompts(config))
        files.write_text(out, frame.to_csv(index=False))
        provenance.save(out)
