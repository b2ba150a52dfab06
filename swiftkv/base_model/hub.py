"""Base models of the Hugging Face hub, at a pinned revision: a repository, or one file of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swiftkv.errors import UserError

# What a pinned revision is asked for; no pickles, no code.
OTHER_FORMAT = ("consolidated*", "params.json")  # the same weights once more, of which vLLM would take these
FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "README.md")


@contextmanager
def one_line(where: str, otherwise: str = "") -> Iterator[None]:
    """Errors of the hub as a UserError about `where`: an unknown repository, revision or file, a gated one, or no
    network, after which `otherwise` says what else can be done."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise UserError(f"{where}: access is gated; accept its licence and log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise UserError(f"{where}: no such revision") from None
    except RepositoryNotFoundError:
        raise UserError(f"{where}: no such repository, or it is private") from None
    except Exception as error:
        # The network's error is a kind of the missing file's.
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise UserError(f"{where}: no such file in it") from None
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}: not cached and not reachable ({type(error).__name__}: {reason}){otherwise}"
        ) from None


def repository_dir(repository: str, revision: str) -> Path:
    """The local snapshot of a pinned revision, downloaded if it is not cached yet.

    Raises UserError for an unknown repository or revision, a gated one, or no network.
    """
    from huggingface_hub import snapshot_download

    with one_line(f"base: hub repository {repository} at revision {revision}"):
        chosen = {"allow_patterns": list(FILES), "ignore_patterns": list(OTHER_FORMAT)}
        return Path(snapshot_download(repository, revision=revision, **chosen))


def repository_file(repository: str, revision: str, name: str, otherwise: str) -> Path:
    """The local copy of one file of a pinned revision, downloaded if it is not cached yet. Raises UserError as above,
    and for an unknown file."""
    from huggingface_hub import hf_hub_download

    with one_line(f"base: {name} of hub repository {repository} at revision {revision}", otherwise):
        return Path(hf_hub_download(repository, name, revision=revision))
