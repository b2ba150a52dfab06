"""The run configurations of tests: one that ships, changed."""

from swiftkv.config import ROOT, RunConfig, load_config, merge


def make_config(*changes: dict, of: str = "config", instead: dict | None = None, path: str = "test") -> RunConfig:
    """config/`of`.yaml with `changes` merged into it one after the other, and then whole sections replaced by those of
    `instead`. A copy, and not validated: tests also need wrong ones."""
    raw = load_config(ROOT / "config" / f"{of}.yaml").raw
    for change in changes:
        raw = merge(raw, change)
    return RunConfig(raw | (instead or {}), path)
