"""A model of the person's own: its sentence, and what is no question where nobody asked about the box."""

from __future__ import annotations

from typing import Any

import pytest

from fp8doctor.judging.judge import judge
from fp8doctor.judging.outcomes import judge_rules
from fp8doctor.judging.report import BOX_NOT_ASKED, FindingRecord
from fp8doctor.judging.verdict import decide
from fp8doctor.model import Estimate, Finding, NotApplicable, ProbeRun, Scope, Severity, Unknown
from fp8doctor.observed import Layer, Model, StepRun
from fp8doctor.registry import Registry, rule
from fp8doctor.traced import Trace
from tests.judging.test_outcomes import Fan, registry_of

UNASKED: dict[str, ProbeRun[Any]] = {"fan": ProbeRun("skipped", detail=BOX_NOT_ASKED)}
ON_GPU = {"cuda:0": 12_000_000_000}
ON_CPU = {"cpu": 4_000, "meta": 10}


def layers(**counts: int) -> tuple[Layer, ...]:
    """Linear layers by what they multiply in, and others that are none."""
    words = {"sixteen": "16-bit", "thirty_two": "32-bit", "unknown": None}
    found = [Layer(kind="linear", count=count, multiplies=words.get(kind, kind)) for kind, count in counts.items()]
    return (*found, Layer(kind="embedding", count=7, multiplies="16-bit"))


def took(ms: float) -> StepRun:
    return StepRun(step_ms=Estimate(ms, ms, ms, 9))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Model(), None),
        (Model(run=StepRun(error="ImportError: x")), "Nothing of the model was seen"),
        (Model(layers=layers(fp8=46, sixteen=4)), "46 of 50 linear layers multiply in FP8"),
        (Model(layers=layers(sixteen=1)), "Its linear layer multiplies in 16 bits"),
        (Model(layers=layers(sixteen=3, int8=9)), "9 of 12 linear layers multiply in INT8"),
        (Model(layers=layers(fp4=3, int8=9)), "3 of 12 linear layers multiply in FP4"),
        (Model(layers=layers(unknown=2)), "All 2 linear layers multiply in an unknown format"),
        (Model(layers=layers(thirty_two=2), autocast="off"), "All 2 linear layers multiply in 32 bits"),
        (Model(layers=layers(thirty_two=2), autocast="bfloat16"), "All 2 linear layers multiply in 16 bits"),
        (Model(layers=layers()), "It has no linear layers"),
        (
            Model(layers=layers(fp8=1_500), run=took(15.49), parameters_by_device=ON_GPU),
            "All 1,500 linear layers multiply in FP8; a step takes 15.5 ms",
        ),
        (
            Model(layers=layers(fp8=2), run=took(1234.5), parameters_by_device=ON_CPU),
            "All 2 linear layers multiply in FP8; a step takes 1,234 ms on the CPU, where timing tells nothing of FP8",
        ),
        (
            Model(layers=layers(fp8=2), parameters_by_device=ON_CPU),
            "All 2 linear layers multiply in FP8; it is on the CPU, where timing tells nothing of FP8",
        ),
        (
            Model(layers=(Layer(kind="linear", count=2, multiplies="fp8", offloaded_by="accelerate"),), run=took(3.0),
                  parameters_by_device=ON_CPU),
            "All 2 linear layers multiply in FP8; a step takes 3.00 ms",
        ),
    ],
)  # fmt: skip
def test_a_models_sentence_says_its_formats_and_its_step(model: Model, sentence: str | None) -> None:
    assert model.headline() == sentence


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(class_name="transformers.llama.LlamaForCausalLM", parameters=8_030_261_248), "8.03 billion parameters"),
        (Model(name="mine:make", class_name="a.B", parameters=12_500_000), "mine:make, 12.5 million parameters"),
        (Model(name="mine:make"), "mine:make"),
    ],
)
def test_the_header_line_names_the_model(model: Model, words: str) -> None:
    caption = model.caption()
    assert caption is not None
    assert caption.text.endswith(words)
    assert Model().caption() is None


