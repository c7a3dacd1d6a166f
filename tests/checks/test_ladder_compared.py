"""What a rung is compared with where its own call does not say it: a replay, a whole compilation, other layers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from fp8doctor.checks.ladder.climbing import Climber
from fp8doctor.checks.ladder.comparing import LARGEST_ERROR, Reference
from fp8doctor.checks.ladder.conversions import RefusedError
from fp8doctor.checks.ladder.facts import Rung
from fp8doctor.checks.ladder.graphing import captured, compare_training_replay
from fp8doctor.checks.ladder.slugs import config_of
from fp8doctor.checks.ladder.training import TrainingStep
from fp8doctor.checks.ladder.winners import carried_over, fastest
from fp8doctor.checks.torch_build.numerics import FORMAT_ERRORS
from fp8doctor.checks.workload.build import build
from fp8doctor.measuring.stepping import Meter
from fp8doctor.model import Estimate
from tests.ladder_facts import STEP, candidates, more, rung
from tests.tiny_plans import TINY_LM, TINY_TRAIN

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def climber() -> Iterator[Climber]:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Climber(TINY_LM, TINY_LM.steps[0], Meter(torch, torch.device("cpu")))
    torch.set_num_threads(threads)


def test_a_short_run_takes_its_reference_in_tf32_and_leaves_torch_as_it_was(
    climber: Climber, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    short = Climber(climber.plan, climber.step, climber.meter, short=True).reference()
    assert asked == ["high", "highest"]
    assert short.bf16_error == pytest.approx(climber.reference().bf16_error, rel=0.1)
    assert len(asked) == 2, "only a short run does"


# --- the whole model compiled ----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++ on a CPU")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("base", "rounding"), [("torch-bf16", 1.0), ("torch-fp16", 1 / 8)])
def test_a_whole_compilation_is_held_to_its_blocks_compiled_one_by_one(
    climber: Climber, base: str, rounding: float
) -> None:
    second = Estimate(1e3, 990.0, 1010.0, 20)
    regional = Rung(f"{base}+compile", climber.step.name, "ok", step_ms=second)
    rung = climber.climb(f"{base}+compile-whole", climber.reference(), 20.0, regional)
    assert (rung.outcome, rung.error) == ("ok", None)
    assert rung.relative_error is not None
    assert rung.relative_error < 3 * rounding * FORMAT_ERRORS["bf16"], "both compute in the same format"
    assert rung.relative_error_limit == round(climber.reference().limit("bf16"), 4)
    assert rung.step_ms is not None
    assert 1e3 / 20 < rung.step_ms.median < 20e3, (
        "the time of the regional rung, by the factor that was seen on few blocks"
    )
    assert (rung.graphs, rung.graph_breaks) == (1, 0)


def test_a_whole_compilation_without_a_time_to_scale_is_refused(climber: Climber) -> None:
    failed = Rung("torch-bf16+compile", climber.step.name, "error", "no compiler")
    for regional in (None, failed):
        rung = climber.climb("torch-bf16+compile-whole", climber.reference(), 20.0, regional)
        assert (rung.outcome, rung.step_ms) == ("refused", None)


# --- the replay of a graph -------------------------------------------------------------------------------------------


class Graphs:
    """A stub for CUDA graphs: capturing runs the call, and a replay does to the model's output what a test says."""

    def __init__(self) -> None:
        self.on_replay: Callable[[Any], Any] = lambda output: None
        self.replays = 0
        self.output: Any = None

    def replay(self) -> None:
        self.replays += 1
        self.on_replay(self.output)

    @contextmanager
    def capture(self, graph: Any) -> Iterator[None]:
        import torch

        def seen(module: Any, args: Any, output: Any) -> None:
            self.output = output

        hook = torch.nn.modules.module.register_module_forward_hook(seen)
        yield
        hook.remove()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    import torch

    stub = Graphs()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "is_available": lambda: True,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda of: nullcontext(),
        "CUDAGraph": lambda: stub,
        "graph": stub.capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return stub


def test_a_replay_that_gives_what_the_call_gave_is_right(climber: Climber, graphs: Graphs) -> None:
    rung = climber.climb("torch-bf16+cudagraph", climber.reference(), 0.0)
    assert (rung.outcome, rung.error, rung.relative_error) == ("ok", None, 0.0)
    assert graphs.replays > 1
    assert rung.step_ms is not None


def test_a_replay_that_leaves_another_result_is_wrong(climber: Climber, graphs: Graphs) -> None:
    graphs.on_replay = lambda output: output.mul_(1.5)
    rung = climber.climb("torch-bf16+cudagraph", climber.reference(), 0.0)
    assert rung.outcome == "wrong"
    assert rung.relative_error is not None
    assert rung.relative_error == pytest.approx(0.5, abs=0.01), "each replay adds to it: the first one is compared"


def test_a_replay_that_leaves_no_numbers_is_wrong(climber: Climber, graphs: Graphs) -> None:
    graphs.on_replay = lambda output: output.fill_(float("nan"))
    rung = climber.climb("torch-bf16+cudagraph", climber.reference(), 0.0)
    assert (rung.outcome, rung.error) == ("wrong", "the result holds values that are not finite")


