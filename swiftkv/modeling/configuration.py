"""What the configurations of all SwiftKV models share, with the field names of the published checkpoints."""


class SwiftKVConfigMixin:
    """What every family's SwiftKV configuration derives from the cut and the AcrossKV group."""

    @property
    def num_kv_groups(self) -> int:
        """Late layers' KV caches: (L - l) / n."""
        return (self.num_hidden_layers - self.num_key_value_layers) // self.key_value_group_size

    @property
    def num_kv_shared_layers(self) -> int:
        """Layers without a KV cache of their own; Transformers sizes its caches by this name."""
        return self.num_hidden_layers - self.num_key_value_layers - self.num_kv_groups

    def leads_group(self, layer: int) -> bool:
        """Whether late layer `layer` (0-based) is the first of its group and so owns k and v projections."""
        late = layer - self.num_key_value_layers
        return late >= 0 and late % self.key_value_group_size == 0

    def cache_index(self, layer: int) -> int:
        """Which of the l + (L - l) / n KV caches layer `layer` (0-based) reads."""
        late = layer - self.num_key_value_layers
        return layer if late < 0 else self.num_key_value_layers + late // self.key_value_group_size

    def check_swiftkv(self) -> None:
        """Raise ValueError unless 1 <= l <= L, n divides L - l, and no layer has a sliding window."""
        cut, layers, group = self.num_key_value_layers, self.num_hidden_layers, self.key_value_group_size
        if not 1 <= cut <= layers:
            raise ValueError(f"num_key_value_layers is {cut}; allowed is 1 to {layers} (num_hidden_layers)")
        if group < 1 or (layers - cut) % group:
            raise ValueError(f"key_value_group_size {group} does not divide the {layers - cut} layers above the cut")
        if window := getattr(self, "sliding_window", None):
            raise ValueError(f"sliding_window is {window}: SwiftKV has no sliding windows; allowed is null")

    def __post_init__(self, **kwargs):
        if self.num_key_value_layers is None:
            self.num_key_value_layers = self.num_hidden_layers
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict` validation: the base checks and the cut."""
        super().validate_architecture()
        self.check_swiftkv()
