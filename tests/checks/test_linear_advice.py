"""What competes for the linear layer, the code that gets it, and what a real H200 is advised."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import fp8doctor
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.libraries.facts import Libraries
from fp8doctor.checks.linear.advice import how, known, label
from fp8doctor.checks.linear.cases import gains, waits_for_host
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.linear.variants import variants
from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.judging.advice import advise
from fp8doctor.judging.report import Report
from fp8doctor.model import Candidate
from tests.linear_facts import LINEAR, NO_GPU, TOKENS, candidates, case, changed, only, us

BOXES = Path(__file__).parent.parent / "boxes"
EVERY_CONFIG = sorted({f"{v.config}{graph}" for v in variants() for graph in ("", "+cudagraph")})


def configs(found: list[Candidate], m: int = 4096) -> set[str]:
    return {c.config for c in found if c.sweep == m}


def with_hand_written() -> Linear:
    by_hand = [case("torch-fp8-rowwise+compile", m, 80.9, 136.9) for m in (4096, 2048)]
    return replace(LINEAR, cases=(*(LINEAR.cases or ()), *by_hand))


def test_torchaos_own_paths_compete_where_they_were_timed_and_hand_written_ones_elsewhere() -> None:
    found = candidates(with_hand_written())
    assert "torch-fp8-rowwise+compile" not in configs(found)
    assert configs(found, 2048) == {"torch-fp8-rowwise+compile"}


def test_every_timed_layer_competes_but_a_static_scale_which_needs_the_users_data() -> None:
    assert configs(candidates(LINEAR)) == {
        "torch-bf16",
        "torch-bf16+compile",
        "torchao-fp8-rowwise",
        "torchao-fp8-rowwise+compile",
        "torchao-fp8-tensorwise",
        "torchao-fp8-tensorwise+compile",
        "torchao-fp8-weightonly",
    }
    alone = only("torch-bf16", "torch-fp8-tensorwise-static+compile")
    assert configs(candidates(alone)) == {"torch-bf16"}


def test_a_bare_product_is_no_way_to_run_a_layer() -> None:
    assert candidates(replace(LINEAR, cases=tuple(c for c in LINEAR.cases or () if c.kind == "gemm"))) == []


def test_the_16_bit_twins_are_what_fp8_is_compared_with() -> None:
    found = candidates(LINEAR)
    assert {c.config for c in found if c.baseline} == {"torch-bf16", "torch-bf16+compile"}
    assert {c.format for c in found if not c.baseline} == {"fp8"}
    assert {c.sweep for c in found} == set(TOKENS)


def test_a_case_that_was_refused_does_not_compete() -> None:
    refused = changed("torchao-fp8-rowwise+compile", device_us=None, outcome="refused")
    assert "torchao-fp8-rowwise+compile" not in configs(candidates(refused))


@pytest.mark.parametrize("config", EVERY_CONFIG)
def test_how_to_get_a_configuration_is_python(config: str) -> None:
    ast.parse(how(config))
    assert "torch.compile(" in how(config) or "compile" not in config
    assert ("reduce-overhead" in how(config) or "make_graphed" in how(config)) == ("cudagraph" in config)


@pytest.mark.parametrize("config", EVERY_CONFIG)
def test_a_label_is_words_and_tells_configurations_apart(config: str) -> None:
    if "static" not in config:  # never advised
        assert not label(config).startswith(config.partition("+")[0])
        assert [label(other) for other in EVERY_CONFIG].count(label(config)) == 1


def named(found: list[Candidate], config: str, m: int) -> Candidate:
    return next(c for c in found if (c.config, c.sweep) == (config, m))


def test_the_host_counts_for_an_eager_layer_and_not_where_a_model_pays_it_once() -> None:
    graphed = case("torchao-fp8-rowwise+compile+cudagraph", 16, 16.3, 40.0)
    found = candidates(replace(LINEAR, cases=(*(LINEAR.cases or ()), graphed)))
    assert waits_for_host(graphed)
    assert not named(found, graphed.config or "", 16).waits_for_host
    assert not named(found, "torchao-fp8-rowwise+compile", 16).waits_for_host
    assert named(found, "torchao-fp8-rowwise", 16).waits_for_host
    assert not named(found, "torch-bf16", 4096).waits_for_host


def test_a_loop_at_its_power_limit_does_not_wait_for_the_host() -> None:
    limited = case("torchao-fp8-rowwise", 8192, 400.0, 600.0, host_us=us(90))
    assert not waits_for_host(limited)
    assert waits_for_host(replace(limited, host_us=us(590)))
    assert not waits_for_host(replace(limited, host_us=us(590), call_us=us(440))), "hardly longer than its work"
    for unseen in ("device_us", "call_us", "host_us"):
        assert not waits_for_host(replace(limited, **{unseen: None}))


# Two runs agree within 3 %, on times under 50 us within 8 %.
@pytest.mark.parametrize(
    ("slow", "fast", "is_one"), [(102.9, 100, False), (103.1, 100, True), (43, 40, False), (43.5, 40, True)]
)
def test_a_gain_exceeds_what_two_runs_differ_by(slow: float, fast: float, is_one: bool) -> None:
    assert gains(us(slow, 0.001), us(fast, 0.001)) is is_one
    assert not gains(us(slow, 0.1), us(fast, 0.1)), "the intervals overlap"


def test_a_compiled_layer_that_waits_called_alone_says_up_to_which_size() -> None:
    found = candidates(LINEAR)
    assert "# up to 8,192 tokens" in named(found, "torchao-fp8-rowwise+compile", 4096).how
    assert "waits for the host" not in named(found, "torchao-fp8-rowwise", 16).how


def test_of_equals_the_simpler_one_is_advised() -> None:
    even = {"torch-bf16": 100.0, "torch-bf16+cudagraph": 99.5, "torch-bf16+compile": 99.0}
    even |= {"torchao-fp8-rowwise+compile": 60.0, "torchao-fp8-rowwise+compile+cudagraph": 59.0}
    times = [case(config, m, time) for m in (8192, 4096) for config, time in even.items()]
    (use,) = advise(candidates(replace(LINEAR, cases=tuple(times))))
    assert (use.label, use.versus) == ("torchao float8 row-wise + torch.compile", "torch-bf16")
    (use,) = advise(candidates(replace(LINEAR, cases=tuple(c for c in times if "fp8" not in (c.config or "")))))
    assert use.label == "BF16"


def test_code_names_the_scaling_that_was_timed() -> None:
    assert how("torchao-fp8-weightonly").startswith("import torchao.quantization as q\nq.quantize_(model, ")
    assert "granularity=q.PerRow()" in how("torchao-fp8-rowwise+compile")
    assert "granularity=q.PerTensor()" in how("torchao-fp8-tensorwise")
    assert "Float8WeightOnlyConfig" in how("torchao-fp8-weightonly")
    assert "pip install torchao" in how("torch-fp8-rowwise")
    assert label("torchao-fp8-rowwise+compile+cudagraph") == "torchao float8 row-wise + torch.compile + CUDA graph"


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("7.5", None),
        ("8.0", "torch-bf16+compile"),
        ("8.6", "torch-bf16+compile"),
        ("8.9", "torchao-fp8-tensorwise+compile"),
        ("9.0", "torchao-fp8-rowwise+compile"),
        ("10.0", "torchao-fp8-tensorwise+compile"),
        ("12.0", "torchao-fp8-tensorwise+compile"),
        ("gfx942", "torchao-fp8-tensorwise+compile"),
        ("gfx950", "torchao-fp8-tensorwise+compile"),
        ("gfx90a", None),
        (None, None),
    ],
)
def test_where_nothing_was_timed_the_best_known_of_the_architecture_is_told(
    architecture: str | None, config: str | None
) -> None:
    found = candidates(NO_GPU, Gpus(gpus=(Gpu(compute_capability=architecture),) * 2))
    assert [c.config for c in found] == ([config] if config else [])
    for candidate in found:
        assert candidate.basis == "known"
        assert candidate.when
        assert candidate.baseline == ("fp8" not in candidate.config)


@pytest.mark.parametrize("linear", [LINEAR, only("torch-bf16")])
def test_what_is_known_is_silent_where_anything_was_timed(linear: Linear) -> None:
    assert {c.basis for c in candidates(linear)} == {"measured"}


def test_gpus_that_differ_or_that_nobody_saw_get_no_advice_unseen() -> None:
    unlike = Gpus(gpus=(Gpu(compute_capability="8.0"), Gpu(compute_capability="9.0")))
    for gpus in (unlike, Gpus(gpus=()), Gpus()):
        assert candidates(NO_GPU, gpus) == []


def test_hearsay_says_to_install_torchao_where_nothing_lists_it() -> None:
    hopper = Gpus(gpus=(Gpu(compute_capability="9.0"),))
    (listed,) = known(hopper, None, Libraries(installed={"torchao": "0.14.1"}), None)
    assert "pip install" not in listed.how
    for libraries in (None, Libraries(installed={"vllm": "0.11"}), Libraries(absent=("torchao",))):
        (unlisted,) = known(hopper, None, libraries, None)
        assert unlisted.how == f"# pip install torchao, if it is not there\n{listed.how}"
    (bf16,) = known(Gpus(gpus=(Gpu(compute_capability="8.0"),)), None, None, None)
    assert "torchao" not in bf16.how


def test_hearsay_advises_no_rows_to_a_torch_that_has_them_not() -> None:
    hopper, ada = (Gpus(gpus=(Gpu(compute_capability=number),)) for number in ("9.0", "8.9"))
    assert known(hopper, None, None, TorchBuild(version="2.4.1+cu124")) == []
    assert len(known(hopper, None, None, TorchBuild(version="2.5.0+cu124"))) == 1
    assert len(known(ada, None, None, TorchBuild(version="2.4.1+cu124"))) == 1


# --- real boxes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["h200", "h200-torch-only"])
def report(request: pytest.FixtureRequest) -> Report:
    return fp8doctor.diagnose(BOXES / f"{request.param}.json")


def timed_sizes(report: Report) -> set[tuple[int, int, int]]:
    cases = (report.facts["linear"] or {})["cases"]
    return {(c["k"], c["n"], c["m"]) for c in cases if c["kind"] == "layer" and c["device_us"]}


def test_each_measured_size_of_a_real_box_has_exactly_one_advice(report: Report) -> None:
    sizes = timed_sizes(report)
    assert len(sizes) == 18
    for k, n, m in sizes:
        serving = [
            use
            for use in report.use
            if (use.when.k, use.when.n) == (k, n)
            and (use.when.m_min or 0) <= m
            and (use.when.m_max is None or m <= use.when.m_max)
        ]
        assert len(serving) == 1, (k, n, m)


def test_what_a_real_box_is_advised_was_right_there(report: Report) -> None:
    for use in report.use:
        there = [
            c
            for c in (report.facts["linear"] or {})["cases"]
            if (c["config"], c["kind"], c["k"], c["n"]) == (use.config, "layer", use.when.k, use.when.n)
        ]
        assert there
        assert all(c["relative_error"] <= c["relative_error_limit"] for c in there)


def test_fp8_is_advised_only_with_a_gain_and_bf16_with_none(report: Report) -> None:
    for use in report.use:
        assert (use.speedup is not None and use.speedup.low > 1.0) == ("fp8" in use.config)
        ast.parse(use.how)
