"""Train the embedded base model: a small Llama that masters the four tasks (`swiftkv train-base`).

Muon (https://kellerjordan.github.io/posts/muon) for the matrices, AdamW for embeddings and norms, constant
learning rate with a linear cool-down, bfloat16 autocast, compiled. The stages of the recipe run from bare recall over
easy contexts to full ones; `initialise` says what lets look-up in context form at all. Early stages count answers
(nearly) alone; the last one is also a language model of its prompts, so that late layers have work to do on prompt
tokens, as in any pre-trained model, and skipping them costs something. Resumable at any checkpoint.
"""

import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from swiftkv import files, outputs
from swiftkv.base_model import training_state
from swiftkv.base_model.curriculum import Curriculum
from swiftkv.base_model.initialise import initialise
from swiftkv.config import RunConfig
from swiftkv.config.training import TrainBase
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.workloads.stream import Batch

STAGE = "train-base"
SAVE_EVERY_S = 60
REPORT_EVERY = 100  # steps
ADAMW_SHARE = 0.6  # of the learning rate, for embeddings and norms
CURVE = "training.jsonl"
MAX_POSITIONS = 2048  # unless the recipe says otherwise


def build(recipe: TrainBase, tokenizer) -> LlamaForCausalLM:
    """A randomly initialised Llama of the recipe's shape with tied embeddings."""
    shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,  # rounded up, which suits matrix products
        max_position_embeddings=recipe.max_position_embeddings or MAX_POSITIONS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        initializer_range=recipe.hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{name: getattr(recipe, name) for name in shape},
    )
    model = LlamaForCausalLM(config)
    initialise(model)
    return model


