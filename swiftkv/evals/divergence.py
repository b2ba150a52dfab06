"""How far students are from their base on published texts that none was trained on: `swiftkv divergence`.

Every token of a document is given (teacher forcing), so nothing is generated and nothing is scored: perplexity, KL and
agreement tell arms of a small model apart where its answers are too bad to be right.

    documents.jsonl   a row per arm, document and mode
    summary.csv       means over documents with intervals, by set and over the sets (`divergence_summary`)

Modes: `full`, every token runs every layer; `answers`, the document but for its last tokens is a prompt that leaves at
the cut, and these last ones run every layer, as in vLLM.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from swiftkv import distill, files, modeling, provenance
from swiftkv.config import BASE_ARM, RunConfig
from swiftkv.config.scoring import Divergence
from swiftkv.errors import UserError
from swiftkv.evals import divergence_summary, harness, teacher_forcing
from swiftkv.modeling.checkpoint import check_checkpoint, weight_files
from swiftkv.provenance import Provenance
from swiftkv.registry import names
from swiftkv.workloads.real import texts
from swiftkv.workloads.tokens import load_tokenizer

DOCUMENTS, SUMMARY = names("divergence")
MODULES = ((modeling, "decoder"), (distill, "attention"), (distill, "data"))
SOURCES = [  # what computes a document's rows
    Path(teacher_forcing.__file__),
    *sorted(Path(modeling.__file__).parent.glob("families/*.py")),
    *(Path(room.__file__).with_name(f"{name}.py") for room, name in MODULES),
]


@dataclass(frozen=True)
class Drawn:
    """A document as the models read it: its first tokens, of `text_tokens` in all."""

    set: str
    id: str
    ids: list[int]
    text_tokens: int

    @property
    def labels(self) -> dict:
        """The columns of documents.jsonl that are the document's."""
        read = {"read_tokens": len(self.ids), "text_tokens": self.text_tokens}
        return {"set": self.set, "document": self.id, **read}


def draw_set(name: str, asked: Divergence, seed: int, tokenizer) -> list[Drawn]:
    """The documents of one set, cut to `max_tokens`; those that hold no prompt before the answer are passed over.

    Special tokens are those that the tokenizer adds by itself. Raises UserError if too few documents are long enough.
    """
    drawn, short = [], 0
    for text in texts.shuffled(name, seed):
        ids = tokenizer(text.text, verbose=False)["input_ids"]  # longer ones than the model takes are cut below
        if len(ids) <= asked.answer_tokens:
            short += 1
            continue
        drawn.append(Drawn(name, text.id, ids[: asked.max_tokens], len(ids)))
        if len(drawn) == asked.documents:
            cut = sum(one.text_tokens > len(one.ids) for one in drawn)
            print(
                f"divergence: {name}: {len(drawn)} documents, {cut} of them cut to {asked.max_tokens} tokens; {short} "
                f"of at most {asked.answer_tokens} tokens passed over",
                flush=True,
            )
            return drawn
    raise UserError(
        f"divergence.documents: {asked.documents}; {name} has {len(drawn)} of more than {asked.answer_tokens} tokens "
        f"(divergence.answer_tokens), and {short} that are too short"
    )


def check(asked: Divergence, base_dir: Path, models: Mapping[str, Path]) -> None:
    """Raise UserError for a damaged model directory, another vocabulary than the base's, or documents too long."""
    base = check_checkpoint(base_dir)
    for directory, config in {base_dir: base, **{path: check_checkpoint(path) for path in models.values()}}.items():
        if config.vocab_size != base.vocab_size:
            raise UserError(
                f"{directory}: vocab_size is {config.vocab_size}, that of the base {base_dir} {base.vocab_size}; only "
                "models of one vocabulary can be compared token by token"
            )
        if asked.max_tokens > config.max_position_embeddings:
            raise UserError(
                f"divergence.max_tokens: {asked.max_tokens}; {directory} takes {config.max_position_embeddings}"
            )


def dtype_of(base_dir: Path) -> torch.dtype:
    """What all arms compute in: the base's own format where there is a GPU, else float32."""
    if not torch.cuda.is_available():
        return torch.float32
    return getattr(torch, harness.dtype_of(files.read_json(base_dir / "config.json")))


