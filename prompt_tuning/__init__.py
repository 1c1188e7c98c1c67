"""Prompt tuning for T5 on JAX (Lester et al., 2021)."""

__version__ = "0.1.0"
