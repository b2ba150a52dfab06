"""Distillation of all students at once against the published recipe, one student after the other.

    python benchmarks/distill_recipe.py [--shape 1024 2816 16 16 4 32000] [--rows 4] [--length 512] [--repeats 5]

The recipe is the computation of train.py in https://github.com/snowflakedb/ArcticTraining (projects/swiftkv), written
here as a plain reference: per student a full teacher pass without gradient, a full student pass with activation
checkpointing of every decoder layer, full logits of both, KL at answer tokens and MSE of the last layer's inputs at
all tokens. Both sides get the same weights, dtype, attention, autocast, batches and optimiser. Timed is what it takes
to train every student on the same tokens. Rows have no padding, as packed ones.

Four comparisons: one student and several together, each with the recipe's losses (`both`) and with KL alone (`logits`,
our default), where late layers run at loss positions only. Nothing is timed unless one step of both sides gives the
same losses and the same direction of the gradient; otherwise the run ends with code 2 and one line.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
import typer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from swiftkv import files
from swiftkv.cli import end_in_one_line
from swiftkv.config import RunConfig, load_config
from swiftkv.errors import UserError
from swiftkv.modeling.checkpoint import BASE_TYPES, check_checkpoint, read_config, weight_files
from swiftkv.modeling.convert import convert
from swiftkv.provenance import Provenance
from swiftkv.stats import ratio_ci
from swiftkv.workloads.stream import Batch

HIDDEN_LOSS = {"both": 1.0, "logits": 0.0}
SHAPE = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size".split()
ROW = (
    "distill_recipe: skip {skips}, {losses}: recipe {recipe_tokens_per_s:.0f} tok/s, ours {ours_tokens_per_s:.0f}, "
    "{speedup:.2f}x [{low:.2f}, {high:.2f}]"
)
PAD = 0  # random ids start above it
CLIP = 1.0
# Largest relative difference of a loss and smallest cosine between gradients.
TOLERANCE = {torch.float32: (1e-4, 0.9999), torch.bfloat16: (1e-2, 0.999)}


class Ours(NamedTuple):
    """Our side: `step` trains every student on a batch and returns a row for each; `gradients()` after the first step
    are the students' gradients by tensor name, up to a positive factor; `teacher` is the frozen base model."""

    step: Callable[[Batch], list[dict]]
    gradients: Callable[[], list[dict]]
    teacher: PreTrainedModel


def ours(config: RunConfig, base_dir: Path, work: Path) -> Ours:
    """The one function here that knows the classes of swiftkv.distill."""
    from swiftkv.distill.loop import Distillation

    made = Distillation(config, base_dir, work)
    return Ours(
        made.train_step,
        lambda: [{n: t.optimizer.state[p]["exp_avg"] for n, p in t.student.trained.items()} for t in made.trainees],
        made.teacher.model,
    )


class Recipe:
    """One student of the published recipe; `student_dir` is its undistilled model, frozen weights are the teacher's."""

    def __init__(self, teacher: PreTrainedModel, student_dir: Path, settings: dict):
        self.teacher, self.temperature = teacher, settings["temperature"]
        attention = teacher.config._attn_implementation
        student = AutoModelForCausalLM.from_pretrained(student_dir, dtype=teacher.dtype, attn_implementation=attention)
        self.student = student.to(teacher.device).train()
        self.student.load_state_dict(teacher.state_dict(), strict=False, assign=True)
        self.student.gradient_checkpointing_enable()
        # Transformers 5 would run the backward pass down to the embeddings; the recipe's ends at the cut.
        self.student.disable_input_require_grads()
        self.student.requires_grad_(False)
        self.trained = {name: p for name, p in self.student.named_parameters() if "swiftkv" in name}
        for parameter in self.trained.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_()
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=settings["learning_rate"], weight_decay=0.0)

    def log_softmax(self, logits: torch.Tensor) -> torch.Tensor:
        """At temperature T, in float32."""
        return F.log_softmax(logits.float() / self.temperature, dim=-1)

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """T^2 KL at the positions before answer tokens, averaged over all positions, and the MSE of hidden states."""
        device = self.teacher.device
        ids, mask = batch.input_ids.to(device), loss_mask(batch).to(device)
        asked = {"input_ids": ids, "use_cache": False, "output_hidden_states": True}
        with torch.no_grad():
            target = self.teacher(**asked)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.teacher.dtype == torch.bfloat16):
            found = self.student(**asked)
        logs = self.log_softmax(found.logits), self.log_softmax(target.logits)
        kl = F.kl_div(*logs, reduction="none", log_target=True).sum(-1) * self.temperature**2
        return (kl * mask).mean(), F.mse_loss(found.hidden_states[-2].float(), target.hidden_states[-2].float())

    def step(self, batch: Batch) -> None:
        """One update."""
        sum(self.losses(batch)).backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def loss_mask(batch: Batch) -> torch.Tensor:
    """Positions [B, T] whose next token belongs to an answer."""
    return F.pad(batch.answers[:, 1:], (0, 1), value=False)


