"""What the configurations of all SwiftKV models share, with the field names of the published checkpoints."""

from dataclasses import dataclass

from swiftkv.layers import Layers


@dataclass(kw_only=True, init=False, repr=False, eq=False)  # for its fields alone; the rest is the family's
class SwiftKVConfigMixin:
    """The cut and the AcrossKV group of every family's SwiftKV configuration (paper, sections 3.2 and 3.3).

    `num_key_value_layers` is the cut l: layers 0..l-1 are ordinary (default: all of them, no SwiftKV);
    `key_value_group_size` is n, the late layers that share one KV cache. `swiftkv` is kept for published
    checkpoints. A configuration raises StrictDataclassError if l is out of range, n does not divide L - l, or a window
    slides.
    """

    swiftkv: bool = True
    num_key_value_layers: int | None = None
    key_value_group_size: int = 1

    def layers_of(self) -> Layers:
        """Which layers own K and V. Not a property, and not kept: attributes of a configuration are saved with it."""
        return Layers(self.num_hidden_layers, self.num_key_value_layers, self.key_value_group_size)

    @property
    def num_kv_shared_layers(self) -> int:
        """Layers without a KV cache of their own; Transformers sizes its caches by this name."""
        return self.num_hidden_layers - self.layers_of().caches

    def check_swiftkv(self) -> None:
        """Raise ValueError unless 1 <= l <= L, n divides L - l, and no layer has a sliding window."""
        if problem := self.layers_of().problem:
            raise ValueError(problem)
        if window := getattr(self, "sliding_window", None):
            raise ValueError(f"sliding_window is {window}: SwiftKV has no sliding windows; allowed is null")

    def __post_init__(self, **kwargs):
        # Here, because `@strict` validates next, and None is no cut.
        if self.num_key_value_layers is None:
            self.num_key_value_layers = self.num_hidden_layers
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict` validation: the base checks and the cut."""
        super().validate_architecture()
        self.check_swiftkv()
