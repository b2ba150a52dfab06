"""What the configurations of all SwiftKV models share, with the field names of the published checkpoints."""

from swiftkv.layers import Layers


class SwiftKVConfigMixin:
    """What every family's SwiftKV configuration derives from the cut and the AcrossKV group."""

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
