"""Models to try configurations on, and all that they are made of."""

from __future__ import annotations

from typing import Any

import pytest


def everything(model: Any) -> list[Any]:
    """All that a model is made of, by identity, and what hangs on it."""
    return [
        (name, id(part), [*map(id, part._parameters.values())], [*map(id, part._modules.values())],
         [id(p.grad) for p in part._parameters.values() if p is not None], part.training,
         id(vars(part).get("_compiled_call_impl")), list(part._forward_hooks), list(part._forward_pre_hooks))
        for name, part in model.named_modules()
    ]  # fmt: skip


def llama(attention: str) -> Any:
    """A small Llama whose attention is told what to do."""
    import torch

    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=128, attn_implementation=attention,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def tokens() -> Any:
    """What it is called with."""
    import torch

    return torch.arange(32).reshape(1, 32)


def asked_for(model: Any) -> list[str]:
    """What the model and each attention of it are told to do."""
    layers = [layer.self_attn.config._attn_implementation for layer in model.model.layers]
    return [model.config._attn_implementation, *layers]