def random_batch(rows: int, length: int, share: float, vocabulary: int, seed: int) -> Batch:
    """Full rows of random ids; each token is an answer token with probability `share`, the last of a row always."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(PAD + 1, vocabulary, (rows, length), generator=generator)
    answers = torch.rand(rows, length, generator=generator) < share
    answers[:, -1] = True
    return Batch(ids, answers, torch.full((rows,), length))


def random_base(shape: tuple[int, ...], directory: Path) -> Path:
    """Save a random Llama whose logits have a spread near 1. Raises UserError for a shape that is none."""
    hidden, _, _, heads, kv_heads, _ = shape
    if min(shape) < 1 or hidden % (2 * heads) or heads % kv_heads:
        raise UserError(f"--shape: {shape} is not allowed; hidden / heads must be even, heads / kv_heads whole")
    torch.manual_seed(0)
    config = LlamaConfig(**dict(zip(SHAPE, shape, strict=True)), initializer_range=hidden**-0.5, pad_token_id=PAD)
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory)
    return directory


def config_of(skips: list[float], hidden_loss: float) -> RunConfig:
    """The default configuration with these students, and a learning rate at which random text cannot harm them."""
    raw = load_config().raw
    variants = [{"name": f"skip{100 * skip:g}", "skip": skip} for skip in skips]
    distill = {"hidden_loss": hidden_loss, "loss_on": "answers", "steps": 10**6, "learning_rate": 1e-6}
    return RunConfig(raw | {"variants": variants, "distill": raw["distill"] | distill}, "distill_recipe")


def recipes(config: RunConfig, base_dir: Path, teacher: PreTrainedModel, root: Path) -> list[Recipe]:
    """The recipe's side: one student after the other."""
    made = []
    for variant in config.variants:
        directory = root / variant.name
        if not directory.exists():
            convert(base_dir, directory, variant.num_key_value_layers(teacher.config.num_hidden_layers), 1)
        made.append(Recipe(teacher, directory, config.raw["distill"]))
    return made


def check(recipe: Recipe, batch: Batch, hidden_loss: float, row: dict, gradients: dict) -> dict:
    """Hold the loss and gradient of our first step against the recipe's. Raises UserError if they differ.

    Our KL is the mean over loss positions, the recipe's over all: it is divided by the loss positions' share.
    """
    kl, error = recipe.losses(batch)
    expected = kl / loss_mask(batch).float().mean() + hidden_loss * error
    theirs = torch.autograd.grad(expected, recipe.trained.values())
    sides = theirs, [gradients[name] for name in recipe.trained]
    flat = [torch.cat([gradient.flatten() for gradient in side]).double() for side in sides]
    found = {"variant": row["variant"], "loss": row["loss"], "recipe_loss": expected.item()}
    found["cosine"] = F.cosine_similarity(*flat, dim=0).item()
    largest, smallest = TOLERANCE[recipe.teacher.dtype]
    if not (abs(found["loss"] / found["recipe_loss"] - 1) <= largest and found["cosine"] >= smallest):
        raise UserError(
            f"distill_recipe: not timed, both sides differ: {found}; allowed: {largest} of the loss, cosine {smallest}"
        )
    return found


