"""How a distillation goes: a progress bar on a terminal, a line every few seconds in a log, and rows as JSON Lines."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from swiftkv import files

REPORT_EVERY_S = 10
NEAR_PEAK = 0.9  # a measured peak that a run comes so near to may have been measured too low


class Progress:
    """Shows loss per student, tokens per second and MFU; only the first process shows anything.

    MFU is the share of the peak FLOP/s (of all processes) that the FLOPs counted for the steps amount to. `peak` gives
    it; a measured one is measured again when the run comes near it, as other work may have slowed the measurement.
    Speed, MFU and time left are without the first step, in which kernels are loaded and memory is first taken.
    """

    def __init__(self, steps: int, step: int, peak: Callable[[], float], shown: bool, stream=sys.stdout):
        self.steps, self.first, self.shown = steps, step, shown
        self.measure_peak, self.peak = peak, peak()
        self.began = self.reported = time.monotonic()
        self.tokens, self.flops, self.flops_before, self.step = 0, 0.0, 0.0, step
        bar = shown and stream.isatty()
        self.bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True, file=stream) if bar else None

    def count(self, step: int, tokens: int, flops: float) -> None:
        """A step has ended: its number, its tokens, and the FLOPs of all so far."""
        self.step, self.flops = step, flops
        if self.flops_before:
            self.tokens += tokens
        else:
            self.began, self.first, self.flops_before = time.monotonic(), step, flops

    @property
    def elapsed(self) -> float:
        """Seconds since the start, never 0."""
        return max(time.monotonic() - self.began, 1e-9)

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation so far."""
        rate = (self.flops - self.flops_before) / self.elapsed
        if rate > NEAR_PEAK * self.peak:
            self.peak = max(self.peak, self.measure_peak())
        return rate / self.peak

    def show(self, rows: list[dict], dropped: list[str], last: bool) -> None:
        """Report the rows of a step, if it is time."""
        for message in dropped if self.shown else ():
            self.write(f"distill: {message}; dropped, the others go on")
        if self.bar is not None:
            self.bar.n = self.step
            self.bar.set_postfix_str(self.text(rows), refresh=last)
            self.bar.update(0)
        elif self.shown and (last or time.monotonic() - self.reported > REPORT_EVERY_S):
            self.write(f"distill: step {self.step}/{self.steps}, {self.text(rows)}{self.left}")
            self.reported = time.monotonic()

    def text(self, rows: list[dict]) -> str:
        """Loss per student, and from the second step on speed and utilisation."""
        kl = ", ".join(f"{row['variant']} {row['kl']:.4f}" for row in rows)
        return f"KL {kl}" + (f"; {self.tokens / self.elapsed:.0f} tok/s, MFU {self.mfu:.1%}" if self.tokens else "")

    @property
    def left(self) -> str:
        """How long the rest of the run will take."""
        done = self.step - self.first
        return f", {self.elapsed / done * (self.steps - self.step):.0f} s left" if done else ""

    def write(self, line: str) -> None:
        """Print a line beside the bar."""
        if self.bar is not None:
            self.bar.write(line)
        else:
            print(line, flush=True)


def write_rows(path, rows: list[dict], variants: list[str]) -> None:
    """All students' rows, by step, as JSON Lines."""
    files.write_jsonl(path, sorted(rows, key=lambda row: (row["step"], variants.index(row["variant"]))))