class Allocator(Meter):
    """A meter whose peak is a GB if a model was called since it was last forgotten: a replay allocates nothing."""

    called = False

    def forget_peak(self) -> None:
        self.called = False

    def peak_bytes(self) -> int:
        return 10**9 if self.called else 0


def test_the_peak_of_a_graph_is_what_it_took_while_it_was_captured(graphs: Graphs) -> None:
    import torch

    meter = Allocator(torch, torch.device("cpu"))
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: setattr(meter, "called", True))
    try:
        climber = Climber(TINY_LM, TINY_LM.steps[0], meter, full=True)
        rung = climber.climb("torch-bf16+cudagraph", climber.reference(), 0.0)
    finally:
        hook.remove()
    assert graphs.replays > 1
    assert rung.peak_gb == pytest.approx(1.0)


def test_without_cuda_nothing_is_captured() -> None:
    torch = pytest.importorskip("torch")
    without = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    with pytest.raises(RefusedError, match="need a GPU"):
        captured(without, lambda: torch.zeros(1))


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1.0, None),
        (1.5, "replayed, its gradient is off by 0.5 from what the same step gives without a graph"),
        (float("nan"), "replayed, its gradient holds values that are not finite"),
    ],
)
def test_a_training_replay_leaves_the_gradients_that_the_step_gives(factor: float, said: str | None) -> None:
    import torch

    step = TrainingStep(build(TINY_TRAIN, "cpu", torch.bfloat16), TINY_TRAIN.steps[0])
    step()
    written = [weight.grad for weight in step.watched]

    def replay() -> None:
        """What a graph does: the step again with the weights of now, into the same memory."""
        new = torch.autograd.grad(step.head(step.model(step.tokens)), step.watched)
        for old, gradient in zip(written, new, strict=True):
            old.copy_(gradient * factor)

    found = compare_training_replay(replay, step, nullcontext, Reference(bf16_error=0.0), config_of("torch-bf16"))
    assert found == ({"outcome": "wrong", "error": said} if said else {})
    assert all(weight.grad is None for weight in step.watched), "no gradient is left for the next backward to add to"


@pytest.mark.gpu
@pytest.mark.parametrize("slug", ["torch-bf16+cudagraph", "torch-bf16+compile+cudagraph"])
def test_a_real_training_step_is_replayed_right(slug: str) -> None:
    import torch

    climber = Climber(TINY_TRAIN, TINY_TRAIN.steps[0], Meter(torch, torch.device("cuda"), steps_s=0.2))
    rung = climber.climb(slug, climber.reference(), 60.0)
    assert (rung.outcome, rung.error) == ("ok", None)


@pytest.mark.gpu
def test_a_real_replay_computes_the_step_anew() -> None:
    import torch

    x = torch.ones(8, device="cuda")
    replay, result = captured(torch, lambda: 2 * x)
    x.fill_(3.0)
    replay()
    assert result.tolist() == [6.0] * 8


# --- layers of other libraries ---------------------------------------------------------------------------------------


def test_gradients_are_watched_in_layers_that_are_no_linear_layers_of_torch() -> None:
    import torch

    class Foreign(torch.nn.Module):  # type: ignore[misc]
        """As te.Linear is one: a module of its own, with a weight of the same name."""

        def __init__(self, of: Any) -> None:
            super().__init__()
            self.weight = of.weight

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.linear(x, self.weight)

    def gradient(*, foreign: bool) -> Any:
        built = build(TINY_TRAIN, "cpu", torch.float32)
        own = {n: m for n, m in built.model.named_modules() if isinstance(m, torch.nn.Linear) and "blocks" in n}
        assert own
        for name, module in own.items() if foreign else ():
            parent, _, last = name.rpartition(".")
            setattr(built.model.get_submodule(parent), last, Foreign(module))
        step = TrainingStep(built, TINY_TRAIN.steps[0])
        assert [w.dim() for w in step.watched] == [2, 2], "no norm's weight"
        first, last_block = built.model.blocks[0], built.model.blocks[-1]
        for weight, block in zip(step.watched, (first, last_block), strict=True):
            assert any(weight is parameter for parameter in block.parameters())
        step()
        return step.gradient

    torch_own, others = gradient(foreign=False), gradient(foreign=True)
    assert torch_own.abs().sum() > 0
    assert torch.equal(torch_own, others)


def test_no_result_that_is_off_by_half_its_size_is_laid_to_rounding() -> None:
    deep = Reference(bf16_error=0.1)
    assert deep.limit("e4m3") == LARGEST_ERROR < 1.0
    assert Reference(bf16_error=None).limit("e4m3") == LARGEST_ERROR, "without FP32 the growth is not known"
    assert Reference(bf16_error=0.0017).limit("e4m3") < 0.1


def test_a_time_that_was_carried_over_from_a_few_blocks_competes_with_none() -> None:
    scaled = rung("torch-bf16+compile-whole", 1.0, blocks_built=2)
    ladder = more(scaled)
    assert carried_over(scaled)
    assert fastest(ladder, STEP) != scaled
    assert scaled.config not in {c.config for c in candidates(ladder)}
    assert not carried_over(rung("torch-bf16+compile-whole", 1.0, blocks_built=None)), "training, and --full"
