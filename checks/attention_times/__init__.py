"""Attention, timed: which of the ways to compute it that run on this GPU is the fastest, and what does FP8 gain?"""

from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.lookup import best_route, device_us

__all__ = ["AttentionCase", "AttentionTimes", "best_route", "device_us"]
