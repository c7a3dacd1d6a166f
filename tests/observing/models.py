"""Small models to look at."""

from __future__ import annotations

from typing import Any


def blocks(count: int) -> Any:
    """A list of blocks of two linear layers without bias, 64 to 128 and back, called one after the other."""
    import torch

    class Block(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(64, 128, bias=False)
            self.down = torch.nn.Linear(128, 64, bias=False)

        def forward(self, x: Any) -> Any:
            return x + self.down(torch.nn.functional.gelu(self.up(x)))

    torch.manual_seed(0)
    return torch.nn.Sequential(*(Block() for _ in range(count)))
