"""Transformer Engine: does it import here, which FP8 recipes does it allow, is each right, and what does it gain?"""

from fp8doctor.checks.transformer_engine.facts import Recipe, TransformerEngine

__all__ = ["Recipe", "TransformerEngine"]
