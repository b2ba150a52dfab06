"""The manifest of a published run: whatever is done to the run afterwards, `swiftkv verify-results` finds it."""

import gzip
import shutil
from pathlib import Path

import pytest

from swiftkv import files
from swiftkv.audit import manifest, verify_results
from swiftkv.config import ROOT
from swiftkv.release import ledger

REFERENCE = ROOT / "results" / "reference"
RUN = "epyc-2-cores/cpu"


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of a published run below a ledger of its own."""
    directory = shutil.copytree(REFERENCE / RUN, tmp_path / RUN)
    files.write_text(tmp_path / "README.md", ledger.page(tmp_path))
    return directory


def swap(run: Path, a: str, b: str) -> None:
    (run / a).rename(run / "aside")
    (run / b).rename(run / a)
    (run / "aside").rename(run / b)


def edit(run: Path, file: str, old: str, new: str) -> None:
    text = (run / file).read_text(encoding="utf-8")
    assert old in text
    (run / file).write_text(text.replace(old, new, 1), encoding="utf-8")


def gzipped(run: Path, file: str) -> None:
    (run / file).write_bytes(gzip.compress(gzip.decompress((run / file).read_bytes()) + b"\n"))


def forgotten(run: Path, file: str) -> None:
    """A file is replaced, and its line taken out of the manifest."""
    (run / file).write_bytes(b"another")
    lines = (run / manifest.MANIFEST).read_text().splitlines(keepends=True)
    (run / manifest.MANIFEST).write_text("".join(line for line in lines if not line.endswith(f"  {file}\n")))


def made_to_agree(run: Path, file: str) -> None:
    """A file is replaced, and the manifest written anew."""
    (run / file).write_bytes(b"another")
    manifest.write(run)


PICTURE, SAMPLES = "figures/fig-throughput.png", "accuracy/{}/samples.jsonl"
TAMPERINGS = {
    "a digit of a summary": lambda run: edit(run, "throughput/summary.csv", "0", "1"),
    "a digit of a measurement": lambda run: edit(run, "throughput/measurements.jsonl", "0", "1"),
    "requests written anew": lambda run: gzipped(run, "throughput/requests.jsonl.gz"),
    "a picture replaced by another": lambda run: swap(run, PICTURE, "figures/fig-latency.png"),
    "a picture taken away": lambda run: (run / PICTURE).unlink(),
    "a file added": lambda run: (run / "figures" / "fig-mine.png").write_bytes(b"mine"),
    "scores of the harness": lambda run: edit(run, "accuracy/skip50/lm_eval.json", "0", "1"),
    "two students' answers swapped": lambda run: swap(run, SAMPLES.format("skip50"), SAMPLES.format("skip25")),
    "the time of a stage": lambda run: edit(run, "benchmarks/distill.tsv", "1", "2"),
    "a verdict": lambda run: edit(run, "claims.csv", "not measured", "reproduced"),
    "a verdict in the text": lambda run: edit(run, "claims.md", "not measured", "reproduced"),
    "a gate": lambda run: edit(run, "verify/gates.json", "true", "false"),
    "the configuration": lambda run: edit(run, "config.yaml", "seed: 0", "seed: 1"),
    "the machine in a record": lambda run: edit(run, "throughput/summary.csv.provenance.json", "EPYC", "Xeon"),
    "a training curve": lambda run: edit(run, "models/distill.jsonl", "0", "1"),
    "a file and its line in the manifest": lambda run: forgotten(run, PICTURE),
    "a file and the manifest": lambda run: made_to_agree(run, PICTURE),
    "a line of the manifest": lambda run: edit(run, manifest.MANIFEST, "  claims.md", " claims.md"),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_is_found(run, tampering):
    assert not list(manifest.disagreements(run))
    TAMPERINGS[tampering](run)
    assert list(manifest.disagreements(run))


def test_the_command_finds_it(run, capsys):
    assert verify_results.run(run)
    TAMPERINGS["a picture replaced by another"](run)
    assert not verify_results.run(run)
    assert f"{PICTURE}, sha256 in {manifest.MANIFEST}: stored " in capsys.readouterr().out


def test_a_forger_of_ledger_and_manifest_is_not_found(run):
    """Which the manifest's page says: only a signature helps."""
    made_to_agree(run, PICTURE)
    files.write_text(run.parents[1] / "README.md", ledger.page(run.parents[1]))
    assert not list(manifest.disagreements(run))


@pytest.mark.parametrize("path", sorted(REFERENCE.glob(f"*/*/{manifest.MANIFEST}")), ids=lambda path: path.parent.name)
def test_committed_runs_are_those_of_their_manifests(path):
    assert not list(manifest.disagreements(path.parent))


def test_every_committed_run_has_a_manifest_in_the_ledger():
    named = manifest.known_to(REFERENCE / "README.md").keys()
    runs = {path.relative_to(REFERENCE).as_posix() for path in REFERENCE.glob("*/*") if path.is_dir()}
    assert named == runs