def test_a_watched_step_says_where_its_time_went() -> None:
    trace = Trace(span_us=3000.0, steps=3, us_by_kind={"fp8-gemm": 3000.0})
    watched = Model(layers=layers(fp8=2), parameters_by_device=ON_GPU)

    def headline(model: Model) -> str:
        return judge(Registry(), {"trace": ProbeRun("ok", trace), "model": ProbeRun("ok", model)}).verdict.headline

    said = "All 2 linear layers multiply in FP8"
    assert headline(watched) == f"{said}. Where the GPU's time went (3 steps of 1.0 ms): 100 % FP8 products."
    timed = Model(layers=watched.layers, parameters_by_device=ON_GPU, run=took(1.0))
    assert headline(timed) == f"{said}; a step takes 1.00 ms."


def found(id: str, severity: Severity, scope: Scope, *explains: str) -> FindingRecord:
    return FindingRecord(id, id.lower(), severity, scope, f"{id} is so", explains=explains)


ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


@pytest.mark.parametrize(
    ("findings", "headline"),
    [
        ((), "SAID."),
        ((found("NOTE", INFO, "usage"),), "SAID. NOTE is so."),
        ((found("BOX", WARNING, "box"), found("MINE", WARNING, "usage")), "MINE is so. SAID."),
        ((found("BOX", ERROR, "box"), found("MINE", WARNING, "usage")), "BOX is so. MINE is so. SAID."),
        ((found("BOX", ERROR, "box"), found("MINE", ERROR, "usage")), "BOX is so. MINE is so. SAID."),
        ((found("BOX", ERROR, "box"), found("NOTE", INFO, "usage")), "BOX is so. SAID."),
        ((found("BOX", WARNING, "box"), found("MINE", ERROR, "usage")), "MINE is so. SAID."),
        ((found("WHY", WARNING, "usage", "MINE"), found("MINE", ERROR, "usage")), "WHY is so. SAID."),
        ((found("NOTE", INFO, "usage", "MINE"), found("MINE", WARNING, "usage")), "MINE is so. SAID."),
    ],
)
def test_the_gravest_cause_leads_and_the_models_own_is_told(findings: tuple[FindingRecord, ...], headline: str) -> None:
    assert decide([], findings, (), [], "SAID", of_a_model=True).headline == headline


def outcome(function: Any, runs: dict[str, ProbeRun[Any]]) -> tuple[str, str | None]:
    marked = rule("FAN001", "any", WARNING, scope="box")(function)
    (judged,) = judge_rules(registry_of(marked), runs)
    return judged.name, judged.reason


def test_what_only_the_box_can_answer_is_no_question_where_nobody_asked() -> None:
    def required(fan: Fan) -> Any:
        """It turns."""

    def ended(fan: ProbeRun[Fan]) -> Any:
        """It was looked at."""
        return None if fan.facts is None else Unknown("no")

    def beside(model: Model, fan: Fan | None) -> Any:
        """Of a model, and of the fan if that is known."""
        return Finding("seen")

    def nothing() -> Any:
        """It needs no facts."""
        return NotApplicable("only a message shows it")

    model: dict[str, ProbeRun[Any]] = {**UNASKED, "model": ProbeRun("ok", Model())}
    for function in (required, ended):
        assert outcome(function, model) == ("not-applicable", BOX_NOT_ASKED)
    assert outcome(beside, model) == ("finding", None)
    assert outcome(nothing, model) == ("not-applicable", "only a message shows it")
    skipped: dict[str, ProbeRun[Any]] = {"fan": ProbeRun[Fan]("skipped", detail="not part of a quick run")}
    assert outcome(required, skipped)[0] == "unknown"


@pytest.mark.parametrize(
    ("devices", "accelerator", "name"),
    [
        (ON_CPU, "cpu", "not-applicable"),
        (ON_GPU, "cpu", "unknown"),
        (ON_CPU, "cuda", "unknown"),
        (None, "cpu", "unknown"),
    ],
)
def test_a_trace_of_a_step_on_the_cpu_lacks_nothing(devices: Any, accelerator: str, name: str) -> None:
    def idle(trace: Trace) -> Any:
        """The GPU waits."""
        return Unknown("no GPU activity")

    runs: dict[str, ProbeRun[Any]] = {
        "model": ProbeRun("ok", Model(parameters_by_device=devices)),
        "trace": ProbeRun("ok", Trace(accelerator=accelerator)),
    }
    assert outcome(idle, runs)[0] == name
