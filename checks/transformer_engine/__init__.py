"""Transformer Engine: does it import here, which FP8 recipes does it allow, and is each of them right?"""

from fp8doctor.checks.transformer_engine.facts import Recipe, TransformerEngine

__all__ = ["Recipe", "TransformerEngine"]
