"""How far a model's logits are from Transformers in float64, and what Transformers in float32 loses of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from swiftkv.evals.reference import Answer, Deviation, Reference, largest_delta, read_by

MOVED = (None, 1, 2, 3, 4)  # seeds of the float32 passes: the weights as they are, and moved by a rounding each
Key = tuple[str, str]  # a gate and a kind of prompts


@dataclass(frozen=True)
class Errors:
    """How far logits are from Transformers in float64: those of vLLM, and on the same tokens those of Transformers in
    float32 in the worst of its passes (`own`); and the largest logit."""

    vllm: float
    own: float
    scale: float


class Truth:
    """A model in Transformers in float64, and what float32 loses of it."""

    def __init__(self, directory: Path):
        self.directory, self.exact = Path(directory), Reference(directory)

    def lost(
        self, answers: Mapping[Key, Sequence[Answer]], prompts: Mapping[Key, Sequence[list[int]]]
    ) -> dict[Key, float]:
        """How far Transformers in float32 is off in the worst of its passes: on the largest logits of answers, and on
        the logits of prompts.

        Some tokens, most of all where the model has nothing to say, amplify rounding a hundredfold. By how much one of
        them is off in a single pass is a draw from a bell curve, near 0 as often as not; the largest of five is not.
        """
        own = dict.fromkeys([*answers, *prompts], 0.0)
        asked = [*chain.from_iterable(prompts.values()), *map(read_by, chain.from_iterable(answers.values()))]
        self.exact.run(asked)
        for moved in MOVED:
            single = Reference(self.directory, "float32", moved)
            single.run(asked)
            for key, given in answers.items():
                own[key] = max(own[key], single.rounding(self.exact, given))
            for key, given in prompts.items():
                own[key] = max(
                    own[key], farthest(map(self.exact.prompt_logits, given), map(single.prompt_logits, given))
                )
        return own


def farthest(right: Iterable, said: Iterable) -> float:
    """Largest difference of the logits of several prompts."""
    return max((largest_delta(a, b) for a, b in zip(right, said, strict=True)), default=0.0)


def largest(lists: Sequence[Sequence[float]]) -> float:
    return max((abs(number) for one in lists for number in one), default=0.0)


def difference(pairs: Sequence[tuple[Answer, Answer]]) -> Deviation:
    """Two engines that were asked the same, token by token up to where an answer parts from the other: largest
    difference of a logit that both give, and the lead of the first engine's token over the second's where they part."""
    delta, margin, scale, parted, tokens = 0.0, 0.0, 0.0, 0, 0
    for first, second in pairs:
        for a, b, ours, theirs in zip(first.tokens, second.tokens, first.logits, second.logits, strict=True):
            tokens += 1
            delta = max([delta, *(abs(ours[token] - theirs[token]) for token in ours.keys() & theirs.keys())])
            scale = max([scale, *map(abs, ours.values())])
            if a != b:
                parted += 1
                margin = max(margin, ours[a] - ours[b] if b in ours else math.inf)
                break
    return Deviation(delta, parted, tokens, margin, scale)
