"""Bring the base model of a configuration into the results directory."""

import shutil
from pathlib import Path

from swiftkv import outputs
from swiftkv.config import ROOT, RunConfig
from swiftkv.errors import UserError
from swiftkv.provenance import Provenance

COPY_BELOW_BYTES = 256 * 2**20
# What a pinned hub revision is asked for; no pickles, no code.
HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "README.md")


def local_dir(path: str) -> Path:
    """A directory named in a config: as given, or relative to the project. Raises UserError if there is none."""
    for candidate in (Path(path), ROOT / path):
        if candidate.is_dir():
            return candidate
    raise UserError(f"base.path: {path}: no such directory")


def hub_dir(repository: str, revision: str) -> Path:
    """The local snapshot of a pinned hub revision, downloaded if it is not cached yet.

    Raises UserError for an unknown repository or revision, a gated one, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"base: hub repository {repository} at revision {revision}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(HUB_FILES)))
    except GatedRepoError:
        raise UserError(f"{where}: access is gated; accept its licence and log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise UserError(f"{where}: no such revision") from None
    except RepositoryNotFoundError:
        raise UserError(f"{where}: no such repository, or it is private") from None
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not cached and not reachable ({type(error).__name__}: {reason})") from None


def place(source: Path, directory: Path) -> None:
    """Fill `directory` with the files of `source`: copies if small together, else links to the large ones."""
    present = [path for path in source.iterdir() if path.is_file()]
    small = sum(path.stat().st_size for path in present) < COPY_BELOW_BYTES
    for path in present:
        if small or path.suffix != ".safetensors":
            shutil.copyfile(path, directory / path.name)
        else:
            (directory / path.name).symlink_to(path.resolve())


def resolve_base(config: RunConfig, out_dir: Path) -> None:
    """Put the base model of `config`, unless it is to be trained, into `out_dir`, checked, with provenance.

    Raises UserError if the model cannot be had, is damaged, or is of a family that is not supported, and if `out_dir`
    holds anything but an earlier base.
    """
    from swiftkv.modeling.checkpoint import BASE_TYPES, check_checkpoint, read_config, weight_files

    base = config.base
    source = hub_dir(base.path, base.revision) if base.source == "hub" else local_dir(base.path)
    read_config(source, BASE_TYPES)
    check_checkpoint(source)
    with (
        outputs.directory(out_dir, ["base"], [source]) as directory,
        Provenance("base", config, inputs=weight_files(source), base=config.raw["base"]) as provenance,
    ):
        place(source, directory)
        provenance.save(directory / "config.json")
