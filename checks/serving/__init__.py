"""Serving: what do the start-up logs of vLLM and SGLang say of FP8?"""

from fp8doctor.checks.serving.facts import Serving

__all__ = ["Serving"]
