"""Which layers of a student own K and V: the rule of SingleInputKV and AcrossKV (paper, sections 3.2 and 3.3).

The one place of it; models, conversion, plugin, cost model and figures ask here. Imports nothing heavy, since vLLM's
processes read it.
"""

from dataclasses import dataclass


def nearest_cut(number: int, skip: float) -> int:
    """The cut l at which prompt tokens skip the share `skip` of so many layers, or nearly."""
    return round(number * (1 - skip))


@dataclass(frozen=True)
class Layers:
    """L layers, of which those above the cut l (`num_key_value_layers`) share a KV cache in groups of n
    (`key_value_group_size`). Layers are numbered from 0; cut = number is the base model."""

    number: int
    cut: int
    group: int = 1

    @property
    def problem(self) -> str | None:
        """What is wrong with the three numbers; None if nothing is."""
        if not 1 <= self.cut <= self.number:
            return f"num_key_value_layers is {self.cut}; allowed is 1 to {self.number} (the layers)"
        if self.group < 1 or (self.number - self.cut) % self.group:
            return (
                f"key_value_group_size {self.group} does not divide the {self.number - self.cut} layers above the cut"
            )
        return None

    @property
    def late(self) -> range:
        """Layers above the cut, which prompt tokens skip."""
        return range(self.cut, self.number)

    @property
    def leaders(self) -> range:
        """The late layers that own k and v projections and a KV cache: the first of each group."""
        return range(self.cut, self.number, self.group)

    @property
    def caches(self) -> int:
        """KV caches: l + (L - l) / n."""
        return self.cut + len(self.leaders)

    def behind(self, layer: int) -> int:
        """How far late layer `layer` comes behind its group's leader: 0 for the leader itself."""
        return (layer - self.cut) % self.group

    def leader(self, layer: int) -> int:
        """The layer whose K and V late layer `layer` reads."""
        return layer - self.behind(layer)

    def cache(self, layer: int) -> int:
        """Which of the `caches` layer `layer` reads."""
        return layer if layer < self.cut else self.cut + (layer - self.cut) // self.group
