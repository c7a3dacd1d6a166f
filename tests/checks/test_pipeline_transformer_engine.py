"""Images with te.Linear on a small Transformer Engine: imported before torch works, its scales those of an image."""

from __future__ import annotations

import importlib
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.ladder.calibration import CALIBRATING_CALLS
from fp8doctor.checks.pipeline import painting
from fp8doctor.checks.pipeline.folder import NoPipelineError, read_folder
from fp8doctor.checks.pipeline.images import Comparer
from fp8doctor.checks.pipeline.probe import CONFIGS, Run
from fp8doctor.checks.pipeline.session import Session
from fp8doctor.checks.torch_build import early
from fp8doctor.checks.transformer_engine import TransformerEngine
from fp8doctor.model import Request
from tests import fake_transformer_engine as fake
from tests import small_pipeline

pytestmark = pytest.mark.torch

SEEN, BROKEN = TransformerEngine(installed=True, import_ok=True), TransformerEngine(installed=True, import_ok=False)
BF16, DELAYED, CURRENT = "torch-bf16", "te-fp8-delayed", "te-fp8-current"


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for library in ("diffusers", "transformers"):
        pytest.importorskip(library)
    return small_pipeline.dit(tmp_path_factory.mktemp("saved") / "dit")


@pytest.fixture
def switches(tmp_path: Path) -> Iterator[Any]:
    """What the small Transformer Engine counts, while it can be imported."""
    with fake.imported(tmp_path) as (_, found):
        yield found


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painting, "MOST_IMAGES", 2)


def painter(folder: Path, steps: int) -> Any:
    torch = importlib.import_module("torch")
    meter = importlib.import_module("fp8doctor.checks.ladder.stepping").Meter(torch, torch.device("cpu"))
    return painting.Painter(Session(read_folder(folder), None, steps, meter), meter, Comparer())


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_delayed_scaling_draws_with_the_scales_of_an_image(steps: int, dit: Path, switches: Any) -> None:
    torch = importlib.import_module("torch")
    learnt: dict[int, list[tuple[bool, bool]]] = defaultdict(list)
    switches.at_call = lambda layer, recipe: learnt[id(layer)].append((torch.is_grad_enabled(), bool(layer.scales)))
    made = painter(dit, steps)
    rung = made.paint(DELAYED, made.reference(), 60.0, lambda image: None)
    assert (rung.outcome, rung.error) == ("ok", None)
    assert rung.converted == len(learnt) > 0
    calls = steps * -(-CALIBRATING_CALLS // steps)
    for told in learnt.values():
        grads = [with_gradients for with_gradients, _ in told]
        assert grads == [True] * calls + [False] * (len(told) - calls), "no image that is kept has gradients"
        assert len(told) > calls
        assert all(scaled for with_gradients, scaled in told if not with_gradients)
    assert rung.denoiser_calls == steps, "what was drawn for the scales is not counted"
    assert rung.likeness is not None
    assert rung.likeness.relative_error is not None
    assert rung.likeness.relative_error < 0.1


@pytest.mark.usefixtures("few_images")
def test_other_recipes_are_given_no_calls_and_their_weights_lie_in_fp8(dit: Path, switches: Any) -> None:
    torch = importlib.import_module("torch")
    made = painter(dit, 2)
    reference = made.reference()
    plain = made.paint(BF16, reference, 60.0, lambda image: None)
    grads = set()
    switches.at_call = lambda layer, recipe: grads.add(torch.is_grad_enabled())
    rung = made.paint(CURRENT, reference, 60.0, lambda image: None)
    assert (rung.outcome, grads) == ("ok", {False})
    assert rung.weights_gb <= plain.weights_gb
    assert switches.counted["cast weight"] == rung.converted, "once, when the layers were made"


# --- what is imported first ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("te", "rungs", "first"),
    [
        (SEEN, (BF16, CURRENT), True),
        (SEEN, (), True),
        (SEEN, (BF16, "torch-bf16+compile"), False),
        (BROKEN, (BF16, CURRENT), False),
        (None, (BF16, CURRENT), False),
    ],
)
@pytest.mark.usefixtures("switches")
def test_transformer_engine_is_imported_before_the_pipeline_where_its_rungs_are_tried(
    te: TransformerEngine | None, rungs: tuple[str, ...], first: bool, dit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After torch has called its own cuDNN, the import would end with an OSError where the system has another one."""
    monkeypatch.setattr(early, "_DEVICES", ("null",))
    monkeypatch.setenv("CUDNN_HOME", os.environ.get("CUDNN_HOME", ""))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformer_engine"]:
        monkeypatch.delitem(sys.modules, name)
    folder = replace(read_folder(dit), class_name="DiT9Pipeline")
    with pytest.raises(NoPipelineError, match="has no pipeline DiT9Pipeline"):
        Run(Request(mode="bench", pipeline=str(dit), rungs=rungs), te)._painter(folder)
    assert ("transformer_engine.pytorch" in sys.modules) is first
    assert any(slug.startswith("te-") for slug in CONFIGS)
