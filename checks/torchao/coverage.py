"""What torchao does with a layer whose size FP8 cannot take: pass it over, convert it all the same, say so or not.

Runs in the child.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import Any

from fp8doctor.checks.torchao.facts import TRAINING, OddLinear

# (in_features, out_features): first the one, then the other is no multiple of 16. Tokens are.
ODD_LAYERS = ((520, 256), (512, 250))
TOKENS = 32
# How `OddLinear.how` calls them, and their classes in torchao.quantization.
CONFIGS = {
    "dynamic": "Float8DynamicActivationFloat8WeightConfig",
    "weight-only": "Float8WeightOnlyConfig",
}


def observe(device: str, configs: tuple[str, ...]) -> tuple[OddLinear, ...]:
    """Convert a model of odd layers in each way; `configs` are the classes that torchao.quantization has."""
    found: list[OddLinear] = []
    for how in [*(name for name, config in CONFIGS.items() if config in configs), TRAINING]:
        found += _converted(how, device)
    return tuple(found)


def _converted(how: str, device: str) -> list[OddLinear]:
    import torch

    layers = [torch.nn.Linear(k, n, bias=False, device=device, dtype=torch.bfloat16) for k, n in ODD_LAYERS]
    model = torch.nn.Sequential(*layers)
    odd = [OddLinear(how=how, k=k, n=n) for k, n in ODD_LAYERS]
    heard = _Warnings()
    logger = logging.getLogger("torchao")
    logger.addHandler(heard)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _convert(how, model)
        # Deprecations are about torchao itself.
        said = heard.said + [str(w.message) for w in caught if "eprecat" not in str(w.message)]
    except Exception as error:  # no FP8 hardware, or a torchao without this way
        return [replace(layer, error=_words(error)) for layer in odd]
    finally:
        logger.removeHandler(heard)
    word = next((text[:300] for text in said), None)
    return [
        replace(layer, converted=_is_fp8(module), said=word, error=_step_error(module, how))
        for layer, module in zip(odd, model, strict=True)
    ]


def _convert(how: str, model: Any) -> None:
    if how == TRAINING:
        from torchao.float8 import convert_to_float8_training

        convert_to_float8_training(model)
        return
    from torchao import quantization

    quantization.quantize_(model, getattr(quantization, CONFIGS[how])())


def _is_fp8(module: Any) -> bool:
    """Whether it is another layer now: for inference torchao exchanges its weight, for training the layer itself."""
    import torch

    return type(module) is not torch.nn.Linear or type(module.weight.data) is not torch.Tensor


def _step_error(module: Any, how: str) -> str | None:
    """What a training step raises in a layer that was converted all the same."""
    import torch

    if how != TRAINING:
        return None
    weight = module.weight
    x = torch.randn(TOKENS, weight.shape[1], device=weight.device, dtype=torch.bfloat16)
    try:
        torch.autograd.grad(module(x.requires_grad_()).sum(), (x, weight))
    except Exception as error:
        return _words(error)
    return None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


class _Warnings(logging.Handler):
    """Hears what torchao logs for everybody to see: warnings and errors, not what needs a setting to be shown."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.said.append(record.getMessage())