def loss_of(model, ids: torch.Tensor, answers: torch.Tensor, pad: int, weight: float) -> tuple[torch.Tensor, ...]:
    """Training loss of [rows, T] ids, and the answer loss alone; right padding needs no mask under causality."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden).float().flatten(0, 1)
    target, is_answer = ids[:, 1:].flatten(), answers[:, 1:].flatten().float()
    losses = F.cross_entropy(logits, target, reduction="none")
    prompt = (1 - is_answer) * (target != pad).float()
    answer = (losses * is_answer).sum() / is_answer.sum().clamp(min=1)
    right = ((logits.argmax(-1) == target).float() * is_answer).sum() / is_answer.sum().clamp(min=1)
    return (answer + weight * (losses * prompt).sum() / prompt.sum().clamp(min=1), answer.detach(), right.detach())


def optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for everything else."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]


def rate_at(step: int, steps: int, recipe: TrainBase) -> float:
    """Learning rate: 100 steps of warm-up, a plateau, then a linear fall to zero over the cool-down share."""
    left = (steps - step) / max(1, round(steps * recipe.cooldown))
    return recipe.learning_rate * min(1.0, (step + 1) / 100, max(left, 0.0))


class Trainer:
    """Model, optimisers and position in the data stream; can be saved and resumed. Uses a GPU if there is one."""

    def __init__(self, config: RunConfig, work: Path, mirror: Path | None = None):
        self.curriculum, self.work = Curriculum(config, work, mirror), work
        self.recipe, self.seed, self.key = config.train_base, config.seed, self.curriculum.key
        self.tokenizer, self.steps = self.curriculum.tokenizer, len(self.curriculum)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.seed)
        self.model = build(self.recipe, self.tokenizer).to(self.device)
        self.optimizers = optimizers(self.model, self.recipe.learning_rate)
        self.step, self.tokens, self.seconds, self.curve = 0, 0, 0.0, []
        self.loss = torch.compile(loss_of, dynamic=False)

    def helpers(self) -> int:
        """Processes that make batches: a GPU would wait for a single one; on a CPU they would slow training down."""
        return max(0, len(os.sched_getaffinity(0)) - 2) if self.device.type == "cuda" else 0

    def save(self) -> None:
        """Replace the checkpoint."""
        tensors = {f"model/{n}": p for n, p in self.model.named_parameters()}
        for index, optimizer in enumerate(self.optimizers):
            tensors |= training_state.optimizer_tensors(optimizer, f"optimizer{index}")
        progress = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "curve": self.curve}
        training_state.save(self.work, self.key, tensors, progress)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one of this recipe."""
        checkpoint = training_state.load(self.work, self.key)
        if checkpoint is None:
            return
        tensors, progress = checkpoint
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model/{name}"])
        for index, optimizer in enumerate(self.optimizers):
            training_state.load_optimizer(optimizer, tensors, f"optimizer{index}")
        for name, value in progress.items():
            setattr(self, name, value)
        print(f"resumed at step {self.step} of {self.steps}", flush=True)

    def train_step(self, data: Batch) -> tuple[float, float]:
        """One update; returns the answer loss and the share of answer tokens predicted right."""
        rate = rate_at(self.step, self.steps, self.recipe)
        for optimizer, share in zip(self.optimizers, (1.0, ADAMW_SHARE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
        weight, pad = self.curriculum.stage(self.step).prompt_weight, self.tokenizer.pad_token_id
        ids, answers = data.input_ids.to(self.device), data.answers.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss, answer, right = self.loss(self.model, ids, answers, pad, weight)
        if not torch.isfinite(loss):
            raise UserError(f"train-base: loss is {loss.item()} at step {self.step}; the last checkpoint is kept")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return answer.item(), right.item()

    def report(self, loss: float, right: float, seconds: float, tokens: int) -> None:
        """Add a point to the curve and print a progress line."""
        self.curve.append({"step": self.step, "tokens": self.tokens, "loss": loss, "answer_tokens_right": right})
        print(
            f"step {self.step}/{self.steps} {self.tokens / 1e6:.1f}M tokens, loss {loss:.4f}, answer tokens right "
            f"{right:.3f}, {tokens / seconds:.0f} tok/s, {(self.steps - self.step) * seconds / REPORT_EVERY / 60:.0f}"
            " min left",
            flush=True,
        )

    def train(self) -> None:
        """Train to the end, with a progress line every 100 steps and a checkpoint every minute."""
        saved = mark = time.monotonic()
        mark_tokens, begun = self.tokens, saved
        for data in self.curriculum.batches(self.step, self.helpers()):
            loss, right = self.train_step(data)
            self.step, self.tokens = self.step + 1, self.tokens + data.tokens
            now = time.monotonic()
            self.seconds, begun = self.seconds + now - begun, now
            if self.step % REPORT_EVERY == 0 or self.step == self.steps:
                self.report(loss, right, now - mark, self.tokens - mark_tokens)
                mark, mark_tokens = now, self.tokens
            if now - saved > SAVE_EVERY_S:
                self.save()
                saved = now
        self.save()


def export(trainer: Trainer, out_dir: Path, provenance: Provenance) -> None:
    """Write the model (float32 safetensors), tokenizer, loss curve and training record to `out_dir`."""
    record = {
        "recipe": trainer.curriculum.written,
        "tasks": trainer.curriculum.settings,
        "seed": trainer.seed,
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds, 1),
        "final": trainer.curve[-1],
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "data": trainer.curriculum.data_record(),
    }
    with outputs.directory(out_dir, [STAGE]) as directory:
        trainer.model.save_pretrained(directory)
        trainer.tokenizer.save_pretrained(directory)
        files.write_jsonl(directory / CURVE, trainer.curve)
        files.write_json(directory / "training.json", record)
        provenance.save(directory / "training.json")


def run(config: RunConfig, out_dir: Path, work: Path, mirror: Path | None = None) -> None:
    """Train the base model of the configuration, resuming from `work`, and write it to `out_dir`. `mirror` holds the
    corpora that the recipe names.

    Raises UserError on a NaN or infinite loss (the last checkpoint stays), or for a corpus that is not there.
    """
    outputs.check_dir(out_dir, [STAGE])
    with outputs.alone(Path(work)), Provenance(STAGE, config) as provenance:
        trainer = Trainer(config, work, mirror)
        trainer.resume()
        trainer.train()
        export(trainer, out_dir, provenance)
