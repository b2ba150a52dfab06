"""A reproducible benchmark suite for SwiftKV (https://arxiv.org/abs/2410.03960)."""

__version__ = "0.1.0"
