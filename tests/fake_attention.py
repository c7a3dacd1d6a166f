"""Packages with attention, written to disk for a machine without a GPU: they compute it with torch on the CPU.

Each behaves towards its caller as the real one does, by its source: FlashAttention 3's flash_attn_interface
(hopper/flash_attn_interface.py), and Transformer Engine 2.20.2's DotProductAttention, its choice of backends and what
it says of them on a Hopper GPU (pytorch/attention/dot_product_attention).
"""

from __future__ import annotations

from tests.broken_packages import BrokenSite

FLASH_ATTENTION_3 = """
import torch

calls = []


def flash_attn_func(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None):
    assert q.is_contiguous() and k.is_contiguous() and v.is_contiguous()
    calls.append((str(q.dtype), tuple(q.shape), tuple(k.shape), causal))
    if q.dtype == torch.float8_e4m3fn:
        q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=causal, enable_gqa=True
    )
    return out.transpose(1, 2)
"""

RECIPES = """
class _Recipe:
    def __init__(self, fp8_dpa=False):
        self.fp8_dpa = fp8_dpa


class DelayedScaling(_Recipe):
    pass


class Float8CurrentScaling(_Recipe):
    pass
"""

TRANSFORMER_ENGINE = """
import contextlib
import logging

import torch

_recipe = None
updates = 0


@contextlib.contextmanager
def autocast(enabled, recipe):
    global _recipe, updates
    _recipe = recipe
    try:
        yield
    finally:
        _recipe = None
        updates += torch.is_grad_enabled()


class DotProductAttention(torch.nn.Module):
    def __init__(self, num_attention_heads, kv_channels, num_gqa_groups=None, attention_dropout=0.0,
                 qkv_format="sbhd", attn_mask_type="causal"):
        super().__init__()
        assert qkv_format == "bshd" and attn_mask_type in ("causal", "no_mask")
        self.groups, self.causal = num_gqa_groups, attn_mask_type == "causal"

    def forward(self, query_layer, key_layer, value_layer):
        assert key_layer.shape[2] == self.groups
        logger = logging.getLogger("DotProductAttention")
        logger.setLevel(logging.WARNING)
        if not logger.hasHandlers():
            logger.addHandler(logging.StreamHandler())
        fp8 = _recipe is not None and _recipe.fp8_dpa
        logger.debug("Running with config={}")
        if fp8 and type(_recipe).__name__ == "Float8CurrentScaling":
            logger.debug("Disabling UnfusedDotProductAttention for FP8 attention")
            logger.debug("Disabling FusedAttention for FP8 current scaling on arch < sm100")
            logger.debug("Selected backend = NoBackend.")
            raise ValueError("No dot product attention backend is available for the provided inputs.")
        logger.debug("Selected backend = %s.", f"FusedAttention (sub-backend {2 if fp8 else 1})")
        tensors = (query_layer, key_layer, value_layer)
        if fp8:
            tensors = [x + (x.to(torch.float8_e4m3fn).to(x.dtype) - x).detach() for x in tensors]
        out = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in tensors), is_causal=self.causal, enable_gqa=True
        ).transpose(1, 2)
        return out.reshape(*out.shape[:2], -1)
"""


def install(site: BrokenSite) -> None:
    """Write FlashAttention 3 and Transformer Engine into the site."""
    site.module("flash_attn_interface", FLASH_ATTENTION_3)
    site.module("transformer_engine.pytorch", TRANSFORMER_ENGINE)
    site.module("transformer_engine.common.recipe", RECIPES)
