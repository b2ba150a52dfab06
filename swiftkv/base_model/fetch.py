"""Bring the base model of a configuration into the results directory."""

import shutil
from pathlib import Path

from swiftkv import files, outputs
from swiftkv.base_model import gguf_origin, hub
from swiftkv.config import RunConfig
from swiftkv.config.training import GGUF
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance
from swiftkv.workloads.downloads import mirror_of

COPY_BELOW_BYTES = 256 * 2**20


def local_dir(path: str) -> Path:
    """A directory named in a config: as given, or relative to the project. Raises UserError if there is none."""
    if (place := files.in_project(path, Path.is_dir)) is None:
        raise UserError(f"base.path: {path}: no such directory")
    return place


def place(source: Path, directory: Path) -> None:
    """Fill `directory` with the model's files in `source`, without pickles, code and weights in another format that lie
    beside them: copies if small together, else links to the large ones."""
    wanted = (*hub.FILES, "*.jsonl")  # the curve of a base that was trained here
    present = [path for path in source.iterdir() if path.is_file() and any(map(path.match, wanted))]
    present = [path for path in present if not any(map(path.match, hub.OTHER_FORMAT))]
    small = sum(path.stat().st_size for path in present) < COPY_BELOW_BYTES
    for path in present:
        if small or path.suffix != ".safetensors":
            shutil.copyfile(path, directory / path.name)
        else:
            (directory / path.name).symlink_to(path.resolve())


def resolve_base(config: RunConfig, out_dir: Path, mirror: str | Path | None = None) -> None:
    """Put the base model of `config`, unless it is to be trained, into `out_dir`, checked, with provenance. A GGUF file
    may lie in `mirror`.

    Raises UserError if the model cannot be had, is damaged, is of a family that is not supported, or has a tokenizer
    that loses characters, and if `out_dir` holds anything but an earlier base.
    """
    outputs.check_dir(out_dir, ["base"])
    mirror = mirror_of(mirror)
    if config.base.is_gguf:
        return resolve_gguf(config, out_dir, mirror)
    from swiftkv.base_model.round_trip import check_tokenizer
    from swiftkv.modeling.checkpoint import BASE_TYPES, check_checkpoint, read_config, weight_files

    base = config.base
    source = hub.repository_dir(base.path, base.revision) if base.source == "hub" else local_dir(base.path)
    if not (source / "config.json").is_file() and (found := sorted(source.glob(f"*{GGUF}"))):
        raise UserError(
            f"{source}: holds GGUF files and no config.json; let base.path name one, such as {found[0].name}"
        )
    read_config(source, BASE_TYPES)
    check_tokenizer(source, check_checkpoint(source).vocab_size)
    with (
        outputs.directory(out_dir, ["base"], [source]) as directory,
        Provenance("base", config, inputs=weight_files(source), base=config.raw["base"]) as provenance,
    ):
        place(source, directory)
        provenance.save(directory / "config.json")


def resolve_gguf(config: RunConfig, out_dir: Path, mirror: Path | None) -> None:
    """As `resolve_base`, from a GGUF file."""
    from swiftkv.base_model import dequantise
    from swiftkv.base_model.gguf_file import library, open_gguf
    from swiftkv.base_model.round_trip import check_tokenizer
    from swiftkv.modeling.checkpoint import check_checkpoint

    library()  # before anything is downloaded
    gguf = open_gguf(gguf_origin.find(config.base, mirror), dequantise.ARCHITECTURES)
    # Others lie in a cache, which is a directory of this machine; `gguf` has their hash.
    inputs = [gguf.path] if config.base.source == "local" else []
    with (
        outputs.directory(out_dir, ["base"], [gguf.path]) as directory,
        Provenance("base", config, inputs=inputs, base=config.raw["base"], gguf=gguf.record()) as provenance,
    ):
        dequantise.write_directory(gguf, directory, gguf_origin.in_words(config.base))
        check_tokenizer(directory, check_checkpoint(directory).vocab_size, where=str(gguf.path))
        provenance.save(directory / "config.json")
