"""Transformer Engine's attention: how it is called, in BF16 and in FP8, and which backend it says that it takes.

Runs in the child; torch comes in as an argument. Checked against transformer_engine 2.20.2:
pytorch/attention/dot_product_attention/{dot_product_attention,utils}.py, pytorch/quantization.py.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from typing import Any

from fp8doctor.checks.attention_times.plan import Route
from fp8doctor.checks.attention_times.routes import Operands
from fp8doctor.checks.transformer_engine.cudnn import keep_torchs_cudnn
from fp8doctor.measuring.timer import Call

# The logger to which DotProductAttention explains its choice of a backend, since 1.8.
LOGGER = "DotProductAttention"
_SELECTED, _DROPPED = "Selected backend = ", "Disabling "
# DelayedScaling takes its scales from earlier calls.
CALIBRATING_CALLS = 3


class Listener(logging.Logger):
    """Stands in the place of Transformer Engine's logger and keeps what it says while somebody listens.

    Its own way to hear this, NVTE_DEBUG=1 with NVTE_DEBUG_LEVEL=2, also prints the scales of every FP8 call, which
    waits for the device (print_quantizers in utils.py).
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, logging.DEBUG)
        self.lines: list[str] = []
        self.propagate = False
        self.disabled = True
        # Transformer Engine adds its own handler, which prints, to a logger that has none.
        self.addHandler(_Keeping(self.lines))

    def setLevel(self, level: int | str) -> None:  # noqa: N802
        """Nothing: Transformer Engine sets the level before each choice, and we want all of it."""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the lines of this block, and forget those of the last one."""
        self.lines.clear()
        self.disabled = False
        try:
            yield
        finally:
            self.disabled = True

    @property
    def selected(self) -> str | None:
        """ "FusedAttention (sub-backend 2)", "FlashAttention (2.8.3)"; None if it was not told."""
        found = [line for line in self.lines if line.startswith(_SELECTED)]
        return found[-1].removeprefix(_SELECTED).rstrip(".")[:80] if found else None

    @property
    def dropped(self) -> str | None:
        """Why backends were dropped, in Transformer Engine's words; None if it did not say."""
        found = dict.fromkeys(line.rstrip(". ") for line in self.lines if line.startswith(_DROPPED))
        return "; ".join(found)[:600] or None


class _Keeping(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self._lines.append(record.getMessage())


def listener() -> Listener:
    """Put our listener in the place of the logger; to be called before Transformer Engine is imported."""
    known = logging.Logger.manager.loggerDict
    existing = known.get(LOGGER)
    if isinstance(existing, Listener):
        return existing
    made = Listener(LOGGER)
    known[LOGGER] = made
    return made


def import_engine() -> Any:
    """Import transformer_engine.pytorch, its logger replaced, beside torch's own cuDNN."""
    listener()
    keep_torchs_cudnn()
    return importlib.import_module("transformer_engine.pytorch")


def engine_forward(torch: Any, te: Any, route: Route, given: Operands) -> Call:
    """DotProductAttention in (batch, sequence, heads, head_dim), with the route's recipe if it has one.

    Forward only, the module is in evaluation mode: FlashAttention 3 takes FP8 for inference alone. With DelayedScaling
    it is called a few times here so that its scales fit; without gradients they stay as they then are, which is
    inference with calibrated scales (FP8GlobalStateManager.autocast_exit updates them where gradients are enabled).
    """
    _, heads, kv_heads, queries, _, head_dim = given.task.size
    module = te.DotProductAttention(
        heads,
        head_dim,
        num_gqa_groups=kv_heads,
        attention_dropout=0.0,
        qkv_format="bshd",
        attn_mask_type="causal" if given.task.use.causal else "no_mask",
    )
    module.train(given.task.trains)
    recipe = _recipe(route.recipe) if route.recipe else None

    def call() -> Any:
        with _autocast(te, recipe):
            result = module(given.query, given.key, given.value)
        return result.view(-1, queries, heads, head_dim).transpose(1, 2)

    if route.recipe == "DelayedScaling":
        with torch.enable_grad():
            for _ in range(CALIBRATING_CALLS):
                call()
    return call


def _recipe(name: str) -> Any:
    return getattr(importlib.import_module("transformer_engine.common.recipe"), name)(fp8_dpa=True)


def _autocast(te: Any, recipe: Any) -> Any:
    if recipe is None:
        return contextlib.nullcontext()
    if hasattr(te, "autocast"):
        return te.autocast(enabled=True, recipe=recipe)
    return te.fp8_autocast(enabled=True, fp8_recipe=recipe)  # until 2.8