def seconds(work: Callable[[], object]) -> float:
    """Wall time of `work`, with what it started on a GPU."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def first_step(mine: Ours, theirs: list[Recipe], batch: Batch, hidden_loss: float) -> list[dict]:
    """Warm both sides up on one batch, and check each student."""
    rows = mine.step(batch)
    found = zip(theirs, rows, mine.gradients(), strict=True)
    checks = [check(recipe, batch, hidden_loss, row, gradients) for recipe, row, gradients in found]
    for recipe in theirs:
        recipe.step(batch)
    return checks


def compare(config: RunConfig, base_dir: Path, root: Path, batches: list[Batch]) -> dict:
    """Warm up and check on the first batch, then time both sides in turn on each of the others."""
    mine = ours(config, base_dir, root / "work")
    theirs = recipes(config, base_dir, mine.teacher, root)
    result = {"check": first_step(mine, theirs, batches[0], config.distill.hidden_loss)}
    pairs = [
        (seconds(lambda: [r.step(batch) for r in theirs]), seconds(lambda: mine.step(batch)))  # noqa: B023
        for batch in batches[1:]
    ]
    took = dict(zip(("recipe", "ours"), zip(*pairs, strict=True), strict=True))
    result |= {"dtype": str(mine.teacher.dtype), "seconds": took}
    result |= {f"{side}_tokens_per_s": batches[0].tokens / median(times) for side, times in took.items()}
    return result | dict(zip(("speedup", "low", "high"), ratio_ci(took["recipe"], took["ours"]), strict=True))


def comparisons(base_dir: Path, root: Path, batches: list[Batch], *students: list[float]) -> list[dict]:
    """Every group of students with both kinds of losses, printed as they are made."""
    found = []
    for skips in students:
        for losses, hidden_loss in HIDDEN_LOSS.items():
            result = compare(config_of(skips, hidden_loss), base_dir, root, batches)
            found.append({"skips": skips, "losses": losses} | result)
            print(ROW.format(**found[-1]), flush=True)
    return found


def main(
    base: Annotated[Path, typer.Option(help="Directory of the base model.")] = Path("workflow/resources/base"),
    shape: Annotated[
        tuple[int, int, int, int, int, int] | None,
        typer.Option(help="A random Llama instead: hidden, intermediate, layers, heads, key-value heads, vocabulary."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1)] = 12,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 320,
    answers: Annotated[float, typer.Option(min=0, max=1, help="Share of answer tokens; that of the tasks.")] = 0.35,
    alone: Annotated[float, typer.Option(help="Share of the layers that the single student skips.")] = 0.5,
    together: Annotated[tuple[float, float, float], typer.Option(help="Those of three students.")] = (0.25, 0.5, 0.625),
    repeats: Annotated[int, typer.Option(min=3, help="Odd.")] = 5,
    out: Path = Path("results/benchmarks/distill-recipe.json"),
) -> None:
    """Compare both sides and print their tokens per second."""
    if repeats % 2 == 0:
        raise UserError(f"--repeats: {repeats} is not allowed; it must be odd")
    disable_progress_bar()
    settings = {"shape": shape, "rows": rows, "length": length, "answers": answers, "repeats": repeats}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        base = random_base(shape, root / "base") if shape else base
        read_config(base, BASE_TYPES)
        vocabulary = check_checkpoint(base).vocab_size
        batches = [random_batch(rows, length, answers, vocabulary, seed) for seed in range(repeats + 1)]
        with Provenance(
            "distill-recipe", inputs=weight_files(base), seeds={"seed": 0}, **settings, out=[out]
        ) as provenance:
            found = comparisons(base, root, batches, [alone], list(together))
            files.write_json(out, settings | {"comparisons": found})
            provenance.save(out)


if __name__ == "__main__":
    end_in_one_line(lambda: typer.run(main))
