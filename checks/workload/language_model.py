"""A decoder-only language model in plain torch, so that language workloads need no library beside it.

Runs in the child: torch is imported inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LanguageModelConfig:
    """The sizes of a Llama-like model: RMSNorm, rotary positions, grouped queries, SwiGLU."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    # Query, key and value come from one linear layer.
    fused_qkv: bool = False
    # The output layer has the embedding's weights.
    tied: bool = False
    rope_base: float = 10_000.0

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.width // self.heads


def language_model(config: LanguageModelConfig) -> Any:
    """The model with random weights, on torch's current default device and dtype.

    `forward(tokens)` gives the logits of every position (batch, sequence, vocabulary); with `cache`, a list of
    (keys, values) for each layer, the tokens come after what the cache holds and take its last places.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    class Attention(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            kv_width = config.kv_heads * config.head_dim
            if config.fused_qkv:
                self.qkv = nn.Linear(config.width, config.width + 2 * kv_width, bias=False)
            else:
                self.q = nn.Linear(config.width, config.width, bias=False)
                self.k = nn.Linear(config.width, kv_width, bias=False)
                self.v = nn.Linear(config.width, kv_width, bias=False)
            self.out = nn.Linear(config.width, config.width, bias=False)

        def forward(self, x: Any, rotation: Any, cache: Any = None) -> Any:
            batch, sequence, _ = x.shape
            kv_width = config.kv_heads * config.head_dim
            if config.fused_qkv:
                q, k, v = self.qkv(x).split((config.width, kv_width, kv_width), dim=-1)
            else:
                q, k, v = self.q(x), self.k(x), self.v(x)
            q = rotated(q.view(batch, sequence, config.heads, config.head_dim).transpose(1, 2), rotation)
            k = rotated(k.view(batch, sequence, config.kv_heads, config.head_dim).transpose(1, 2), rotation)
            v = v.view(batch, sequence, config.kv_heads, config.head_dim).transpose(1, 2)
            if cache is not None:
                keys, values = cache
                keys[:, :, -sequence:], values[:, :, -sequence:] = k, v
                k, v = keys, values
            grouped = {"enable_gqa": True} if config.kv_heads < config.heads else {}
            mask = None
            if k.shape[2] > sequence > 1:
                # Torch's own causal mask begins at the first key, and these tokens come last.
                mask = torch.ones(sequence, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - sequence)
            causal = sequence > 1 and mask is None
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, **grouped)
            return self.out(y.transpose(1, 2).reshape(batch, sequence, config.width))

    class FeedForward(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(config.width, config.hidden, bias=False)
            self.up = nn.Linear(config.width, config.hidden, bias=False)
            self.down = nn.Linear(config.hidden, config.width, bias=False)

        def forward(self, x: Any) -> Any:
            return self.down(F.silu(self.gate(x)) * self.up(x))

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm = nn.RMSNorm(config.width, eps=1e-5)
            self.attention = Attention()
            self.feed_forward_norm = nn.RMSNorm(config.width, eps=1e-5)
            self.feed_forward = FeedForward()

        def forward(self, x: Any, rotation: Any, cache: Any = None) -> Any:
            x = x + self.attention(self.attention_norm(x), rotation, cache)
            return x + self.feed_forward(self.feed_forward_norm(x))

    class LanguageModel(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(config.vocabulary, config.width)
            self.blocks = nn.ModuleList(Block() for _ in range(config.layers))
            self.norm = nn.RMSNorm(config.width, eps=1e-5)
            self.output = nn.Linear(config.width, config.vocabulary, bias=False)
            if config.tied:
                nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
                self.output.weight = self.embedding.weight

        def forward(self, tokens: Any, cache: Any = None) -> Any:
            x = self.embedding(tokens)
            end = cache[0][0].shape[2] if cache is not None else tokens.shape[1]
            rotation = rotations(end - tokens.shape[1], end, tokens.device, x.dtype)
            for index, block in enumerate(self.blocks):
                x = block(x, rotation, cache[index % len(cache)] if cache is not None else None)
            if cache is not None or not self.training:
                x = x[:, -1:]  # what comes next is asked for, as in serving
            return self.output(self.norm(x))

    def rotations(start: int, end: int, device: Any, dtype: Any) -> Any:
        places = torch.arange(start, end, device=device, dtype=torch.float32)
        exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
        angles = torch.outer(places, config.rope_base**-exponents)
        return torch.cat((angles, angles), -1).cos().to(dtype), torch.cat((angles, angles), -1).sin().to(dtype)

    def rotated(x: Any, rotation: Any) -> Any:
        cos, sin = rotation
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    return LanguageModel()
