"""Does a plan for a model give in the whole model what was estimated by its blocks?

python -m benchmarks.checked_plans [--only NAME ...] [--small] [--into FOLDER]

Models with the blocks of FLUX, Qwen-Image and Llama 3, and a language model of 454M parameters that trains, as people
run them; for each the plan is estimated, then applied and measured. Prints a table in Markdown: the step that was
estimated beside the one measured, and the speed-up that was said (over the step as it was measured first) beside the
one that was got (over the step measured directly before and after); exits 1 if either is more than a tenth off. With
--into the reports are written there.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import fp8doctor
from benchmarks.planted_models import Asked, Place, compiled, engine, layerwise, quantised, train, with_lora
from fp8doctor import api
from fp8doctor.checks.ladder.training import TrainingStep
from fp8doctor.checks.workload.build import build, diffusion_arguments
from fp8doctor.checks.workload.catalogue import FLUX, QWEN_IMAGE, TRAIN_454M, ModelPlan

MOST_OFF = 0.10
TRY_FOR_S = 120.0


def image_model(plan: ModelPlan, place: Place, blocks: int) -> Asked:
    """A few blocks of each kind of an image model, called for one picture of 1024x1024."""
    step = plan.steps[0]
    if place.small:
        small = {"num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
        plan = replace(plan, config={**plan.config, **small})
        step = replace(step, sequence=64, text=16)
    built = build(plan, place.device, torch.bfloat16, blocks=blocks)
    return Asked(built.model, {**diffusion_arguments(built, step), "return_dict": False})


def train_454m(place: Place) -> Asked:
    """The training of a public report: torchao's float8 on every linear layer of the blocks, not compiled."""
    import torchao.float8 as float8

    plan, step = TRAIN_454M, TRAIN_454M.steps[0]
    if place.small:
        sizes = {"width": 64, "hidden": 128, "heads": 2, "kv_heads": 2, "vocabulary": 256}
        plan, step = replace(plan, config={**plan.config, **sizes}), replace(step, batch=1, sequence=64)
    built = build(plan, place.device, torch.bfloat16, blocks=2 if place.small else None)
    config = float8.Float8LinearConfig.from_recipe_name("tensorwise")
    float8.convert_to_float8_training(
        built.model, config=config, module_filter_fn=lambda module, name: "blocks" in name or "layers" in name
    )
    return Asked(built.model, None, TrainingStep(built, step))


MODELS: dict[str, Callable[[Place], Asked]] = {
    "flux": lambda p: image_model(FLUX, p, 6),
    "flux-storage-lora": lambda p: layerwise(with_lora(image_model(FLUX, p, 6))),
    "qwen-image": lambda p: image_model(QWEN_IMAGE, p, 8),
    "llama": lambda p: p.llama(layers=8),
    "llama-fp8-eager": lambda p: quantised(p.llama(layers=8)),
    "llama-fp8-compiled": lambda p: compiled(quantised(p.llama(layers=8))),
    "train-454m": train_454m,
    "train-llama": lambda p: train(p.llama(layers=4), None),
    "te-small-layers": lambda p: engine(p, 1024, 1024),
}


def main() -> int:
    """Examine what was asked for; 1 if an estimate was too far off."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--into", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    place = Place("cpu", True) if asked.small else Place("cuda", False)
    print("| model | as it is, ms | plan | estimated, ms | measured, ms | off | speed-up said | got | off | s |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    far = False
    for name in asked.only:
        torch._dynamo.reset()
        began = time.monotonic()
        report = _examined(MODELS[name](place))
        if asked.into is not None:
            (asked.into / f"{name}.json").write_text(api.report_to_json(report))
            (asked.into / f"{name}.txt").write_text(str(report))
        row, offs = _row(report.facts["model"])
        far |= any(abs(off) > MOST_OFF for off in offs)
        print(f"| {name} | {row} | {time.monotonic() - began:.0f} |", flush=True)
        if place.device == "cuda":
            torch.cuda.empty_cache()
    return int(far)


def _examined(asked: Asked) -> Any:
    return fp8doctor.examine_model(asked.model, asked.inputs, asked.step, try_for_s=TRY_FOR_S, check_plan=True)


def _row(found: dict[str, Any]) -> tuple[str, list[float]]:
    """What a table says of one plan, and how far off its estimates were: of the step, and of the speed-up."""
    check, run = found["check"] or {}, found["run"]
    first = (run["step_ms"] or {}).get("median")
    if not check.get("step_ms"):
        why = check.get("detail") or found["untried"] or run["error"]
        return f"{first} | {check.get('config')}: {why} | | | | | | ", []
    before, after = check["as_it_is_ms"]["median"], check["step_ms"]["median"]
    estimated = check["estimated_ms"]["median"]
    said, got = first / estimated, before / after
    offs = [estimated / after - 1, said / got - 1]
    step = f"{first:.2f} | {check['config']} | {estimated:.2f} | {after:.2f} | {offs[0]:+.1%}"
    if check.get("detail"):  # a part of the step was left out of what was measured
        return f"{first:.2f} | {check['config']}: {check['detail']} | {estimated:.2f} | {after:.2f} | | | | ", []
    return f"{step} | {said:.2f}x | {got:.2f}x | {offs[1]:+.1%}", offs


if __name__ == "__main__":
    sys.exit(main())
