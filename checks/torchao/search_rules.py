"""What do eager FP8 layers of torchao search the Python path for, at every call?"""

from __future__ import annotations

import re

from fp8doctor.checks.linear.cases import us
from fp8doctor.checks.linear.facts import Case, Linear
from fp8doctor.checks.torchao.facts import ABOUT, ABSENT, PackageSearch, Torchao
from fp8doctor.checks.torchao.rules import NO_FP8_HARDWARE
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, observed
from fp8doctor.registry import rule

# What the whole eager call of a BF16 nn.Linear costs the host: 19.8, 19.9 and 20.4 us (torch-bf16 at 16x3072x3072 in
# tests/boxes/h200-torch-only.json, h200-flash-attn-4.json and h200.json).
LEAST_US = 20.0

_TORCH_KERNELS = (
    "from torchao.quantization.quantize_.common import KernelPreference\n"
    "config = Float8DynamicActivationFloat8WeightConfig(\n"
    "    granularity=PerRow(), kernel_preference=KernelPreference.TORCH\n"
    ")"
)
_COMPILE = Action("Or compile the model: compiled code does not search", "model = torch.compile(model)")


@rule("AO010", "package-searched-each-call", Severity.INFO, scope="usage")
def searched_each_call(ao: Torchao, linear: Linear | None) -> Finding | Unknown | NotApplicable | None:
    """Each eager call of a torchao FP8 layer searches the Python path for a package that is not there.

    What it means: a layer with dynamic scaling chooses its kernels anew at each call, once to quantise the activation
    and once to multiply, and asks each time whether a package of other kernels (mslk) is installed. Python keeps no
    record of what it did not find: it asks every entry of sys.path again. How often was counted here in one call of a
    small layer, and one such search was timed.

    Why it costs time: it is host time, and an eager FP8 layer waits for the host unless it has many tokens. It grows
    with the entries of sys.path (PYTHONPATH, editable installs) and with how slow their file systems answer, so the
    same program takes another time elsewhere. It is told from 20 us a call on, as much as the whole eager call of a
    BF16 layer costs a host.

    What to do: choose torch's kernels by name, `kernel_preference=KernelPreference.TORCH`: without mslk the same ones
    run either way. Or compile the model: what is compiled has made its choice (`backend="eager"` alone goes on
    searching).

    Sources: counted and timed here. _is_mslk_available in torchao/utils.py, Float8Tensor.from_hp and
    _float8_addmm_impl in quantization/quantize_/workflows/float8/float8_tensor.py (0.17.0, 0.18.0; both searched twice
    a call by row and by tensor, and not once with TORCH or compiled); benchmarks/RESULTS.md for an eager step on two
    hosts.
    """
    if ao.installed is False:
        return ABSENT
    if ao.mslk_installed:
        return NotApplicable("mslk, which torchao searches for, is installed")
    counted = [seen for seen in ao.searches or () if seen.searches_per_call is not None]
    if not counted:
        why = next((seen.error for seen in ao.searches or () if seen.error), "it was not tried")
        if re.search(NO_FP8_HARDWARE, why):
            return NotApplicable("the GPU has no FP8 tensor cores, says torchao")
        return Unknown(f"what an eager FP8 layer of torchao searches for was not counted: {why}")
    costs = [(_cost_us(seen), seen) for seen in counted if seen.searches_per_call]
    if not costs:
        return None
    cost_us, worst = max(costs, key=lambda cost: cost[0])
    if cost_us < LEAST_US:
        return None
    return Finding(
        title=f"Each eager call of a torchao FP8 layer spends {us(cost_us)} searching for {worst.package}, which is not"
        " installed",
        evidence=(
            *(
                Evidence(
                    f"{seen.config}: {seen.searches_per_call} searches a call, {us(seen.search_us)} each",
                    cost,
                    "us",
                    "torchao.searches",
                )
                for cost, seen in costs
            ),
            *_path(ao),
            *_whole_call(linear, worst),
        ),
        actions=(
            *(
                (
                    Action(
                        "Choose torch's kernels, which run here anyway; it was seen to search no more", _TORCH_KERNELS
                    ),
                )
                if worst.searches_per_call_torch == 0
                else ()
            ),
            _COMPILE,
        ),
        about=ABOUT,
    )


def _cost_us(seen: PackageSearch) -> float:
    each_us = observed(seen.search_us, f"the time of a search for {seen.package}")
    return (seen.searches_per_call or 0) * each_us


def _path(ao: Torchao) -> tuple[Evidence, ...]:
    entries = ao.path_entries
    return (Evidence(f"sys.path has {entries} entries", entries, None, "torchao.path_entries"),) if entries else ()


def _whole_call(linear: Linear | None, worst: PackageSearch) -> tuple[Evidence, ...]:
    """What the host spends on such a call in all; there the layer is torchao's default, which searches."""
    config = f"torchao-fp8-{str(worst.config).partition('-')[2]}"
    cases = [case for case in (linear.cases if linear else None) or () if case.config == config and case.host_us]
    # With few tokens the device is done before the host is.
    smallest: Case | None = min(cases, key=lambda case: case.m or 0, default=None)
    if smallest is None or smallest.host_us is None:
        return ()
    shape = f"{smallest.m}x{smallest.k}x{smallest.n}"
    text = f"the host spends {us(smallest.host_us)} on such a call in all ({shape})"
    return (Evidence(text, smallest.host_us.median, "us", "linear.cases"),)
