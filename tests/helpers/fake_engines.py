"""Engines that measure nothing but a clock of their own, and the configuration that they are tested with."""

import time

from swiftkv import costmodel
from swiftkv.config import RunConfig
from swiftkv.engines.arms import BatchResult
from swiftkv.engines.counting import TokenCounts
from swiftkv.engines.settings import BLOCK
from tests.helpers.config import make_config

SPEED = {"base": 100.0, "skip50": 180.0, "skip50-across4": 190.0}
CONTROLS = ["base-again", "l-equals-L"]


def throughput_config(**changes) -> RunConfig:
    """Three arms without controls, two workloads, three repeats on a tiny shape."""
    raw = make_config().raw
    raw["variants"] = [v for v in raw["variants"] if v["name"] in SPEED]
    raw["accuracy"]["undistilled"] = []
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4}
    for key in ("precision", "max_minutes"):
        del raw["throughput"][key]
    raw["throughput"] |= {
        "model": shape | {"num_key_value_heads": 2, "vocab_size": 512, "dtype": "float32"},
        "max_num_batched_tokens": 128,
        "repeats": 3,
        "restarts": 1,
        "min_seconds": 0,
        "controls": [],
        "points": [
            {"name": "mixed", "input_len": 50, "output_len": 5, "num_requests": 3},
            {"name": "prompt-only", "input_len": 60, "output_len": 1, "num_requests": 2},
        ],
        "latency": {"input_len": 20, "output_len": 6, "rounds": 3},
    } | changes
    return RunConfig(raw, "(test)")


class Settings(dict):
    """Arms started per engine settings, which hold a dict and so cannot be keys themselves."""

    def setdefault(self, settings, names):
        key = (settings.prefix_caching, settings.kv_memory_bytes, settings.max_num_seqs, settings.max_model_len)
        return super().setdefault(key, names)


class Machine:
    """Fake engines that share a clock and a log of what ran, in order."""

    def __init__(self, speed=SPEED, kill_after=None, **faults):
        self.speed, self.kill_after, self.faults, self.log = speed, kill_after, faults, []
        self.settings = Settings()

    def __call__(self, arm, settings, directory):
        self.settings.setdefault(settings, []).append(arm.name)
        return FakeEngine(self, arm, settings)

    def measured(self):
        """(input_len, output_len, arm) of every run but the warm-up, which generates 4 tokens."""
        return [entry for entry in self.log if entry[1] != 4]


class FakeEngine:
    def __init__(self, machine, arm, settings):
        self.machine, self.arm, self.settings = machine, arm, settings

    def count_tokens(self, batch, seed):
        """All tokens of the base; of others those whose logits are needed, or `late` more."""
        tokens = batch.num_requests * (batch.input_len + batch.output_len - 1)
        needed = batch.num_requests * batch.output_len
        late = tokens if self.arm.name == "base" else needed + self.machine.faults.get("late", 0)
        return TokenCounts(steps=batch.output_len, early=tokens, late=late, needed=needed)

    def run(self, batch, seed):
        machine, count = self.machine, batch.num_requests
        if machine.kill_after is not None and len(machine.measured()) >= machine.kill_after:
            raise KeyboardInterrupt
        machine.log.append((batch.input_len, batch.output_len, self.arm.name, seed))
        time.sleep(machine.faults.get("seconds", 0))
        rate = machine.speed.get(self.arm.name, machine.speed["base"])  # of a control
        if self.arm.name == "base" and callable(machine.faults.get("slow")):
            rate *= machine.faults["slow"](machine)
        if callable(machine.faults.get("noise")):
            rate *= machine.faults["noise"](len(machine.log))
        prompt_tokens = batch.input_len * count
        output_tokens = batch.output_len * count + machine.faults.get("extra", 0)
        seconds = (prompt_tokens + output_tokens) / rate
        return BatchResult(
            elapsed_s=seconds,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            failed=machine.faults.get("failed", 0),
            ttft_s=[seconds / 2] * count,
            tpot_s=[seconds / 10] * count if batch.output_len > 1 else [],
            cached_tokens=0 if machine.faults.get("cold") else count * (batch.prefix_len // BLOCK * BLOCK),
        )

    def kv(self):
        caches = costmodel.kv_caches(self.settings.shape, self.arm.cut, self.arm.group)
        per_token = costmodel.kv_bytes_per_token(self.settings.shape, self.arm.cut, self.arm.group, 4)
        capacity = self.settings.kv_memory_bytes // (128 * per_token) * 128
        return {"kv_caches": caches, "kv_bytes_per_token": per_token, "capacity_tokens": capacity}

    def close(self):
        self.machine.log.append((0, 4, f"closed {self.arm.name}", 0))