class Kept:
    """Measured documents below `work`: a file per arm and document, named after everything that decides its rows."""

    def __init__(self, work: Path, directories: Mapping[str, Path], hashes: Mapping[str, str], **settings):
        code = [files.sha256(path) for path in SOURCES]
        versions = {name: provenance.versions().get(name) for name in ("torch", "transformers")}
        weights = {
            arm: [files.sha256(path / "config.json"), *(hashes[provenance.relative(one)] for one in weight_files(path))]
            for arm, path in directories.items()
        }
        self.folders = {
            arm: Path(work) / f"{arm}-{files.digest([code, versions, settings, weights[BASE_ARM], weights[arm]])}"
            for arm in directories
        }

    def path(self, arm: str, document: Drawn) -> Path:
        return self.folders[arm] / document.set / f"{files.digest(document.ids)}.json"

    def missing(self, document: Drawn) -> list[str]:
        """The arms that have not been measured on a document."""
        return [arm for arm in self.folders if not self.path(arm, document).is_file()]

    def rows(self, documents: list[Drawn]) -> list[dict]:
        """The rows of documents.jsonl: by arm, document and mode."""
        return [
            {"arm": arm, **document.labels, "mode": mode, **means}
            for arm in self.folders
            for document in documents
            for mode, means in files.read_json(self.path(arm, document)).items()
        ]


def measure(kept: Kept, documents: list[Drawn], directories: Mapping[str, Path], answer_tokens: int, dtype) -> None:
    """Measure every arm on every document that it has not been measured on; no model is loaded if there is none.

    Raises UserError if the logits of an arm are not finite.
    """
    todo = {number: arms for number, document in enumerate(documents, 1) if (arms := kept.missing(document))}
    print(f"divergence: {len(documents) - len(todo)} of {len(documents)} documents done before", flush=True)
    if not todo:
        return
    wanted = {arm: path for arm, path in directories.items() if any(arm in arms for arms in todo.values())}
    students = {arm: path for arm, path in wanted.items() if arm != BASE_ARM}
    models = teacher_forcing.load_side_by_side(directories[BASE_ARM], students, dtype)
    for number, arms in todo.items():
        document, start = documents[number - 1], time.perf_counter()
        taking_part = {arm: model for arm, model in models.items() if arm == BASE_ARM or arm in arms}
        found = teacher_forcing.compare(taking_part, teacher_forcing.documents(document.ids, answer_tokens))
        for arm in arms:
            means = {mode: dataclasses.asdict(one) for mode, one in found[arm].items()}
            if not all(np.isfinite(value) for one in means.values() for value in one.values()):
                raise UserError(f"divergence: the logits of {arm} are not finite")
            files.write_json(kept.path(arm, document), means)
        told(f"{number} of {len(documents)}, {document.id}", len(document.ids), found, time.perf_counter() - start)


def told(document: str, tokens: int, found: dict, seconds: float) -> None:
    """Print a document that is done."""
    full = {arm: by_mode[teacher_forcing.FULL].kl for arm, by_mode in found.items() if arm != BASE_ARM}
    kl = ", ".join(f"{arm} {value:.3f}" for arm, value in full.items())
    print(f"divergence: {document}: {tokens} tokens in {seconds:.1f} s; KL {kl or '-'}", flush=True)


def run(config: RunConfig, base_dir: Path, models: Mapping[str, Path], out_dir: Path, work: Path) -> None:
    """Write the files named above into `out_dir`; measured documents are kept in `work`.

    Raises UserError for a configuration without `divergence`, a damaged model or one of another vocabulary, a published
    file that cannot be had, documents that are too few, too short or too long for the models, and logits that are not
    finite.
    """
    asked = config.divergence
    if asked is None:
        raise UserError(f"{config.path}: key 'divergence' is missing; docs/accuracy.md has one to copy")
    directories = {BASE_ARM: Path(base_dir)} | {arm: Path(path) for arm, path in models.items()}
    check(asked, directories[BASE_ARM], {arm: path for arm, path in directories.items() if arm != BASE_ARM})
    tokenizer, dtype = load_tokenizer(base_dir), dtype_of(directories[BASE_ARM])
    documents = [one for name in asked.chosen for one in draw_set(name, asked, config.seed, tokenizer)]
    inputs = [file for path in directories.values() for file in weight_files(path)]
    settings = {"dtype": str(dtype).removeprefix("torch."), "answer_tokens": asked.answer_tokens}
    out = [out_dir / name for name in (DOCUMENTS, SUMMARY)]
    with Provenance("divergence", config, inputs=inputs, out=out, settings=settings) as record:
        kept = Kept(work, directories, record.record["data_sha256"], **settings)
        measure(kept, documents, directories, asked.answer_tokens, dtype)
        record.save(out[0])
        files.write_jsonl(out[0], kept.rows(documents))
    divergence_summary.summarise(config, *out)
