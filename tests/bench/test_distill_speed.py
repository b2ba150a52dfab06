"""The benchmark of two checkouts: both really train, in turn, on the same tokens; what differs is not timed."""

import distill_counts
import distill_speed
import pytest

from swiftkv import files
from swiftkv.config import ROOT
from swiftkv.costmodel.memory import CHUNK_ELEMENTS
from swiftkv.distill import attention
from swiftkv.errors import UserError

SMALL = {"new": ROOT, "data": None, "skips": "0.5", "batch_tokens": 320, "sequence_length": 320, "allocator": None}
BASE = ROOT / "workflow/resources/base"


def test_a_checkout_against_itself(tmp_path, capsys):
    out = tmp_path / "speed.json"
    distill_speed.main(old=ROOT, base=BASE, repeats=3, warm_up=1, out=out, **SMALL)
    result = files.read_json(out)
    assert result["summary"]["ci_low"] <= result["summary"]["speedup"] <= result["summary"]["ci_high"]
    assert len(result["rounds"]) == 3 and result["rounds"][0]["old"]["losses"] == result["rounds"][0]["new"]["losses"]
    assert result["rounds"][0]["old"]["flops"] > 1e6 and result["commits"]["old"] == result["commits"]["new"]
    assert "distill_speed: old" in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "speed.json.provenance.json").is_file()


def step(tokens: int, loss: float) -> dict:
    return {"tokens": tokens, "losses": [loss], "seconds": 1.0}


class Fake:
    """A side that gives what it is told to."""

    def __init__(self, name: str, row: dict):
        self.name, self.row, self.steps = name, row, 0

    def step(self) -> dict:
        self.steps += 1
        return self.row


@pytest.mark.parametrize(
    ("other", "message"), [((99, 1.0), "100 tokens on the old side, 99"), ((100, 1.1), "first losses differ by 0.1")]
)
def test_sides_that_differ_are_not_timed(other, message):
    sides = [Fake("old", step(100, 1.0)), Fake("new", step(*other))]
    with pytest.raises(UserError, match=message):
        distill_speed.rounds(sides, 4, 1)
    assert [side.steps for side in sides] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old": ROOT / "docs"}, "--old: .*docs holds no checkout"),
        ({"skips": "half"}, "--skips: 'half' is not allowed"),
    ],
)
def test_wrong_options_are_named(tmp_path, changes, message):
    options = SMALL | {"old": ROOT, "base": BASE, "repeats": 3, "warm_up": 1, "out": tmp_path / "speed.json"} | changes
    with pytest.raises(UserError, match=message):
        distill_speed.main(**options)
    assert not (tmp_path / "speed.json").exists()


# Counts


def test_a_step_is_counted_without_memory(tiny_base, tmp_path, monkeypatch):
    """More tokens are more bytes by the same kernels; a student more is more of both."""
    for name, value in (("cpu", CHUNK_ELEMENTS["cpu"]), ("cuda", 2**30)):  # all in one chunk
        monkeypatch.setitem(CHUNK_ELEMENTS, name, value)
    monkeypatch.setattr(attention, "fused", attention.fused)

    def counted(tokens: int, skips: str) -> dict:
        out = tmp_path / "counts.json"
        distill_counts.main(tiny_base, skips, tokens, document=50, answers=0.4, gpu="H100", out=out)
        return files.read_json(out)

    small, large, more = counted(500, "0.5"), counted(5000, "0.5"), counted(500, "0.5,0.25")
    assert small["calls"] == large["calls"] and large["bytes"] > 3 * small["bytes"]
    assert small["kernels"] < more["kernels"] < 2 * small["kernels"]
    assert large["flops"] == 10 * small["flops"] and small["seconds"]["kernels"] == small["kernels"] * 6e-6
    assert small["calls"]["_varlen_attn"] == 8 + 4  # the base's layers and the student's late ones
