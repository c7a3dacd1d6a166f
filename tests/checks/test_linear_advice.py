"""What competes for the linear layer, the code that gets it, and what a real H200 is advised."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import fp8doctor
from fp8doctor.checks.gpu.facts import Gpu, Gpus
from fp8doctor.checks.linear.advice import how, label
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.linear.variants import variants
from fp8doctor.judging.report import Report
from fp8doctor.model import Candidate
from tests.linear_facts import LINEAR, NO_GPU, TOKENS, candidates, case, changed, only

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


def test_code_names_the_scaling_that_was_timed() -> None:
    assert "granularity=PerRow()" in how("torchao-fp8-rowwise+compile")
    assert "granularity=PerTensor()" in how("torchao-fp8-tensorwise")
    assert "Float8WeightOnlyConfig" in how("torchao-fp8-weightonly")
    assert "pip install torchao" in how("torch-fp8-rowwise")
    assert label("torchao-fp8-rowwise+compile+cudagraph") == "torchao float8 row-wise + torch.compile + CUDA graph"


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("7.5", None),
        ("8.0", "torch-bf16+compile"),
        ("8.6", "torch-bf16+compile"),
        ("8.9", "torchao-fp8-rowwise+compile"),
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
