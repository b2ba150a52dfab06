"""Distillation: one teacher pass per batch, every student at once."""
