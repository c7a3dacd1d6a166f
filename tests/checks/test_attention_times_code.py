"""The code that is advised for attention: run, it computes the call that was timed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.attention_times.code import how
from fp8doctor.checks.attention_times.facts import AttentionCase, AttentionTimes
from fp8doctor.checks.attention_times.lookup import DEFAULT, NAMES
from fp8doctor.measuring.workloads import AttentionUse
from tests.attention_facts import CAUSAL, IMAGE, TIMES, candidates, case, changed, finding, more, only, verdict
from tests.broken_packages import BrokenSite
from tests.fake_attention import install

GROUPED = AttentionUse(1, 4, 2, 48, 48, 32, causal=True)
PLAIN = AttentionUse(1, 4, 4, 48, 48, 32, causal=False)
DELAYED = "te-fp8-delayed-attention"
TORCHS = (DEFAULT, "torch-sdpa-flash", "torch-sdpa-math")
PACKAGES = ("flash-attn-3", "flash-attn-3-fp8", "te-attention", DELAYED)


@pytest.mark.parametrize("use", [GROUPED, PLAIN], ids=["causal", "plain"])
@pytest.mark.parametrize("trains", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("route", [route for route in NAMES if route != "flash-attn-2-fp8"])
def test_every_route_has_code_that_says_mask_groups_and_backward(route: str, trains: bool, use: AttentionUse) -> None:
    code = how(case(route, use, 300.0, trains=trains))
    compile(code, route, "exec")
    assert ("fp8" in code or "float8" in code) is ("fp8" in route)
    masks = ("is_causal=True", "causal=True", 'attn_mask_type="causal"')
    assert any(mask in code for mask in masks) is bool(use.causal)
    groups = use.kv_heads != use.heads
    assert ("enable_gqa=True" in code) is (groups and route.startswith("torch"))
    assert ("num_gqa_groups=2" in code) is (groups and route.startswith("te"))
    assert ("backward(" in code) is trains
    assert ("no_grad" in code) is not trains
    assert "=..." not in code, "an ellipsis is no argument"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FlashAttention 3 and Transformer Engine, importable in this process while this module is tested."""
    folder: Path = tmp_path_factory.mktemp("site")
    install(BrokenSite(folder))
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for name in [n for n in sys.modules if n.partition(".")[0] in ("flash_attn_interface", "transformer_engine")]:
        del sys.modules[name]


def pasted(route: str, use: AttentionUse, *, trains: bool) -> tuple[Any, Any, Any]:
    """What the code makes of random operands: output and the queries' gradient; and what SDPA makes of them."""
    import torch

    torch.manual_seed(0)
    heads_first = route.startswith("torch")

    def random(heads: int | None) -> Any:
        made = torch.randn(1, 48, heads or 0, 32, dtype=torch.bfloat16)
        return (made.transpose(1, 2) if heads_first else made).contiguous().requires_grad_(trains)

    query, key, value = random(use.heads), random(use.kv_heads), random(use.kv_heads)
    given = {"query": query, "key": key, "value": value}
    first = [x if heads_first else x.transpose(1, 2) for x in (query, key, value)]
    right = torch.nn.functional.scaled_dot_product_attention(*first, is_causal=bool(use.causal), enable_gqa=True)
    right = right if heads_first else right.transpose(1, 2).reshape(1, 48, -1)
    given["gradient"] = torch.ones_like(right if route.startswith(("torch", "te")) else query)
    exec(how(case(route, use, 300.0, trains=trains)), given)  # noqa: S102
    output = given["output"]
    return output.reshape(right.shape), query.grad, right


@pytest.mark.torch
@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("use", [GROUPED, PLAIN], ids=["causal", "plain"])
@pytest.mark.parametrize("trains", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("route", [*TORCHS, *PACKAGES])
def test_pasted_it_computes_the_call_that_was_timed(route: str, trains: bool, use: AttentionUse) -> None:
    if trains and route == "flash-attn-3-fp8":
        pytest.skip("it has no backward")
    output, gradient, right = pasted(route, use, trains=trains)
    off = (output.float() - right.float()).norm() / right.float().norm()
    assert off < (0.1 if "fp8" in route else 0.01)
    assert output.requires_grad is trains
    assert (gradient is not None) is trains


@pytest.mark.torch
@pytest.mark.usefixtures("packages")
def test_delayed_scaling_is_given_scales_by_calls_with_gradients() -> None:
    """As it was timed: without gradients, autocast updates none."""
    import transformer_engine.pytorch as te

    before = te.updates
    pasted(DELAYED, GROUPED, trains=False)
    assert te.updates == before + 3
    assert "range" not in how(case("te-fp8-current-attention", GROUPED, 300.0))


# --- who gives it ----------------------------------------------------------------------------------------------------


def test_rules_and_advice_give_the_code_of_their_own_call() -> None:
    fa4 = more(case("flash-attn-4", CAUSAL, 700.0))
    assert "causal=True" in (finding("ATT006", fa4).actions[0].command or "")
    assert 'attn_mask_type="causal"' in (finding("ATT003", TIMES).actions[0].command or "")
    assert "is_causal" not in (finding("ATT007", only(DEFAULT, "flash-attn-2")).actions[0].command or "")
    for one in candidates(TIMES):
        assert ("causal=True" in one.how or '"causal"' in one.how) is bool(one.shape["causal"]), one
    trained = replace(TIMES, cases=(case(DELAYED, IMAGE, 400.0, trains=True),))
    assert "backward(gradient)" in candidates(trained)[0].how


def wrong_at_the_image(route: str) -> AttentionTimes:
    return changed(route, IMAGE, outcome="wrong", relative_error=0.7, device_us=None)


def test_a_route_that_was_wrong_at_another_call_of_this_box_is_not_advised() -> None:
    spoilt = wrong_at_the_image(DELAYED)
    assert DELAYED not in {one.config for one in candidates(spoilt)}
    found = finding("ATT003", spoilt)
    assert found.gain is None
    assert "wrong at 1x24x4608x128" in found.title
    assert [action.command for action in found.actions] == [None]
    assert "BF16" in found.actions[0].text
    assert finding("ATT008", spoilt).about == f"route:{DELAYED}"


def test_another_way_that_was_right_everywhere_is_still_advised() -> None:
    fa3: AttentionCase = case("flash-attn-3-fp8", CAUSAL, 900.0)
    spoilt = wrong_at_the_image(DELAYED)
    both = replace(spoilt, cases=(*(spoilt.cases or ()), fa3))
    found = finding("ATT003", both)
    assert "FlashAttention 3" in found.title
    assert found.gain is not None
    assert "flash_attn_interface" in (found.actions[0].command or "")


def test_a_16_bit_route_that_was_wrong_elsewhere_is_no_faster_attention() -> None:
    fast = case("flash-attn-4", CAUSAL, 900.0)
    bad = case("flash-attn-4", IMAGE, None, outcome="wrong", relative_error=0.7)
    assert finding("ATT006", more(fast)).gain is not None
    spoilt = more(fast, bad)
    assert verdict("ATT006", spoilt) is None
    assert "flash-attn-4" not in {one.config for one in candidates(spoilt)}
