"""One training step: forward, loss, backward and optimizer.

Runs in the child; torch is imported inside.
"""

from __future__ import annotations

from typing import Any

from fp8doctor.checks.workload.build import Built
from fp8doctor.checks.workload.catalogue import StepPlan

LEARNING_RATE = 1e-4


class TrainingStep:
    """A callable that trains the model by one step on the same tokens, as a loop over batches of one size does.

    What the first step gave is kept: `first_output`, the logits, and `gradient`, that of the first and the last
    block's weights.
    """

    def __init__(self, built: Built, step: StepPlan, *, compiled: bool = False, graphed: bool = False) -> None:
        import torch

        torch.manual_seed(2)
        self.model = built.model
        vocabulary = built.plan.config["vocabulary"]
        shape = (step.batch, step.sequence + 1)
        tokens = torch.randint(0, vocabulary, shape, device=built.device)
        self.tokens, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        on_gpu = torch.device(built.device).type == "cuda"
        more = {"fused": True, "capturable": True} if on_gpu else {}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, **more)
        self.watched = [w for w in (_some_weight(built, place) for place in (0, -1)) if w is not None]
        self.head = torch.compile(self._head) if compiled else self._head
        self.first_output: Any = None
        self.gradient: Any = None

    def _head(self, logits: Any) -> Any:
        import torch

        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.targets.flatten())

    def __call__(self) -> None:
        """Forward, backward, optimizer; the gradients stay until the next call, a graph's where it writes them."""
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(self.tokens)
        self.head(logits).backward()
        if self.gradient is None:
            self.first_output, self.gradient = logits[:, -1:].detach().clone(), self.joined(self._gradients())
        self.optimizer.step()

    def output(self) -> Any:
        """The logits of each sequence's last position."""
        import torch

        with torch.no_grad():
            return self.model(self.tokens)[:, -1:]

    def first_gradient(self) -> Any:
        """Forward and backward once, without the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        self.head(self.model(self.tokens)).backward()
        return self.joined(self.hand_over_gradients())

    def hand_over_gradients(self) -> list[Any]:
        """The tensors that hold the watched weights' gradients; the weights let go of theirs."""
        found = self._gradients()
        self.optimizer.zero_grad(set_to_none=True)
        return found

    def joined(self, gradients: list[Any]) -> Any:
        """Gradients as one vector on the host."""
        import torch

        return torch.cat([gradient.detach().float().flatten() for gradient in gradients]).cpu()

    def _gradients(self) -> list[Any]:
        return [weight.grad for weight in self.watched]


def _some_weight(built: Built, place: int) -> Any:
    """The weight of the first linear layer in the first or last block; None if there is no block.

    Known by its two dimensions: another library's linear layers are no nn.Linear.
    """
    lists = [built.model.get_submodule(name) for name in built.depth]
    if not lists:
        return None
    return next(p for n, p in lists[place][place].named_parameters() if n.endswith("weight") and p.dim() == 2)
